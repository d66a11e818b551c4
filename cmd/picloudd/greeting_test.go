package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	picloudd "picloud/test/daemon"
)

// wantGreetingWorks pastes each line that the daemon has printed into a shell, and opens its addresses.
func (d *daemon) wantGreetingWorks(t *testing.T, trusted string, env ...string) {
	t.Helper()
	d.stdout.Await(t, "in a browser")
	text := d.stdout.String()
	lines := printed(text)
	if len(lines) != 4 {
		t.Fatalf("%d lines to paste, want four:\n%s", len(lines), text)
	}
	export, sub, publish, info := lines[0], lines[1], lines[2], lines[3]

	var said, got picloudd.Log
	cmd := exec.CommandContext(t.Context(), "sh", "-c", export+"\nexec "+sub)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), picloudd.AtOnce}, env...)
	cmd.Stdout, cmd.Stderr = &got, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if first := said.Await(t, "picloud: "); first != "picloud: subscribed" {
		t.Fatalf("%s\n%s", sub, first)
	}
	if out := pasted(t, export, publish, env...); strings.Contains(out, "error") {
		t.Errorf("%s\n%s", publish, out)
	}
	got.Await(t, "76.5 F")
	if out := pasted(t, export, info, env...); !strings.Contains(out, "temperature") {
		t.Errorf("%s\n%s", info, out)
	}
	addresses := regexp.MustCompile(`(?m)^(?:Other machines reach it at|Or open) (https://\S+)`).FindAllStringSubmatch(text, -1)
	if len(addresses) == 0 {
		t.Errorf("no address in\n%s", text)
	}
	for _, a := range addresses {
		out := pasted(t, "", "curl -sS --cacert "+quote(trusted)+" "+quote(strings.TrimSuffix(a[1], "/")+"/healthz"))
		if !strings.Contains(out, "ok") {
			t.Errorf("%s says %q", a[1], out)
		}
	}
}

// A person makes a certificate, serves with it and tries that: each line as it is printed.
func TestPrintedLinesOfACertificateWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "the Pi's own")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-make-cert", "pi.example", "192.0.2.77")
	cmd.Dir, cmd.Env = dir, []string{picloudd.AtOnce}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	certFile := filepath.Join(dir, "cert.pem")
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	sum := sha256.Sum256(block.Bytes)
	for _, want := range []string{certFile, filepath.Join(dir, "key.pem"), "localhost", "pi.example", "127.0.0.1",
		"192.0.2.77", time.Now().Add(825 * 24 * time.Hour).Format("  2006-"),
		strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || info.Mode().Perm()&0o037 != 0 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}

	lines := printed(string(out))
	d := newDaemon("")
	// A shell that stayed would not hand the signal on.
	d.become(t, exec.Command("sh", "-c", "exec env "+lines[len(lines)-1]), env{"API_KEY": ""}, d.stdout, d.stderr)
	d.find(t)
	d.wantGreetingWorks(t, certFile)

	for _, host := range []string{"localhost", "127.0.0.1"} {
		url := strings.Replace(d.url, "localhost", host, 1) + "/healthz"
		pasted(t, "", "curl -sS --cacert "+quote(certFile)+" '"+url+"'")
		pasted(t, "", "/usr/bin/python3 -c '"+`
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
context.verify_flags |= ssl.VERIFY_X509_STRICT
urllib.request.urlopen(sys.argv[1], context=context).close()
`+"' '"+url+"' "+quote(certFile))
	}
}

// With an authority's certificate, the server's own file is not what clients have to trust.
func TestPrintedLinesOfAnAuthoritysCertificateWork(t *testing.T) {
	p, authority := newSignedPair(t)
	d := newDaemon("")
	d.begin(t, p.env().with("API_KEY", ""), d.stdout, d.stderr)
	d.find(t)
	d.wantGreetingWorks(t, authority, "SSL_CERT_FILE="+authority) // curl and Go both know that variable
	if text := d.stdout.String(); strings.Contains(text, p.cert) || !strings.Contains(text, "signed by an authority") ||
		!strings.Contains(text, "https://127.0.0.1:") {
		t.Errorf("printed\n%s", text)
	}
}

// newSignedPair makes a pair for 127.0.0.1 alone, and the file of the authority that has signed it.
func newSignedPair(t *testing.T) (p pair, authority string) {
	t.Helper()
	now := time.Now()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, authority = pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}, filepath.Join(dir, "root.pem")
	for path, block := range map[string]*pem.Block{authority: {Type: "CERTIFICATE", Bytes: rootDER},
		p.cert: {Type: "CERTIFICATE", Bytes: leafDER}, p.key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p, authority
}

// What clients would refuse is not printed as if it worked.
func TestGreetingNamesWhatIsWrongWithACertificate(t *testing.T) {
	p := newPair(t, "localhost")
	d, _ := launch(t, p.env())
	d.stdout.Await(t, "in a browser")
	if text := d.stdout.String(); strings.Contains(text, "Other machines") || strings.Contains(text, "authority") {
		t.Errorf("for localhost alone it prints\n%s", text)
	}
	nameless := newPair(t, "")
	d, _ = launch(t, nameless.env())
	d.stdout.Await(t, "-make-cert makes another")
}

func TestClientIsBesideTheDaemon(t *testing.T) {
	for daemon, want := range map[string]string{"picloudd": "picloud", "./picloudd": "./picloud",
		"bin/picloudd": "bin/picloud", "/opt/pi/picloudd-2": "/opt/pi/picloud"} {
		if got := clientPath(daemon); got != want {
			t.Errorf("%s: got %s, want %s", daemon, got, want)
		}
	}
}
