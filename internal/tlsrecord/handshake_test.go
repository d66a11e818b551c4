package tlsrecord

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"picloud/test/wait"
)

// What Handshake knows of crypto/tls's flights is not promised anywhere: which record is the first under which key, who
// logs what, when tickets are made. This test holds a build with another version of Go to it, and the next one says
// that it is another.
func TestLinkGoesOnAfterHandshake(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		server, client := s.only(t)
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for i, what := range []string{"full", "resumed", "resumed again", "resumed a third time"} {
			e, tc := meet(t, server, client)
			echo(t, e, tc, "hello")
			echo(t, e, tc, strings.Repeat("long", 30_000))
			cs := tc.ConnectionState()
			if cs.DidResume != (i > 0) || cs.Version != s.version() || cs.CipherSuite != s.id ||
				e.Version() != cs.Version {
				t.Errorf("%s: resumed %t, %s, %s", what, cs.DidResume, tls.VersionName(cs.Version),
					tls.CipherSuiteName(cs.CipherSuite))
			}
			if cs.NegotiatedProtocol != "http/1.1" {
				t.Errorf("%s: protocol %q", what, cs.NegotiatedProtocol)
			}
			e.bye(nil)
			if _, err := tc.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: the client got %v, want the end", what, err)
			}
			tc.Close()
			if _, err := e.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: the server got %v, want the end", what, err)
			}
		}
	})
}

// The Go that builds PiCloud is the one whose flights these tests have seen: see scripts/toolchain.
func TestGoIsTheOneThatBuilds(t *testing.T) {
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^toolchain (\S+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatal("go.mod names no toolchain")
	}
	if builds, is := string(found[1]), runtime.Version(); is != builds {
		t.Errorf("%s builds PiCloud, and this is %s. GOTOOLCHAIN=%[1]s go test runs the tests by the former. "+
			"If all other tests pass by this one: go mod edit -toolchain=%[2]s", builds, is)
	}
}

func TestOtherFlights(t *testing.T) {
	for name, change := range map[string]func(server, client *tls.Config){
		"no tickets wanted":   func(_, client *tls.Config) { client.SessionTicketsDisabled = true },
		"no tickets given":    func(server, _ *tls.Config) { server.SessionTicketsDisabled = true },
		"another group first": func(server, _ *tls.Config) { server.CurvePreferences = []tls.CurveID{tls.CurveP384} },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *suite) {
				server, client := s.only(t)
				client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				change(server, client)
				for range 2 {
					e, tc := meet(t, server, client)
					echo(t, e, tc, "hello")
				}
			})
		})
	}
}

// Tickets of another process are of no use, and do no harm.
func TestForeignTicketsAreNotResumed(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		server, client := s.only(t)
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		other := server.Clone()
		e, tc := meet(t, other, client)
		echo(t, e, tc, "hello")
		e, tc = meet(t, server, client)
		echo(t, e, tc, "hello again")
		if tc.ConnectionState().DidResume {
			t.Error("resumed")
		}
	})
}

// A server that shares the keys but has no Link makes tickets without the master secret.
func TestTicketWithoutMasterSecretIsNotResumed(t *testing.T) {
	s := suiteOf(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	server, client := s.only(t)
	server.SetSessionTicketKeys([][32]byte{{1}})
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	a, b := sockets(t)
	tc := tls.Client(b, client)
	done := make(chan error, 1)
	go func() { done <- tc.Handshake() }()
	if err := tls.Server(a, server).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := wait.For(t, done, "the handshake"); err != nil {
		t.Fatal(err)
	}
	e, tc := meet(t, server, client)
	echo(t, e, tc, "hello")
	if tc.ConnectionState().DidResume {
		t.Error("resumed")
	}
}

func TestOldSuitesAndVersionsAreNotOffered(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*tls.Config)
		alert  string
	}{
		"CBC": {func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA} },
			"handshake failure"},
		"TLS 1.1": {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			"protocol version not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			server, client := suites[3].only(t)
			server.MinVersion = tls.VersionTLS10
			tt.change(client)
			a, b := sockets(t)
			done := make(chan error, 1)
			go func() { done <- tls.Client(b, client).Handshake() }()
			if _, err := Handshake(a, server); err == nil {
				t.Error("the server has taken it")
			}
			if err := wait.For(t, done, "the client"); err == nil || !strings.Contains(err.Error(), tt.alert) {
				t.Errorf("the client got %v, want %s", err, tt.alert)
			}
		})
	}
}

