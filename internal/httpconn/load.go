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

// A bearer is a holder that counts for some memory.
type bearer interface {
	holder
	// bears returns how much that is, and when the client was last active.
	bears() (load, time.Time)
	// tcp calls use with the connection's descriptor, unless it is closed or a Unix socket's.
	tcp(use func(fd int))
}

// Waiting is what counts in Config.Waiting.
func (s *Set) Waiting() iter.Seq[quota.Share] { return s.shares(true) }

// shares is what those hold who have shown the key, or need not, or what the others do.
func (s *Set) shares(known bool) iter.Seq[quota.Share] {
	return func(yield func(quota.Share) bool) {
		for _, b := range s.bearers() {
			l, since := b.bears()
			end := func() { b.yield(time.Time{}, always) }
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
		for _, b := range s.bearers() {
			l, since := b.bears()
			if l.known != known {
				continue
			}
			n := 0
			b.tcp(func(fd int) { n = poll.Held(fd) })
			end := func() {
				b.tcp(poll.Reset)
				b.yield(time.Time{}, always)
			}
			if n > 0 && !yield(quota.Share{Held: n, Since: since, End: end}) {
				return
			}
		}
	}
}

func (s *Set) bearers() []bearer {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]bearer, 0, len(s.conns)+len(s.strangers))
	for c := range s.conns {
		list = append(list, c)
	}
	for _, st := range s.strangers {
		list = append(list, st)
	}
	return list
}

// relieve sees to it that those who have not shown the key hold no more than they may.
func (s *Set) relieve() {
	if s.keyless.Over() {
		s.keyless.Relieve(s.shares(false))
	}
}
