package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"picloud/internal/leak"
	"picloud/internal/poll"
	"picloud/internal/quota"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// Not parallel: it looks at all goroutines.
func TestConnectionAtRestIsItsSocketAndASmallRecord(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			const n = 40
			r := newRig(t, network)
			var peers []*peer
			var sessions []*session
			for range n {
				p, s := r.connect()
				peers, sessions = append(peers, p), append(sessions, s)
			}
			for round := range 3 {
				for i, p := range peers {
					p.send(masked(text, fmt.Sprint(round, i)), masked(startText, "of a message in two pieces"))
				}
				for i, p := range peers {
					p.want(opText, fmt.Sprint(round, i))
					p.send(masked(last, ", this is one"), masked(pingByte, ""))
					p.want(opText, "of a message in two pieces, this is one")
					p.want(opPong, "")
				}
				r.pause() // a running poller might wake a connection for nothing
				wait.Within(t, "all are at rest", r.crew.Wait)
				if left := leak.Goroutines("picloud/internal/wsconn.(*Conn)."); len(left) != 0 {
					t.Errorf("round %d: %d goroutines for connections at rest, as\n%s", round, len(left), left[0])
				}
				for _, s := range sessions {
					if s.partial != nil || s.out.first != nil || len(s.out.rest) != 0 || s.gather != (gather{}) ||
						!s.turn.Rests() {
						t.Errorf("round %d: a connection at rest keeps %d bytes, %+v, %+v", round, cap(s.partial),
							s.out, s.gather)
					}
				}
				r.resume()
			}
		})
	}
}

func TestConnectionLimit(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) { p.Connections = 2 })
		first, s := r.connect()
		second, _ := r.connect()
		if _, err := r.dial(""); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("one over the limit: got error %v", err)
		}
		if err := wait.For(t, r.refused, "Upgrade returns"); !errors.Is(err, ErrFull) {
			t.Errorf("one over the limit: Upgrade returned %v, want %v", err, ErrFull)
		}
		if got := r.Len(); got != 2 {
			t.Errorf("%d connections, want 2", got)
		}
		if got := r.Filled(); got != 1 {
			t.Errorf("the limit was reached %d times, want once", got)
		}
		first.vanish()
		wait.For(t, s.ended, "Closed is called")
		wait.Until(t, "there is room", func() bool { return r.Len() == 1 })
		third, _ := r.connect()
		if got := r.Filled(); got != 2 {
			t.Errorf("the limit was reached %d times, want twice", got)
		}
		for _, p := range []*peer{second, third} {
			p.send(masked(text, "hello"))
			p.want(opText, "hello")
		}
	})
}

func TestFailedHandshakeLeavesNothing(t *testing.T) {
	r := newRig(t, "tcp", func(p *plan) { p.Connections = 1 })
	for range 3 {
		res, err := http.Get(r.server.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("got status %s", res.Status)
		}
		if err := wait.For(t, r.refused, "Upgrade returns"); err == nil || errors.Is(err, ErrFull) {
			t.Errorf("Upgrade returned %v", err)
		}
	}
	if got := r.Len(); got != 0 {
		t.Errorf("%d connections, want none", got)
	}
	p, _ := r.connect()
	p.send(masked(text, "hello"))
	p.want(opText, "hello")
}

func TestSetCloseSaysGoodbyeToAll(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		var peers []*peer
		var sessions []*session
		for range 20 {
			p, s := r.connect()
			s.Queue(s.arena.Text([]byte("the last word")), 1)
			peers, sessions = append(peers, p), append(sessions, s)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			r.close(context.Background(), 1001, "the server stops")
		}()
		for i, p := range peers {
			p.want(opText, "the last word")
			p.wantEnd(1001, "the server stops")
			p.bare.Close()
			sessions[i].wantEnded(ErrClosed)
		}
		wait.For(t, closed, "Set.Close returns")
		if got := r.Len(); got != 0 {
			t.Errorf("%d connections are left", got)
		}
	})
}

func TestSetCloseIsBoundedByItsContext(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		// The machine may be too busy for it once or twice.
		var took time.Duration
		for range 5 {
			if took = closeTakes(t, network); took < flushGrace {
				return
			}
		}
		t.Errorf("it took %v, as if the context did not count", took)
	})
}

