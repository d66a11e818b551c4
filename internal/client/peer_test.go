package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"picloud/internal/leak"
	"picloud/internal/wire"

	"github.com/gorilla/websocket"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

// pipes is a network inside a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (n *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.done:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *pipes) Close() error {
	n.once.Do(func() { close(n.done) })
	return nil
}

func (n *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// peer is a server that the test plays, message by message.
type peer struct {
	t       *testing.T
	net     *pipes
	sockets chan *socket
	server  *http.Server

	mu     sync.Mutex
	answer func(http.ResponseWriter, *http.Request) bool // true when it answered
}

func (p *peer) set(answer func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func newPeer(t *testing.T) *peer {
	p := &peer{t: t, net: &pipes{conns: make(chan net.Conn), done: make(chan struct{})}, sockets: make(chan *socket)}
	p.server = &http.Server{Handler: p}
	served := make(chan struct{})
	go func() {
		p.server.Serve(p.net)
		close(served)
	}()
	t.Cleanup(func() {
		p.server.Close()
		<-served
	})
	return p
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	if r.URL.Path != "/subscribe" {
		http.NotFound(w, r)
		return
	}
	ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
	if err != nil {
		p.t.Errorf("upgrade: %v", err)
		return
	}
	p.sockets <- &socket{p.t, ws}
}

// accept waits for the client's next connection.
func (p *peer) accept() *socket {
	p.t.Helper()
	select {
	case s := <-p.sockets:
		return s
	case <-time.After(time.Hour):
		p.t.Fatal("no connection came")
		return nil
	}
}

type socket struct {
	t  *testing.T
	ws *websocket.Conn
}

type request struct {
	Action string          `json:"action"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	ID     json.RawMessage `json:"id"`
}

func (s *socket) read() request {
	s.t.Helper()
	var r request
	if err := s.ws.ReadJSON(&r); err != nil {
		s.t.Fatalf("the peer reads: %v", err)
	}
	return r
}

// expect reads one message and checks what it asks for.
func (s *socket) expect(action, event string) request {
	s.t.Helper()
	r := s.read()
	if r.Action != action || r.Event != event {
		s.t.Fatalf("got %s %q, want %s %q", r.Action, r.Event, action, event)
	}
	return r
}

func (s *socket) write(p []byte) {
	s.t.Helper()
	if err := s.ws.WriteMessage(websocket.TextMessage, p); err != nil {
		s.t.Fatalf("the peer writes: %v", err)
	}
}

func (s *socket) ack(r request)                   { s.write(wire.AppendAck(nil, r.ID)) }
func (s *socket) refuse(r request, reason string) { s.write(wire.AppendError(nil, reason, nil, r.ID)) }

func (s *socket) deliver(event, data string) {
	s.write(wire.AppendDelivery(nil, []byte(event), []byte(data), time.Now(), []byte(`"Porch"`)))
}

// end closes with a code and waits for the client's answer to it.
func (s *socket) end(code int) {
	s.t.Helper()
	s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	for {
		if _, _, err := s.ws.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, code) {
				s.t.Errorf("close %d was answered with %v", code, err)
			}
			break
		}
	}
	s.ws.Close()
}

// caller is a running client.
type caller struct {
	*Client
	stop   context.CancelFunc
	result chan error
	states chan State
	got    chan wire.Delivery
}

func newCaller(t *testing.T, p *peer, change ...func(*Options)) *caller {
	t.Helper()
	r := &caller{result: make(chan error, 1), states: make(chan State, 1000), got: make(chan wire.Delivery, 1000)}
	options := Options{
		URL: "http://peer", Key: "sesame", Name: "Porch",
		OnState:   func(s State) { r.states <- s },
		OnMessage: func(d wire.Delivery) { r.got <- d },
	}
	for _, f := range change {
		f(&options)
	}
	c, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	c.dialer = p.net.dial
	t.Cleanup(c.http.CloseIdleConnections)
	r.Client = c
	return r
}

// run starts Run. It is over before the bubble ends, or synctest says so.
func run(t *testing.T, p *peer, change ...func(*Options)) *caller {
	t.Helper()
	r := newCaller(t, p, change...)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ended := make(chan struct{})
	go func() {
		r.result <- r.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return r
}

// publish sends a message and waits for its answer.
func (c *caller) publish(ctx context.Context, event, data string) error {
	receipt, err := c.Send(ctx, event, json.RawMessage(data))
	if err != nil {
		return err
	}
	return receipt.Wait(ctx)
}

// next returns the next state.
func (c *caller) next(t *testing.T) State {
	t.Helper()
	select {
	case s := <-c.states:
		return s
	case err := <-c.result:
		t.Fatalf("Run returned: %v", err)
	case <-time.After(time.Hour):
		t.Fatal("nothing changed")
	}
	return State{}
}

// mustConnect expects the next state to be a connection.
func (c *caller) mustConnect(t *testing.T) {
	t.Helper()
	if s := c.next(t); !s.Connected {
		t.Fatalf("not connected: %v", s.Err)
	}
}

// failure returns what Run ended with.
func (c *caller) failure(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.result:
		if err == nil {
			t.Fatal("Run returned nil")
		}
		return err
	case <-time.After(time.Hour):
		t.Fatal("Run goes on")
	}
	return nil
}

// async runs f and returns where its result will be.
func async(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func checkContains(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("error %q has the key", err)
	}
}

func status(code int, header, value string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error":"reason %d"}`, code)
		return true
	}
}

var errTest = errors.New("the test's reason")

var quiet = log.New(io.Discard, "", 0)
