package wsconn

import (
	"net"
	"testing"
	"time"

	"picloud/internal/handover"
	"picloud/internal/quota"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// A restored is a connection that another process has left, with its far end.
type restored struct {
	*Conn
	line *line
	t    *testing.T
	set  *Set
	fd   int
	kept *handover.Kept
	far  net.Conn
}

// restore makes one over TCP or a Unix socket.
func restore(t *testing.T, network string, sv Saved, prepare func(fd int)) *restored {
	t.Helper()
	store, err := handover.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Limits{Connections: 10, MessageBytes: 1 << 10, QueueBytes: 1 << 20, PingEvery: time.Hour,
		PeerTimeout: time.Minute}, newPoller(t), store, quota.New(1<<30), nil, nil)
	l, err := net.Listen(network, map[string]string{"tcp": "127.0.0.1:0", "unix": t.TempDir() + "/s"}[network])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	sock, _, _, err := newSocket(taker{Conn: near}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := store.Keep(sock.fd)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(sock.fd)
	}
	r := &restored{t: t, set: s, fd: sock.fd, kept: kept, far: far, line: &line{t: t}}
	sv.Addr = far.LocalAddr().String()
	if network == "unix" {
		sv.Addr = Local
	}
	if _, err := s.Restore(sock.fd, kept, sv, func(c *Conn) Handler {
		r.Conn, r.line.conn = c, c
		return r.line
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		s.crew.Wait()
		far.Close()
		s.Release()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// start starts it and waits until it rests.
func (r *restored) start() {
	r.Start()
	r.set.crew.Wait()
}

// wantIntact checks what the next process would conclude if this one were killed now.
func (r *restored) wantIntact(want bool, when string) {
	r.t.Helper()
	if got, err := r.kept.Intact(r.fd); err != nil || got != want {
		r.t.Errorf("%s: intact %t (%v), want %t", when, got, err, want)
	}
}

// From the moment something is queued until all of it is written, the mark says that something is owed: a publisher may
// get its ack in between, and the process may be killed.
func TestMarkSaysThatSomethingIsOwed(t *testing.T) {
	frame := appendFrame(nil, opText, []byte("hello"))
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			r := restore(t, network, Saved{}, nil)
			r.wantIntact(true, "restored")
			r.Queue(frame, 1)
			r.wantIntact(false, "queued before it is started")
			r.start()
			r.wantIntact(true, "started, and all is written")
			for batch := range uint64(3) {
				r.Queue(frame, 2+batch)
				r.wantIntact(false, "queued")
				r.Queue(frame, 2+batch)
				r.Flush()
				r.wantIntact(true, "written")
			}
			r.ping()
			r.wantIntact(true, "pinged")
			r.Queue(frame, 0)
			r.sayGoodbye(appendFrame(nil, opClose, nil), ErrClosed)
			r.Flush()
			r.wantIntact(false, "told goodbye, all of which is written")
		})
	}
}

// The timeout that another process has set for the peer, under another setting or for a stalled client, is set anew.
func TestRestoredPeerIsWatchedAnew(t *testing.T) {
	timeout := func(r *restored) time.Duration {
		ms, err := unix.GetsockoptInt(r.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ms) * time.Millisecond
	}
	r := restore(t, "tcp", Saved{}, nil)
	if got := timeout(r); got != time.Minute {
		t.Errorf("restored with nothing to be written: %v, want %v", got, time.Minute)
	}
	r.start()

	r = restore(t, "tcp", Saved{Queued: appendFrame(nil, opText, []byte("hello"))}, func(fd int) {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0) // it had stalled
	})
	if got := timeout(r); got != 0 {
		t.Errorf("restored with something to be written: %v, want none, since the peer may read nothing for long", got)
	}
	r.start()
	if got := timeout(r); got != time.Minute {
		t.Errorf("when all is written: %v, want %v", got, time.Minute)
	}
}

// Whoever queues something for a connection that has not been started may find its socket broken: the handler is told
// once, and Start has nothing to do.
func TestRestoredConnectionBreaksBeforeItIsStarted(t *testing.T) {
	for name, breaks := range map[string]func(r *restored){
		"reset": func(r *restored) {
			r.far.(*net.TCPConn).SetLinger(0)
			r.far.Close()
			wait.Until(t, "the kernel has heard of it", func() bool {
				code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
				return err == nil && code != 0 || closedState(r.fd)
			})
			r.Queue(appendFrame(nil, opText, []byte("hello")), 1)
			r.Flush()
		},
		"too slow": func(r *restored) {
			blob := appendFrame(nil, opText, make([]byte, 1<<20))
			for range 40 {
				r.Queue(blob, 1)
				r.Flush()
			}
		},
		"ended": func(r *restored) { r.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			r := restore(t, "tcp", Saved{}, nil)
			breaks(r)
			r.set.crew.Wait()
			if len(r.line.closed) != 1 {
				t.Errorf("the handler has heard %v, want one reason", r.line.closed)
			}
			r.start()
			r.kill()
			r.set.crew.Wait()
			if len(r.line.closed) != 1 {
				t.Errorf("the handler has heard %v, want one reason", r.line.closed)
			}
			if n := r.set.Len(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

// closedState reports whether the kernel has nothing more to do with a TCP socket.
func closedState(fd int) bool {
	const tcpClose = 7
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpClose
}
