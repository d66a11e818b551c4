package tlsrecord

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
	_ "unsafe" // for linkname

	"picloud/test/certified"
	"picloud/test/wait"
)

// crypto/tls lets nobody choose among TLS 1.3's suites, but shows these to linkname and says that they stay.
//
//go:linkname suites13 crypto/tls.defaultCipherSuitesTLS13
var suites13 []uint16

//go:linkname suites13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var suites13NoAES []uint16

// only makes crypto/tls speak one suite and its version, and returns both ends' settings for that.
func (s *suite) only(t testing.TB) (server, client *tls.Config) {
	server = &tls.Config{Certificates: certificates(), NextProtos: []string{"http/1.1"}}
	client = &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{"http/1.1"},
		MinVersion: s.version(), MaxVersion: s.version(), CipherSuites: []uint16{s.id}}
	if s.tls13 {
		a, b := suites13, suites13NoAES
		t.Cleanup(func() { suites13, suites13NoAES = a, b })
		suites13, suites13NoAES = []uint16{s.id}, []uint16{s.id}
	}
	return server, client
}

func (s *suite) version() uint16 {
	if s.tls13 {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

func (s *suite) String() string { return tls.CipherSuiteName(s.id) }

// each runs a test with each suite.
func each(t *testing.T, f func(t *testing.T, s *suite)) {
	for i := range suites {
		t.Run(suites[i].String(), func(t *testing.T) { f(t, &suites[i]) })
	}
}

// certificates are one for each kind of suite of TLS 1.2.
var certificates = sync.OnceValue(func() []tls.Certificate {
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	old, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil {
		panic("no key")
	}
	return []tls.Certificate{certified.By(ec, "localhost"), certified.By(old, "localhost")}
})

// sockets returns the two ends of a TCP connection.
func sockets(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	for _, nc := range []net.Conn{server, client} {
		nc.SetDeadline(time.Now().Add(wait.Patience))
	}
	return server, client
}

// An end is a server's connection after the handshake, used as its owner would. Its methods wait.
type end struct {
	t  testing.TB
	nc net.Conn
	*Link
	buf     [BufferBytes]byte
	plain   []byte // opened, and not yet read
	changes int    // of either key
	renew   bool   // save and restore before everything
}

// again saves and restores the Link, as another process does with a connection that is left to it.
func (e *end) again() {
	e.t.Helper()
	if !e.renew {
		return
	}
	sv, ok := e.Save()
	if !ok {
		e.t.Fatal("a Link that goes on cannot be saved")
	}
	l, err := Restore(sv)
	if err != nil {
		e.t.Fatal(err)
	}
	e.Link = l
}

func (e *end) Read(p []byte) (int, error) {
	for len(e.plain) == 0 {
		e.again()
		k := e.Resume(e.buf[:])
		m, err := e.nc.Read(e.buf[k:])
		if err != nil {
			return 0, err
		}
		n, rekeyed, err := e.Open(e.buf[:k+m])
		if rekeyed {
			e.changes++
		}
		if e.plain = slices.Clone(e.buf[:n]); n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(p, e.plain)
	e.plain = e.plain[n:]
	return n, nil
}

func (e *end) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		e.again()
		b, k, rekeyed, err := e.Seal(make([]byte, 0, 32<<10), [][]byte{p[n:]})
		if err != nil {
			return n, err
		}
		if rekeyed {
			e.changes++
		}
		if _, err := e.nc.Write(b); err != nil {
			return n, err
		}
		n += k
	}
	return len(p), nil
}

// bye ends our side.
func (e *end) bye(why error) {
	e.t.Helper()
	if _, err := e.nc.Write(e.Close(make([]byte, 0, 64), why)); err != nil {
		e.t.Error(err)
	}
	e.nc.(*net.TCPConn).CloseWrite()
}

// meet makes a handshake of crypto/tls's client with Handshake.
func meet(t testing.TB, server, client *tls.Config) (*end, *tls.Conn) {
	t.Helper()
	a, b := sockets(t)
	tc := tls.Client(b, client)
	done := make(chan error, 1)
	go func() { done <- tc.Handshake() }()
	l, err := Handshake(a, server)
	if err != nil {
		t.Fatal(err)
	}
	if err := wait.For(t, done, "the client's handshake"); err != nil {
		t.Fatal(err)
	}
	return &end{t: t, nc: a, Link: l}, tc
}

// echo sends text from the client, has it come back, and reads it there.
func echo(t testing.TB, e *end, tc io.ReadWriter, text string) {
	t.Helper()
	back := make([]byte, len(text))
	for _, way := range []struct {
		what     string
		from, to io.ReadWriter
	}{{"from the client", tc, e}, {"to the client", e, tc}} {
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(way.from, text)
			done <- err
		}()
		if _, err := io.ReadFull(way.to, back); err != nil {
			t.Fatal(way.what, err)
		}
		if err := wait.For(t, done, way.what); err != nil {
			t.Fatal(way.what, err)
		}
		if string(back) != text {
			t.Fatalf("%s: got %.40q, want %.40q", way.what, back, text)
		}
		clear(back)
	}
}
