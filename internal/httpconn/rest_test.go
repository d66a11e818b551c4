package httpconn

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/leak"
	"picloud/internal/poll"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// While a request is being answered net/http reads ahead, to see whether the client is still there. What it has read
// then is the next request's, wherever that is cut.
func TestNoByteIsLostAroundALoan(t *testing.T) {
	for name, next := range map[string]string{
		"plain":   plainPost("next"),
		"general": generalPost("next"),
		"chunked": "POST /plain HTTP/1.1\r\nHost: pi\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnext\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tcp")
			for cut := range len(next) + 1 {
				c := r.dial()
				c.send("GET /hold HTTP/1.1\r\nHost: pi\r\n\r\n")
				wait.For(t, r.held, "the request is being answered")
				c.send("%s", next[:cut])
				r.release <- struct{}{}
				c.want("GET", 200, "held")
				c.send("%s", next[cut:]+get)
				c.want("POST", 201, `"next"`)
				c.want("GET", 200, "GET /echo")
				c.Close()
			}
		})
	}
}

// Each of many requests on one connection is answered once, in order, however they come.
func TestManyRequestsAreAnsweredInOrder(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		for how, cut := range pieces {
			t.Run(network+" "+how, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, network)
				random := rand.New(rand.NewPCG(3, 4))
				var all strings.Builder
				const n = 300
				for i := range n {
					if random.IntN(3) == 0 {
						all.WriteString(generalPost(i))
					} else {
						all.WriteString(plainPost(i))
					}
				}
				c := r.dial()
				var sending sync.WaitGroup
				sending.Go(func() {
					for text := all.String(); len(text) > 0; {
						n := min(cut(min(len(text), 4<<10), random), len(text))
						if _, err := io.WriteString(c, text[:n]); err != nil {
							t.Error(err)
							return
						}
						text = text[n:]
					}
				})
				for i := range n {
					c.want("POST", 201, fmt.Sprintf(`"%d"`, i))
				}
				sending.Wait()
				if plain, general := r.plain.Load(), r.general.Load(); plain+general != n || plain == 0 ||
					general == 0 {
					t.Errorf("%d plain and %d general ones answered, want %d in all", plain, general, n)
				}
			})
		}
	}
}

func TestConnectionAtRestIsItsSocketAndASmallRecord(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, network)
			const half = "POST /plain HTTP/1.1\r\nHo"
			n := 500
			if network == "tls" {
				n = 50
			}
			var clients []*client
			for range n {
				r.dial() // and says nothing
			}
			for i := range n {
				c := r.dial()
				c.send("%s", []string{plainPost(1), generalPost(1)}[i%2])
				clients = append(clients, c)
			}
			for i, c := range clients {
				c.want("POST", 201, `"1"`)
				if i%5 == 0 {
					c.send(half)
				}
			}
			count := func(in string) (n int) {
				for _, c := range r.all() {
					c.mu.Lock()
					if c.turn.Rests() && string(c.in) == in && cap(c.in) <= 2*len(in) {
						n++
					}
					c.mu.Unlock()
				}
				return n
			}
			wait.Until(t, "all are at rest", func() bool { return count("") == n+4*n/5 && count(half) == n/5 })
			wait.Until(t, "net/http has no connection",
				func() bool { return len(leak.Goroutines("net/http.(*conn)")) == 0 })
			wait.Within(t, "no connection has a goroutine", r.crew.Wait)
			if left := len(leak.Goroutines("picloud/internal/httpconn.(*Conn)")) +
				len(leak.Goroutines("picloud/internal/httpconn.(*loan)")); left != 0 {
				t.Errorf("%d goroutines are left for connections at rest", left)
			}
			for i, c := range clients { // and all go on
				if i%5 == 0 {
					c.send("%s", strings.TrimPrefix(plainPost(2), half))
				} else {
					c.send("%s", plainPost(2))
				}
				c.want("POST", 201, `"2"`)
			}
			wait.Until(t, "all are at rest and keep nothing", func() bool { return count("") == 2*n })
		})
	}
}

