package httpconn

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// A quiet connection without the key is one of these, whoever holds it.
var quiet = map[string]string{
	"silent":               "",
	"in a head":            get[:20],
	"in a body":            postHead,
	"in a body, lent":      "POST /echo HTTP/1.1\r\nHost: pi\r\nContent-Length: 100000\r\n\r\nx",
	"in a body, unread":    "POST /deaf HTTP/1.1\r\nHost: pi\r\nContent-Length: 100000\r\n\r\nx",
	"in a chunk":           "POST /echo HTTP/1.1\r\nHost: pi\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
	"to be asked":          "POST /echo HTTP/1.1\r\nHost: pi\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	"answered":             get,
	"answered by net/http": "GET /echo HTTP/1.1\nHost: pi\n\n",
	"in a second head":     get + get[:20],
	"not taking an answer": "GET /large?n=50000000 HTTP/1.1\r\nHost: pi\r\n\r\n",
	"being answered":       "GET /hold HTTP/1.1\r\nHost: pi\r\n\r\n",
}

// door has the Set serve over TLS, too, and returns how to come that way.
func (r *rig) door() func() *client {
	addr, end := r.serve("tls")
	r.t.Cleanup(end)
	return func() *client { return r.dialTLS(addr) }
}

// settled waits until each connection is known to be between two requests, or before its first.
func (r *rig) settled() {
	r.t.Helper()
	wait.Until(r.t, "all have settled", func() bool {
		return r.count(func(c *Conn) bool { return c.turn.Rests() }) == r.Usage().Open
	})
}

// Whoever has no key takes all slots, in every way, and newcomers get in by either door; who has the key stays.
func TestWhoHasNoKeyKeepsNobodyOut(t *testing.T) {
	for name, begin := range quiet {
		for _, theirs := range []string{"tcp", "tls"} {
			t.Run(name+", "+theirs, func(t *testing.T) {
				t.Parallel()
				const n = 16
				r := newRig(t, "tcp", few(n), func(p *plan) { p.kernel = 16 << 10 })
				strange := r.door()
				known := []*client{r.dial(), strange()}
				for _, c := range known {
					c.send("GET /echo HTTP/1.1\r\nHost: pi\r\nX-Key: 1\r\n\r\n")
					c.want("GET", 200, "/echo")
				}
				var held []*client
				for range n + mostEnding/2 { // handlers that nothing ends may not be more than mostEnding
					c := r.dial
					if theirs == "tls" {
						c = strange
					}
					held = append(held, c())
					held[len(held)-1].send("%s", begin)
				}
				wait.Until(t, "all have come", func() bool { return r.entered() == len(known)+len(held) })
				for range 3 {
					for _, dial := range []func() *client{r.dial, strange} {
						// One that comes in the middle of the crowd may be taken for the longest silent once.
						for served := false; !served; {
							c := dial()
							io.WriteString(c, get)
							a, err := c.read("GET")
							served = err == nil && a.status == 200
						}
					}
				}
				for _, c := range known {
					c.send(get)
					c.want("GET", 200, "/echo")
				}
				if u := r.Usage(); u.Open > n || u.Waited > 0 {
					t.Errorf("%+v", u)
				}
				if c := wait.For(t, r.told, "it is told"); c.Kind != Full || c.Bound != n ||
					c.From != netip.MustParseAddr("127.0.0.1") || c.Holds == 0 {
					t.Errorf("told %+v", c)
				}
			})
		}
	}
}

// An address has its share of the slots without the key, over both doors together, and loses its own oldest past it.
func TestAddressHasItsShare(t *testing.T) {
	const share = 3
	r := newRig(t, "tcp", func(p *plan) { p.Bounds = Bounds{TCP: 100, Network: share, Local: 1} })
	strange := r.door()
	with := r.dial()
	with.send("%s", plainPost(1))
	with.want("POST", 201, "1")
	var held []*client
	for i := range 4 * share {
		c := []func() *client{r.dial, strange}[i%2]()
		c.send(get)
		c.want("GET", 200, "/echo")
		held = append(held, c)
		r.settled()
		for j := range i - share + 1 {
			held[j].wantEnd()
		}
	}
	with.send("%s", plainPost(2))
	with.want("POST", 201, "2")
	if u := r.Usage(); u.Open != share+1 {
		t.Errorf("%+v", u)
	}
	if c := wait.For(t, r.told, "it is told"); c.Kind != NetworkFull || c.Bound != share ||
		c.From != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("told %+v", c)
	}
	select {
	case c := <-r.told:
		t.Errorf("told %+v too", c)
	default:
	}
}

// Where everybody has the key and is busy, a newcomer waits, which is told.
func TestWaitingIsTold(t *testing.T) {
	r := newRig(t, "tcp", few(2))
	busy := []*client{r.hold(""), r.hold("")}
	late := r.dial()
	late.send(get)
	if c := wait.For(t, r.told, "it is told"); c.Kind != Waiting || c.Bound != 2 {
		t.Errorf("told %+v", c)
	}
	r.release <- struct{}{}
	late.want("GET", 200, "/echo")
	r.release <- struct{}{}
	for _, c := range busy {
		c.want("GET", 200, "held")
	}
}

