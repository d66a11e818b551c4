package wsconn

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// narrow makes the kernel buffer little, so that a client that does not read is noticed soon.
func narrow(p *plan) { p.buffers = 64 << 10 }

// numbered is the n-th text of a stream; they are of many lengths.
func numbered(n int) string { return strconv.Itoa(n) + ":" + strings.Repeat("x", n*37%3000) }

// wantNumbered reads frames of a stream, from the n-th on, up to the first that is not part of it.
func (p *peer) wantNumbered(n int) (next int, end received) {
	p.T.Helper()
	for ; ; n++ {
		got, err := p.next()
		if err != nil {
			p.T.Fatalf("waiting for frame %d: %v", n, err)
		}
		if got.op != opText {
			return n, got
		}
		if got.payload != numbered(n) {
			p.T.Fatalf("got %.20q (%d bytes), want frame %d", got.payload, len(got.payload), n)
		}
	}
}

func TestSlowReaderIsClosed(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		const queue = 128 << 10
		r := newRig(t, network, narrow, func(p *plan) { p.QueueBytes = queue })
		slow, s := r.connect()
		to := []*session{s}

		const fastOnes, window = 3, 16
		read := make(chan int, fastOnes*window)
		last := make(chan int, fastOnes)
		for range fastOnes {
			fast, s := r.connect()
			to = append(to, s)
			go func() {
				for n := 0; ; n++ {
					got, err := fast.next()
					if err != nil || got.op != opText {
						last <- n
						return
					}
					if got.payload != numbered(n) {
						t.Errorf("another client got %.20q as frame %d", got.payload, n)
					}
					read <- n
				}
			}()
		}

		// The others read each frame while this one reads none.
		var pub publisher
		n, most, closedAt := 0, 0, 0
		for ; closedAt == 0 || n < closedAt+50; n++ {
			pub.publish(numbered(n), to...)
			for range fastOnes {
				wait.For(t, read, "another client reads on")
			}
			size := locked(s.Conn, func(c *Conn) int { return c.out.size })
			most = max(most, size)
			select {
			case why := <-s.ended:
				if why != ErrTooSlow {
					t.Fatalf("closed with %v, want %v", why, ErrTooSlow)
				}
				closedAt = n
			default:
			}
		}
		if most > queue {
			t.Errorf("%d bytes were queued, the limit is %d", most, queue)
		}
		if size := locked(s.Conn, func(c *Conn) int { return c.out.size }); size > 4000 {
			t.Errorf("%d bytes are still queued for a client that has been closed", size)
		}

		// When it reads at last, it gets whole frames from the first on, and then the close frame.
		got, end := slow.wantNumbered(0)
		if want := (received{opClose, closePayload(1013, "reads too slowly")}); end != want {
			t.Errorf("after %d frames: got %+v, want %+v", got, end, want)
		}
		if got > closedAt {
			t.Errorf("got %d frames, though it was closed at the %dth", got, closedAt)
		}
		slow.send(masked(closeByte, closePayload(1013, "")))
		slow.wantEOF()

		for _, s := range to[1:] {
			s.Close(1001, "")
		}
		for range fastOnes {
			if got := wait.For(t, last, "another client reads its close frame"); got != n {
				t.Errorf("another client got %d frames, want %d", got, n)
			}
		}
	})
}

// A client that never reads again is cut off in time. TestCloseIsBounded checks the same for a Set.
func TestSlowReaderThatNeverReadsIsCutOff(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, narrow, func(p *plan) { p.QueueBytes = 16 << 10 })
		_, s := r.connect()
		var pub publisher
		for n := 0; s.ends.Load() == 0; n++ {
			pub.publish(numbered(n), s)
		}
		s.wantEnded(ErrTooSlow)
		wait.Within(t, "it is gone", func() { r.close(context.Background(), 1001, "") })
	})
}

// The one with the longest queue goes whatever it is in the middle of, also while it is to answer a goodbye and nobody
// works on it.
func TestLongestQueueGoesInEveryState(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		for _, before := range []func(*session){
			func(*session) {},
			func(s *session) {
				s.Close(1001, "")
				s.wantEnded(ErrClosed)
			},
			(*session).closeLongest,
		} {
			_, s := r.connect()
			before(s)
			s.closeLongest()
			wait.Until(t, "it is gone", func() bool { return r.Len() == 0 })
		}
	})
}

