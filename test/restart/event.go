package main

import (
	"sync"
	"time"
)

// A sequence is what one subscriber has got of one event since it subscribed, whose messages are numbered.
type sequence struct {
	begun               bool
	first, next         int          // what has come is in [first, next)
	missing             map[int]bool // of them
	doubled, disordered int
}

func (s *sequence) got(n int) {
	switch {
	case !s.begun:
		s.begun, s.first, s.next = true, n, n+1
	case n >= s.next:
		for ; s.next < n; s.next++ {
			if s.missing == nil {
				s.missing = make(map[int]bool)
			}
			s.missing[s.next] = true
		}
		s.next++
	case n < s.first: // those between are on their way, or lost
		for s.first--; s.first > n; s.first-- {
			if s.missing == nil {
				s.missing = make(map[int]bool)
			}
			s.missing[s.first] = true
		}
		s.disordered++
	case s.missing[n]:
		delete(s.missing, n)
		s.disordered++
	default:
		s.doubled++
	}
}

func (s *sequence) has(n int) bool { return s.begun && s.first <= n && n < s.next && !s.missing[n] }

// An event has one source, whose messages are numbered from 0.
type event struct {
	name string

	mu       sync.Mutex
	sent     int          // the number behind the last message that has been begun
	accepted int          // messages: their ack or 201 has come
	top      int          // the number behind the last of them
	between  map[int]bool // the numbers below top of which it is not known
	over     bool
	changed  chan struct{} // closed and replaced with each change
	last     time.Time     // when the last was accepted
	silent   time.Duration // the longest between two
	then     func()        // what is done when the next is accepted
}

func newEvent(name string) *event { return &event{name: name, changed: make(chan struct{})} }

// send is told each number before a byte of its message is sent: who was subscribed before has to get it.
func (e *event) send(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = max(e.sent, n+1)
}

// begun is the number from which on no message has been begun.
func (e *event) begun() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent
}

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
		e.sent = max(e.sent, e.top)
		e.accepted++
		now := time.Now()
		if !e.last.IsZero() {
			e.silent = max(e.silent, now.Sub(e.last))
		}
		e.last = now
	})
	e.mu.Lock()
	then := e.then
	e.then = nil
	e.mu.Unlock()
	if then != nil {
		then()
	}
}

// atNext has something done when the next message is accepted, by whoever has read its ack, at once.
func (e *event) atNext(then func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.then = then
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

// next is closed with the next change.
func (e *event) next() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *event) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.accepted
}

// behind is the number behind the last accepted message.
func (e *event) behind() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.top
}

// misses tells which of the accepted messages in [from, until) a sequence has not got: those in front of the last that
// it has got, and those behind it. Of one that has got something, what lies between counts wherever it began.
func (e *event) misses(s *sequence, from, until int) (within, behind int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.begun {
		from, until = min(from, s.first), max(until, s.next)
	}
	for n := max(from, 0); n < min(until, e.top); n++ {
		switch {
		case s.has(n) || e.between[n]:
		case s.begun && n < s.next:
			within++
		default:
			behind++
		}
	}
	return within, behind
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
