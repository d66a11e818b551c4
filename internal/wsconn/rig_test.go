package wsconn

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/internal/poll"
	"picloud/internal/quota"
	"picloud/internal/tlsconn"
	"picloud/internal/tlsrecord"
	"picloud/test/certified"
	ws "picloud/test/peer"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// eachNetwork runs a story once for each kind of connection, all in parallel.
func eachNetwork(t *testing.T, story func(t *testing.T, network string)) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			story(t, network)
		})
	}
}

// A plan says how a rig is to be made.
type plan struct {
	Limits
	buffers     int // roughly what the kernel buffers at each end of a connection; 0 leaves it to the kernel
	beforeStart func()
	receive     func(s *session, binary bool, p []byte) // instead of an echo
	rest        func(s *session)
}

// A rig is a Set behind a real HTTP server. Its clients are peers.
type rig struct {
	*Set
	plan
	t        testing.TB
	network  string
	server   *httptest.Server
	sessions chan *session // each once it has been started
	refused  chan error    // what Upgrade returned
	pause    func()        // stops the poller

	mu     sync.Mutex
	all    []*session
	closed bool
}

func newRig(t testing.TB, network string, edit ...func(*plan)) *rig {
	t.Helper()
	r := &rig{t: t, network: network, sessions: make(chan *session, 1<<12), refused: make(chan error, 1<<12)}
	r.plan.Limits = Limits{Connections: 1000, MessageBytes: 64 << 10, QueueBytes: 1 << 20, PingEvery: time.Hour,
		PeerTimeout: time.Minute}
	r.receive = (*session).echo
	for _, f := range edit {
		f(&r.plan)
	}
	r.Set = New(r.plan.Limits, newPoller(t), nil, quota.New(1<<30),
		func(w http.ResponseWriter, status int, reason error) { http.Error(w, reason.Error(), status) }, noText)
	r.resume()

	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if network == "unix" {
		r.server.Listener.Close()
		// Not t.TempDir, whose name may be too long for a socket.
		folder, err := os.MkdirTemp("", "wsconn")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		r.server.Listener, err = net.Listen("unix", filepath.Join(folder, "s"))
		if err != nil {
			t.Fatal(err)
		}
	}
	if r.buffers > 0 {
		r.server.Listener = narrowing{r.server.Listener, r.buffers}
	}
	var config *tls.Config
	if network == "tls" {
		config = certified.Server()
	}
	r.server.Listener = taking{r.server.Listener, r.poller, config}
	r.server.Start()
	t.Cleanup(r.dismantle)
	return r
}

// narrowing sets the send buffer of what it accepts.
type narrowing struct {
	net.Listener
	bytes int
}

func (l narrowing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(l.bytes)
	}
	return c, err
}

// taking accepts connections that can be taken, with a place in the poller.
type taking struct {
	net.Listener
	poller *poll.Poller
	config *tls.Config // not nil: they speak TLS
}

func (l taking) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.config == nil {
			return taker{Conn: c, poller: l.poller}, err
		}
		t, err := l.shake(c)
		if err == nil {
			return t, nil
		}
		c.Close() // and the server goes on
	}
}

func (l taking) shake(c net.Conn) (t taker, err error) {
	c.SetDeadline(time.Now().Add(wait.Patience))
	link, err := tlsrecord.Handshake(c, l.config)
	if err != nil {
		return t, err
	}
	c.SetDeadline(time.Time{})
	s := tlsconn.New(link)
	over, err := s.Over(c)
	return taker{over, c, l.poller, s}, err
}

// A taker is a Taker. Without a poller, what it gives away has no place.
type taker struct {
	net.Conn
	raw    net.Conn // nil: Conn
	poller *poll.Poller
	tls    *tlsconn.Stream
}

