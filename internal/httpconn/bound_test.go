package httpconn

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// deafen keeps the poller from reporting anything until hear is called: what comes stays in the kernel, unnoticed.
func (r *rig) deafen() (hear func()) {
	r.t.Helper()
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		r.t.Fatal(err)
	}
	s := stuck{inside: make(chan struct{}), leave: make(chan struct{})}
	place, err := r.cfg.Poller.Add(fd, s)
	if err != nil {
		r.t.Fatal(err)
	}
	wait.For(r.t, s.inside, "the poller is stuck")
	hear = sync.OnceFunc(func() {
		r.cfg.Poller.Remove(place)
		unix.Close(fd)
		close(s.leave)
	})
	r.t.Cleanup(hear)
	return hear
}

type stuck struct{ inside, leave chan struct{} }

func (s stuck) Ready(bool, bool) {
	close(s.inside)
	<-s.leave
}

func few(n int) func(*plan) { return func(p *plan) { p.Bounds = Bounds{n, n, n} } }

// hold begins a request that shows the key, and returns when it is being answered.
func (r *rig) hold(behind string) *client {
	r.t.Helper()
	c := r.dial()
	c.send("GET /hold HTTP/1.1\r\nHost: pi\r\nX-Key: 1\r\n\r\n%s", behind)
	wait.For(r.t, r.held, "the request is being answered")
	return c
}

// Room is made by who has not shown the key, then by who is at rest, in the order in which they have become silent. On
// a Unix socket there is no key.
func TestWhoHasBeenSilentLongestMakesRoom(t *testing.T) {
	for network, order := range map[string][]int{"tcp": {1, 3, 0, 2}, "unix": {0, 1, 2, 3}} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, network, few(5))
			busy := r.hold("")
			var resting []*client
			for _, begin := range []string{plainPost(1), "", plainPost(1) + get[:9], generalPost(1)} {
				c := r.dial()
				c.send("%s", begin)
				if strings.HasPrefix(begin, "POST") {
					c.want("POST", 201, "1")
				}
				resting = append(resting, c)
				wait.Until(t, "it is at rest",
					func() bool { return r.count(func(c *Conn) bool { return c.turn.Rests() }) == len(resting) })
				if begin != strings.TrimSuffix(begin, get[:9]) {
					wait.Until(t, "what it has sent is known", func() bool { return r.count((*Conn).begun) == 1 })
				}
			}
			for _, i := range order {
				next := r.dial()
				next.send("%s", plainPost(2))
				next.want("POST", 201, "2")
				resting[i].wantEnd()
			}
			r.release <- struct{}{}
			busy.want("GET", 200, "held")
		})
	}
}

// A newcomer that finds all connections busy gets in as soon as one comes to rest, whatever there is of its next
// request.
func TestNewcomerWaitsForWhoComesToRest(t *testing.T) {
	for name, behind := range map[string]string{"idle": "", "in a head": get[:9], "in a body": postHead} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "tcp", few(2)) // who is busy on a Unix socket does make room
			busy := []*client{r.hold(behind), r.hold(behind)}
			late := r.dial()
			late.send("%s", plainPost(1))
			wait.Until(t, "the newcomer waits", func() bool { return r.Usage().Waited == 1 })
			r.release <- struct{}{}
			late.want("POST", 201, "1")
			if n := r.left(); n != 1 {
				t.Errorf("%d connections made room, want one", n)
			}
			r.release <- struct{}{}
			for _, c := range busy {
				c.want("GET", 200, "held")
			}
		})
	}
}

// A client that seems to rest, but has sent something that the poller has not reported yet, is not the one to go.
func TestWhoHasSentSomethingDoesNotMakeRoom(t *testing.T) {
	r := newRig(t, "tcp", few(2))
	oldest, next := r.dial(), r.dial()
	for _, c := range []*client{oldest, next} {
		c.send("%s", plainPost(1))
		c.want("POST", 201, "1")
		r.atRest()
	}
	hear := r.deafen()
	oldest.send("%s", plainPost(2))
	late := r.dial()
	next.wantEnd()
	hear()
	oldest.want("POST", 201, "2")
	late.send("%s", plainPost(3))
	late.want("POST", 201, "3")
}

