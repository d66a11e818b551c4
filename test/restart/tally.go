package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A tally counts what has gone wrong, and what has ended as it should.
type tally struct {
	log io.Writer // receives the first faults

	mu         sync.Mutex
	notes      int
	closed     map[int]int // connections that should not have ended, or not with that code
	told       int         // connections that ended with the wanted code
	lost       int
	doubled    int
	disordered int
	deaf       int // subscriptions that were acked, but nothing comes any more
	kept       int // deliveries after an unsubscribe, and clients still listed after leaving
	unacked    int // messages without their ack
	failed     int // posts
	refused    int // newcomers
	strange    int // anything else

	cut     int // connections that ended because the server was killed or had no room: no fault
	slow    int // slow readers that were told so: no fault
	dropped int // slow readers that were being closed but were not told: no fault
	full    int // subscriptions refused where there may be no room: no fault
}

const maxNotes = 30

// count adds n to one of the tally's counts and logs why.
func (t *tally) count(of *int, n int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*of += n
	t.note(format, args...)
}

// expected adds one to a count of something that is no fault.
func (t *tally) expected(of *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*of++
}

// note prints a line, up to maxNotes of them. mu must be held.
func (t *tally) note(format string, args ...any) {
	if t.notes++; t.notes <= maxNotes {
		fmt.Fprintf(t.log, "restart: "+format+"\n", args...)
	}
}

// closing counts the end of a connection; want is the code that it should have ended with, or 0 if it should have lived
// on.
func (t *tally) closing(name string, err error, want int) {
	e, ok := errors.AsType[*closeError](err)
	if !ok {
		e = &closeError{abnormal, err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.code == want {
		t.told++
		return
	}
	if t.closed == nil {
		t.closed = make(map[int]int)
	}
	t.closed[e.code]++
	t.note("%s: %v", name, e)
}

// deafness is how many messages a subscriber must miss at the end to count as deaf rather than as having lost them. One
// that has received none at all is deaf in any case.
const deafness = 3

// page adds what a subscriber has received of an event of which it should have received [from, until); toTheEnd means
// that it stayed for all of it.
func (t *tally) page(name string, e *event, s *sequence, from, until int, toTheEnd bool) {
	lost, behind := e.misses(s, from, until)
	deaf := 0
	switch {
	case !toTheEnd:
	case behind >= deafness, behind > 0 && !s.begun:
		deaf = 1
	default:
		lost += behind
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost += lost
	t.deaf += deaf
	t.doubled += s.doubled
	t.disordered += s.disordered
	if lost+deaf+s.doubled+s.disordered > 0 {
		t.note("%s: of the messages %d to %d of %s %d lost, %d doubled, %d out of order, and behind %d none of %d",
			name, from, until-1, e.name,
			lost, s.doubled, s.disordered, s.next-1, behind)
	}
}
