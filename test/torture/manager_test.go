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
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"picloud/test/daemon"

	"golang.org/x/sys/unix"
)

const apiKey = "a-key-for-tests"

// A manager is the daemon's service manager: it holds the listener, stores what it is given, and starts each process
// with both.
type manager struct {
	address  string
	listener *os.File
	notify   *net.UnixConn
	dir      string
	certs    []string // paths without .pem and .key
	received sync.WaitGroup

	mu     sync.Mutex
	stored map[string]*os.File
	ready  chan struct{} // closed by READY=1
	life   *life         // the last
}

func manage(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "picloud") // t's is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{dir: dir, stored: map[string]*os.File{}, ready: make(chan struct{})}
	t.Cleanup(func() { m.close() })
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	m.address = tcp.Addr().String()
	if m.listener, err = tcp.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	m.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m.received.Go(m.receive)
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	old, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ec": ec, "rsa": old} {
		if err := m.certify(name, key); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(m.certs)
	return m
}

func (m *manager) certify(name string, key crypto.Signer) error {
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
	path := filepath.Join(m.dir, name)
	m.certs = append(m.certs, path)
	return errors.Join(
		os.WriteFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}), 0o600))
}

func (m *manager) close() {
	if m.life != nil {
		m.life.cmd.Process.Kill()
		<-m.life.ended
	}
	if m.notify != nil {
		m.notify.Close()
	}
	m.received.Wait()
	if m.listener != nil {
		m.listener.Close()
	}
	for _, f := range m.stored {
		f.Close()
	}
	os.RemoveAll(m.dir)
}

// receive receives notifications, sd_notify(3).
func (m *manager) receive() {
	var buf, oob [4096]byte
	for {
		n, oobn, _, _, err := m.notify.ReadMsgUnix(buf[:], oob[:])
		if err != nil {
			return
		}
		var f *os.File
		if messages, _ := syscall.ParseSocketControlMessage(oob[:oobn]); len(messages) == 1 {
			if fds, err := syscall.ParseUnixRights(&messages[0]); err == nil {
				f = os.NewFile(uintptr(fds[0]), "stored")
			}
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(buf[:n])) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			fields[name] = value
		}
		m.mu.Lock()
		switch name := fields["FDNAME"]; {
		case fields["FDSTORE"] == "1" && f != nil:
			m.stored[name], f = f, m.stored[name]
		case fields["FDSTOREREMOVE"] == "1":
			f = m.stored[name]
			delete(m.stored, name)
		case fields["READY"] == "1":
			select {
			case <-m.ready:
			default:
				close(m.ready)
			}
		}
		if f != nil {
			f.Close()
		}
		m.mu.Unlock()
	}
}

// A life is one process.
type life struct {
	cmd   *exec.Cmd
	log   daemon.Log
	ready <-chan struct{}
	ended chan struct{} // closed when it has ended, and err is set
	err   error
}

// start starts a process with that certificate. env is for package fault. Its new connections have room for that many
// bytes that the client has not taken.
func (m *manager) start(cert string, room int, env ...string) (*life, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = make(chan struct{})
	l := &life{ready: m.ready, ended: make(chan struct{})}
	names := slices.Sorted(maps.Keys(m.stored))
	files := []*os.File{m.listener}
	// Connections get this from their listener: with little room much of what is sealed has to wait.
	if err := unix.SetsockoptInt(int(m.listener.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF, room); err != nil {
		return nil, err
	}
	for _, name := range names {
		files = append(files, m.stored[name])
	}
	l.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, tortured) // the PID is known only after the fork
	l.cmd.Stderr, l.cmd.ExtraFiles = &l.log, files
	l.cmd.Env = append([]string{
		daemon.AtOnce,
		"NOTIFY_SOCKET=" + filepath.Join(m.dir, "notify"), fmt.Sprint("LISTEN_FDS=", len(files)),
		"LISTEN_FDNAMES=" + strings.Join(append([]string{"picloud"}, names...), ":"),
		"DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere", // no answer: every stop is a restart
		"PORT=0", "API_KEY=" + apiKey, "USE_TLS=on", "CERT_FILE=" + cert + ".pem", "KEY_FILE=" + cert + ".key",
	}, env...)
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	m.life = l
	go func() {
		l.err = l.cmd.Wait()
		close(l.ended)
	}()
	return l, nil
}

// killed reports whether a process that has ended was killed.
func (l *life) killed() bool {
	status, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}