// closeTakes returns how long Set.Close goes on after the end of its context when a client takes nothing.
func closeTakes(t *testing.T, network string) time.Duration {
	r := newRig(t, network, narrow)
	_, stalled := r.connect()
	_, silent := r.connect()
	var pub publisher
	pub.publish(strings.Repeat("x", 1<<20), stalled)
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan struct{}, 1)
	go func() {
		r.close(ctx, 1001, "")
		close(closed)
	}()
	stalled.wantEnded(ErrClosed)
	silent.wantEnded(ErrClosed)
	select {
	case <-closed:
		t.Error("Set.Close returned before its context ended")
	default:
	}
	begin := time.Now()
	cancel()
	wait.For(t, closed, "Set.Close returns")
	return time.Since(begin)
}

// Connections end on their own while Set.Close cuts them off, and those that come meanwhile get their goodbye.
func TestHandshakesWhileTheSetCloses(t *testing.T) {
	for name, cut := range map[string]bool{"in peace": false, "cut off": true} {
		t.Run(name, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, network string) {
				r := newRig(t, network)
				var wg sync.WaitGroup
				const clients = 30
				some := make(chan struct{}, clients)
				for i := range clients {
					wg.Go(func() {
						p, err := r.dial("")
						some <- struct{}{}
						if err != nil {
							return
						}
						defer p.bare.Close()
						if i%3 == 0 {
							p.vanish()
							return
						}
						got, err := p.next()
						if cut && err != nil {
							return
						}
						if want := (received{opClose, closePayload(1001, "bye")}); err != nil || got != want {
							t.Errorf("got %+v, error %v, want the close frame", got, err)
						}
						p.Write(masked(closeByte, ""))
						p.next()
					})
				}
				for range clients / 3 {
					<-some
				}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if cut {
					cancel()
				}
				wait.Within(t, "Set.Close returns", func() { r.close(ctx, 1001, "bye") })
				wg.Wait()
			})
		})
	}
}

// dialAside is dial in another goroutine, which yields nil if the handshake fails.
func (r *rig) dialAside() <-chan *peer {
	dialed := make(chan *peer, 1)
	go func() {
		p, _ := r.dial("")
		dialed <- p
	}()
	return dialed
}

// A handshake may be under way, or begin, when the Set has no connection any more.
func TestHandshakeAroundSetClose(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		upgraded, goOn := make(chan struct{}, 10), make(chan struct{})
		r := newRig(t, network, func(p *plan) {
			p.beforeStart = func() { upgraded <- struct{}{}; <-goOn }
		})
		dialed := r.dialAside()
		<-upgraded
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			r.close(context.Background(), 1001, "bye")
		}()
		wait.Until(t, "the Set closes", func() bool { r.Set.mu.Lock(); defer r.Set.mu.Unlock(); return r.bye != nil })
		close(goOn)
		early := wait.For(t, dialed, "the handshake is answered")
		if early == nil {
			t.Fatal("the handshake has failed")
		}
		early.wantEnd(1001, "bye")
		early.bare.Close()
		wait.For(t, closed, "Set.Close returns")

		for range 2 {
			late, err := r.dial("")
			if err != nil {
				t.Fatal(err)
			}
			late.wantEnd(1001, "bye")
			late.bare.Close()
			wait.Until(t, "it is gone", func() bool { return r.Len() == 0 })
		}
	})
}

// When the context has ended, no connection is given time, not even one that comes later.
func TestHandshakeAfterSetCloseRanOutOfTime(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		goOn := make(chan struct{})
		var hold atomic.Bool
		r := newRig(t, network, func(p *plan) {
			p.beforeStart = func() {
				if hold.Load() {
					<-goOn
				}
			}
		})
		r.connect()
		hold.Store(true)
		dialed := r.dialAside()
		wait.Until(t, "a handshake is under way", func() bool { return r.Len() == 2 })
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			r.close(ctx, 1001, "")
		}()
		wait.Until(t, "the first is cut off", func() bool { return r.Len() == 1 })
		close(goOn)
		if late := wait.For(t, dialed, "the handshake ends"); late != nil {
			defer late.bare.Close()
			if got, err := late.next(); err == nil {
				t.Errorf("got %+v, want the end", got)
			}
		}
		wait.For(t, closed, "Set.Close returns")
	})
}

func TestFailedHandshakeAfterSetClose(t *testing.T) {
	s := New(Limits{Connections: 1}, newPoller(t), nil, quota.New(1<<30),
		func(w http.ResponseWriter, status int, _ error) { w.WriteHeader(status) }, nil)
	s.Close(t.Context(), 1001, "")
	for range 2 {
		if _, err := s.Upgrade(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), nil); err == nil {
			t.Error("a request that is no handshake was upgraded")
		}
	}
	s.Release()
}

