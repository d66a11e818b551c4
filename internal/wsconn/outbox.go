package wsconn

import "slices"

// Bounds of the chunks in which a stalled connection's small frames are gathered. Within them a chunk is as large as
// what is queued already, so that little memory is wasted and there are few pieces to write. Every frame that lies in
// an arena fits.
const (
	leastChunk = arenaLarge
	mostChunk  = 4 * arenaSize
)

// An outbox is what is still to be sent to one connection, in order: whole frames, except that the first may be half
// written. It refers to the frames' shared memory, until own copies what a stalled reader would keep alive.
//
// A frame's bytes lie in one slice, never across two.
type outbox struct {
	first []byte   // in place, so that one run of frames costs no allocation
	rest  [][]byte // what follows it
	size  int      // bytes in total
	left  int32    // bytes left of a half-written frame at the beginning; small, so that Conn.sock lies where it does
	owned bool     // the last slice is a chunk of this outbox's own
	owes  bool     // not all of what has been taken out has gone out: the stream owes it
	lent  bool     // something may lie in arenas
}

// push appends one frame, and reports whether it refers to the frame's memory. While the connection is stalled
// (copySmall) a frame that may lie in an arena is copied, unless it directly follows one that is queued already, whose
// arena is kept anyway.
func (o *outbox) push(frame []byte, copySmall bool) (refers bool) {
	o.size += len(frame)
	last := &o.first
	if n := len(o.rest); n > 0 {
		last = &o.rest[n-1]
	}
	switch l := *last; {
	case o.owned && len(frame) <= cap(l)-len(l):
		*last = append(l, frame...)
		return false
	case !o.owned && len(l) > 0 && len(frame) <= cap(l)-len(l) && &l[:len(l)+1][len(l)] == &frame[0]:
		*last = l[:len(l)+len(frame)] // the arena's next frame: one run
		return true
	}
	o.owned = copySmall && len(frame) <= arenaLarge
	if o.owned {
		frame = append(make([]byte, 0, min(max(o.size, leastChunk), mostChunk)), frame...)
	} else if len(frame) <= arenaLarge {
		o.lent = true
	}
	if len(o.first) == 0 {
		o.first = frame
	} else {
		o.rest = append(o.rest, frame)
	}
	return !o.owned
}

// head appends to bufs the slices to be written next, as many as it has room for.
func (o *outbox) head(bufs [][]byte) [][]byte {
	bufs = append(bufs, o.first)
	for _, b := range o.rest {
		if len(bufs) == cap(bufs) {
			break
		}
		bufs = append(bufs, b)
	}
	return bufs
}

// behind is how many bytes wait behind the first frame.
func (o *outbox) behind() int {
	switch {
	case o.size == 0:
		return 0
	case o.left > 0:
		return o.size - int(o.left)
	default:
		return o.size - frameLen(o.first)
	}
}

// took removes n bytes from the beginning: they have been written.
func (o *outbox) took(n int) {
	if n == o.size {
		rest := o.rest[:0]
		clear(o.rest)
		if cap(rest) > 4 {
			rest = nil
		}
		*o = outbox{rest: rest}
		return
	}
	o.size -= n
	for n > 0 {
		if o.left == 0 {
			o.left = int32(frameLen(o.first))
		}
		k := min(n, int(o.left))
		o.left -= int32(k)
		n -= k
		o.first = o.first[k:]
		if len(o.first) == 0 {
			o.first = o.rest[0] // there is more, or n would be size
			o.rest[0] = nil
			o.rest = o.rest[1:]
		}
	}
}

// own copies what lies in arenas, so that a stalled reader keeps no more memory alive than it is owed. What has been
// copied is not copied again, since a stall may last for many attempts to write.
func (o *outbox) own() {
	if !o.lent {
		return
	}
	if len(o.first) <= arenaSize {
		o.first = slices.Clone(o.first)
	}
	for i, b := range o.rest {
		if len(b) <= arenaSize {
			o.rest[i] = slices.Clone(b)
		}
	}
	o.owned, o.lent = false, false
}

// cut drops everything but the rest of a half-written frame, which has to be finished before anything else is sent.
func (o *outbox) cut() {
	if o.left == 0 {
		*o = outbox{owes: o.owes}
		return
	}
	*o = outbox{first: slices.Clone(o.first[:o.left]), size: int(o.left), left: o.left, owes: o.owes}
}

// isOut reports whether everything has been given to the kernel.
func (o *outbox) isOut() bool { return o.size == 0 && !o.owes }
