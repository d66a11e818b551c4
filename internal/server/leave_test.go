package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/hub"
	"picloud/internal/wire"
	ws "picloud/test/peer"
)

// ways are how a client can leave.
var ways = []struct {
	name  string
	leave func(p *peer)
}{
	{"reset", func(p *peer) {
		p.Conn.(*net.TCPConn).SetLinger(0)
		p.Close()
	}},
	{"end", func(p *peer) { p.Close() }},
	{"half an end", func(p *peer) { p.Conn.(*net.TCPConn).CloseWrite() }},
	{"goodbye", func(p *peer) { p.Write(ws.Frame(ws.Fin|ws.Close, []byte{3, 232})) }},
	{"nonsense", func(p *peer) { p.Write([]byte{0xff, 0xff}) }},
}

// gather connects idle clients: while a process starts them, a client that it has already started can publish to those
// that come after them.
func (l *lineage) gather(t *testing.T, n int) {
	t.Helper()
	for range n {
		l.subscriber(t, "Idle")
	}
}

// However clients leave while nobody serves, and whatever is published meanwhile, the next process lives, and the
// clients that stay get everything.
func TestClientsLeaveWhileOneProcessFollowsTheOther(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			const bystanders, leaving, messages = 300, 40, 30
			l := found(t, func(c *Config) { c.HeaderTimeout = time.Hour }) // one connection says nothing for long
			first, last := l.subscriber(t, "First"), (*peer)(nil)
			first.ask(`{"action":"subscribe","event":"e","id":1}`)
			pub, post := l.publisher(t, "P"), dial(t, "tcp", l.addr)
			l.gather(t, bystanders)
			var gone []*peer
			for range leaving {
				p := l.subscriber(t, "Leaves")
				p.ask(`{"action":"subscribe","event":"e","id":1}`)
				gone = append(gone, p)
			}
			last = l.subscriber(t, "Last")
			last.ask(`{"action":"subscribe","event":"e","id":1}`)
			l.between = func() {
				for _, p := range gone {
					way.leave(p)
				}
				for n := range messages {
					pub.send(fmt.Sprintf(`{"event":"e","data":%d,"id":%d}`, n, n))
				}
				body := `{"event":"e","data":"post"}`
				post.Raw(fmt.Appendf(nil,
					"POST /publish?clientName=P HTTP/1.1\r\nHost: x\r\nX-Other: 1\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(body), body))
			}
			l.restart()
			if a := post.response("POST"); a.status != http.StatusCreated {
				t.Errorf("status %d %q, want 201", a.status, a.body)
			}
			for n := range messages {
				pub.acked(fmt.Sprintf(`{"id":%d}`, n))
			}
			for _, p := range []*peer{first, last} {
				next, posts := 0, 0
				for next < messages || posts == 0 {
					switch d := p.delivery(); d.data {
					case `"post"`:
						posts++
					case fmt.Sprint(next):
						next++
					default:
						t.Fatalf("got %s, want %d", d.data, next)
					}
				}
			}
			l.watch(t).untilClients(3 + bystanders)
			l.restart()
			l.stillServes(t)
		})
	}
}

// A slow reader whose queue overflows while the next process begins is closed, and nobody else notices.
func TestQueueOverflowsWhileOneProcessFollowsTheOther(t *testing.T) {
	const bystanders, most = 1500, 256 << 10
	l := found(t, func(c *Config) { c.Limits.QueueBytes = most })
	blob := strings.Repeat("x", 32<<10)
	pub := l.publisher(t, "P")
	l.gather(t, bystanders)
	slow := l.subscriber(t, "Slow")
	slow.ask(`{"action":"subscribe","event":"big","id":1}`)
	other := l.subscriber(t, "Other")
	other.ask(`{"action":"subscribe","event":"small","id":1}`)
	waits := func() int {
		for _, c := range l.wsConns.All() {
			if c.Addr() == slow.LocalAddr().String() {
				return c.Holds()
			}
		}
		return 0
	}
	for n := 0; waits() < most/2; n++ {
		pub.ask(fmt.Sprintf(`{"event":"big","data":"%s","id":%d}`, blob, n))
	}
	l.between = func() {
		for n := range 20 {
			pub.send(fmt.Sprintf(`{"event":"big","data":"%s","id":%d}`, blob, n))
		}
		pub.send(`{"event":"small","data":"end","id":20}`)
	}
	l.restart()
	for n := range 21 {
		pub.acked(fmt.Sprintf(`{"id":%d}`, n))
	}
	if d := other.delivery(); d.data != `"end"` {
		t.Errorf("got %s", d.data)
	}
	slow.wantClose(1013)
	l.watch(t).untilClients(2 + bystanders)
}

