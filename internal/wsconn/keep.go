package wsconn

import (
	"errors"

	"picloud/internal/handover"
)

// Kept returns the connection's entry in the Set's store, or nil if it ends with the process.
func (c *Conn) Kept() *handover.Kept { return c.kept }

// enlist puts a new connection into the store. A connection that cannot be kept ends with the process; one without a
// mark ends if the process is killed.
func (c *Conn) enlist() {
	s := c.set.store
	if s == nil {
		return
	}
	kept, err := s.Keep(c.sock.fd)
	if err != nil {
		return
	}
	if over, ok := c.sock.stream.(*sealed); ok {
		secret := kept.Secret()
		if secret == nil {
			kept.Drop()
			return
		}
		over.Keep(secret)
	}
	c.kept = kept
	if err := c.count(nil); err != nil {
		c.kept = nil
		kept.Drop()
	}
}

// The words of a mark.
type word bool

const (
	markRead    word = false
	markWritten word = true
)

// count sets the connection's mark, if it has one, before anything is read or written. moved is how many bytes have
// been read and written before; nil: the kernel is asked. After an error the mark may no longer be true, and the
// connection must not be kept.
func (c *Conn) count(moved *[2]uint32) error {
	c.mark = c.kept.Mark()
	if c.mark == nil {
		return nil
	}
	if moved != nil {
		c.read, c.taken = moved[0], moved[1]
	} else {
		read, written, err := handover.Traffic(c.sock.fd)
		c.uncounted = errors.Is(err, handover.ErrNoTraffic)
		if err != nil && !c.uncounted {
			c.mark = nil
			return c.kept.Unmark()
		}
		c.read, c.taken = uint32(read), uint32(written)
	}
	c.ends(markRead, c.read, len(c.partial) == 0 && c.sock.rests())
	c.ends(markWritten, c.taken, c.out.isOut())
	return nil
}

func (c *Conn) word(w word) *uint32 {
	if w == markRead {
		return &c.mark.Read
	}
	return &c.mark.Written
}

// beginsReading notes that what is received is being worked on. If the kernel counts the bytes, this can be told
// afterwards without a note, but not with TLS: the position and what goes with it are not noted at once.
func (c *Conn) beginsReading() {
	if c.uncounted || c.mark != nil && c.sock.stream != nil {
		c.ends(markRead, c.read, false)
	}
}

// ends notes where a stream stands. whole means that nothing is unfinished: no message half read, nothing waiting to be
// written.
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
		*c.word(w) = position - 1 // an impossible position
	}
}
