package hub

import (
	"strings"
	"sync"
	"testing"
	"time"
)

func traffic(t *testing.T, c *Client, published, delivered uint64) {
	t.Helper()
	if p, d := c.Traffic(); p != published || d != delivered {
		t.Errorf("%s: got %d published and %d delivered, want %d and %d", c.Name, p, d, published, delivered)
	}
}

func TestClientIsCountedWhatItGetsWhileSubscribed(t *testing.T) {
	h := New(1 << 30)
	early, _ := join(h, "early")
	subscribe(t, h, early, "heat")
	subscribe(t, h, early, "rain")
	publish(h, "heat", 1)
	late, _ := join(h, "late")
	subscribe(t, h, late, "heat")
	publish(h, "heat", 2)
	publish(h, "rain", 3)
	early.Sent()
	traffic(t, early, 1, 3)
	traffic(t, late, 0, 1)

	h.Unsubscribe(early, []byte("heat"))
	publish(h, "heat", 4)
	traffic(t, early, 1, 3)
	traffic(t, late, 0, 2)

	subscribe(t, h, early, "heat")
	publish(h, "heat", 5)
	traffic(t, early, 1, 4)
	h.UnsubscribeAll(early)
	publish(h, "heat", 6)
	traffic(t, early, 1, 4)
}

func TestCountsOfClientsAddUp(t *testing.T) {
	h := New(1 << 30)
	const clients, messages = 4, 500
	var all []*Client
	var wg sync.WaitGroup
	for range clients {
		c, _ := join(h, "porch")
		all = append(all, c)
		wg.Go(func() {
			for range messages {
				if _, err := h.Subscribe(c, []byte("heat"), 8); err != nil {
					t.Error(err)
				}
				publish(h, "heat", 0)
				c.Sent()
				c.Traffic()
				h.Unsubscribe(c, []byte("heat"))
			}
		})
	}
	wg.Wait()
	var published, delivered uint64
	for _, c := range all {
		p, d := c.Traffic()
		published += p
		delivered += d
	}
	if n := h.Counts(); published != n.Published || delivered != n.Delivered || published != clients*messages {
		t.Errorf("clients published %d and were delivered %d, the hub says %+v", published, delivered, n)
	}
}

func TestEventKeepsItsCountsAndItsLastMessage(t *testing.T) {
	h := New(1 << 30)
	porch, _ := join(h, "porch")
	attic, _ := join(h, "attic")
	subscribe(t, h, porch, "heat")
	at := time.Unix(1448422813, 0)
	var b Batch
	event := func() EventInfo {
		t.Helper()
		events, _, _ := h.Snapshot(everything)
		if len(events) != 1 {
			t.Fatalf("got %d events, want 1", len(events))
		}
		return events[0]
	}
	if e := event(); e.Published != 0 || e.Delivered != 0 || !e.Last.At.IsZero() {
		t.Errorf("a new event has %+v", e)
	}
	h.Publish(&b, []byte("heat"), stamp{}.frame(), Note{at, "roof", []byte(strings.Repeat("x", 1000))})
	e := event()
	if e.Last.Bytes != 1000 || string(e.Last.Data) != strings.Repeat("x", PreviewBytes) || e.Last.From != "roof" ||
		!e.Last.At.Equal(at) {
		t.Errorf("a long message is kept as %+v", e.Last)
	}

	subscribe(t, h, attic, "heat")
	data := []byte("26")
	h.Publish(&b, []byte("heat"), stamp{}.frame(), Note{at, "cellar", data})
	copy(data, "no") // the publisher uses its buffer again
	if string(e.Last.Data) != strings.Repeat("x", PreviewBytes) {
		t.Errorf("a snapshot changed afterwards: %q", e.Last.Data)
	}
	e = event()
	if e.Published != 2 || e.Delivered != 3 || e.Last.Bytes != 2 || string(e.Last.Data) != "26" ||
		e.Last.From != "cellar" {
		t.Errorf("got %d published, %d delivered, last %+v, want 2, 3 and 26 from the cellar", e.Published, e.Delivered,
			e.Last)
	}

	h.Unsubscribe(attic, []byte("heat"))
	h.Publish(&b, []byte("heat"), stamp{}.frame(), Note{at, "cellar", nil})
	if e := event(); e.Published != 3 || e.Delivered != 4 || len(e.Last.Data) != 0 {
		t.Errorf("after one of two subscribers has left: %d published, %d delivered, last %+v, want 3, 4 and nothing",
			e.Published, e.Delivered, e.Last)
	}

	h.UnsubscribeAll(porch)
	subscribe(t, h, attic, "heat")
	h.UnsubscribeAll(attic)
	subscribe(t, h, porch, "heat")
	if e := event(); e.Published != 0 || e.Delivered != 0 || e.Last.Bytes != 0 {
		t.Errorf("an event that lost its subscribers begins with %+v", e)
	}
}
