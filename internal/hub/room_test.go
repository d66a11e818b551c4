package hub

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// All subscriptions together are bounded, whoever has them, and each that ends makes room for another.
func TestSubscriptionsHaveOneRoom(t *testing.T) {
	h := New(64 << 10)
	name := func(n int) []byte { return fmt.Appendf(nil, "%s%05d", strings.Repeat("x", 100), n) }
	fill := func(c *Client, from int) (n int) {
		for ; ; n++ {
			switch added, err := h.Subscribe(c, name(from+n), 1<<20); {
			case err == ErrNoRoom && !added:
				return n
			case err != nil || !added:
				t.Fatalf("subscription %d: %v", n, err)
			}
		}
	}
	one, _ := join(h, "one")
	two, _ := join(h, "two")
	distinct := fill(one, 0)
	if distinct < 64 || distinct > 100 {
		t.Errorf("room for %d events with names of 105 bytes", distinct)
	}
	if n := fill(two, 1<<10); n != 0 {
		t.Errorf("then %d more for somebody else", n)
	}
	if h.taken.Load() > h.room {
		t.Errorf("%d of %d bytes are taken", h.taken.Load(), h.room)
	}
	if _, err := h.Subscribe(one, name(0), 1<<20); err != nil {
		t.Errorf("subscribing again: %v", err)
	}
	h.Resubscribe(two, name(5)) // as after a restart: never refused
	if got := two.Events(); len(got) != 1 {
		t.Errorf("resubscribed to %q", got)
	}
	h.UnsubscribeAll(one)
	if n := fill(two, 1<<10); n < distinct-5 {
		t.Errorf("room for %d after %d have ended", n, distinct)
	}
	h.Leave(two)
	if n := h.taken.Load(); n != 0 {
		t.Errorf("%d bytes are taken when all have left", n)
	}
}

// However subscriptions come and go, nothing stays taken.
func TestRoomIsGivenBack(t *testing.T) {
	h := New(20_000)
	var coming sync.WaitGroup
	for worker := range 8 {
		coming.Go(func() {
			for round := range 300 {
				c, _ := join(h, "porch")
				for i := range 20 {
					h.Subscribe(c, fmt.Append(nil, (worker+i*round)%50), 10)
				}
				h.Unsubscribe(c, fmt.Append(nil, worker))
				if round%2 == 0 {
					h.UnsubscribeAll(c)
				}
				h.Leave(c)
			}
		})
	}
	coming.Wait()
	if n := h.taken.Load(); n != 0 {
		t.Errorf("%d bytes are taken when all have left", n)
	}
}

// What counts is not less than what it takes.
func TestRoomIsWhatSubscriptionsTake(t *testing.T) {
	for name, event := range map[string]func(client, n int) string{
		"each its own": func(client, n int) string { return fmt.Sprintf("%d/%d", client, n) },
		"all the same": func(_, n int) string { return fmt.Sprint("house/", n) },
	} {
		h := New(1 << 30)
		heap := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var clients []*Client
		for range 200 {
			clients = append(clients, h.Join(nobody{}, "porch", "", time.Now()))
		}
		before := heap()
		for i, c := range clients {
			for n := range 200 {
				h.Subscribe(c, []byte(event(i, n)), 1000)
			}
		}
		took := int64(heap() - before)
		t.Logf("%s: %d bytes for each subscription, %d counted", name, took/40_000, h.taken.Load()/40_000)
		if took > h.taken.Load() {
			t.Errorf("%s: %d bytes, %d are counted", name, took, h.taken.Load())
		}
		runtime.KeepAlive(clients)
	}
}

// nobody is a sink that takes everything.
type nobody struct{}

func (nobody) Queue([]byte, uint64) bool { return false }
func (nobody) Flush() bool               { return true }
