package hub

import (
	"bytes"
	"runtime"
	"testing"
	"time"
	"unsafe"
	"weak"
)

// allReleased fails unless the garbage collector finds everything free.
func allReleased[T any](t *testing.T, pointers []weak.Pointer[T]) {
	t.Helper()
	held := 0
	for range 5 { // one collection is enough, unless another was under way
		runtime.GC()
		held = 0
		for _, p := range pointers {
			if p.Value() != nil {
				held++
			}
		}
		if held == 0 {
			return
		}
	}
	t.Errorf("%d of %d are still held", held, len(pointers))
}

func TestGoneClientIsReleased(t *testing.T) {
	h := New(1 << 30)
	stays, _ := join(h, "stays")
	subscribe(t, h, stays, "heat")
	var batch Batch

	var clients []weak.Pointer[Client]
	var sinks []weak.Pointer[recorder]
	func() {
		var all []*Client
		for range 200 {
			c, r := join(h, "porch")
			subscribe(t, h, c, "heat")
			subscribe(t, h, c, "rain")
			all = append(all, c)
			clients = append(clients, weak.Make(c))
			sinks = append(sinks, weak.Make(r))
		}
		h.Publish(&batch, []byte("heat"), stamp{}.frame(), Note{})
		h.Publish(&batch, []byte("rain"), stamp{}.frame(), Note{})
		batch.Flush(nil)
		h.Snapshot(everything)
		for i, c := range all {
			switch i % 3 {
			case 0:
				h.Unsubscribe(c, []byte("heat"))
			case 1:
				h.UnsubscribeAll(c)
			}
			h.Leave(c)
		}
	}()
	allReleased(t, clients)
	allReleased(t, sinks)
	runtime.KeepAlive(h)
	runtime.KeepAlive(stays)
	runtime.KeepAlive(&batch)
}

func TestEventIsReleasedWithItsLastSubscriber(t *testing.T) {
	h := New(1 << 30)
	c, _ := join(h, "stays")
	var events []weak.Pointer[event]
	for e := range uint16(100) {
		subscribe(t, h, c, string(eventName(e)))
		events = append(events, weak.Make(h.events[string(eventName(e))]))
	}
	for e := range uint16(100) {
		h.Unsubscribe(c, eventName(e))
	}
	allReleased(t, events)
	runtime.KeepAlive(h)
	runtime.KeepAlive(c)
}

func TestListOfACrowdIsReleasedWithIt(t *testing.T) {
	h := New(1 << 30)
	var all []*Client
	for range 4096 {
		c, _ := join(h, "porch")
		subscribe(t, h, c, "heat")
		all = append(all, c)
	}
	for _, c := range all[70:] {
		h.Leave(c)
	}
	if got := cap(h.events["heat"].subs); got > 512 {
		t.Errorf("70 subscribers keep a list of %d places", got)
	}
	if got := publish(h, "heat", 1); got != 70 {
		t.Errorf("got %d subscribers, want 70", got)
	}
}

func TestMessageFindsItsSubscriberInOneCacheLine(t *testing.T) {
	const line = 64
	var ev event
	if end := unsafe.Offsetof(ev.one) + unsafe.Sizeof(ev.one); end > line {
		t.Errorf("the last byte that a delivery needs is byte %d of an event", end)
	}
	if unsafe.Sizeof(uintptr(0)) < 8 {
		return // sizes differ there, and where an event begins is left to the allocator
	}
	events := make([]*event, 100) // which are not on the stack
	for i := range events {
		events[i] = new(event)
		if p := uintptr(unsafe.Pointer(events[i])); p%line != 0 {
			t.Fatalf("an event of %d bytes begins %d bytes behind the beginning of a line", unsafe.Sizeof(ev), p%line)
		}
	}
}

// A silent sink takes frames and keeps nothing.
type silent struct{}

func (silent) Queue([]byte, uint64) bool { return false }
func (silent) Flush() bool               { return true }

// A listed sink asks for a flush each time.
type listed struct{ n uint64 }

func (l *listed) Queue(_ []byte, batch uint64) bool {
	first := l.n != batch
	l.n = batch
	return first
}
func (*listed) Flush() bool { return true }

func TestDeliveryAllocatesNothing(t *testing.T) {
	h := New(1 << 30)
	event, frame, data, at := []byte("heat"), stamp{}.frame(), bytes.Repeat([]byte("7"), 2*PreviewBytes), time.Now()
	for i := range 100 {
		var s Sink = silent{}
		if i%2 == 0 {
			s = new(listed)
		}
		c := h.Join(s, "porch", "", time.Time{})
		subscribe(t, h, c, "heat")
	}
	var batch Batch
	if n := testing.AllocsPerRun(100, func() {
		for range 3 {
			h.Publish(&batch, event, frame, Note{At: at, From: "porch", Data: data})
			batch.Added(len(frame))
		}
		batch.Flush(nil)
	}); n != 0 {
		t.Errorf("300 deliveries cost %v allocations", n)
	}
}
