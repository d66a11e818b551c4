package certs

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// identity is a certificate and its key, as the contents of two files.
type identity struct{ cert, key []byte }

// issue makes an identity whose subject is CN=name. All files have the same size.
func issue(t *testing.T, name string, edit ...func(*x509.Certificate)) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	for _, f := range edit {
		f(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{cert: encode("CERTIFICATE", der), key: encodeKey(t, key)}
}

// issueBy makes an identity whose subject is CN=name, signed by an authority whose subject is CN=by.
func issueBy(t *testing.T, name, by string) identity {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().Add(time.Hour),
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: by}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), authority)
	if err != nil {
		t.Fatal(err)
	}
	return identity{cert: encode("CERTIFICATE", der), key: encodeKey(t, key)}
}

func encodeKey(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("PRIVATE KEY", der)
}

// encode pads with line ends (PEM ignores them) to one size, so that no test passes only because two files happen to
// differ in length.
func encode(kind string, der []byte) []byte {
	p := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return append(p, bytes.Repeat([]byte("\n"), max(0, 2048-len(p)))...)
}

// A site is a folder with a pair of files, the Pair that follows them, and a listener with a TLS echo behind it.
type site struct {
	cert, key string
	pair      *Pair
	addr      string
	clock     atomic.Int64 // nanoseconds since the start; it moves only when a test moves it
	log       *logbook
}

func newSite(t *testing.T, id identity) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), log: newLogbook(t)}
	put(t, s.cert, id.cert)
	put(t, s.key, id.key)
	s.serve(t)
	return s
}

func (s *site) serve(t *testing.T) {
	t.Helper()
	pair, err := Load(s.cert, s.key, s.log.logger())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	pair.now = func() time.Time { return start.Add(time.Duration(s.clock.Load())) }
	s.pair = pair

	l, err := tls.Listen("tcp", "127.0.0.1:0", pair.Config())
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
}

// aSecondLater lets the next handshake check the files.
func (s *site) aSecondLater() { s.clock.Add(int64(time.Second)) }

// dial makes a full handshake. The connection ends with the test.
func (s *site) dial(t *testing.T) *tls.Conn {
	t.Helper()
	c, err := s.connect(t.Context(), &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *site) connect(ctx context.Context, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	config.InsecureSkipVerify = true // the tests check whose certificate came
	d := tls.Dialer{Config: config}
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// wantServed makes a new handshake and checks whose certificate came.
func (s *site) wantServed(t *testing.T, want string) {
	t.Helper()
	c := s.dial(t)
	if got := servedBy(c); got != want {
		t.Errorf("a new handshake got the certificate of %q, want %q", got, want)
	}
	wantEcho(t, c)
}

func servedBy(c *tls.Conn) string {
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// wantEcho checks that c carries data both ways.
func wantEcho(t *testing.T, c *tls.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Errorf("write: %v", err)
		return
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "hello\n" {
		t.Errorf("echo: got %q, %v", line, err)
	}
}

// put writes a file in its place: same inode.
func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file at path: another inode, never half written.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	put(t, path+".new", data)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func setTime(t *testing.T, path string, modified time.Time) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, modified); err != nil {
		t.Fatal(err)
	}
}

func (s *site) replace(t *testing.T, id identity) {
	t.Helper()
	replace(t, s.cert, id.cert)
	replace(t, s.key, id.key)
}

// A logbook keeps what is logged, and shows it in the test's output.
type logbook struct {
	out io.Writer

	mu    sync.Mutex
	text  strings.Builder
	after func() // nil: nothing
}

func newLogbook(t *testing.T) *logbook { return &logbook{out: t.Output()} }

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.text.Write(p)
	after := l.after
	l.mu.Unlock()
	if after != nil {
		after()
	}
	return l.out.Write(p)
}

// afterWrite makes each Write call f before it returns.
func (l *logbook) afterWrite(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.after = f
}

// lines returns the lines of one level.
func (l *logbook) lines(level slog.Level) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, " level="+level.String()+" ") {
			found = append(found, line)
		}
	}
	return found
}

func (l *logbook) wantErrors(t *testing.T, want int) {
	t.Helper()
	if got := l.lines(slog.LevelError); len(got) != want {
		t.Errorf("%d errors in the log, want %d: %q", len(got), want, got)
	}
}

