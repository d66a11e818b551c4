package hub

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// TestOrder lets many publish to many at once. Each subscriber gets each publisher's frames once and in order, over all
// events, and the subscribers of an event agree on the order of its frames.
func TestOrder(t *testing.T) {
	const publishers, events, subscribers, each = 8, 5, 24, 400
	h := New(1 << 30)
	wanted := make([][]bool, subscribers) // by event
	sinks := make([]*recorder, subscribers)
	for i := range sinks {
		c, r := join(h, "subscriber")
		sinks[i], wanted[i] = r, make([]bool, events)
		for e := range uint16(events) {
			if wanted[i][e] = i%events == int(e) || (i+int(e))%2 == 0; wanted[i][e] {
				subscribe(t, h, c, string(eventName(e)))
			}
		}
	}
	var wg sync.WaitGroup
	for p := range uint16(publishers) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(p)))
			var b Batch
			for seq := range uint32(each) {
				e := uint16(random.IntN(events))
				h.Publish(&b, eventName(e), stamp{p, e, seq}.frame(), Note{})
				if seq%7 == 0 {
					b.Flush(nil)
				}
			}
			b.Flush(nil)
		})
	}
	wg.Wait()

	order := make([][]stamp, events) // as the event's first subscriber got it
	var total [events]int
	for i, r := range sinks {
		byEvent := make([][]stamp, events)
		next := make([]int64, publishers)
		for _, s := range r.take() {
			if int64(s.seq) < next[s.publisher] {
				t.Fatalf("subscriber %d got %+v after frame %d of that publisher", i, s, next[s.publisher]-1)
			}
			next[s.publisher] = int64(s.seq) + 1
			byEvent[s.event] = append(byEvent[s.event], s)
		}
		for e, got := range byEvent {
			switch {
			case !wanted[i][e]:
				if len(got) != 0 {
					t.Errorf("subscriber %d got %d frames of event %d, to which it has not subscribed", i, len(got), e)
				}
			case order[e] == nil:
				order[e] = got
				total[e] = len(got)
			case !slices.Equal(got, order[e]):
				t.Errorf("subscriber %d got event %d in an order of its own", i, e)
			}
		}
	}
	sum := 0
	for _, n := range total {
		sum += n
	}
	if sum != publishers*each {
		t.Errorf("of %d frames %d arrived", publishers*each, sum)
	}
	if got := h.Counts().Published; got != publishers*each {
		t.Errorf("%d were counted as published, want %d", got, publishers*each)
	}
}

// A press is a set of publishers at work on some events until stop is called.
type press struct {
	stopped atomic.Bool
	wg      sync.WaitGroup
	begun   [][]atomic.Uint32 // by publisher and event: the number of publishes that have begun
	done    [][]atomic.Uint32 // and that have returned

	mu     sync.Mutex
	moved  sync.Cond
	rounds []int // by publisher: how many times it has published to all events
}

// start sets publishers to work; frames of a publisher and event are numbered from 1.
func start(h *Hub, publishers, events int) *press {
	p := &press{rounds: make([]int, publishers)}
	p.moved.L = &p.mu
	for range publishers {
		p.begun = append(p.begun, make([]atomic.Uint32, events))
		p.done = append(p.done, make([]atomic.Uint32, events))
	}
	for i := range publishers {
		p.wg.Go(func() {
			var b Batch
			for seq := uint32(1); !p.stopped.Load(); seq++ {
				for e := range events {
					p.begun[i][e].Store(seq)
					h.Publish(&b, eventName(uint16(e)), stamp{uint16(i), uint16(e), seq}.frame(), Note{})
					p.done[i][e].Store(seq)
				}
				b.Flush(nil)
				p.mu.Lock()
				p.rounds[i]++
				p.mu.Unlock()
				p.moved.Broadcast()
			}
		})
	}
	return p
}

func (p *press) stop() {
	p.stopped.Store(true)
	p.wg.Wait()
}

// goOn returns when every publisher has begun and ended a round since the call.
func (p *press) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, from := range slices.Clone(p.rounds) {
		for p.rounds[i] < from+2 { // one was under way
			p.moved.Wait()
		}
	}
}

// at reads one number of each publisher.
func at(numbers [][]atomic.Uint32, event uint16) []uint32 {
	var n []uint32
	for i := range numbers {
		n = append(n, numbers[i][event].Load())
	}
	return n
}

