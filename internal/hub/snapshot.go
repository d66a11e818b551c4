package hub

import (
	"cmp"
	"slices"
	"sync"
)

// Bounds are how much a Snapshot lists at most: numbers from 1.
type Bounds struct {
	Events, Clients int
	Subscribers     int // of one event
}

// An EventInfo is one event with its subscribers in the order in which they connected. Published and Delivered count
// from the arrival of its first subscriber; an event that has lost all its subscribers starts again from zero.
type EventInfo struct {
	Name                 string
	Clients              []*Client // those that connected last, if there are too many
	Subscribers          int       // of which Clients are all or some
	Published, Delivered uint64
	Last                 Last
}

// Snapshot lists the events that have subscribers and the clients. Where most allows fewer than there are, it keeps the
// events that are latest by their last message, or their beginning if they have none, and the clients that connected
// last; all says that it keeps every one. The latest event is listed first, the clients in the order in which they
// connected. What is done before the call is taken into account.
func (h *Hub) Snapshot(most Bounds) (events []EventInfo, clients []*Client, all bool) {
	type seen struct {
		*event
		at int64 // which the event changes
	}
	latest := top[seen]{most: most.Events, compare: func(a, b seen) int { return cmp.Compare(a.at, b.at) }}
	scan(h.mu.RLocker(), h.events, func(_ string, ev *event) { latest.add(seen{ev, ev.at.Load()}) })
	events = make([]EventInfo, 0, len(latest.kept))
	for _, ev := range slices.Backward(latest.sorted()) {
		if info := ev.info(most.Subscribers); info.Subscribers > 0 {
			slices.SortFunc(info.Clients, byArrival)
			events = append(events, info)
		}
	}

	newcomers := top[*Client]{most: most.Clients, compare: byArrival, kept: make([]*Client, 0)}
	scan(&h.clientsMu, h.clients, func(c *Client, _ struct{}) { newcomers.add(c) })
	return events, newcomers.sorted(), !latest.over && !newcomers.over
}

// info copies the event, with most of its subscribers at most, in any order.
func (ev *event) info(most int) EventInfo {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	newcomers := top[*Client]{most: most, compare: byArrival, kept: make([]*Client, 0, min(most, len(ev.subs)))}
	published, delivered := ev.published.Load(), ev.delivered
	for _, s := range ev.subs {
		newcomers.add(s.client)
		delivered += published - s.since
	}
	return EventInfo{ev.name, newcomers.kept, len(ev.subs), published, delivered, ev.last()}
}

// byArrival compares clients by when they joined.
func byArrival(a, b *Client) int {
	if a.rejoined || b.rejoined {
		return cmp.Compare(a.seq, b.seq)
	}
	return cmp.Or(a.ConnectedAt.Compare(b.ConnectedAt), cmp.Compare(a.seq, b.seq))
}

// scan calls see for each entry of m, which mu guards. Again and again it lets those who wait for mu go first: what
// comes or goes meanwhile may be seen or not.
func scan[K comparable, V any](mu sync.Locker, m map[K]V, see func(K, V)) {
	const inOneGo = 1 << 10
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for k, v := range m {
		see(k, v)
		if n++; n%inOneGo == 0 {
			mu.Unlock()
			mu.Lock()
		}
	}
}

// A top keeps the greatest of what it is given.
type top[T any] struct {
	most    int // that it keeps
	compare func(a, b T) int
	kept    []T  // once there are most of them they are a heap: the least comes first
	over    bool // there was more
}

func (t *top[T]) add(v T) {
	if len(t.kept) < t.most {
		t.kept = append(t.kept, v)
		if len(t.kept) == t.most {
			for i := t.most/2 - 1; i >= 0; i-- {
				t.sink(i)
			}
		}
		return
	}
	t.over = true
	if t.compare(v, t.kept[0]) > 0 {
		t.kept[0] = v
		t.sink(0)
	}
}

// sink moves what is in place i down, to where nothing below it is less.
func (t *top[T]) sink(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(t.kept); child++ {
			if t.compare(t.kept[child], t.kept[least]) < 0 {
				least = child
			}
		}
		if least == i {
			return
		}
		t.kept[i], t.kept[least] = t.kept[least], t.kept[i]
		i = least
	}
}

// sorted returns what was kept, the least first. Nothing is added afterwards.
func (t *top[T]) sorted() []T {
	slices.SortFunc(t.kept, t.compare)
	return t.kept
}