// A socket that becomes a WebSocket keeps its place in the poller.
func TestUpgradedConnectionKeepsItsPlace(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, network)
			r.watch = func(int, poll.Watcher) (poll.Place, error) {
				t.Error("it is watched anew")
				return poll.Place{}, errors.New("no second place")
			}
			p, _ := r.connect()
			p.send(masked(text, "hello"))
			p.want(opText, "hello")
		})
	}
}

// A connection may be closed before Start returns. Until then its descriptor's number must remain its own.
func TestConnectionThatIsCutOffWhileItStarts(t *testing.T) {
	s := lines(t, 1000)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	c := reserve(s, socket{fd: fds[0]}, nil)
	s.watch = func(fd int, w poll.Watcher) (poll.Place, error) {
		s.mu.Lock()
		conns := s.conns()
		s.mu.Unlock()
		for _, c := range conns {
			c.kill()
		}
		s.crew.Wait()
		if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil {
			t.Errorf("descriptor %d is closed while Start needs it: %v", fds[0], err)
		}
		return s.poller.Add(fd, w)
	}
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	if len(l.closed) != 1 || l.closed[0] != ErrClosed {
		t.Errorf("closed with %v, want %v once", l.closed, ErrClosed)
	}
	if n, err := unix.Read(fds[1], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the client reads %d bytes, error %v, want the end", n, err)
	}
}

// A scripted stream stands in for the kernel where a test has to decide what happens between a system call and its
// caller.
type scripted struct {
	t       *testing.T
	onWrite func(bufs [][]byte) (int, error)
	onRead  func(p []byte) (int, error) // nil: there is nothing to read
	closed  bool
	aborts  int
}

func (s *scripted) read(p []byte) (n, moved int, err error) {
	s.use("read")
	if s.onRead == nil {
		return 0, 0, errAgain
	}
	if n, err = s.onRead(p); n == 0 && err == nil {
		err = io.EOF
	}
	return n, n, err
}
func (s *scripted) write(bufs [][]byte) (n, moved int, err error) {
	s.use("write")
	n, err = s.onWrite(bufs)
	return n, n, err
}
func (s *scripted) holds() int     { return 0 }
func (s *scripted) rests() bool    { return true }
func (s *scripted) DropInCipher()  {}
func (s *scripted) DropOutCipher() {}
func (s *scripted) owes() bool     { return false }
func (s *scripted) bye(error)      { s.use("bye") }
func (s *scripted) closeWrite()    { s.use("closeWrite") }
func (s *scripted) abort()         { s.use("abort"); s.aborts++ }
func (s *scripted) close()         { s.use("close"); s.closed = true }
func (s *scripted) use(call string) {
	if s.closed {
		s.t.Errorf("%s after close", call)
	}
}

func total(bufs [][]byte) (n int) {
	for _, b := range bufs {
		n += len(b)
	}
	return n
}

// The poller may report the socket writable before the writer has noted that it takes no more.
func TestSocketTakesBytesAgainBeforeTheStallIsNoted(t *testing.T) {
	s := lines(t, 1000)
	var c *Conn
	calls := 0
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) {
		if calls++; calls == 1 {
			c.ready(false, true)
			return 0, errAgain
		}
		return total(bufs), nil
	}}
	c = reserve(s, socket{fd: -1, stream: sock}, nil)
	start(c, &line{t: t, conn: c})
	s.crew.Wait()
	c.Queue(appendFrame(nil, opText, []byte("hello")), 1)
	c.Flush()
	if calls != 2 || !c.Idle() {
		t.Errorf("after %d writes: stalled for good", calls)
	}
	c.kill()
	s.crew.Wait()
}

// A frame that is queued while another goroutine writes is left for that goroutine to write.
func TestFrameQueuedDuringAWriteIsWritten(t *testing.T) {
	s := lines(t, 1000)
	var c *Conn
	var written []int
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) {
		if len(written) == 0 {
			if !c.Queue(appendFrame(nil, opText, []byte("second")), 2) {
				t.Error("the second publisher is not told to flush")
			}
			c.Flush() // returns at once
		}
		written = append(written, total(bufs))
		return total(bufs), nil
	}}
	c = reserve(s, socket{fd: -1, stream: sock}, nil)
	start(c, &line{t: t, conn: c})
	s.crew.Wait()
	if !c.Queue(appendFrame(nil, opText, []byte("first")), 1) || c.Queue(appendFrame(nil, opText, nil), 1) {
		t.Error("a publisher is to be told to flush once for its batch")
	}
	c.Flush()
	if fmt.Sprint(written) != "[9 8]" || !c.Idle() {
		t.Errorf("written: %v", written)
	}
	c.kill()
	s.crew.Wait()
}

