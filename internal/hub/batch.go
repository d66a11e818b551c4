package hub

import "sync/atomic"

// lastBatch numbers the batches of all publishers; 0 belongs to none.
var lastBatch atomic.Uint64

// A Batch is what one publisher has queued and not yet flushed: the sinks that it touched, each once. Each publisher
// keeps its own list, so that no message waits for another publisher's flush.
//
// The zero Batch is empty and ready. A Batch is used by one goroutine at a time.
type Batch struct {
	num   uint64
	bytes int
	sinks []Sink
}

// flushBytes is how much may be queued in one batch, for each sink, before Publish's caller should flush although it
// has more to publish: it bounds what a burst can add to a queue before any write is tried. That much and one more
// frame fit into a wsconn.Arena, which is reused after a flush.
const flushBytes = 24 << 10

// Queue appends frame to the sink's queue and lists the sink for the next Flush.
func (b *Batch) Queue(s Sink, frame []byte) {
	if b.num == 0 {
		b.num = lastBatch.Add(1)
	}
	if s.Queue(frame, b.num) {
		b.sinks = append(b.sinks, s)
	}
}

// Added notes n published bytes, and reports whether the batch is full and should be flushed.
func (b *Batch) Added(n int) bool {
	b.bytes += n
	return b.bytes >= flushBytes
}

// Flush flushes every listed sink and begins a new batch. last, if it is not nil and listed, is flushed after all the
// others: the acks queued for it are for their frames. Flush reports whether the memory of the frames is free: no sink
// refers to one that was queued since the last Flush.
func (b *Batch) Flush(last Sink) (free bool) {
	free = true
	listed := false
	for i, s := range b.sinks {
		b.sinks[i] = nil
		if s == last {
			listed = true
		} else if !s.Flush() {
			free = false
		}
	}
	if listed && !last.Flush() {
		free = false
	}
	if cap(b.sinks) > 16<<10 {
		b.sinks = nil
	}
	*b = Batch{sinks: b.sinks[:0]}
	return free
}
