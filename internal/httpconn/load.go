package httpconn

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// A load is the memory that a connection counts for. Its owner's lock guards it.
type load struct {
	bytes int
	known bool // it counts among those of connections that have shown the key, or need not
}

// set makes it count for n bytes.
func (l *load) set(s *Set, n int) {
	if n == l.bytes {
		return
	}
	if l.known {
		s.cfg.Waiting.Add(n - l.bytes)
	} else {
		s.keyless.Add(n - l.bytes)
	}
	l.bytes = n
}

// shown makes it count among those that have shown the key.
func (l *load) shown(s *Set) {
	if !l.known {
		l.known = true
		s.keyless.Add(-l.bytes)
		s.cfg.Waiting.Add(l.bytes)
	}
}

// Waiting calls add for each connection that counts in Config.Waiting, with how much it counts for, and with what ends
// it as the one that holds most.
func (s *Set) Waiting(add func(bytes int, end func())) {
	s.loads(func(l load, _ time.Time, h holder) {
		if l.bytes > 0 && l.known {
			add(l.bytes, func() { h.yield(time.Time{}, always) })
		}
	})
}

// loads calls add for each connection, with when its client was last active.
func (s *Set) loads(add func(load, time.Time, holder)) {
	for _, c := range s.all() {
		c.mu.Lock()
		l, since := c.load, c.since
		c.mu.Unlock()
		add(l, since, c)
	}
	s.mu.Lock()
	strangers := make([]*stranger, 0, len(s.strangers))
	for _, st := range s.strangers {
		strangers = append(strangers, st)
	}
	s.mu.Unlock()
	for _, st := range strangers {
		st.mu.Lock()
		l, since := st.load, st.since
		st.mu.Unlock()
		add(l, since, st)
	}
}

// relieve ends those who hold most without having shown the key, if all of them hold too much; of several that hold the
// same, those that have kept the server waiting the longest.
func (s *Set) relieve() {
	if !s.keyless.Over() || !s.relieving.TryLock() {
		return
	}
	defer s.relieving.Unlock()
	type held struct {
		bytes int
		since time.Time
		holder
	}
	var all []held
	s.loads(func(l load, since time.Time, h holder) {
		if l.bytes > 0 && !l.known {
			all = append(all, held{l.bytes, since, h})
		}
	})
	slices.SortFunc(all, func(a, b held) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), a.since.Compare(b.since))
	})
	excess := s.keyless.Used() - s.keyless.Limit() // what is ended gives its memory back a moment later
	for _, h := range all {
		if excess <= 0 {
			break
		}
		h.yield(time.Time{}, always)
		excess -= h.bytes
	}
}

// relieveAlways is relieve whenever it is due, until ctx ends.
func (s *Set) relieveAlways(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.keyless.Exceeded():
			s.relieve()
		}
	}
}