// A frame's memory is free once a Flush has found all of it written or copied, not while another goroutine writes it.
func TestFlushTellsWhetherFramesAreFree(t *testing.T) {
	s := lines(t, 1000)
	var c *Conn
	var answers []error // of the socket
	var wrote []string
	var nested bool
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) {
		if c.Flush() {
			nested = true
		}
		if len(answers) > 0 {
			err := answers[0]
			answers = answers[1:]
			return 0, err
		}
		wrote = append(wrote, string(slices.Concat(bufs...)))
		return total(bufs), nil
	}}
	c = reserve(s, socket{fd: -1, stream: sock}, nil)
	start(c, &line{t: t, conn: c})
	s.crew.Wait()
	var a Arena
	for n, stall := range []bool{false, true, true, false} {
		if stall {
			answers = []error{errAgain}
		}
		text := fmt.Sprint("text ", n)
		c.Queue(a.Text([]byte(text)), uint64(n+1))
		free := c.Flush()
		if !free {
			t.Fatalf("%s: nobody writes it, and it is not free", text)
		}
		a.Flushed(free)
		a.Text([]byte("other"))
		if c.ready(false, true); len(wrote) != n+1 || wrote[n][2:] != text {
			t.Errorf("%s: written as %q", text, wrote[n:])
		}
		a.Flushed(true)
	}
	if nested {
		t.Error("a frame is free while it is written")
	}
	c.kill()
	s.crew.Wait()
}

// Timers and Set.Close may come late: the socket's descriptor may be another client's by then, and so may its place.
func TestGoneConnectionIsLeftAlone(t *testing.T) {
	s := lines(t, 1000)
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) { return total(bufs), nil }}
	c := reserve(s, socket{fd: -1, stream: sock}, nil)
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	c.Close(1001, "")
	s.crew.Wait()
	c.kill()
	s.crew.Wait()
	if !sock.closed || sock.aborts != 1 || len(l.closed) != 1 {
		t.Fatalf("socket closed: %t, %d aborts, Closed called with %v", sock.closed, sock.aborts, l.closed)
	}
	next := newLine(t, s, nil)
	c.kill()
	c.ready(true, true)
	c.ping()
	c.Close(1001, "")
	c.Queue(pingFrame, 7)
	c.Flush()
	s.crew.Wait()
	c.mu.Lock()
	c.kick()
	if !c.turn.Rests() { // Set.Close may be waiting for all goroutines to end
		t.Error("a goroutine is started for a connection that is gone")
	}
	c.mu.Unlock()
	if sock.aborts != 1 || len(l.closed) != 1 {
		t.Errorf("%d aborts, Closed called with %v", sock.aborts, l.closed)
	}
	if s.Len() != 1 || len(s.free) != 0 || s.slots[0] != next.conn {
		t.Errorf("%d connections, free places %v: the next connection's place was given away", s.Len(), s.free)
	}
	next.give(masked(text, "hello"))
	if len(next.messages) != 1 {
		t.Error("the next connection was disturbed")
	}
	next.hangUp()
}

// The first reason counts: its consequences are not reasons of their own.
func TestReasonIsTheFirst(t *testing.T) {
	s := lines(t, 1000)
	var c *Conn
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) { return total(bufs), nil }}
	sock.onRead = func([]byte) (int, error) { c.Close(1001, ""); return 0, nil }
	c = reserve(s, socket{fd: -1, stream: sock}, nil)
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	if len(l.closed) != 1 || l.closed[0] != ErrClosed {
		t.Errorf("closed with %v, want %v", l.closed, ErrClosed)
	}
}