// TestStormOfRestarts: clients subscribe, unsubscribe, publish, stall and leave at random while one process follows the
// other. A client that stays gets every acked message of the events that it was subscribed to at the time, in order,
// once, and nothing else.
func TestStormOfRestarts(t *testing.T) {
	const publishers, bystanders, others, restarts, events = 4, 300, 24, 8, 6
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := found(t, func(c *Config) { c.Limits.QueueBytes = 1 << 20 })
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	l.gather(t, bystanders/2)
	faithful := make([]*peer, events) // one for each event, from beginning to end
	for e := range faithful {
		faithful[e] = l.subscriber(t, "Faithful")
		faithful[e].ask(fmt.Sprintf(`{"action":"subscribe","event":"e%d","id":1}`, e))
	}
	var publishing, living, reading sync.WaitGroup
	var published [events][publishers]int
	for n := range publishers {
		p := l.publisher(t, "P")
		publishing.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			for !stopped() {
				var burst []byte
				var sent []string
				for range 1 + random.IntN(6) {
					e := random.IntN(events)
					text := fmt.Sprintf(`{"event":"e%d","data":[%d,%d],"id":"%d.%d"}`, e, n, published[e][n], e,
						published[e][n])
					published[e][n]++
					sent = append(sent, text)
					burst = append(burst, ws.Frame(ws.Fin|ws.Text, text)...)
				}
				cut := random.IntN(len(burst))
				p.Write(burst[:cut])
				p.Write(burst[cut:])
				for _, text := range sent {
					m, err := p.message()
					if err != nil || !strings.Contains(string(m), `"ack"`) {
						t.Errorf("publisher %d: %s was answered with %s, %v", n, text, m, err)
						return
					}
				}
			}
		})
	}
	l.gather(t, bystanders/2)
	for e, p := range faithful {
		reading.Go(func() {
			var next [publishers]int
			for {
				m, err := p.message()
				if err != nil {
					t.Errorf("event %d: %v", e, err)
					return
				}
				d, err := parseDelivery(m)
				var way, n int
				switch {
				case err != nil:
					t.Error(err)
					return
				case d.data == `"end"`:
					if next != published[e] {
						t.Errorf("event %d: got %v, want %v", e, next, published[e])
					}
					return
				}
				if _, err := fmt.Sscanf(d.data, "[%d,%d]", &way, &n); err != nil || n != next[way] {
					t.Errorf("event %d: got %s, want %v", e, d.data, next)
					return
				}
				next[way]++
			}
		})
	}
	for n := range others {
		living.Go(func() {
			random := rand.New(rand.NewPCG(seed, 1000+uint64(n)))
			for !stopped() {
				if err := live(l, random); err != nil {
					t.Errorf("client %d: %v", n, err)
					return
				}
			}
		})
	}
	for range restarts {
		end := l.subscriber(t, "End") // some messages between two restarts
		end.send(`{"action":"subscribe","event":"e0"}`)
		for range 20 {
			end.delivery()
		}
		end.Close()
		l.restart()
	}
	close(stop)
	publishing.Wait()
	for e := range events {
		l.post(t, fmt.Sprintf(`{"event":"e%d","data":"end"}`, e))
	}
	reading.Wait()
	living.Wait()
	l.watch(t).until("nobody is left but publishers and the faithful",
		func(i wire.Info) bool { return len(i.AllConnections) == publishers+events+bystanders })
}

// live is the life of one connection, whose client leaves.
func live(l *lineage, random *rand.Rand) error {
	nc, err := net.Dial("tcp", l.addr)
	if err != nil {
		return err
	}
	p := newPeer(l.t, nc)
	defer p.Close()
	p.Write([]byte(ws.Handshake("/subscribe?clientName=Other", ws.Nonce, "X-API-Key", testKey)))
	res, err := http.ReadResponse(p.In, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %v, %v", res, err)
	}
	mine := map[string]bool{}
	for i := range random.IntN(12) {
		event := fmt.Sprint("e", random.IntN(6))
		action := "subscribe"
		if random.IntN(3) == 0 {
			action = "unsubscribe"
		}
		fmt.Fprintf(p, "%s", ws.Frame(ws.Fin|ws.Text, fmt.Appendf(nil, `{"action":"%s","event":"%s","id":%d}`, action,
			event, i)))
		for acked := false; !acked; {
			m, err := p.message()
			if err != nil {
				return err
			}
			if acked = string(m) == fmt.Sprintf(`{"action":"ack","id":%d}`, i); acked {
				mine[event] = action == "subscribe"
				continue
			}
			d, err := parseDelivery(m)
			if err != nil || !mine[d.event] && d.event != event {
				return errors.Join(err, fmt.Errorf("got %s, and is subscribed to %v", m, mine))
			}
		}
	}
	ways[random.IntN(len(ways))].leave(p)
	return nil
}

// breaks is a sink that panics.
type breaks struct{}

func (breaks) Queue([]byte, uint64) bool { return true }
func (breaks) Flush() bool               { panic("a fault of the server's") }

// A request that makes the server panic must leave nothing behind that affects others.
func TestPanicLeavesNoBatchToOthers(t *testing.T) {
	s := start(t)
	c := s.hub.Join(breaks{}, "Breaks", "", s.began)
	for _, event := range []string{"broken"} {
		if _, err := s.hub.Subscribe(c, []byte(event), 1); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		a := s.request(t, "POST", "/publish?clientName=P", `{"event":"broken","data":1}`, "X-API-Key", testKey,
			"X-Other", "1")
		a.refuses(t, http.StatusInternalServerError, "internal error")
	}
	s.hub.Leave(c)
	for range 20 {
		s.stillServes(t)
	}
}

var _ hub.Sink = breaks{}
