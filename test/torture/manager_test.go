package torture

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"picloud/test/certified"
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
		path := filepath.Join(dir, name)
		if err := certified.Write(certified.By(key, "localhost"), path+".pem", path+".key"); err != nil {
			t.Fatal(err)
		}
		m.certs = append(m.certs, path)
	}
	slices.Sort(m.certs)
	return m
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
