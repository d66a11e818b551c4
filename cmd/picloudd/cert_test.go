package main

import (
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	picloudd "picloud/test/daemon"
)

// pasted returns what a shell prints for a line that somebody has pasted into it, with nothing set but what export
// sets; one that fails fails the test.
func pasted(t *testing.T, export, line string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", export+"\n"+line)
	cmd.Dir = t.TempDir() // another terminal can be anywhere
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), picloudd.AtOnce}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s\n%v: %s", line, err, out)
	}
	return string(out)
}

// printed returns the indented lines of a text: those to paste.
func printed(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "  "); ok {
			lines = append(lines, command)
		}
	}
	return lines
}

func TestMadeCertificateGoesWhereTheSettingsSayAndReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	e := env{"KEY_FILE": filepath.Join(dir, "tls.key"), "CERT_FILE": filepath.Join(dir, "tls.pem")}
	if _, stderr, status := output(t, e, "-make-cert"); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	if _, err := tls.LoadX509KeyPair(e["CERT_FILE"], e["KEY_FILE"]); err != nil {
		t.Error(err)
	}
	for _, file := range []string{e["KEY_FILE"], e["CERT_FILE"]} {
		for _, other := range []string{e["KEY_FILE"], e["CERT_FILE"]} {
			if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if other != file {
				if err := os.Remove(other); err != nil {
					t.Fatal(err)
				}
			}
		}
		stdout, stderr, status := output(t, e, "-make-cert")
		if status != 1 || stdout != "" || !strings.Contains(stderr, file+" is there already") ||
			strings.Count(stderr, "\n") != 1 {
			t.Errorf("status %d, printed %q and %q, want one line with %s", status, stdout, stderr, file)
		}
		if text, err := os.ReadFile(file); string(text) != "mine" {
			t.Errorf("%s has %q, %v", file, text, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("the folder has %v, %v; want %s only", left, err, file)
		}
	}
}

func TestCertificateThatCannotBeMadeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for _, tt := range []struct {
		env  env
		args []string
		want string
	}{
		{env{"KEY_FILE": key, "CERT_FILE": filepath.Join(dir, "none", "cert.pem")}, nil, "no such file or directory"},
		{env{"KEY_FILE": key, "CERT_FILE": key}, nil, "must be two files"},
		{env{"KEY_FILE": key, "CERT_FILE": cert}, []string{"https://pi.local"}, `"https://pi.local"`},
		{env{"KEY_FILE": key, "CERT_FILE": cert}, []string{"pi.local", "-check"}, `"-check"`},
	} {
		stdout, stderr, status := output(t, tt.env, slices.Concat([]string{"-make-cert"}, tt.args)...)
		if status != 1 || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v %q: status %d, printed %q and %q", tt.env, tt.args, status, stdout, stderr)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestServiceIsToldHowToUseItsCertificate(t *testing.T) {
	var out strings.Builder
	pair := newPair(t, "localhost")
	loaded, err := tls.LoadX509KeyPair(pair.cert, pair.key)
	if err != nil {
		t.Fatal(err)
	}
	err = tellOfCert(&out, made{daemon: "picloudd", keyFile: "/etc/pi cloud/key.pem", certFile: "/etc/picloud/cert.pem",
		leaf: loaded.Leaf, isForService: true})
	if err != nil {
		t.Fatal(err)
	}
	lines := printed(out.String())
	settings := strings.Replace(lines[len(lines)-2], "sudo tee -a /etc/default/picloud", "cat", 1)
	if got := pasted(t, "", settings); got != "USE_TLS=on\nKEY_FILE=/etc/pi cloud/key.pem\nCERT_FILE=/etc/picloud/cert.pem\n" {
		t.Errorf("%s\nprints %q", settings, got)
	}
	if got := lines[len(lines)-1]; got != "sudo systemctl restart picloud" {
		t.Errorf("then %q", got)
	}
}

// What sudo has made, the user who called it may not read.
func TestKeyOfSudoIsServedBySudo(t *testing.T) {
	dir := t.TempDir()
	for user, want := range map[string]string{"": "USE_TLS=on ", "pi": "sudo USE_TLS=on "} {
		stdout, stderr, status := output(t, env{"SUDO_USER": user, "KEY_FILE": dir + "/" + user + "key.pem",
			"CERT_FILE": dir + "/" + user + "cert.pem"}, "-make-cert")
		lines := printed(stdout)
		if status != 0 || !strings.HasPrefix(lines[len(lines)-1], want) {
			t.Errorf("status %d, %s, printed\n%s", status, stderr, stdout)
		}
	}
}