// What Ready reports while a connection is awake is not lost: it looks again before it rests.
func TestReadyWhileAwake(t *testing.T) {
	for name, tell := range map[string]func(*Conn){
		"readable": func(c *Conn) { (*watched)(c).Ready(true, true) },
		"writable": func(c *Conn) { (*watched)(c).Ready(false, true) }, // it may write, but has nothing to write
	} {
		c := &Conn{set: &Set{crew: new(poll.Workers).NewCrew()}}
		c.turn.Take()
		if tell(c); c.turn.Done() != (name == "writable") {
			t.Errorf("%s: it rests is %t", name, name != "writable")
		}
	}

	r := newRig(t, "tcp")
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	peer := os.NewFile(uintptr(fds[1]), "peer")
	defer peer.Close()
	c := r.newConn(fds[0], &net.UnixAddr{}, r.addr) // and not watched
	c.slot = r.slots.tryEnter(c, c.network())
	r.mu.Lock()
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	c.mu.Lock()
	r.crew.Go(c)
	wait.Until(t, "it has looked and wants to rest", func() bool {
		return slices.ContainsFunc(leak.Goroutines("picloud/internal/httpconn.(*Conn).Run("), func(stack string) bool {
			return strings.Contains(stack, "sync.(*Mutex).Lock")
		})
	})
	peer.SetDeadline(time.Now().Add(wait.Patience))
	io.WriteString(peer, lastOne)
	(*watched)(c).Ready(true, false)
	c.mu.Unlock()
	if said, err := io.ReadAll(peer); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 200 ") {
		t.Errorf("got %q, error %v", said, err)
	}
}

// Either side ends connections at every moment of their lives; nothing is left of them.
func TestNothingIsLeftOfConnections(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would close what was forgotten
			r := newRig(t, network, func(p *plan) { p.kernel = 16 << 10 })
			first := r.dial() // so that everything the rig itself needs is there
			first.send(lastOne)
			first.want("GET", 200, "last")
			first.Close()
			r.gone()
			before := len(leak.Descriptors())
			n, at := 4000, 8
			if network == "tls" { // a handshake takes its time
				n = 400
			}
			var lives sync.WaitGroup
			for worker := range at {
				lives.Go(func() {
					random := rand.New(rand.NewPCG(5, uint64(worker)))
					talk := plainPost(1) + get + generalPost(2) + "GET /large?n=100000 HTTP/1.1\r\nHost: pi\r\n\r\n"
					for range n / at {
						c := r.dial()
						switch what := talk[:random.IntN(len(talk)+1)]; random.IntN(4) {
						case 0: // in the middle, by the client
							c.send("%s", what)
							c.vanish()
						case 1:
							c.send("%s", what)
							if len(what) >= len(plainPost(1)) {
								io.CopyN(io.Discard, c.In, random.Int64N(50))
							}
							c.Close()
						case 2: // by the server
							c.send("%s%s", plainPost(3), lastOne)
							c.want("POST", 201, "3")
							c.want("GET", 200, "last")
							c.wantEnd()
							c.Close()
						default:
							c.send("GET /panic HTTP/1.1\r\nHost: pi\r\n\r\n")
							c.wantEnd()
							c.Close()
						}
					}
				})
			}
			lives.Wait()
			wait.Until(t, "all are let in",
				func() bool { return r.entered() == n+1 }) // a client that has left may still be in the backlog
			r.gone()
			wait.Until(t, "all descriptors are closed", func() bool { return len(leak.Descriptors()) <= before })
		})
	}
}

// The local socket's connections need no key: nothing else may look as if it came from there.
func TestRelayIsNoUnixSocket(t *testing.T) {
	if addr := new(relay).Addr(); addr.Network() == "unix" {
		t.Errorf("its address is %#v", addr)
	}
}
