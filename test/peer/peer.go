package peer

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"picloud/test/wait"
)

// A Patient connection allows wait.Patience for each read and write.
type Patient struct{ net.Conn }

func (c Patient) Read(b []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(wait.Patience))
	return c.Conn.Read(b)
}

func (c Patient) Write(b []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(wait.Patience))
	return c.Conn.Write(b)
}

// DialPatient is a net.Dialer's DialContext.
func DialPatient(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{Timeout: wait.Patience}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return Patient{nc}, nil
}

// A Peer is one connection of a test. Methods that return no error end the test, so they must be called from its own
// goroutine.
type Peer struct {
	Patient
	T  testing.TB
	In *bufio.Reader
}

// New makes a Peer from a connection.
func New(t testing.TB, nc net.Conn) *Peer {
	c := Patient{nc}
	return &Peer{Patient: c, T: t, In: bufio.NewReader(c)}
}

// Dial opens a connection, sends nothing, and closes it at the end of the test.
func Dial(t testing.TB, network, addr string) *Peer {
	t.Helper()
	nc, err := net.DialTimeout(network, addr, wait.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return New(t, nc)
}

// Raw writes bytes as they are.
func (p *Peer) Raw(b []byte) {
	p.T.Helper()
	if _, err := p.Write(b); err != nil {
		p.T.Fatalf("write: %v", err)
	}
}

// An Answer is an HTTP response with its body.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Last   bool // the server closes the connection after it
}

// Answer reads the response to a request with that method. After 101 there is no body.
func (p *Peer) Answer(method string) (Answer, error) {
	res, err := http.ReadResponse(p.In, &http.Request{Method: method})
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Status: res.StatusCode, Header: res.Header, Last: res.Close}
	if a.Status == http.StatusSwitchingProtocols {
		return a, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a.Body = string(body)
	return a, err
}

// Upgrade asks for a WebSocket on a fresh connection and checks the answer if it is 101.
func (p *Peer) Upgrade(target string, header ...string) (Answer, error) {
	random := make([]byte, 16)
	rand.Read(random)
	nonce := base64.StdEncoding.EncodeToString(random)
	if _, err := io.WriteString(p, Handshake(target, nonce, header...)); err != nil {
		return Answer{}, err
	}
	a, err := p.Answer("GET")
	if err == nil && a.Status == http.StatusSwitchingProtocols &&
		a.Header.Get("Sec-WebSocket-Accept") != Accept(nonce) {
		err = fmt.Errorf("Sec-WebSocket-Accept %q, want %q", a.Header.Get("Sec-WebSocket-Accept"), Accept(nonce))
	}
	return a, err
}

// Next reads one frame, as ReadFrame does, and checks that a text is UTF-8.
func (p *Peer) Next() (op byte, payload []byte, err error) {
	op, payload, err = ReadFrame(p.In, nil)
	if err == nil && op == Text && !utf8.Valid(payload) {
		err = fmt.Errorf("a server's text is not UTF-8: %q", payload)
	}
	return op, payload, err
}

// CloseText is what a close frame says: its code and its reason.
func CloseText(payload []byte) string {
	if len(payload) < 2 {
		return "no code"
	}
	return fmt.Sprintf("%d %s", binary.BigEndian.Uint16(payload), payload[2:])
}

// Reset closes a connection without a close frame: on TCP, data in transit is discarded in both directions.
func Reset(nc net.Conn) {
	if c, ok := nc.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	nc.Close()
}