func TestLiveConnectionSurvivesANewCertificate(t *testing.T) {
	s := newSite(t, issue(t, "old"))
	live := s.dial(t)
	wantEcho(t, live)

	s.replace(t, issue(t, "new"))
	s.aSecondLater()
	s.wantServed(t, "new")
	wantEcho(t, live)
	if got := servedBy(live); got != "old" {
		t.Errorf("the live connection has the certificate of %q, want %q", got, "old")
	}
	if got := s.log.lines(slog.LevelInfo); len(got) != 1 || !strings.Contains(got[0], "CN=new") {
		t.Errorf("the new certificate is to be logged once, got %q", got)
	}
	s.log.wantErrors(t, 0)
}

func TestFilesAreLookedAtOnceASecondAtMost(t *testing.T) {
	s := newSite(t, issue(t, "old"))
	s.wantServed(t, "old") // looks
	s.replace(t, issue(t, "new"))
	s.clock.Add(int64(time.Second) - 1)
	s.wantServed(t, "old")
	s.clock.Add(1)
	s.wantServed(t, "new")
}

func TestEachSignOfAChangeIsSeen(t *testing.T) {
	then := time.Now().Add(-time.Minute)
	tests := []struct {
		name   string
		change func(t *testing.T, path string, data []byte)
	}{
		{"time", func(t *testing.T, path string, data []byte) {
			put(t, path, data)
			setTime(t, path, then.Add(time.Second))
		}},
		{"size", func(t *testing.T, path string, data []byte) {
			put(t, path, append(data, '\n'))
			setTime(t, path, then)
		}},
		{"inode", func(t *testing.T, path string, data []byte) {
			put(t, path+".new", data)
			setTime(t, path+".new", then)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := &site{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), log: newLogbook(t)}
			before, after := issue(t, "old"), issue(t, "new")
			put(t, s.cert, before.cert)
			put(t, s.key, before.key)
			setTime(t, s.cert, then)
			setTime(t, s.key, then)
			s.serve(t)
			tt.change(t, s.cert, after.cert)
			tt.change(t, s.key, after.key)
			s.aSecondLater()
			s.wantServed(t, "new")
		})
	}
}

// Certbot's layout: live/ holds links into archive/, and a renewal changes them.
func TestLinksAreFollowed(t *testing.T) {
	dir := t.TempDir()
	s := &site{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), log: newLogbook(t)}
	turn := func(generation string, id identity) {
		for link, data := range map[string][]byte{s.cert: id.cert, s.key: id.key} {
			put(t, link+generation, data)
			if err := os.Symlink(link+generation, link+".new"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link+".new", link); err != nil {
				t.Fatal(err)
			}
		}
	}
	turn("1", issue(t, "first"))
	s.serve(t)
	s.wantServed(t, "first")
	turn("2", issue(t, "second"))
	s.aSecondLater()
	s.wantServed(t, "second")

	// So is a change behind a link that stays as it is.
	third := issue(t, "third")
	replace(t, s.cert+"2", third.cert)
	replace(t, s.key+"2", third.key)
	s.aSecondLater()
	s.wantServed(t, "third")
}

func TestUnusableNewFilesKeepTheOldPairAndAreLoggedOnceForEachChange(t *testing.T) {
	s := newSite(t, issue(t, "old"))
	next, stranger := issue(t, "new"), issue(t, "stranger")

	put(t, s.key, stranger.key)
	setTime(t, s.key, time.Now().Add(-time.Minute))
	for range 3 {
		s.aSecondLater()
		s.wantServed(t, "old")
	}
	s.log.wantErrors(t, 1)
	for _, want := range []string{s.cert, s.key, "does not match", "use the key this certificate was made with"} {
		if line := s.log.lines(slog.LevelError)[0]; !strings.Contains(line, want) {
			t.Errorf("the log does not say %q: %s", want, line)
		}
	}

	replace(t, s.cert, []byte("not PEM"))
	for range 3 {
		s.aSecondLater()
		s.wantServed(t, "old")
	}
	s.log.wantErrors(t, 2)

	if err := os.Remove(s.cert); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.aSecondLater()
		s.wantServed(t, "old")
	}
	s.log.wantErrors(t, 3)

	s.replace(t, next)
	s.aSecondLater()
	s.wantServed(t, "new")
	s.log.wantErrors(t, 3)
}