// The owner may want to answer a client that speaks HTTP, as net/http does.
func TestClientWithoutTLSIsTold(t *testing.T) {
	a, b := sockets(t)
	io.WriteString(b, "GET / HTTP/1.1\r\n\r\n")
	server, _ := suites[0].only(t)
	_, err := Handshake(a, server)
	if re, ok := errors.AsType[tls.RecordHeaderError](err); !ok || string(re.RecordHeader[:]) != "GET /" {
		t.Errorf("got %v, want a tls.RecordHeaderError", err)
	}
}

// A client that says something at once, in the same packet as its Finished, is not overheard by crypto/tls.
func TestNothingIsReadAhead(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		server, client := s.only(t)
		a, b := sockets(t)
		hold := &holding{Conn: b}
		tc := tls.Client(hold, client)
		done := make(chan error, 1)
		go func() {
			// In TLS 1.3 the client's handshake is over before its Finished is out of our hands.
			hold.held = s.tls13
			_, err := io.WriteString(tc, "first")
			hold.release()
			done <- err
		}()
		l, err := Handshake(a, server)
		if err != nil {
			t.Fatal(err)
		}
		if err := wait.For(t, done, "the client"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		e := &end{t: t, nc: a, Link: l}
		if _, err := io.ReadFull(e, got); err != nil || string(got) != "first" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// holding gathers what is written after the first packet.
type holding struct {
	net.Conn
	held bool
	out  bytes.Buffer
	n    int
}

func (h *holding) Write(p []byte) (int, error) {
	if h.n++; h.n == 1 || !h.held {
		return h.Conn.Write(p)
	}
	return h.out.Write(p)
}

func (h *holding) release() { h.Conn.Write(h.out.Bytes()) }

// A client that divides its hello into many records is served, too: its random is in more than one of them.
func TestHelloInPieces(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		server, client := s.only(t)
		a, b := sockets(t)
		tc := tls.Client(&dividing{Conn: b}, client)
		done := make(chan error, 1)
		go func() { done <- tc.Handshake() }()
		l, err := Handshake(a, server)
		if err != nil {
			t.Fatal(err)
		}
		if err := wait.For(t, done, "the client"); err != nil {
			t.Fatal(err)
		}
		echo(t, &end{t: t, nc: a, Link: l}, tc, "hello")
	})
}

// dividing makes many records of the first, the hello, and puts a warning before it.
type dividing struct {
	net.Conn
	done bool
}

func (d *dividing) Write(p []byte) (int, error) {
	if d.done {
		return d.Conn.Write(p)
	}
	d.done = true
	b := []byte{alert, 3, 1, 0, 2, warning, byte(userCanceled)}
	for _, c := range p[headerLen:] {
		b = append(b, handshake, 3, 1, 0, 1, c)
	}
	if _, err := d.Conn.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// In TLS 1.2 the client's records count from its change_cipher_spec. Finished is one of them, but nobody says that it
// is the only one.
func TestRecordsCountFromTheChangeOfKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		read string
		want uint64
	}{
		"one":               {"\x16\x03\x03\x00\x02ab\x14\x03\x03\x00\x01\x01\x16\x03\x03\x00\x02ab", 1},
		"two":               {"\x16\x03\x03\x00\x02ab\x14\x03\x03\x00\x01\x01\x15\x03\x03\x00\x02ab\x16\x03\x03\x00\x02ab", 2},
		"one and a half":    {"\x14\x03\x03\x00\x01\x01\x16\x03\x03\x00\x02ab\x16\x03\x03\x00", 1},
		"one that is empty": {"\x14\x03\x03\x00\x01\x01\x16\x03\x03\x00\x00", 1},
	} {
		for size := 1; size < 9; size++ {
			w := &wire{Conn: source{r: strings.NewReader(tt.read)}}
			for p := make([]byte, size); ; {
				if _, err := w.Read(p); err != nil {
					break
				}
			}
			if w.records != tt.want {
				t.Errorf("%s, %d at a time: got %d, want %d", name, size, w.records, tt.want)
			}
		}
	}
}

// source is a connection from which r is read.
type source struct {
	net.Conn // nil
	r        io.Reader
}

func (s source) Read(p []byte) (int, error) { return s.r.Read(p) }