// TestSubscriptionHasNoGapsAndNoAftermath lets clients come and go while others publish. What was published after
// Subscribe returned and before the end began arrives, without gaps; when the end has returned nothing more comes. The
// events disappear with their last subscriber and are created again, over and over.
func TestSubscriptionHasNoGapsAndNoAftermath(t *testing.T) {
	const publishers, events, clients, rounds = 3, 3, 5, 40
	h := New(1 << 30)
	p := start(h, publishers, events)
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(n)))
			c, r := join(h, "comes and goes")
			for range rounds {
				e := uint16(random.IntN(events))
				other := (e + 1) % events
				if _, err := h.Subscribe(c, eventName(e), events); err != nil {
					t.Error(err)
					return
				}
				from := at(p.begun, e)
				if random.IntN(2) == 0 {
					h.Subscribe(c, eventName(other), events) // it moves the client's list about
				}
				p.goOn()
				to := at(p.done, e)
				switch random.IntN(3) {
				case 0:
					h.Unsubscribe(c, eventName(e))
					r.setShut(true, e)
				case 1:
					h.UnsubscribeAll(c)
					r.setShut(true, e)
				case 2:
					h.Leave(c)
					r.setShut(true, e)
				}
				p.goOn()
				if got := r.take(); !complete(t, got, e, from, to) {
					return
				}
				r.mu.Lock()
				if r.unwanted != 0 {
					t.Errorf("%d frames were queued after the end", r.unwanted)
				}
				r.mu.Unlock()
				h.Leave(c)
				c, r = join(h, "comes and goes")
			}
			h.Leave(c)
		})
	}
	wg.Wait()
	p.stop()
	if got := h.Counts(); got.Clients != 0 || got.Events != 0 || got.Subscriptions != 0 {
		t.Errorf("after all left: %+v", got)
	}
	if len(h.events) != 0 {
		t.Errorf("events without subscribers are kept: %v", h.events)
	}
}

// complete checks that got has, of each publisher, all that lies between from and to, one after the other.
func complete(t *testing.T, got []stamp, event uint16, from, to []uint32) bool {
	last := make([]uint32, len(from))
	for _, s := range got {
		if s.event != event || int(s.publisher) >= len(from) {
			continue
		}
		if l := last[s.publisher]; l != 0 && s.seq != l+1 {
			t.Errorf("publisher %d: frame %d follows %d", s.publisher, s.seq, l)
			return false
		}
		if last[s.publisher] == 0 && s.seq > from[s.publisher]+1 {
			t.Errorf("publisher %d: the first frame is %d, though %d had not begun when subscribed", s.publisher, s.seq,
				s.seq-1)
			return false
		}
		last[s.publisher] = s.seq
	}
	for i, l := range last {
		if to[i] > from[i] && l < to[i] {
			t.Errorf("publisher %d: got up to %d, though %d had been published", i, l, to[i])
			return false
		}
	}
	return true
}

// TestStormOfSubscriptions checks each client's subscriptions against what it did, while all clients use the same few
// events.
func TestStormOfSubscriptions(t *testing.T) {
	const clients, events, steps, limit = 12, 8, 600, 5
	h := New(1 << 30)
	p := start(h, 2, 2)
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(n)))
			c, r := join(h, "storm")
			has := make(map[uint16]bool)
			for range steps {
				e := uint16(random.IntN(events))
				switch k := random.IntN(20); {
				case k < 10:
					_, err := h.Subscribe(c, eventName(e), limit)
					if full := !has[e] && len(has) == limit; full != (err != nil) {
						t.Errorf("with %d subscriptions: got error %v", len(has), err)
						return
					}
					if err == nil {
						has[e] = true
					}
				case k < 18:
					h.Unsubscribe(c, eventName(e))
					delete(has, e)
				case k < 19:
					h.UnsubscribeAll(c)
					clear(has)
				default:
					h.Leave(c)
					clear(has)
					c, r = join(h, "storm")
				}
				// What it publishes to all events comes back from exactly those it is subscribed to.
				r.take()
				for e := range uint16(events) {
					h.Publish(new(Batch), eventName(e), stamp{uint16(100 + n), e, 0}.frame(), Note{})
				}
				got := 0
				for _, s := range r.take() {
					if s.publisher != uint16(100+n) {
						continue
					}
					if got++; !has[s.event] {
						t.Errorf("got a frame of event %d without a subscription", s.event)
						return
					}
				}
				if got != len(has) {
					t.Errorf("reached by %d events, subscribed to %d", got, len(has))
					return
				}
			}
			h.Leave(c)
		})
	}
	// Others look on all the while.
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for !p.stopped.Load() {
			seen, _, _ := h.Snapshot(everything)
			for _, e := range seen {
				if len(e.Clients) == 0 {
					t.Errorf("event %s is listed without subscribers", e.Name)
				}
				if !slices.IsSortedFunc(e.Clients, byArrival) {
					t.Errorf("event %s: subscribers are not in the order of arrival", e.Name)
				}
			}
			h.Counts()
		}
	}()
	wg.Wait()
	p.stop()
	<-watched
	if got := h.Counts(); got.Clients != 0 || got.Events != 0 || got.Subscriptions != 0 {
		t.Errorf("after all left: %+v", got)
	}
}
