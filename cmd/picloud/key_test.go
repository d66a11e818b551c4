package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"picloud/internal/wire"
	picloudd "picloud/test/daemon"
)

// appliance gives this machine other files, and a service manager that only notes what it is asked.
type appliance struct {
	t    *testing.T
	root string
}

func newAppliance(t *testing.T, files map[string]string) *appliance {
	t.Helper()
	a := &appliance{t, t.TempDir()}
	root = a.root
	t.Cleanup(func() { root = "" })
	bin := filepath.Join(a.root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for path, text := range files {
		a.write(path, text)
	}
	a.command("systemctl", `echo "$@" >>`+a.at("/asked"))
	return a
}

func (a *appliance) at(path string) string { return filepath.Join(a.root, path) }

func (a *appliance) write(path, text string) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(a.at(path)), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.at(path), []byte(text), 0o640); err != nil {
		a.t.Fatal(err)
	}
}

func (a *appliance) read(path string) string {
	a.t.Helper()
	text, err := os.ReadFile(a.at(path))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// command puts a shell script into the PATH.
func (a *appliance) command(name, script string) {
	a.t.Helper()
	if err := os.WriteFile(a.at("/bin/"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		a.t.Fatal(err)
	}
}

// serve starts a real picloudd as picloud.socket does: with the local socket, and a TCP port.
func (a *appliance) serve(settings ...string) *daemon {
	a.t.Helper()
	public, err := net.Listen("tcp", ":0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer public.Close()
	return a.serveOn(public.(*net.TCPListener), settings...)
}

// serveOn hands it the local socket, and public unless that is nil.
func (a *appliance) serveOn(public *net.TCPListener, settings ...string) *daemon {
	t := a.t
	t.Helper()
	if err := os.MkdirAll(a.at("/run/picloud"), 0o755); err != nil {
		t.Fatal(err)
	}
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.at(localSocket)})
	if err != nil {
		t.Fatal(err)
	}
	sockets := []interface{ File() (*os.File, error) }{local}
	if public != nil {
		sockets = append(sockets, public)
	}
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, bin+"/picloudd")
	cmd.Env = append([]string{"API_KEY=" + key, fmt.Sprint("LISTEN_FDS=", len(sockets))}, settings...)
	for _, l := range sockets {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	local.SetUnlinkOnClose(false)
	local.Close()
	return picloudd.Launch(t, cmd)
}

func TestKeyIsShown(t *testing.T) {
	a := newAppliance(t, map[string]string{keyFile: "a-key\n"})
	if out := does(t, nil, "key", "show"); out != "a-key\n" {
		t.Errorf("printed %q", out)
	}
	a.write(settingsFile, "# API_KEY=no\nPORT=9000\nAPI_KEY=\"mine\"\n")
	out, said := call(t, nil, "key", "show").ends(0)
	if out != "mine\n" || !strings.Contains(said, settingsFile) {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestKeyThatIsNotThereIsAnErrorWithARemedy(t *testing.T) {
	a := newAppliance(t, nil)
	for _, test := range []struct{ key, want string }{
		{"", "is PiCloud installed on this machine"},
		{"\n", "is empty: sudo rm"},
	} {
		if test.key != "" {
			a.write(keyFile, test.key)
		}
		for _, what := range []string{"show", "new"} {
			if _, said := call(t, nil, "key", what).ends(1); !strings.Contains(said, test.want) {
				t.Errorf("said %q, want it to have %q", said, test.want)
			}
		}
	}
}

func TestNewKeyReplacesTheOldOneAndNamesWhoNeedsIt(t *testing.T) {
	a := newAppliance(t, map[string]string{keyFile: "old\n"})
	d := a.serve()
	onNetwork := subscribed(t, d, "door", "--name", "Porch")
	onMachine := call(t, nil, "sub", "door", "--name", "Local")
	onMachine.says("subscribed")

	before, err := os.Stat(a.at(keyFile))
	if err != nil {
		t.Fatal(err)
	}
	out, said := call(t, nil, "key", "new").ends(0)
	after, err := os.Stat(a.at(keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if text := a.read(keyFile); text != out || len(strings.TrimSpace(text)) < 20 {
		t.Errorf("it printed %q, and the file has %q", out, text)
	}
	if before.Mode() != after.Mode() || os.SameFile(before, after) {
		t.Errorf("mode %s became %s; the same file: %t", before.Mode(), after.Mode(), os.SameFile(before, after))
	}
	if asked := a.read("/asked"); asked != "try-restart picloud.service\n" {
		t.Errorf("systemctl was asked %q", asked)
	}
	if !strings.Contains(said, "  Porch at ") || strings.Contains(said, "Local") || !strings.Contains(said, "HTTP") {
		t.Errorf("said %q", said)
	}
	if left, err := filepath.Glob(a.at("/etc/picloud/.*key*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	for _, j := range []*job{onNetwork, onMachine} {
		j.interrupt()
		j.ends(0)
	}
}

func TestNewKeyThatTheServiceDoesNotTakeIsAnError(t *testing.T) {
	a := newAppliance(t, map[string]string{keyFile: "old\n"})
	a.command("systemctl", "echo 'Access denied' >&2; exit 1")
	out, said := call(t, nil, "key", "new").ends(1)
	if out != "" || !strings.Contains(said,
		"still has the old one: systemctl try-restart: Access denied: sudo systemctl restart picloud") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestKeyFromTheSettingsIsNotReplaced(t *testing.T) {
	a := newAppliance(t, map[string]string{keyFile: "old\n", settingsFile: "API_KEY=mine\n"})
	if _, said := call(t, nil, "key", "new").ends(1); !strings.Contains(said, "API_KEY in "+settingsFile) {
		t.Errorf("said %q", said)
	}
	if got := a.read(keyFile); got != "old\n" {
		t.Errorf("the file has %q", got)
	}
}

func TestKeyHoldersAreListedOnce(t *testing.T) {
	got := keyHolders([]wire.Connection{
		{ClientName: "Porch", IPAddress: "192.168.1.20:1000"}, {ClientName: "Lamp\x1b", IPAddress: "[fe80::1]:5"},
		{ClientName: "Porch", IPAddress: "192.168.1.20:1001"}, {ClientName: "Backup", IPAddress: "local"},
	})
	if want := `Lamp\u001b at fe80::1, Porch at 192.168.1.20`; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