// A slot is given up once, whatever ends a connection; dismantle counts, too.
func TestSlotIsGivenUpOnce(t *testing.T) {
	for name, story := range map[string]func(t *testing.T, r *rig){
		"by the client at rest": func(t *testing.T, r *rig) { r.dial().Close() },
		"by a reset":            func(t *testing.T, r *rig) { r.dial().vanish() },
		"by the client while it is answered": func(t *testing.T, r *rig) {
			r.hold("").vanish()
			r.release <- struct{}{}
		},
		"by its last answer": func(t *testing.T, r *rig) { c := r.dial(); c.send(lastOne); c.want("GET", 200, "last") },
		"by a panic":         func(t *testing.T, r *rig) { r.dial().send("GET /panic HTTP/1.1\r\nHost: pi\r\n\r\n") },
		"taken": func(t *testing.T, r *rig) {
			c := r.dial()
			c.send("GET /hijack?n=3 HTTP/1.1\r\nHost: pi\r\n\r\n")
			wait.Until(t, "its slot is free, and it lives on", func() bool { return r.left() == 1 })
			c.send("abc")
			if said, err := io.ReadAll(c); err != nil || string(said) != `behind: "abc"` {
				t.Errorf("got %q, error %v", said, err)
			}
		},
		"lent for good": func(t *testing.T, r *rig) {
			c := r.dial()
			c.send("GET /echo HTTP/1.1\nHost: pi\n\n")
			c.want("GET", 200, "/echo")
			c.Close()
		},
		"not watched": func(t *testing.T, r *rig) {
			fd, err := unix.Open(filepath.Join(t.TempDir(), "regular"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			r.admit(fd, &net.UnixAddr{}, r.addr, nil)
		},
		"to no http.Server": func(t *testing.T, r *rig) {
			r.http.Close()
			c := r.dial()
			c.send(get)
			c.wantEnd()
		},
		"closed twice": func(t *testing.T, r *rig) {
			c := r.hold("")
			r.http.Close() // and once more when the handler has returned
			r.release <- struct{}{}
			c.wantEnd()
		},
		"adopted with a request": func(t *testing.T, r *rig) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Restore(Saved{FD: fds[0], Local: true, In: []byte(plainPost(1) + get[:9])}); err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fds[1]), "peer")
			defer f.Close()
			io.WriteString(f, get[9:]+lastOne)
			said, err := io.ReadAll(f)
			if err != nil || strings.Count(string(said), "HTTP/1.1 20") != 3 {
				t.Errorf("got %q, error %v, want three answers", said, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tcp")
			story(t, r)
			wait.Until(t, "a slot is given up", func() bool { return r.left() == 1 })
			r.gone()
			if n := r.entered(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// Many more clients than slots, all the time: no client waits forever, and there are never more than the bound.
func TestMoreClientsThanSlots(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			bound, at, each := 4, 24, 40
			if network == "tls" { // a handshake takes its time
				each = 5
			}
			r := newRig(t, network, few(bound))
			dial := r.dial
			if network == "tls" { // who may have to go before the handshake has been made
				dial = func() *client { return r.dialTLS(r.addr) }
			}
			var most atomic.Int64
			var lives sync.WaitGroup
			for worker := range at {
				lives.Go(func() {
					for i := range each {
						c := dial()
						if n := int64(len(r.all())); n > most.Load() {
							most.Store(n)
						}
						switch (worker + i) % 4 {
						case 0: // silent until it is closed or leaves
						case 1:
							io.WriteString(c, get[:20])
						case 2:
							io.WriteString(c, plainPost(1))
							c.read("POST")
						case 3:
							io.WriteString(c, generalPost(1))
							c.read("POST")
						}
						if i%3 == 0 {
							c.In.ReadByte() // until it is closed
						}
						c.Close()
					}
				})
			}
			last := make(chan struct{})
			go func() { lives.Wait(); close(last) }()
			// Newcomers always want in, as many as there are slots, so that whoever is at rest has to go.
			for open := true; open; {
				newcomers := make([]*client, bound)
				for i := range newcomers {
					newcomers[i] = dial()
					io.WriteString(newcomers[i], plainPost(2))
				}
				for _, c := range newcomers {
					c.read("POST")
					c.Close()
				}
				select {
				case <-last:
					open = false
				default:
				}
			}
			if n := most.Load(); n > int64(bound+mostEnding) {
				t.Errorf("%d connections at a time, want %d at most", n, bound+mostEnding)
			}
		})
	}
}