// A stall is given a whole interval, from one ping to the next.
func TestStallThatHasJustBegunIsNotClosed(t *testing.T) {
	s := lines(t, 1000)
	full := false
	sock := &scripted{t: t, onWrite: func(bufs [][]byte) (int, error) {
		if full {
			return 0, errAgain
		}
		return total(bufs), nil
	}}
	c := reserve(s, socket{fd: -1, stream: sock}, nil)
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	c.ping()
	full = true
	c.Queue(appendFrame(nil, opText, nil), 1)
	c.Flush()
	c.ping()
	s.crew.Wait()
	if len(l.closed) != 0 {
		t.Errorf("closed with %v by the first ping of a stall", l.closed)
	}
	c.ping()
	s.crew.Wait()
	if len(l.closed) != 1 || l.closed[0] != ErrStalled {
		t.Errorf("closed with %v, want %v", l.closed, ErrStalled)
	}
	c.kill()
	s.crew.Wait()
}

// A client that pings without a pause and never reads keeps the reading side awake: its queue is bounded all the same.
func TestFloodOfPingsIsBounded(t *testing.T) {
	s := lines(t, 1000)
	var c *Conn
	ping := masked(pingByte, strings.Repeat("p", maxControlPayload))
	pings := slices.Repeat(ping, len(buffer{})/len(ping))
	reads, enough := 0, 4*s.limits.QueueBytes/len(buffer{})
	sock := &scripted{
		t:       t,
		onWrite: func([][]byte) (int, error) { return 0, errAgain },
		onRead: func(p []byte) (int, error) {
			if c.closed() != nil {
				return 0, errAgain
			}
			if reads++; reads > enough {
				t.Errorf("%d bytes are queued for a client that only pings",
					locked(c, func(c *Conn) int { return c.out.size }))
				return 0, errAgain
			}
			return copy(p, pings), nil
		},
	}
	c = reserve(s, socket{fd: -1, stream: sock}, nil)
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	if len(l.closed) != 1 || l.closed[0] != ErrTooSlow {
		t.Errorf("closed with %v, want %v", l.closed, ErrTooSlow)
	}
	c.kill()
	s.crew.Wait()
}

func TestBrokenSocketEndsTheConnection(t *testing.T) {
	s := lines(t, 1000)
	broken := errors.New("broken")
	sock := &scripted{t: t, onWrite: func([][]byte) (int, error) { return 3, broken }}
	c := reserve(s, socket{fd: -1, stream: sock}, nil)
	l := &line{t: t, conn: c}
	start(c, l)
	s.crew.Wait()
	c.Queue(pingFrame, 1)
	c.Queue(appendFrame(nil, opText, make([]byte, 1000)), 1)
	c.Flush()
	s.crew.Wait()
	if len(l.closed) != 1 || l.closed[0] != broken || !sock.closed {
		t.Errorf("closed with %v, socket closed: %t", l.closed, sock.closed)
	}
	if c.out.size != 0 {
		t.Error("a queue is kept for a broken socket")
	}
}

// Cache lines have 64 bytes; on ARMv6 they are half as long, and it is four of those at most.
func TestDeliveryTouchesTwoCacheLines(t *testing.T) {
	const line = 64
	var c Conn
	// Of an interface, the first word tells whether it is nil.
	end := unsafe.Offsetof(c.sock) + unsafe.Offsetof(c.sock.stream) + unsafe.Sizeof(uintptr(0))
	if unsafe.Offsetof(c.sock.fd) != 0 || end > 2*line {
		t.Errorf("the last byte that a delivery needs is byte %d of a connection", end)
	}
	if unsafe.Sizeof(uintptr(0)) < 8 {
		return // sizes differ there, and where a Conn begins is left to the allocator
	}
	conns := make([]*Conn, 100) // not on the stack
	for i := range conns {
		conns[i] = new(Conn)
		if p := uintptr(unsafe.Pointer(conns[i])); p%line != 0 {
			t.Fatalf("a connection of %d bytes begins %d bytes behind the beginning of a line", unsafe.Sizeof(c),
				p%line)
		}
	}
}

// Not parallel: it counts all allocations.
func TestDeliveryAllocatesNothing(t *testing.T) {
	for network, overhead := range map[string]int{"tcp": 0, "unix": 0, "tls": 5 + 1 + 16} { // RFC 8446 §5.2, of AES-GCM
		r := newRig(t, network)
		p, s := r.connect()
		buf := make([]byte, 64<<10)
		take := func(n int) { // keeps up, so that nothing but deliveries is measured
			for n > 0 {
				k, err := p.bare.Read(buf[:n])
				if err != nil {
					t.Fatal(err)
				}
				n -= k
			}
		}
		frame := appendFrame(nil, opText, []byte("a small frame, as most are"))
		batch := uint64(1)
		if n := testing.AllocsPerRun(2000, func() {
			batch++
			s.Queue(frame, batch)
			s.Flush()
			take(len(frame) + overhead)
		}); n != 0 {
			t.Errorf("%s: a delivery costs %v allocations", network, n)
		}
		var a Arena
		frames := make([][]byte, 20)
		for i := range frames {
			frames[i] = a.Text([]byte("one of a burst"))
		}
		if n := testing.AllocsPerRun(200, func() {
			batch++
			for _, f := range frames {
				s.Queue(f, batch)
			}
			s.Flush()
			take(len(frames)*len(frames[0]) + overhead)
		}); n != 0 {
			t.Errorf("%s: a burst costs %v allocations", network, n)
		}
		if !s.Idle() {
			t.Errorf("%s: the client did not keep up, and this measured something else", network)
		}
		p.vanish()
	}
}

