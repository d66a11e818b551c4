package main

import (
	"sync"
	"time"
)

// A sequence is what one subscriber has received of one event since it subscribed. Messages are numbered.
type sequence struct {
	begun               bool
	first, next         int          // what has been received is in [first, next)
	missing             map[int]bool // within [first, next)
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
	case n < s.first: // those between may still come, or are lost
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
	sent     int          // the number after the last message begun
	accepted int          // messages whose ack or 201 has come
	top      int          // the number after the last accepted message
	between  map[int]bool // numbers below top that may not have been accepted
	over     bool
	changed  chan struct{} // closed and replaced with each change
	last     time.Time     // when the last was accepted
	silent   time.Duration // the longest time between two
	then     func()        // called when the next is accepted
}

func newEvent(name string) *event { return &event{name: name, changed: make(chan struct{})} }

// send is called with each number before any byte of its message is sent: clients that are already subscribed must
// receive it.
func (e *event) send(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = max(e.sent, n+1)
}

// begun is the number after the last message begun.
func (e *event) begun() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent
}

// accept is called with each accepted number, in order.
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

// atNext makes the reader of the next accepted message's ack call then, at once.
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

// end notes that no more messages will be accepted.
func (e *event) end() { e.change(func() { e.over = true }) }

func (e *event) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.changed)
	e.changed = make(chan struct{})
}

// next returns a channel that is closed at the next change.
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

// behind is the number after the last accepted message.
func (e *event) behind() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.top
}

// misses counts the accepted messages in [from, until) that a sequence lacks: within, before the last one received, and
// behind, after it. If the sequence has any message, its own range counts too.
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

// await returns when n messages have been accepted or no more will be.
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