// Whoever has no key has a small part of the memory, in whatever way it is taken: those who take most of it go, and
// nobody who has the key.
func TestWhoHasNoKeyTakesLittleMemory(t *testing.T) {
	const n, room = 40, 10 * loanBytes
	for _, name := range []string{"in a body, lent", "in a body, unread", "to be asked", "answered by net/http",
		"not taking an answer"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "tcp", func(p *plan) { p.KeylessBytes, p.kernel = room, 16<<10 })
			var known []*client
			for range n {
				c := r.dial()
				known = append(known, c)
				c.send("POST /echo HTTP/1.1\r\nHost: pi\r\nX-Key: 1\r\nContent-Length: %d\r\n\r\na", restBytes+4)
			}
			wait.Until(t, "those with the key are known", func() bool { return r.cfg.Waiting.Used() >= n*loanBytes && r.keyless.Used() == 0 })
			idle := r.dial()
			idle.send(get)
			idle.want("GET", 200, "/echo")
			for range n {
				r.dial().send("%s", quiet[name])
			}
			wait.Until(t, "most have gone", func() bool { return r.entered() == 2*n+1 && r.left() >= n-room/loanBytes })
			wait.Until(t, "they take little", func() bool { return !r.keyless.Over() })
			idle.send(get)
			idle.want("GET", 200, "/echo")
			for _, c := range known {
				c.send("%s", strings.Repeat("b", restBytes+3))
				c.want("POST", 200, `bb"`)
			}
		})
	}
}

// Little stays in the kernel for a client that takes nothing, and not for long, whoever has accepted it.
func TestSocketsAreTuned(t *testing.T) {
	r := newRig(t, "tcp", func(p *plan) { p.SendTimeout = 90 * time.Second })
	for _, c := range []*client{r.dial(), r.door()()} {
		c.send(get)
		c.want("GET", 200, "/echo")
	}
	check := func(fd int) {
		for option, want := range map[int]int{unix.TCP_NODELAY: 1, unix.TCP_NOTSENT_LOWAT: r.UnsentBytes,
			unix.TCP_USER_TIMEOUT: 90_000} {
			if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option); err != nil || got != want {
				t.Errorf("option %d is %d (%v), want %d", option, got, err, want)
			}
		}
	}
	if n := r.count(func(c *Conn) bool { check(c.fd); return true }); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A dweller is a connection of which only the slot is real.
type dweller struct {
	s    *slots
	slot *slot

	mu     sync.Mutex
	active time.Time
	busy   bool // it ends only when it is forced to
	slow   bool // to be gone after that
	ended  bool
}

func (d *dweller) yield(since time.Time, how demand) (bool, time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		return false, since
	case how != always && d.active.After(since):
		return false, d.active
	case how == ifResting && d.busy:
		return false, since
	}
	d.ended = true
	if !d.slow {
		d.s.leave(d.slot)
	}
	return true, since
}

// leave ends a dweller if it has not been ended, and has it gone if it was slow.
func (d *dweller) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended || d.slow {
		d.ended, d.slow = true, false
		d.s.leave(d.slot)
	}
}

// A random mix of all that may happen, by many at once: the bounds hold, and at the end nothing is left.
func TestSlotsUnderAnything(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			bounds := Bounds{TCP: 20, Network: 5, Local: 3}
			s := newSlots(bounds, func(Crowding) {})
			var working sync.WaitGroup
			for worker := range uint64(4) {
				working.Go(func() {
					r := rand.New(rand.NewPCG(seed, worker))
					var mine []*dweller
					for range 3000 {
						switch k := r.IntN(8); {
						case k < 3:
							d := &dweller{s: s, busy: r.IntN(4) == 0, slow: r.IntN(4) == 0}
							network := netip.Addr{}
							if n := r.IntN(8); n > 0 {
								network = netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
							}
							d.mu.Lock() // the slot is not known before enter returns
							d.slot = s.tryEnter(d, network)
							if d.mu.Unlock(); d.slot != nil {
								mine = append(mine, d)
							}
						case len(mine) == 0:
						default:
							d := mine[r.IntN(len(mine))]
							switch k {
							case 3:
								s.show(d.slot)
							case 4:
								d.mu.Lock()
								d.active, d.busy = time.Now(), r.IntN(4) == 0
								d.mu.Unlock()
							case 5:
								s.mu.Lock()
								s.makeRoom(d.slot.pool)
								s.mu.Unlock()
							default:
								d.leave()
								mine = remove(mine, d)
							}
						}
						s.mu.Lock()
						if s.tcp.taken > bounds.TCP || s.local.taken > bounds.Local || s.tcp.taken < 0 || s.ending < 0 {
							t.Errorf("%d and %d taken, %d ending", s.tcp.taken, s.local.taken, s.ending)
						}
						s.mu.Unlock()
					}
					for _, d := range mine {
						d.leave()
					}
				})
			}
			wait.Within(t, "all have left", working.Wait)
			wait.Within(t, "all are gone", s.present.Wait)
			if n := s.tcp.without.Len() + s.tcp.with.Len() + s.local.without.Len() + s.local.with.Len(); n > 0 ||
				s.tcp.taken != 0 || s.local.taken != 0 || s.ending != 0 || len(s.networks) != 0 {
				t.Errorf("left: %d listed, %d and %d taken, %d ending, %d networks", n, s.tcp.taken, s.local.taken,
					s.ending, len(s.networks))
			}
		})
	}
}

func remove(list []*dweller, d *dweller) []*dweller {
	for i := range list {
		if list[i] == d {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}
