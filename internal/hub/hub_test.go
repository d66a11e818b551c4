package hub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"
)

// A recorder is a Sink that keeps what is queued.
type recorder struct {
	mu       sync.Mutex
	frames   [][]byte
	batches  map[uint64]bool // the numbers it was told, and whether it still waits for their flush
	flushes  int
	holds    bool // it says that it still refers to what was queued
	unwanted int  // frames of the event it is shut for
	shut     bool // no frame of the event shutFor may come
	shutFor  uint16
}

func (r *recorder) Queue(frame []byte, batch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut && stampOf(frame).event == r.shutFor {
		r.unwanted++
	}
	r.frames = append(r.frames, frame)
	if _, told := r.batches[batch]; told {
		return false
	}
	if r.batches == nil {
		r.batches = make(map[uint64]bool)
	}
	r.batches[batch] = true
	return true
}

func (r *recorder) Flush() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
	return !r.holds
}

// take returns what has been queued since the last take.
func (r *recorder) take() []stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamps := make([]stamp, len(r.frames))
	for i, f := range r.frames {
		stamps[i] = stampOf(f)
	}
	r.frames = nil
	return stamps
}

// setShut sets whether frames of an event may no longer come.
func (r *recorder) setShut(shut bool, event uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut, r.shutFor = shut, event
}

// A stamp identifies a frame: the seq-th of one publisher.
type stamp struct {
	publisher, event uint16
	seq              uint32
}

func (s stamp) frame() []byte {
	b := binary.BigEndian.AppendUint16(nil, s.publisher)
	b = binary.BigEndian.AppendUint16(b, s.event)
	return binary.BigEndian.AppendUint32(b, s.seq)
}

func stampOf(frame []byte) stamp {
	return stamp{binary.BigEndian.Uint16(frame), binary.BigEndian.Uint16(frame[2:]), binary.BigEndian.Uint32(frame[4:])}
}

func eventName(n uint16) []byte { return fmt.Appendf(nil, "event %d", n) }

// join adds a client whose sink is a new recorder.
func join(h *Hub, name string) (*Client, *recorder) {
	r := new(recorder)
	return h.Join(r, name, "192.0.2.1:"+name, time.Unix(0, 0).UTC()), r
}

func subscribe(t *testing.T, h *Hub, c *Client, event string) {
	t.Helper()
	if _, err := h.Subscribe(c, []byte(event), 1<<20); err != nil {
		t.Fatalf("subscribe %s to %q: %v", c.Name, event, err)
	}
}

// listeners are the sinks of n clients that subscribe to the event.
func listeners(t *testing.T, h *Hub, n int, event string) (sinks []*recorder) {
	t.Helper()
	for range n {
		c, r := join(h, "porch")
		subscribe(t, h, c, event)
		sinks = append(sinks, r)
	}
	return sinks
}

// publish publishes and flushes one frame, and returns the number of its subscribers.
func publish(h *Hub, event string, seq uint32) int {
	var b Batch
	defer b.Flush(nil)
	return h.Publish(&b, []byte(event), stamp{seq: seq}.frame(), Note{})
}

func seqs(stamps []stamp) []uint32 {
	var s []uint32
	for _, st := range stamps {
		s = append(s, st.seq)
	}
	return s
}

func TestOnlySubscribersReceive(t *testing.T) {
	h := New(1 << 30)
	porch, onPorch := join(h, "porch")
	attic, onAttic := join(h, "attic")
	subscribe(t, h, porch, "heat")
	subscribe(t, h, attic, "heat")
	subscribe(t, h, attic, "rain")

	for event, want := range map[string]int{"heat": 2, "rain": 1, "Heat": 0, "heat ": 0, "": 0} {
		if got := publish(h, event, uint32(len(event))); got != want {
			t.Errorf("publish to %q: got %d subscribers, want %d", event, got, want)
		}
	}
	if got, want := len(onPorch.take()), 1; got != want {
		t.Errorf("porch got %d frames, want %d", got, want)
	}
	if got, want := len(onAttic.take()), 2; got != want {
		t.Errorf("attic got %d frames, want %d", got, want)
	}
}

func TestSubscribingTwiceIsSubscribingOnce(t *testing.T) {
	h := New(1 << 30)
	c, r := join(h, "porch")
	for range 3 {
		subscribe(t, h, c, "heat")
	}
	publish(h, "heat", 1)
	if got := seqs(r.take()); !slices.Equal(got, []uint32{1}) {
		t.Errorf("got frames %v, want [1]", got)
	}
	if got := h.Counts().Subscriptions; got != 1 {
		t.Errorf("got %d subscriptions, want 1", got)
	}
	h.Unsubscribe(c, []byte("heat"))
	if publish(h, "heat", 2) != 0 || len(r.take()) != 0 {
		t.Error("one unsubscribe did not end three subscribes")
	}
}

func TestUnsubscribeEndsOneSubscription(t *testing.T) {
	h := New(1 << 30)
	c, r := join(h, "porch")
	events := []string{"heat", "rain", "wind", "snow"}
	for _, e := range events {
		subscribe(t, h, c, e)
	}
	h.Unsubscribe(c, []byte("rain"))
	h.Unsubscribe(c, []byte("rain"))
	h.Unsubscribe(c, []byte("never heard of"))
	for i, e := range events {
		publish(h, e, uint32(i))
	}
	if got := seqs(r.take()); !slices.Equal(got, []uint32{0, 2, 3}) {
		t.Errorf("got frames %v, want those of all events but the second", got)
	}
	h.UnsubscribeAll(c)
	h.UnsubscribeAll(c)
	for _, e := range events {
		publish(h, e, 9)
	}
	if got := r.take(); len(got) != 0 {
		t.Errorf("got frames %v after unsubscribing from all", got)
	}
	subscribe(t, h, c, "rain")
	if publish(h, "rain", 10) != 1 {
		t.Error("subscribing again after unsubscribing from all had no effect")
	}
}

