package main

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// spoolBytes is how much may wait to be printed: a journal that stalls for a moment loses nothing.
	spoolBytes = 256 << 10
	// recordBytes is what a record costs besides its text.
	recordBytes = 64
	// flushTime is how long a shutdown may wait for what is still to be printed.
	flushTime = time.Second
	// greetTime is how long a greeting waits for what was logged before, so that it comes after that on a terminal.
	greetTime = 100 * time.Millisecond
)

// A spool prints what is written to it, and never makes the writer wait: a full pipe or a stuck journal does not hold
// up the work. Beyond spoolBytes, and while printing fails, lines are dropped and counted; when printing works again, a
// note says how many.
type spool struct {
	w    io.Writer
	note func(dropped uint64) []byte // nil: no note

	dropped atomic.Uint64 // since the beginning

	wake chan struct{} // there may be something to do; of capacity 1
	done chan struct{} // closed when the printing has ended

	mu      sync.Mutex
	records []record
	size    int       // of the records, including the one being printed
	since   time.Time // when the current print began; zero: there is none
	lost    uint64    // lines that no note has reported yet
	full    bool      // new lines are dropped until all records are printed
	fails   bool      // the last print failed
	closed  bool
}

// A record is one write or, if text is nil, a mark in their order.
type record struct {
	text    []byte
	printed chan struct{} // of a mark: closed when all before it is printed
}

// newSpool prints to w from now until close.
func newSpool(w io.Writer, note func(dropped uint64) []byte) *spool {
	s := &spool{w: w, note: note, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write takes a copy of p, which is printed as a whole, or dropped. It neither blocks nor fails.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch cost := len(p) + recordBytes; {
	case s.closed, s.full, s.size+cost > spoolBytes:
		s.full = true
		s.lose()
	default:
		s.records = append(s.records, record{text: append(make([]byte, 0, len(p)), p...)})
		s.size += cost
		s.ring()
	}
	return len(p), nil
}

// flush returns when everything written before is printed, or after limit.
func (s *spool) flush(limit time.Duration) {
	printed := make(chan struct{})
	s.mu.Lock()
	s.records = append(s.records, record{printed: printed})
	s.ring()
	s.mu.Unlock()
	wait(printed, limit)
}

// close ends the printing. It returns when everything is printed or after limit, and at once if a print has already
// hung for that long: at a restart clients are waiting. That print is left behind, blocked in the kernel until the
// process ends.
func (s *spool) close(limit time.Duration) {
	s.mu.Lock()
	s.closed = true
	isStuck := !s.since.IsZero() && time.Since(s.since) >= limit
	s.ring()
	s.mu.Unlock()
	if !isStuck {
		wait(s.done, limit)
	}
}

func wait(until <-chan struct{}, limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-until:
	case <-t.C:
	}
}

// lose counts a line. mu must be held.
func (s *spool) lose() {
	s.dropped.Add(1)
	if s.note != nil {
		s.lost++
	}
}

// ring wakes run. mu must be held.
func (s *spool) ring() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *spool) run() {
	defer close(s.done)
	for {
		r, lost, ok := s.next()
		switch {
		case !ok:
			return
		case lost > 0:
			s.settle(0, lost, s.print(s.note(lost)))
		case r.text == nil:
			close(r.printed)
		default:
			s.settle(len(r.text)+recordBytes, 0, s.print(r.text))
		}
	}
}

func (s *spool) print(text []byte) error {
	s.printing(time.Now())
	_, err := s.w.Write(text)
	s.printing(time.Time{})
	return err
}

func (s *spool) printing(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// next waits for a record, or for lost lines that can be reported. Their note takes their place: after what was written
// before them. ok is false at the end.
func (s *spool) next() (r record, lost uint64, ok bool) {
	for {
		s.mu.Lock()
		switch {
		case len(s.records) > 0 && (s.lost == 0 || s.full || s.fails):
			r = s.records[0]
			s.records[0] = record{} // so that the array does not keep it
			s.records = s.records[1:]
			s.mu.Unlock()
			return r, 0, true
		case s.lost > 0 && !s.fails:
			lost, s.lost, s.full = s.lost, 0, false
			s.mu.Unlock()
			return record{}, lost, true
		}
		s.full = false
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return record{}, 0, false
		}
		<-s.wake
	}
}

// settle records how a print ended: one that took cost bytes of the spool, and was to report told lost lines.
func (s *spool) settle(cost int, told uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= cost
	s.fails = err != nil
	switch {
	case err == nil:
	case told > 0:
		s.lost += told
	default:
		s.lose()
	}
}
