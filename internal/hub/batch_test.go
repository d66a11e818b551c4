package hub

import (
	"strings"
	"testing"
	"time"
	"weak"
)

func TestBatchListsEachSinkOnce(t *testing.T) {
	h := New(1 << 30)
	a, ra := join(h, "porch")
	b, rb := join(h, "attic")
	for _, e := range []string{"heat", "rain"} {
		subscribe(t, h, a, e)
	}
	subscribe(t, h, b, "heat")

	var batch Batch
	batch.Flush(nil) // of nothing
	for round := 1; round <= 2; round++ {
		for range 3 {
			h.Publish(&batch, []byte("heat"), stamp{}.frame(), Note{})
			h.Publish(&batch, []byte("rain"), stamp{}.frame(), Note{})
		}
		if got := len(batch.sinks); got != 2 {
			t.Errorf("round %d: %d sinks are listed, want 2", round, got)
		}
		batch.Flush(nil)
		if ra.flushes != round || rb.flushes != round {
			t.Errorf("round %d: flushed %d and %d times in all", round, ra.flushes, rb.flushes)
		}
		if len(ra.batches) != round || len(rb.batches) != round {
			t.Errorf("round %d: the sinks were told %d and %d batch numbers", round, len(ra.batches), len(rb.batches))
		}
	}
	batch.Flush(nil)
	if ra.flushes != 2 {
		t.Error("a flushed batch flushed again")
	}
	if len(ra.frames) != 12 || len(rb.frames) != 6 {
		t.Errorf("got %d and %d frames, want 12 and 6", len(ra.frames), len(rb.frames))
	}
}

func TestTwoPublishersOnTheSameSinksBothFlush(t *testing.T) {
	h := New(1 << 30)
	sinks := listeners(t, h, 3, "heat")
	var first, second Batch
	for range 4 {
		h.Publish(&first, []byte("heat"), stamp{}.frame(), Note{})
		h.Publish(&second, []byte("heat"), stamp{}.frame(), Note{})
	}
	flushed := func(want int) {
		t.Helper()
		for i, r := range sinks {
			if r.flushes != want {
				t.Errorf("sink %d was flushed %d times, want %d", i, r.flushes, want)
			}
		}
	}
	second.Flush(nil)
	flushed(1)
	h.Publish(&second, []byte("heat"), stamp{}.frame(), Note{})
	first.Flush(nil) // does not rely on the other batch's flush
	flushed(2)
	second.Flush(nil)
	flushed(3)
}

// A frame's memory may be used again only when nothing refers to it any more.
func TestFramesAreFreeWhenNoSinkHoldsOne(t *testing.T) {
	h := New(1 << 30)
	sinks := listeners(t, h, 3, "heat")
	var b Batch
	for i := range 4 {
		for k, r := range sinks {
			r.holds = k == i
		}
		h.Publish(&b, []byte("heat"), stamp{}.frame(), Note{})
		if free, want := b.Flush(nil), i == 3; free != want {
			t.Errorf("free: %t, want %t: of 3 sinks, number %d holds its frame", free, want, i)
		}
	}
}

// A sink that was told the number already, or wants no flush, is not listed.
func TestQueueListsWhoAsksForIt(t *testing.T) {
	var b Batch
	r := new(recorder)
	b.Queue(r, stamp{}.frame())
	b.Queue(r, stamp{}.frame())
	b.Queue(silent{}, stamp{}.frame())
	if len(b.sinks) != 1 {
		t.Errorf("%d sinks are listed, want 1", len(b.sinks))
	}
	if _, told := r.batches[0]; told {
		t.Error("a sink was told number 0, which is nobody's")
	}
}

func TestBatchIsFullAtItsBound(t *testing.T) {
	var b Batch
	for range 2 {
		if b.Added(flushBytes - 1) {
			t.Error("full one byte below the bound")
		}
		if !b.Added(1) {
			t.Error("not full at the bound")
		}
		b.Flush(nil)
	}
}

func TestBatchHoldsNobodyAfterFlush(t *testing.T) {
	var b Batch
	var gone []weak.Pointer[recorder]
	for range 100 {
		r := new(recorder)
		b.Queue(r, stamp{}.frame())
		gone = append(gone, weak.Make(r))
	}
	b.Flush(nil)
	allReleased(t, gone)

	r := new(recorder)
	for range 20_000 {
		b.sinks = append(b.sinks, r)
	}
	b.Flush(nil)
	if cap(b.sinks) != 0 {
		t.Errorf("a crowd's list of %d places is kept", cap(b.sinks))
	}
}

// What is queued for the publishing client, acks included, goes out after the messages that the acks are for.
func TestLastIsFlushedBehindAllOthers(t *testing.T) {
	h := New(1 << 30)
	var order []string
	var b Batch
	note := func(name string) *noted { return &noted{name, &order} }
	last := note("last")
	c := h.Join(last, "last", "", time.Now())
	if _, err := h.Subscribe(c, []byte("e"), 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		c := h.Join(note(name), name, "", time.Now())
		if _, err := h.Subscribe(c, []byte("e"), 1); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		order = nil
		b.Queue(last, []byte("ack of something before"))
		h.Publish(&b, []byte("e"), []byte("frame"), Note{})
		b.Queue(last, []byte("ack"))
		b.Flush(last)
		if got := strings.Join(order, " "); got != "a b c last" {
			t.Errorf("flushed in the order %q", got)
		}
	}
	order = nil
	h.Publish(&b, []byte("nobody's"), []byte("frame"), Note{})
	b.Flush(last)
	if len(order) != 0 {
		t.Errorf("%q were flushed, for whom nothing was queued", order)
	}
}

// noted notes when it is flushed.
type noted struct {
	name  string
	order *[]string
}

func (n *noted) Queue([]byte, uint64) bool { return true }
func (n *noted) Flush() bool {
	*n.order = append(*n.order, n.name)
	return true
}
