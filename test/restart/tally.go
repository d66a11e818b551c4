package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// A tally is what has gone wrong, and what has been told as it should be.
type tally struct {
	log io.Writer // gets the first of what goes wrong

	mu         sync.Mutex
	notes      int
	closed     map[int]int // connections that ended and should not have, or not so, by their code
	told       int         // connections that ended with the code that was wanted
	lost       int
	doubled    int
	disordered int
	deaf       int // subscriptions that were acked, and of which nothing comes any more
	kept       int // messages and clients that are still there after they have been given up
	unacked    int // messages without their ack
	failed     int // posts
	refused    int // newcomers
	strange    int // anything else

	cut     int // connections that ended as the server was killed, or had no room for them: no fault
	slow    int // slow readers that were told so: no fault
	dropped int // slow readers that were being closed and were not told: no fault
	full    int // subscriptions that were answered with an error, where there may be no room: no fault
}

const maxNotes = 30

// count adds n to a count of the tally and says why.
func (t *tally) count(of *int, n int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*of += n
	t.note(format, args...)
}

// expected adds one to a count of what is no fault.
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

// closing counts the end of a connection; want is the code that it was to end with, 0 when it was to live.
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

// deafness is how many messages a subscriber has to miss at the end, unless it has got none at all, to count as deaf
// and not as one that has lost them.
const deafness = 3

// page adds what a subscriber has got of an event of which it was to get [from, until); toTheEnd says that it was there
// for all of it.
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
