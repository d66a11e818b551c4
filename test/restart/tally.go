package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A sequence is what one subscriber has got of one event, whose messages are numbered from 0.
type sequence struct {
	next                int
	missing             map[int]bool // below next
	doubled, disordered int
}

func (s *sequence) got(n int) {
	switch {
	case n >= s.next:
		for ; s.next < n; s.next++ {
			if s.missing == nil {
				s.missing = make(map[int]bool)
			}
			s.missing[s.next] = true
		}
		s.next++
	case s.missing[n]:
		delete(s.missing, n)
		s.disordered++
	default:
		s.doubled++
	}
}

// An event has one source, whose messages are numbered from 0.
type event struct {
	name string

	mu       sync.Mutex
	accepted int          // messages: their ack or 201 has come
	top      int          // the number behind the last of them
	between  map[int]bool // the numbers below top of which it is not known
	over     bool
	changed  chan struct{} // closed and replaced with each change
	last     time.Time     // when the last was accepted
	silent   time.Duration // the longest between two
}

func newEvent(name string) *event { return &event{name: name, changed: make(chan struct{})} }

// accept is told each number that is accepted, in order.
func (e *event) accept(n int) {
	e.change(func() {
		for ; e.top < n; e.top++ {
			if e.between == nil {
				e.between = make(map[int]bool)
			}
			e.between[e.top] = true
		}
		e.top = max(e.top, n+1)
		e.accepted++
		now := time.Now()
		if !e.last.IsZero() {
			e.silent = max(e.silent, now.Sub(e.last))
		}
		e.last = now
	})
}

// silence is the longest time between two accepted messages since the last call.
func (e *event) silence() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	silent := e.silent
	e.silent = 0
	return silent
}

// end says that no message will be accepted any more.
func (e *event) end() { e.change(func() { e.over = true }) }

func (e *event) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *event) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.accepted
}

// lost is how many of the accepted messages a sequence has not got.
func (e *event) lost(s *sequence) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	lost := 0
	for n := range e.top {
		if (n >= s.next || s.missing[n]) && !e.between[n] {
			lost++
		}
	}
	return lost
}

// await returns when n messages have been accepted, or there will be no more.
func (e *event) await(n int) {
	for {
		e.mu.Lock()
		done, changed := e.accepted >= n || e.over, e.changed
		e.mu.Unlock()
		if done {
			return
		}
		<-changed
	}
}

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
	unacked    int // messages without their ack
	failed     int // posts
	refused    int // newcomers
	strange    int // anything else
	cut        int // connections with traffic that ended as the server was killed
}

const maxNotes = 20

// count adds one to a count of the tally, or n, and says why.
func (t *tally) count(of *int, n int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*of += n
	t.note(format, args...)
}

// note needs mu.
func (t *tally) note(format string, args ...any) {
	if t.notes++; t.notes <= maxNotes {
		fmt.Fprintf(t.log, "restart: "+format+"\n", args...)
	}
}

// closing counts the end of a connection; want is the code that it was to end with, 0 when it was to live.
func (t *tally) closing(p *peer, err error, want int) {
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
	t.note("%s: %v", p.name, e)
}

// sequence adds what a subscriber got of an event.
func (t *tally) sequence(name string, e *event, s *sequence) {
	lost := e.lost(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost += lost
	t.doubled += s.doubled
	t.disordered += s.disordered
	if lost+s.doubled+s.disordered > 0 {
		t.note("%s: of %d messages of %s %d lost, %d doubled, %d out of order", name, e.count(), e.name, lost, s.doubled, s.disordered)
	}
}
