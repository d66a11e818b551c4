package torture

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"picloud/test/daemon"

	"golang.org/x/sys/unix"
)

const apiKey = "a-key-for-tests"

// A manager starts the daemon with one certificate or another.
type manager struct {
	*daemon.Manager
	certs []string // paths without .pem and .key
}

func manage(t *testing.T) *manager {
	t.Helper()
	m := &manager{Manager: daemon.Manage(t, tortured)}
	dir := t.TempDir()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	old, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ec": ec, "rsa": old} {
		if err := m.certify(filepath.Join(dir, name), key); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(m.certs)
	return m
}

func (m *manager) certify(path string, key crypto.Signer) error {
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return err
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	m.certs = append(m.certs, path)
	return errors.Join(
		os.WriteFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}), 0o600))
}

// start starts a process with that certificate. env is for package fault. Its new connections have room for that many
// bytes that the client has not taken.
func (m *manager) start(cert string, room int, env ...string) (*daemon.Life, error) {
	// Connections get this from their listener: with little room much of what is sealed has to wait.
	if err := unix.SetsockoptInt(int(m.Listener.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF, room); err != nil {
		return nil, err
	}
	return m.Launch(append([]string{"API_KEY=" + apiKey, "USE_TLS=on", "CERT_FILE=" + cert + ".pem",
		"KEY_FILE=" + cert + ".key"}, env...)...)
}

// killed reports whether a process that has ended was killed.
func killed(l *daemon.Life) bool {
	status, ok := l.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}