// chown, or the mode of a folder, changes nothing that a stamp holds. A repair in place with its time set back stands
// in for them here: permissions do not apply to root.
func TestRepairThatLeavesNoTraceIsSeen(t *testing.T) {
	s := newSite(t, issue(t, "old"))
	next := issue(t, "new")
	then := time.Now().Add(-time.Minute)
	put(t, s.cert, next.cert)
	put(t, s.key, issue(t, "stranger").key)
	setTime(t, s.key, then)
	s.aSecondLater()
	s.wantServed(t, "old")
	put(t, s.key, next.key)
	setTime(t, s.key, then)
	s.aSecondLater()
	s.wantServed(t, "new")
	s.log.wantErrors(t, 1)
}

func TestHandshakesDoNotWaitForTheOneThatLooksAtTheFiles(t *testing.T) {
	s := newSite(t, issue(t, "old"))
	// The log stands in for a slow disk: the handshake that checks is held while it logs that the files are broken.
	looking, release := make(chan struct{}), make(chan struct{})
	s.log.afterWrite(func() {
		close(looking)
		<-release
	})
	replace(t, s.cert, []byte("not PEM"))
	var held sync.WaitGroup
	held.Go(func() { s.pair.GetCertificate(nil) })
	defer held.Wait()
	defer close(release)
	<-looking
	s.aSecondLater()
	s.wantServed(t, "old")
}

func TestConcurrentHandshakesDuringSwaps(t *testing.T) {
	const swaps, clients, dials = 10, 8, 10
	s := newSite(t, issue(t, "generation 0"))
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for range dials {
				s.aSecondLater()
				c, err := s.connect(t.Context(), &tls.Config{})
				if err != nil {
					t.Error(err)
					return
				}
				if name := servedBy(c); !strings.HasPrefix(name, "generation ") {
					t.Errorf("got the certificate of %q", name)
				}
				wantEcho(t, c)
				c.Close()
			}
		})
	}
	for i := range swaps {
		s.replace(t, issue(t, fmt.Sprintf("generation %d", i+1)))
	}
	running.Wait()
	s.aSecondLater()
	s.wantServed(t, fmt.Sprintf("generation %d", swaps))
}

func TestOnlyTLS12AndLaterWithHTTP1(t *testing.T) {
	s := newSite(t, issue(t, "pi"))
	for _, tt := range []struct {
		version uint16
		ok      bool
	}{
		{tls.VersionTLS11, false},
		{tls.VersionTLS12, true},
		{tls.VersionTLS13, true},
	} {
		c, err := s.connect(t.Context(), &tls.Config{
			MinVersion: tls.VersionTLS10, MaxVersion: tt.version, NextProtos: []string{"h2", "http/1.1"},
		})
		if (err == nil) != tt.ok {
			t.Errorf("%s: got error %v, want success to be %v", tls.VersionName(tt.version), err, tt.ok)
		}
		if err != nil {
			continue
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
			t.Errorf("%s: negotiated %q, want http/1.1", tls.VersionName(tt.version), got)
		}
		c.Close()
	}
}

func TestCertificateOutsideItsTimeIsOnlyAWarning(t *testing.T) {
	for name, edit := range map[string]func(*x509.Certificate){
		"expired":       func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"not yet valid": func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, issue(t, "first", edit))
			s.wantServed(t, "first")
			s.replace(t, issue(t, "second", edit))
			s.aSecondLater()
			s.wantServed(t, "second")
			got := s.log.lines(slog.LevelWarn)
			if len(got) != 2 {
				t.Fatalf("%d warnings, want one for each certificate: %q", len(got), got)
			}
			for _, want := range []string{s.cert, "not_after=", "renew it"} {
				if !strings.Contains(got[1], want) {
					t.Errorf("the warning does not say %q: %s", want, got[1])
				}
			}
		})
	}
}

func TestDescribeIsOneLineWithNamesAndEnd(t *testing.T) {
	end := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	s := newSite(t, issue(t, "pi\n\x1b[31m", func(c *x509.Certificate) {
		c.DNSNames = []string{"picloud.local", "pi"}
		c.IPAddresses = []net.IP{net.IPv4(192, 168, 1, 5), net.ParseIP("fe80::1")}
		c.NotAfter = end
	}))
	const want = `certificate for "picloud.local", "pi", 192.168.1.5, fe80::1 (subject "CN=pi\n\x1b[31m"), valid until 2031-02-03T04:05:06Z`
	if got := s.pair.Describe(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s = newSite(t, issue(t, "bare", func(c *x509.Certificate) { c.NotAfter = end }))
	const bare = `certificate for no name (subject "CN=bare"), valid until 2031-02-03T04:05:06Z`
	if got := s.pair.Describe(); got != bare {
		t.Errorf("got  %s\nwant %s", got, bare)
	}
}
