package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ws "picloud/test/peer"
)

// Sixteen publishers at once, in both ways: each subscriber gets every message once, each publisher's in its order, and
// all subscribers get them in one and the same order.
func TestSixteenPublishersShareOneOrder(t *testing.T) {
	const publishers, each, subscribers = 16, 100, 10
	sv := start(t)
	var subs []*peer
	for range subscribers {
		p := sv.subscriber(t, "S")
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		subs = append(subs, p)
	}
	var publishing sync.WaitGroup
	for by := range publishers {
		message := func(n int) string { return fmt.Sprintf(`{"event":"e","data":"%d:%d"}`, by, n) }
		if by%2 == 0 {
			p := sv.publisher(t, "P")
			publishing.Go(func() {
				for n := range each {
					if _, err := p.Write(ws.Frame(ws.Fin|ws.Text, []byte(message(n)))); err != nil {
						t.Error(err)
						return
					}
				}
			})
			continue
		}
		publishing.Go(func() {
			for n := range each {
				a, err := sv.send("POST", "/publish?clientName=P", strings.NewReader(message(n)), "X-API-Key", testKey)
				if err != nil || a.status != http.StatusCreated {
					t.Errorf("POST: status %d, %v", a.status, err)
					return
				}
			}
		})
	}
	orders := make([][]string, subscribers)
	var reading sync.WaitGroup
	for i, p := range subs {
		reading.Go(func() {
			for range publishers * each {
				text, err := p.message()
				if err != nil {
					t.Errorf("subscriber %d after %d messages: %v", i, len(orders[i]), err)
					return
				}
				d, err := parseDelivery(text)
				if err != nil {
					t.Error(err)
					return
				}
				orders[i] = append(orders[i], d.data)
			}
		})
	}
	publishing.Wait()
	reading.Wait()
	for i := range orders {
		if !slices.Equal(orders[i], orders[0]) {
			t.Errorf("subscriber %d got another order than subscriber 0", i)
		}
	}
	next := make([]int, publishers)
	for _, data := range orders[0] {
		var by, n int
		if _, err := fmt.Sscanf(data, `"%d:%d"`, &by, &n); err != nil || n != next[by] {
			t.Fatalf("got %s, want message %d of that publisher (%v)", data, next[by], err)
		}
		next[by]++
	}
}

// Clients that all speak at the same moment are all answered, and clients that all leave at the same moment leave
// nothing behind.
func TestCrowdWakesAndLeavesAtOnce(t *testing.T) {
	const clients = 1000
	sv := start(t)
	peers := make([]*peer, clients)
	for i := range peers {
		peers[i] = sv.subscriber(t, "S")
	}
	var answered atomic.Int64
	var asking sync.WaitGroup
	for round, text := range []string{
		`{"action":"subscribe","event":"e","id":1}`,
		`{"action":"publish","event":"nobody's","data":1,"id":1}`,
		`{"action":"unsubscribe","event":"e","id":1}`,
	} {
		ready := make(chan struct{})
		for _, p := range peers {
			asking.Go(func() {
				<-ready
				p.Write(ws.Frame(ws.Fin|ws.Text, text))
				if m, err := p.message(); err != nil || string(m) != `{"action":"ack","id":1}` {
					t.Errorf("round %d: got %q, %v", round, m, err)
					return
				}
				answered.Add(1)
			})
		}
		close(ready)
		asking.Wait()
		if n := answered.Swap(0); n != clients {
			t.Fatalf("round %d: %d of %d are answered", round, n, clients)
		}
	}
	for _, p := range peers {
		p.Close()
	}
	watch := sv.watch(t)
	for i := watch.info(); len(i.AllConnections) > 0 || len(i.Subscriptions) > 0; i = watch.info() {
	}
	if n := sv.hub.Counts(); n.Clients != 0 || n.Events != 0 || n.Subscriptions != 0 {
		t.Errorf("what is left: %+v", n)
	}
}

// The longest messages to a crowd: each client gets them whole, and none that reads is closed.
func TestLongestMessagesToACrowd(t *testing.T) {
	const subscribers, messages, length = 150, 3, 64<<10 - 100
	sv := start(t)
	c := newCrowd(t, sv, subscribers, sameEvent)
	pub := sv.publisher(t, "P")
	want := `"` + strings.Repeat("long ", length/5) + `"`
	var reading sync.WaitGroup
	for _, p := range c.peers {
		reading.Go(func() {
			for n := range messages {
				text, err := p.message()
				if err != nil {
					t.Errorf("message %d: %v", n, err)
					return
				}
				if d, err := parseDelivery(text); err != nil || d.data != want {
					t.Errorf("message %d: %d bytes of data, want %d (%v)", n, len(d.data), len(want), err)
					return
				}
			}
		})
	}
	for range messages {
		pub.send(`{"event":"temperature","data":` + want + `}`)
	}
	reading.Wait()
}