func TestClientThatHasLeft(t *testing.T) {
	h := New(1 << 30)
	c, r := join(h, "porch")
	other, _ := join(h, "attic")
	subscribe(t, h, c, "heat")
	subscribe(t, h, other, "heat")
	h.Leave(c)
	h.Leave(c)
	if _, err := h.Subscribe(c, []byte("heat"), 10); !errors.Is(err, ErrGone) {
		t.Errorf("subscribe after leaving: got error %v, want %v", err, ErrGone)
	}
	h.Unsubscribe(c, []byte("heat"))
	h.UnsubscribeAll(c)
	if got := publish(h, "heat", 1); got != 1 {
		t.Errorf("got %d subscribers, want the other one only", got)
	}
	if got := r.take(); len(got) != 0 {
		t.Errorf("got frames %v after leaving", got)
	}
	if got := h.Counts().Clients; got != 1 {
		t.Errorf("got %d clients, want 1", got)
	}
}

func TestSubscriptionLimitOfOneClient(t *testing.T) {
	h := New(1 << 30)
	c, _ := join(h, "porch")
	try := func(event string, want error) {
		t.Helper()
		if _, err := h.Subscribe(c, []byte(event), 2); !errors.Is(err, want) {
			t.Errorf("subscribe to %s: got error %v, want %v", event, err, want)
		}
	}
	try("heat", nil)
	try("rain", nil)
	try("wind", ErrTooManySubscriptions)
	try("rain", nil) // it has that one already
	h.Unsubscribe(c, []byte("heat"))
	try("wind", nil)
	try("heat", ErrTooManySubscriptions)
	h.UnsubscribeAll(c)
	try("heat", nil)

	if got, want := h.Counts(), (Counts{Clients: 1, Events: 1, Subscriptions: 1}); got != want {
		t.Errorf("got %+v, want %+v: what was refused leaves nothing behind", got, want)
	}
	if _, err := h.Subscribe(c, []byte("wind"), 0); !errors.Is(err, ErrTooManySubscriptions) {
		t.Errorf("with a limit of 0: got error %v", err)
	}
}

func TestCountsReturnToZero(t *testing.T) {
	h := New(1 << 30)
	a, _ := join(h, "porch")
	b, _ := join(h, "attic")
	subscribe(t, h, a, "heat")
	subscribe(t, h, b, "heat")
	subscribe(t, h, b, "rain")
	publish(h, "heat", 1)
	publish(h, "rain", 2)
	publish(h, "nobody's", 3)
	if got, want := h.Counts(), (Counts{Clients: 2, Events: 2, Subscriptions: 3, Published: 3,
		Delivered: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	h.UnsubscribeAll(b)
	if got, want := h.Counts(), (Counts{Clients: 2, Events: 1, Subscriptions: 1, Published: 3,
		Delivered: 3}); got != want {
		t.Errorf("after one unsubscribed: got %+v, want %+v", got, want)
	}
	h.Leave(a)
	h.Leave(b)
	if got, want := h.Counts(), (Counts{Published: 3, Delivered: 3}); got != want {
		t.Errorf("after all left: got %+v, want %+v", got, want)
	}
}

// Between the death of an event and its removal from the map, somebody may look it up.
func TestSubscribeMeetsADeadEvent(t *testing.T) {
	h := New(1 << 30)
	h.events["heat"] = &event{name: "heat", dead: true}
	c, r := join(h, "porch")
	subscribe(t, h, c, "heat")
	publish(h, "heat", 1)
	if got := len(r.take()); got != 1 {
		t.Errorf("got %d frames, want 1", got)
	}
}

// Removing a dead event must not remove the one that has come in its place.
func TestDeadEventIsForgottenOnce(t *testing.T) {
	h := New(1 << 30)
	c, r := join(h, "porch")
	subscribe(t, h, c, "heat")
	h.forget(&event{name: "heat", dead: true})
	if publish(h, "heat", 1) != 1 || len(r.take()) != 1 {
		t.Error("the living event was forgotten with the dead one")
	}
}

// A gate is a Sink that holds up whoever queues a frame for it.
type gate struct{ entered, open chan struct{} }

func (g gate) Queue([]byte, uint64) bool { g.entered <- struct{}{}; <-g.open; return false }
func (gate) Flush() bool                 { return true }

func TestLongFanOutDelaysNobodyElse(t *testing.T) {
	h := New(1 << 30)
	g := gate{make(chan struct{}), make(chan struct{})}
	slow := h.Join(g, "slow", "", time.Time{})
	subscribe(t, h, slow, "heat")

	var wg sync.WaitGroup
	wg.Go(func() { publish(h, "heat", 1) })
	<-g.entered
	late, _ := join(h, "late") // it waits for the event under way
	wg.Go(func() { h.Subscribe(late, []byte("heat"), 10) })
	for late.mu.TryLock() {
		late.mu.Unlock()
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		c, r := join(h, "porch")
		subscribe(t, h, c, "rain")
		publish(h, "rain", 2)
		if got := len(r.take()); got != 1 {
			t.Errorf("beside a long fan-out: got %d frames, want 1", got)
		}
		h.Unsubscribe(c, []byte("rain"))
		h.Counts()
		h.Leave(c)
	}()
	select {
	case <-done:
	case <-time.After(wait.Patience):
		t.Error("everybody waits for one event's fan-out")
	}
	close(g.open)
	wg.Wait()
	<-done
}
