package poll

import "sync/atomic"

// A Turn tells whether a socket is at rest. Whoever has the turn is the only one to work on what the socket receives: a
// goroutine of a Crew, which looks until nothing has happened since the last look began, or somebody who wants to be
// sure that no goroutine does.
//
// The zero Turn is at rest. It is safe for concurrent use, and no method blocks.
type Turn struct{ state atomic.Int32 }

const (
	resting int32 = iota
	lined         // in the line of the Workers, and nobody looks
	awake
	again // awake, and something has happened since the last look began
	both  // awake, and in line for another look
)

// Rests reports whether nobody has the turn.
func (t *Turn) Rests() bool { return t.state.Load() == resting }

// Take gives the turn to the caller, unless somebody has it.
func (t *Turn) Take() bool { return t.state.CompareAndSwap(resting, awake) }

// Wake is Take, but if the turn is taken it makes whoever has it look again.
func (t *Turn) Wake() bool {
	for !t.note() {
		if t.Take() {
			return true
		}
	}
	return false
}

// note makes whoever has the turn look again, and reports whether somebody has it.
func (t *Turn) note() bool {
	for {
		switch s := t.state.Load(); {
		case s == resting:
			return false
		case s != awake, t.state.CompareAndSwap(awake, again):
			return true
		}
	}
}

// line is Wake for the line: if it reports true, the caller puts the turn there. Whoever has the turn looks again by
// itself only if nobody else isInLine.
func (t *Turn) line(isInLine bool) bool {
	for isInLine {
		switch s := t.state.Load(); {
		case s == awake && t.state.CompareAndSwap(awake, both), s == resting && t.state.CompareAndSwap(resting, lined):
			return true
		case s != awake && s != resting:
			return false
		}
	}
	for !t.note() {
		if t.state.CompareAndSwap(resting, lined) {
			return true
		}
	}
	return false
}

// begin takes a turn that comes out of the line. It reports false if somebody has it, who then looks again.
func (t *Turn) begin() bool {
	return !t.state.CompareAndSwap(both, again) && t.state.CompareAndSwap(lined, awake)
}

// Done gives the turn back, or leaves it to its place in line. If something else has happened since the caller took it,
// or last called Done, it reports false: the caller still has the turn, and must look again.
func (t *Turn) Done() bool {
	if t.state.CompareAndSwap(awake, resting) || t.state.CompareAndSwap(both, lined) {
		return true
	}
	t.state.Store(awake)
	return false
}

// Rest gives the turn back whatever has happened, for a caller that no longer needs to know.
func (t *Turn) Rest() { t.state.Store(resting) }
