package httpconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/internal/poll"
	"picloud/internal/quota"
	"picloud/test/certified"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

// A site is what the tests' servers serve, a Set and a plain http.Server alike:
//
//	/echo       answers with the request and its body
//	/deaf       answers and reads no body
//	/panic      panics
//	/large?n=   answers with n bytes
//	/hijack?n=  answers with the n bytes after the request, which are not HTTP any more, and ends
//	/hold       says so on held and answers when it gets something from release
//	/plain?n=   POST answers with the body as a header, and n bytes; a Set does this by itself
//
// A request with the header X-Key has shown the key.
// A Set also hijacks a connection to /hijack by itself, when it asks for a WebSocket.
type site struct {
	held    chan struct{}
	release chan struct{}
	told    chan Crowding
	panics  chan any
	shown   func(context.Context) // Set.Shown, if there is a Set
	plain   atomic.Int64          // answered in the short way
	joined  atomic.Int64          // hijacked in the short way
	general atomic.Int64          // by the handler
	mqtt    atomic.Int64          // clients that speak MQTT
}

func newSite() *site {
	return &site{held: make(chan struct{}, 1<<12), release: make(chan struct{}, 1<<12), told: make(chan Crowding, 1<<4),
		panics: make(chan any, 1<<4)}
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.general.Add(1)
	if r.Header.Get("X-Key") != "" && s.shown != nil {
		s.shown(r.Context())
	}
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	switch r.URL.Path {
	case "/echo":
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q %v", r.Method, r.URL, body, err)
	case "/deaf":
		io.WriteString(w, "deaf")
	case "/panic":
		panic(http.ErrAbortHandler)
	case "/large":
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.Write(make([]byte, n))
	case "/hijack":
		hijack(w, n)
	case "/hold":
		s.held <- struct{}{}
		<-s.release
		io.WriteString(w, "held")
	case "/plain":
		body, err := io.ReadAll(r.Body)
		if r.Method != "POST" || err != nil {
			http.Error(w, fmt.Sprint("no plain POST: ", err), http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Body", fmt.Sprintf("%q", body))
		w.Header().Set("Content-Type", "x/y")
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.WriteHeader(http.StatusCreated)
		w.Write(make([]byte, n))
	default:
		http.NotFound(w, r)
	}
}

func (s *site) short(r *Request) ([]byte, bool) {
	if string(r.Method) != "POST" || string(r.Path) != "/plain" {
		return nil, false
	}
	s.plain.Add(1)
	n, _ := strconv.Atoi(strings.TrimPrefix(string(r.Query), "n="))
	head := fmt.Sprintf("HTTP/1.1 201 Created\r\nContent-Length: %d\r\nContent-Type: x/y\r\nX-Body: %q\r\nDate: now\r\n\r\n", n, r.Body)
	return append([]byte(head), make([]byte, n)...), true
}

func (s *site) join(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/hijack" {
		http.Error(w, "nobody hears this", http.StatusTeapot)
		return
	}
	s.joined.Add(1)
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	hijack(w, n)
}

func hijack(w http.ResponseWriter, n int) {
	nc, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	behind := make([]byte, n)
	l, lent := nc.(*loan)
	if !lent {
		io.ReadFull(brw, behind)
		fmt.Fprintf(nc, "behind: %q", behind)
		nc.Close()
		return
	}
	poller := l.conn.set.cfg.Poller
	fd, place, stream, ahead, err := l.Take()
	if err != nil {
		panic(err)
	}
	poller.Remove(place)
	file := os.NewFile(uintptr(fd), "taken")
	defer file.Close()
	f, err := net.FileConn(file)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if stream != nil {
		if f, err = stream.Over(f); err != nil {
			panic(err)
		}
		defer stream.Bye(fd, nil)
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	io.ReadFull(io.MultiReader(strings.NewReader(string(early)+string(ahead)), f), behind)
	fmt.Fprintf(f, "behind: %q", behind)
}

// A plan says how a rig is to be made.
type plan struct {
	Config
	waiting int // the quota, bytes
	kernel  int // roughly what the kernel buffers at each end of a connection; 0 leaves it to the kernel
}

// A rig is a Set on a real listener.
type rig struct {
	*Set
	*site
	plan
	t       testing.TB
	network string
	addr    net.Addr
	http    *http.Server

	endAccept func() // ends accepting; returns when it has ended
	endRun    func() // ends Run; returns when it has returned
}

// httpServer is what answers, with or without a Set in front.
func httpServer(cfg *Config, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: cfg.HeadTimeout,
		ReadTimeout:       cfg.HeadTimeout + cfg.BodyTimeout,
		WriteTimeout:      cfg.SendTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.HeadBytes,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
}

func defaults() plan {
	return plan{waiting: 1 << 30, Config: Config{
		KeylessBytes: 1 << 30,
		Bounds:       Bounds{1 << 12, 1 << 12, 1 << 12},
		// No test passes only because a timeout cuts a connection off, unless it is about that.
		HeadTimeout: time.Hour, BodyTimeout: time.Hour, IdleTimeout: time.Hour, SendTimeout: time.Hour,
		UnsentBytes: 256 << 10, HeadBytes: 4 << 10, RecallBytes: 256 << 10,
	}}
}

func listen(t testing.TB, network string, kernel int) net.Listener {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		folder, err := os.MkdirTemp("", "httpconn") // t.TempDir's name may be too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		addr = filepath.Join(folder, "s")
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if kernel == 0 {
			return nil
		}
		return c.Control(func(fd uintptr) { // what is accepted inherits it, tcp(7)
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, kernel)
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, kernel)
		})
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newRig(t testing.TB, network string, edit ...func(*plan)) *rig {
	t.Helper()
	r := &rig{t: t, network: network, plan: defaults(), site: newSite()}
	for _, f := range edit {
		f(&r.plan)
	}
	r.http = httpServer(&r.Config, r.site)
	cfg := r.Config
	cfg.HTTP, cfg.Short, cfg.Join = r.http, r.short, r.join
	cfg.Waiting = quota.New(r.waiting)
	cfg.Panicked = func(what any, _ []byte) { r.panics <- what }
	cfg.MQTT = func(net.Addr) { r.mqtt.Add(1) }
	cfg.Unshaken = func(net.Addr, error) {}
	cfg.Crowded = func(c Crowding) { r.told <- c }
	var err error
	if cfg.Poller, err = poll.New(); err != nil {
		t.Fatal(err)
	}
	r.Set = New(cfg)
	r.http.ConnState, r.http.ConnContext, r.site.shown = r.Note, r.ConnContext, r.Shown
	r.endRun = wait.Running(t, cfg.Poller.Run, func(ctx context.Context) error {
		r.Run(ctx)
		return nil
	})
	var end func()
	r.addr, end = r.serve(network)
	r.endAccept = sync.OnceFunc(end)
	t.Cleanup(r.dismantle)
	return r
}

// serve has the Set serve on a listener of its own, "tls" included, until end is called.
func (r *rig) serve(network string) (addr net.Addr, end func()) {
	r.t.Helper()
	var config *tls.Config
	if network == "tls" {
		network, config = "tcp", certified.Server()
	}
	l := listen(r.t, network, r.kernel)
	accept, refuse := context.WithCancel(context.Background())
	accepted := make(chan error, 1)
	go func() { accepted <- r.Serve(accept, l.(Listener), config) }()
	return l.Addr(), func() {
		refuse()
		l.Close()
		r.Unbind()
		if err := wait.For(r.t, accepted, "Serve returns"); err != nil &&
			!errors.Is(err, net.ErrClosed) { // before it began
			r.t.Errorf("Serve: %v", err)
		}
	}
}

// dismantle ends the rig and checks what holds at the end of every story.
func (r *rig) dismantle() {
	r.endAccept()
	close(r.release)
	r.http.Close()
	r.Close()
	r.gone()
	wait.For(r.t, r.None(), "None says so")
	r.endRun()
	wait.Within(r.t, "Release returns", r.Release)
	if err := r.cfg.Poller.Release(); err != nil {
		r.t.Error(err)
	}
	if n := len(r.all()); n != 0 {
		r.t.Errorf("%d connections are still known", n)
	}
}

// gone waits until each connection is gone and has given up its slot.
func (r *rig) gone() {
	r.t.Helper()
	wait.Until(r.t, "all connections are gone", func() bool {
		r.slots.mu.Lock()
		defer r.slots.mu.Unlock()
		return r.slots.tcp.taken+r.slots.local.taken+r.slots.ending == 0
	})
	if all, keyless := r.cfg.Waiting.Used(), r.keyless.Used(); all != 0 || keyless != 0 {
		r.t.Errorf("%d bytes are counted when all are gone, %d of them without the key", all, keyless)
	}
}

// entered is how many connections have got a slot, left how many of them have given it up.
func (r *rig) entered() int { return int(r.Usage().Entered) }
func (r *rig) left() int    { u := r.Usage(); return int(u.Entered) - u.Open }

// count counts the connections for which so holds.
func (r *rig) count(so func(*Conn) bool) (n int) {
	for _, c := range r.all() {
		c.mu.Lock()
		if so(c) {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// loaned returns what is lent. A loan's lock is taken before its Conn's.
func (r *rig) loaned() (loans []*loan) {
	r.count(func(c *Conn) bool {
		if c.loan != nil {
			loans = append(loans, c.loan)
		}
		return false
	})
	return loans
}

// begun reports whether something has come of a next request. mu must be held.
func (c *Conn) begun() bool { return c.turn.Rests() && len(c.in) > 0 }

// atRest waits until each connection is.
func (r *rig) atRest() {
	r.t.Helper()
	wait.Until(r.t, "all are at rest", func() bool { return r.count(func(c *Conn) bool { return c.turn.Rests() }) == r.Usage().Open })
}

// A client is one connection.
type client struct{ *ws.Peer }

func dial(t testing.TB, addr net.Addr) *client {
	t.Helper()
	return &client{ws.Dial(t, addr.Network(), addr.String())}
}

func newClient(t testing.TB, nc net.Conn) *client { return &client{ws.New(t, nc)} }

func (r *rig) dial() *client {
	r.t.Helper()
	if r.network == "tls" {
		return r.shaken(r.addr)
	}
	c := dial(r.t, r.addr)
	r.narrow(c.Conn)
	return c
}

func (r *rig) narrow(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok && r.kernel > 0 {
		tc.SetReadBuffer(r.kernel)
		tc.SetWriteBuffer(r.kernel)
	}
}

// dialTLS makes the handshake with the first that is sent.
func (r *rig) dialTLS(addr net.Addr) *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	r.narrow(nc)
	return newClient(r.t, tls.Client(nc, certified.Client()))
}

// shaken is dialTLS with the handshake made.
func (r *rig) shaken(addr net.Addr) *client {
	r.t.Helper()
	c := r.dialTLS(addr)
	if err := c.Conn.(*tls.Conn).Handshake(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (c *client) send(format string, args ...any) {
	c.T.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.T.Error(err)
	}
}

// An answer is a response, read whole.
type answer struct {
	status int
	xBody  string
	body   string
	last   bool
}

func (c *client) read(method string) (answer, error) {
	a, err := c.Answer(method)
	return answer{a.Status, a.Header.Get("X-Body"), a.Body, a.Last}, err
}

func (c *client) want(method string, status int, body string) {
	c.T.Helper()
	got, err := c.read(method)
	if err != nil {
		c.T.Fatalf("no answer: %v", err)
	}
	if got.status != status || !strings.Contains(got.xBody+got.body, body) {
		c.T.Fatalf("got %+v, want %d with %q", got, status, body)
	}
}

// wantEnd reads the end of the connection.
func (c *client) wantEnd() {
	c.T.Helper()
	if b, err := c.In.ReadByte(); !ended(err) {
		c.T.Errorf("got %q, error %v, want the end", b, err)
	}
}

// ended reports whether the peer has ended the connection, one way or another.
func ended(err error) bool {
	return err == io.EOF || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// vanish ends the connection without a word, on TCP with a reset.
func (c *client) vanish() {
	nc := c.Conn
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	ws.Reset(nc)
}

// The requests that most tests are made of.
const (
	get      = "GET /echo HTTP/1.1\r\nHost: pi\r\n\r\n"
	lastOne  = "GET /echo?last HTTP/1.1\r\nHost: pi\r\nConnection: close\r\n\r\n"
	postHead = "POST /plain HTTP/1.1\r\nHost: pi\r\nContent-Length: 4\r\n\r\n"
)

// upgrade asks for a WebSocket.
func upgrade(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: pi\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
}

// plainPost is a plain request with a body of one to four bytes.
func plainPost(body any) string {
	b := fmt.Sprint(body)
	return fmt.Sprintf("POST /plain HTTP/1.1\r\nHost: pi\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
}

// generalPost is one that net/http answers.
func generalPost(body any) string {
	return strings.Replace(plainPost(body), "Host: pi\r\n", "Host: pi\r\nX-Other: 1\r\n", 1)
}