func TestClientThatStallsAndReadsOnLosesNothing(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		const queue = 1 << 20
		r := newRig(t, network, narrow, func(p *plan) { p.QueueBytes = queue })
		p, s := r.connect()
		var pub publisher
		n, bytes := 0, 0
		for round := range 3 {
			bytes = 0
			from := n
			for ; bytes < queue*9/10; n++ {
				text := numbered(n)
				pub.publish(text, s)
				bytes += len(text) + 4
			}
			if !locked(s.Conn, isStalled) {
				t.Errorf("round %d: not stalled by %d bytes", round, bytes)
			}
			if s.Idle() {
				t.Errorf("round %d: said to be idle", round)
			}
			for i := from; i < n; i++ {
				p.want(opText, numbered(i))
			}
			p.send(masked(text, "how are you"))
			p.want(opText, "how are you")
			wait.Until(t, "idle", s.Idle)
		}
		p.send(masked(closeByte, closePayload(1000, "")))
		p.want(opClose, closePayload(1000, ""))
		p.wantEOF()
		s.wantEnded(ErrGoodbye)
	})
}

func TestLargeFrameGoesToAnIdleClient(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, narrow, func(p *plan) { p.QueueBytes = 10_000 })
		p, s := r.connect()
		large := strings.Repeat("large", 100_000)
		var pub publisher
		pub.publish(large, s)
		p.want(opText, large)
		wait.Until(t, "idle", s.Idle)
		pub.publish("small", s)
		p.want(opText, "small")

		// But nothing more while it waits.
		wait.Until(t, "idle", s.Idle)
		pub.publish(large, s)
		pub.publish("one too many", s)
		s.wantEnded(ErrTooSlow)
		p.want(opText, large)
		p.wantEnd(1013, "reads too slowly")
	})
}

// A queue that looks full may just not have been flushed yet.
func TestUnflushedBurstIsNotClosed(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		const queue, frames = 16 << 10, 150
		r := newRig(t, network, func(p *plan) {
			p.buffers, p.QueueBytes = 200<<10, queue
			p.receive = func(s *session, _ bool, message []byte) {
				for n := range frames {
					s.Queue(s.arena.Text(fmt.Appendf(nil, "%s %d %s", message, n, strings.Repeat("x", 500))), 1)
				}
				if size := locked(s.Conn, func(c *Conn) int { return c.out.size }); size < 4*queue {
					t.Errorf("only %d bytes are queued", size)
				}
			}
		})
		p, s := r.connect()
		for round := range 3 {
			p.send(masked(text, fmt.Sprint(round)))
			for n := range frames {
				p.want(opText, fmt.Sprintf("%d %d %s", round, n, strings.Repeat("x", 500)))
			}
			wait.Until(t, "idle", s.Idle)
		}
	})
}

// But what is left of a burst when the socket takes no more does count.
func TestBurstThatIsNotTakenIsClosed(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, network, narrow, func(p *plan) {
				p.QueueBytes = 16 << 10
				p.receive = func(s *session, _ bool, _ []byte) {
					for n := range 1000 {
						s.Queue(s.arena.Text([]byte(numbered(n))), 1)
					}
				}
			})
			p, s := r.connect()
			p.send(masked(text, "go"))
			s.wantEnded(ErrTooSlow)
			if got, end := p.wantNumbered(0); end.payload != closePayload(1013, "reads too slowly") || got > 900 {
				t.Errorf("after %d frames: got %+v, want the close frame", got, end)
			}
			p.wantEOF()
		})
	}
}

func TestPingsArrive(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) { p.PingEvery = 50 * time.Millisecond })
		p, _ := r.connect()
		for range 3 {
			p.want(opPing, "")
			p.send(masked(pongByte, ""))
		}
	})
}

