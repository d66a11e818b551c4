package httpconn

import (
	"iter"
	"time"

	"picloud/internal/poll"
	"picloud/internal/quota"
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

// shown makes it count among those that have shown the key, and reports whether it has not before.
func (l *load) shown(s *Set) bool {
	if l.known {
		return false
	}
	l.known = true
	s.keyless.Add(-l.bytes)
	s.cfg.Waiting.Add(l.bytes)
	return true
}

// Waiting is what counts in Config.Waiting.
func (s *Set) Waiting() iter.Seq[quota.Share] { return s.shares(true) }

// shares is what those hold who have shown the key, or need not, or what the others do.
func (s *Set) shares(known bool) iter.Seq[quota.Share] {
	return func(yield func(quota.Share) bool) {
		for _, c := range s.all() {
			l, since := c.bears()
			end := func() { c.yield(time.Time{}, always) }
			if l.bytes > 0 && l.known == known && !yield(quota.Share{Held: l.bytes, Since: since, End: end}) {
				return
			}
		}
	}
}

// Buffered is what the kernel holds, over TCP, for those who have shown the key, or for the others. Whoever is ended
// here gets a reset.
func (s *Set) Buffered(known bool) iter.Seq[quota.Share] {
	return func(yield func(quota.Share) bool) {
		for _, c := range s.all() {
			l, since := c.bears()
			if l.known != known {
				continue
			}
			n := 0
			c.tcp(func(fd int) { n = poll.Held(fd) })
			end := func() {
				c.tcp(poll.Reset)
				c.yield(time.Time{}, always)
			}
			if n > 0 && !yield(quota.Share{Held: n, Since: since, End: end}) {
				return
			}
		}
	}
}

// relieve sees to it that those who have not shown the key hold no more than they may.
func (s *Set) relieve() {
	if s.keyless.Over() {
		s.keyless.Relieve(s.shares(false))
	}
}