// Not parallel: it counts all descriptors.
func TestConnectionsLeaveNoDescriptorBehind(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		r := newRig(t, network)
		ends := []func(*peer, *session){
			func(p *peer, _ *session) { p.vanish() },
			func(p *peer, _ *session) { p.Close() },
			func(p *peer, _ *session) {
				p.send(masked(closeByte, ""))
				p.want(opClose, "")
				p.wantEOF()
				p.bare.Close()
			},
			func(p *peer, _ *session) { p.send(masked(text, "\xff")); p.bare.Close() },
			func(p *peer, s *session) { s.Close(1001, ""); p.wantEnd(1001, ""); p.bare.Close() },
			func(p *peer, s *session) { s.Close(1001, ""); p.vanish() },
		}
		round := func() {
			for _, end := range ends {
				p, s := r.connect()
				end(p, s)
				wait.For(t, s.ended, "Closed is called")
			}
			wait.Until(t, "all are gone", func() bool { return r.Len() == 0 })
		}
		round()
		before := leak.Descriptors()
		var peers []*peer
		for range 20 {
			p, _ := r.connect()
			peers = append(peers, p)
		}
		if n := len(leak.Descriptors()) - len(before); n > 2*len(peers) {
			t.Errorf("%s: %d connections have %d descriptors, want one at each end", network, len(peers), n)
		}
		for _, p := range peers {
			p.vanish()
		}
		for range 20 {
			round()
		}
		wait.Until(t, "there are no more descriptors than before",
			func() bool { return len(leak.Descriptors()) <= len(before) })
	}
}

func TestMemoryIsGivenBackOnceACrowdHasSettled(t *testing.T) {
	var h housekeeping
	var due []int
	for turn, open := range []int{
		0, 0, 10, 30, 20, // some
		400, 2000, 4000, 5000, 5010, 5020, 5030, // a crowd comes: due when it has settled
		4800, 4750, 4760, 4700, 4700, 4700, // some go
		2000, 100, 60, 60, 60, 60, // it goes
		600, 600, 600, 600, 600, 600, // another one: due when the last time is long enough ago
	} {
		if h.due(open) {
			due = append(due, turn)
		}
	}
	if want := []int{9, 20, 25}; !slices.Equal(due, want) {
		t.Errorf("due in the turns %v, want %v", due, want)
	}
}

// A TLS connection that only answers pings keeps no ciphers, which are most of its memory. Not parallel: it counts all
// that is allocated.
func TestQuietConnectionKeepsNoCiphers(t *testing.T) {
	const n = 200
	r := newRig(t, "tls")
	var peers []*peer
	var sessions []*session
	for range n {
		p, s := r.connect()
		hello := strings.Repeat("hello", 20) // more than a ping
		p.send(masked(text, hello))
		p.want(opText, hello)
		peers, sessions = append(peers, p), append(sessions, s)
	}
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // of the pools, too
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	ping := func() {
		for i, p := range peers {
			sessions[i].ping()
			p.want(opPing, "")
			p.send(masked(finBit|opPong, ""))
		}
	}
	answered := func(s *session) bool { return locked(s.Conn, func(c *Conn) bool { return !c.quiet }) }
	ping()
	before := heap()
	ping()
	for _, s := range sessions {
		wait.Until(t, "the answer has been looked at", func() bool { return answered(s) })
	}
	if saved := (before - heap()) / n; saved < 1200 {
		t.Errorf("%d bytes less each, want those of two ciphers", saved)
	}
	for i, p := range peers {
		p.send(masked(text, "again"))
		p.want(opText, "again")
		if !answered(sessions[i]) {
			t.Error("it is quiet although something has come")
		}
	}
}