// Take gives a duplicate of the descriptor away: the one of package net is watched by Go's own poller.
func (t taker) Take() (fd int, place poll.Place, tls *tlsconn.Stream, ahead []byte, err error) {
	defer t.Close()
	below := t.Conn
	if t.raw != nil {
		below, ahead = t.raw, t.tls.Ahead()
	}
	raw, err := below.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, place, nil, nil, err
	}
	cerr := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err == nil && t.poller != nil {
		place, err = t.poller.Add(fd, unheard{})
	}
	return fd, place, t.tls, ahead, err
}

// unheard watches a socket that is not a WebSocket yet.
type unheard struct{}

func (unheard) Ready(bool, bool) {}

func (r *rig) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var s *session
	_, err := r.Upgrade(w, req, func(c *Conn) Handler {
		s = &session{Conn: c, rig: r, id: req.URL.Query().Get("id"), ended: make(chan error, 2)}
		r.mu.Lock()
		r.all = append(r.all, s)
		r.mu.Unlock()
		if r.beforeStart != nil {
			r.beforeStart()
		}
		return s
	})
	if err != nil {
		if errors.Is(err, ErrFull) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
		r.refused <- err
		return
	}
	r.sessions <- s
}

// resume starts the poller and the pings.
func (r *rig) resume() {
	r.pause = wait.Running(r.t, r.poller.Run, func(ctx context.Context) error {
		r.Run(ctx)
		return nil
	})
}

// close is Set.Close, once.
func (r *rig) close(ctx context.Context, code int, reason string) {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Close(ctx, code, reason)
}

// dismantle ends the rig and checks what holds at the end of every story.
func (r *rig) dismantle() {
	r.server.CloseClientConnections()
	r.server.Close()
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if !closed {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		wait.Within(r.t, "Set.Close returns", func() { r.close(ctx, 1001, "") })
	}
	wait.Until(r.t, "no connection is left", func() bool { return r.Len() == 0 })
	r.crew.Wait()
	r.pause()
	r.Release()
	for _, s := range r.all {
		if n := s.ends.Load(); n != 1 {
			r.t.Errorf("Closed was called %d times", n)
		}
		if e := s.ending; e.timer != nil && e.timer.Stop() {
			r.t.Error("the timer of a connection that is gone still runs")
		}
	}
	if n := r.waiting.Used(); n != 0 {
		r.t.Errorf("%d bytes are counted when all are gone", n)
	}
	free := make(map[int32]bool)
	for _, slot := range r.free {
		free[slot] = true
	}
	if len(free) != len(r.slots) || len(r.free) != len(r.slots) {
		r.t.Errorf("of %d places %v are free", len(r.slots), r.free)
	}
}

// A session is the server's end of a connection, and its Handler.
type session struct {
	*Conn
	rig    *rig
	id     string
	arena  Arena
	inside atomic.Bool
	ends   atomic.Int32
	ended  chan error // the reason, once it has ended
	held   int        // messages that are to be answered at the next Rest
}

// alone checks that no two calls of the handler's methods overlap, and that none comes after Closed.
func (s *session) alone() (leave func()) {
	if s.inside.Swap(true) {
		s.rig.t.Error("two of the handler's methods run at a time")
	}
	if s.ends.Load() != 0 {
		s.rig.t.Error("a method of the handler is called after Closed")
	}
	return func() { s.inside.Store(false) }
}

func (s *session) Receive(binary bool, p []byte) {
	defer s.alone()()
	s.rig.receive(s, binary, p)
}

func (s *session) Rest() {
	defer s.alone()()
	if s.rig.rest != nil {
		s.rig.rest(s)
	}
}

func (s *session) Closed(why error) {
	defer s.alone()()
	s.ends.Add(1)
	s.ended <- why
}

func (s *session) echo(binary bool, p []byte) {
	if binary {
		s.Queue(appendFrame(nil, opBinary, p), 1)
	} else {
		s.Queue(s.arena.Text(p), 1)
	}
}

// locked reads something that the connection's lock guards.
func locked[T any](c *Conn, read func(*Conn) T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return read(c)
}

func isStalled(c *Conn) bool { return c.stalled }