func TestStalledClientIsClosedByPings(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, narrow, func(p *plan) { p.PingEvery = 50 * time.Millisecond })
		p, s := r.connect()
		large := strings.Repeat("x", 500_000)
		var pub publisher
		pub.publish(large, s)
		s.wantEnded(ErrStalled)
		for {
			got, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if got.op == opText && got.payload != large {
				t.Errorf("got a frame of %d bytes, want %d", len(got.payload), len(large))
			}
			if got.op == opClose {
				if got.payload != closePayload(1013, "reads too slowly") {
					t.Errorf("got close frame %q", got.payload)
				}
				break
			}
		}
		p.wantEOF()
	})
}

// The check asks whether anything was taken since the last ping, not whether all was.
func TestSlowButSteadyReaderIsNotTakenForStalled(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, network, narrow)
			p, s := r.connect()
			var pub publisher
			pub.publish(strings.Repeat("x", 8<<20), s)
			taken := func() uint32 { return locked(s.Conn, func(c *Conn) uint32 { return c.taken }) }
			for range 5 {
				s.ping()
				for before := taken(); taken() == before; {
					if _, err := io.CopyN(io.Discard, p.In, 1000); err != nil {
						t.Fatal(err)
					}
				}
				wait.Until(t, "stalled again", func() bool { return locked(s.Conn, isStalled) })
			}
			s.ping()
			if why := s.closed(); why != nil {
				t.Fatalf("a client that reads was closed: %v", why)
			}
			r.pause() // or what the kernel still takes would count
			s.ping()
			s.ping()
			s.wantEnded(ErrStalled)
		})
	}
}

// A window that is shut would count as silence: the kernel would end a client that reads slowly, however alive it is.
func TestKernelDoesNotTakeAStalledClientForGone(t *testing.T) {
	r := newRig(t, "tcp", narrow, func(p *plan) { p.PeerTimeout = 30 * time.Second; p.QueueBytes = 16 << 20 })
	p, s := r.connect()
	timeout := func() time.Duration {
		ms := locked(s.Conn, func(c *Conn) int {
			ms, err := unix.GetsockoptInt(c.sock.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if err != nil {
				t.Error(err)
			}
			return ms
		})
		return time.Duration(ms) * time.Millisecond
	}
	if got := timeout(); got != 30*time.Second {
		t.Fatalf("the kernel waits %v for a client at rest", got)
	}
	for range 2 {
		var pub publisher
		pub.publish(strings.Repeat("x", 8<<20), s)
		wait.Until(t, "stalled", func() bool { return locked(s.Conn, isStalled) })
		if got := timeout(); got != 0 {
			t.Errorf("the kernel waits %v for a stalled client", got)
		}
		if _, err := io.CopyN(io.Discard, p.In, 8<<20+10); err != nil {
			t.Fatal(err)
		}
		wait.Until(t, "all is written", func() bool {
			return locked(s.Conn,
				func(c *Conn) bool { return !c.writing && c.out.size == 0 })
		})
		if got := timeout(); got != 30*time.Second {
			t.Errorf("the kernel waits %v for a client that has read on", got)
		}
	}
}

// What is queued for a client that reads nothing must not keep publishers' arenas alive, of which it may be only a
// small part. Not parallel: it looks at the heap.
func TestStalledClientKeepsNoMoreThanItIsOwed(t *testing.T) {
	const queue = 1 << 20
	for _, size := range []int{20, 1000, 3000, 4200, 7000} {
		r := newRig(t, "unix", narrow, func(p *plan) { p.QueueBytes = queue })
		_, s := r.connect()
		r.pause() // nothing more goes out
		var pub publisher
		for !locked(s.Conn, isStalled) {
			pub.publish(strings.Repeat("x", 1000), s)
		}
		before := heap()
		queued := 0
		for queued < queue/2 {
			frame := pub.arena.Text(make([]byte, size))
			s.Queue(frame, 1)
			queued += len(frame)
			pub.arena = Arena{} // the rest of it went to others
		}
		if grown := int(heap()) - int(before); grown > queued*3/2 {
			t.Errorf("%d bytes in frames of %d keep %d bytes", queued, size, grown)
		}
		if locked(s.Conn, func(c *Conn) int { return c.out.size }) < queued {
			t.Error("the queue has emptied meanwhile")
		}
		r.resume()
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
