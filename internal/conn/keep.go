package conn

import (
	"errors"

	"picloud/internal/handover"
)

// Kept is how the store knows a connection. The zero Kept is that of one which ends with the process.
type Kept struct {
	ID    uint64
	Place int // of its mark, or -1
}

// Kept returns how the Set's store knows the connection.
func (c *Conn) Kept() Kept { return c.kept }

// enlist puts a new connection into the store. One that cannot be kept ends with the process; one without a mark when that is
// killed.
func (c *Conn) enlist() {
	s := c.set.store
	if s == nil || c.sock.fd < 0 {
		return
	}
	id, err := s.Put(c.sock.fd)
	if err != nil {
		return
	}
	c.kept = Kept{ID: id, Place: -1}
	if place, ok := s.Take(); ok {
		c.kept.Place = place
		c.mark = s.At(place)
		c.count()
	}
}

// delist takes a connection that has been shut down out of the store.
func (c *Conn) delist() {
	if c.kept.ID == 0 {
		return
	}
	c.set.store.Drop(c.kept.ID)
	if c.kept.Place >= 0 {
		c.set.store.Give(c.kept.Place)
	}
}

// The words of a mark.
type word bool

const (
	markRead    word = false
	markWritten word = true
)

// count begins the marks: nobody reads or writes yet.
func (c *Conn) count() {
	if c.mark == nil {
		return
	}
	read, written, err := handover.Traffic(c.sock.fd)
	c.uncounted = errors.Is(err, handover.ErrNoTraffic)
	if err != nil && !c.uncounted {
		c.mark = nil
		return
	}
	c.read, c.taken = uint32(read), uint32(written)
	c.ends(markRead, c.read, len(c.partial) == 0)
	c.ends(markWritten, c.taken, c.out.size == 0)
}

func (c *Conn) word(w word) *uint32 {
	if w == markRead {
		return &c.mark.Read
	}
	return &c.mark.Written
}

// begins notes that a stream is being worked on. Of one that the kernel counts it can be told afterwards.
func (c *Conn) begins(w word) {
	if c.uncounted {
		*c.word(w) = 1
	}
}

// ends notes where a stream stands, whole when nothing is unfinished: no message half read, nothing waiting to be written.
func (c *Conn) ends(w word, position uint32, whole bool) {
	switch {
	case c.mark == nil:
	case c.uncounted && whole:
		*c.word(w) = 0
	case c.uncounted:
		*c.word(w) = 1
	case whole:
		*c.word(w) = position
	default:
		*c.word(w) = position - 1 // which cannot be
	}
}