// A publisher sends frames out of an arena.
type publisher struct {
	arena Arena
	batch uint64
}

// lastBatch numbers the batches of all publishers; tests that queue by hand use small numbers.
var lastBatch atomic.Uint64

func init() { lastBatch.Store(1000) }

// publish queues one text for all connections and flushes those that ask for it.
func (p *publisher) publish(text string, to ...*session) {
	frame := p.arena.Text([]byte(text))
	p.batch = lastBatch.Add(1)
	var owed []*session
	for _, s := range to {
		if s.Queue(frame, p.batch) {
			owed = append(owed, s)
		}
	}
	free := true
	for _, s := range owed {
		free = s.Flush() && free
	}
	p.arena.Flushed(free)
}

// A peer is the client's end of a connection.
type peer struct {
	*ws.Peer
	bare net.Conn // below TLS
}

// dial connects and says hello; early is sent in one piece with the handshake.
func (r *rig) dial(id string, early ...byte) (*peer, error) {
	d := net.Dialer{Timeout: wait.Patience}
	bare, err := d.Dial(r.server.Listener.Addr().Network(), r.server.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	if tc, ok := bare.(*net.TCPConn); ok && r.buffers > 0 {
		tc.SetReadBuffer(r.buffers)
	}
	nc := bare
	if r.network == "tls" {
		nc = tls.Client(bare, certified.Client())
	}
	p := &peer{ws.New(r.t, nc), bare}
	p.In = bufio.NewReaderSize(p, 512)
	if _, err := p.Write(append([]byte(ws.Handshake("/?id="+id, ws.Nonce)), early...)); err != nil {
		bare.Close()
		return nil, err
	}
	answer, err := p.Answer("GET")
	if err == nil && answer.Status != http.StatusSwitchingProtocols {
		err = fmt.Errorf("handshake: status %d", answer.Status)
	}
	if err != nil {
		bare.Close()
		return nil, err
	}
	return p, nil
}

// connect makes one connection and returns both its ends.
func (r *rig) connect(early ...byte) (*peer, *session) {
	r.t.Helper()
	p, err := r.dial("", early...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.bare.Close() })
	return p, wait.For(r.t, r.sessions, "the connection is started")
}

// send sends frames, or anything else.
func (p *peer) send(frames ...[]byte) {
	p.T.Helper()
	if _, err := p.Write(join(frames...)); err != nil {
		p.T.Error(err)
	}
}

// A received frame.
type received struct {
	op      byte
	payload string
}

func (p *peer) next() (received, error) {
	op, payload, err := p.Next()
	return received{op, string(payload)}, err
}

// want reads one frame and checks what it is.
func (p *peer) want(op byte, payload string) {
	p.T.Helper()
	got, err := p.next()
	if err != nil {
		p.T.Fatalf("waiting for %.40q: %v", payload, err)
	}
	if want := (received{op, payload}); got != want {
		p.T.Fatalf("got frame %d %.40q (%d bytes), want %d %.40q (%d bytes)", got.op, got.payload, len(got.payload), op,
			payload, len(payload))
	}
}

// wantEnd reads the server's close frame, answers it, and reads the end of the connection.
func (p *peer) wantEnd(code int, reason string) {
	p.T.Helper()
	p.want(opClose, closePayload(code, reason))
	p.send(masked(closeByte, closePayload(code, "")))
	p.wantEOF()
}

func (p *peer) wantEOF() {
	p.T.Helper()
	if got, err := p.next(); err != io.EOF {
		p.T.Errorf("got frame %+v, error %v, want the end", got, err)
	}
}

func (p *peer) vanish() { ws.Reset(p.bare) }

// wantEnded waits until the session has ended, and checks why.
func (s *session) wantEnded(why error) {
	s.rig.t.Helper()
	if got := wait.For(s.rig.t, s.ended, "Closed is called"); !errors.Is(got, why) {
		s.rig.t.Errorf("closed with %v, want %v", got, why)
	}
}
