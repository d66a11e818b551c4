package hub

import (
	"testing"
	"weak"
)

func TestBatchListsEachSinkOnce(t *testing.T) {
	h := New()
	a, ra := join(h, "porch")
	b, rb := join(h, "attic")
	for _, e := range []string{"heat", "rain"} {
		subscribe(t, h, a, e)
	}
	subscribe(t, h, b, "heat")

	var batch Batch
	batch.Flush() // of nothing
	for round := 1; round <= 2; round++ {
		for range 3 {
			h.Publish(&batch, []byte("heat"), stamp{}.frame(), Note{})
			h.Publish(&batch, []byte("rain"), stamp{}.frame(), Note{})
		}
		if got := len(batch.sinks); got != 2 {
			t.Errorf("round %d: %d sinks are listed, want 2", round, got)
		}
		batch.Flush()
		if ra.flushes != round || rb.flushes != round {
			t.Errorf("round %d: flushed %d and %d times in all", round, ra.flushes, rb.flushes)
		}
		if len(ra.batches) != round || len(rb.batches) != round {
			t.Errorf("round %d: the sinks were told %d and %d batch numbers", round, len(ra.batches), len(rb.batches))
		}
	}
	batch.Flush()
	if ra.flushes != 2 {
		t.Error("a flushed batch flushed again")
	}
	if len(ra.frames) != 12 || len(rb.frames) != 6 {
		t.Errorf("got %d and %d frames, want 12 and 6", len(ra.frames), len(rb.frames))
	}
}

func TestTwoPublishersOnTheSameSinksBothFlush(t *testing.T) {
	h := New()
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
	second.Flush()
	flushed(1)
	h.Publish(&second, []byte("heat"), stamp{}.frame(), Note{})
	first.Flush() // not the other's word that it did so
	flushed(2)
	second.Flush()
	flushed(3)
}

// A frame's memory may be used again only when nobody is left who refers to it.
func TestFramesAreFreeWhenNoSinkHoldsOne(t *testing.T) {
	h := New()
	sinks := listeners(t, h, 3, "heat")
	var b Batch
	for i := range 4 {
		for k, r := range sinks {
			r.holds = k == i
		}
		h.Publish(&b, []byte("heat"), stamp{}.frame(), Note{})
		if free, want := b.Flush(), i == 3; free != want {
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
		b.Flush()
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
	b.Flush()
	allReleased(t, gone)

	r := new(recorder)
	for range 20_000 {
		b.sinks = append(b.sinks, r)
	}
	b.Flush()
	if cap(b.sinks) != 0 {
		t.Errorf("a crowd's list of %d places is kept", cap(b.sinks))
	}
}
