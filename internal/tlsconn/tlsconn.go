// Package tlsconn moves the bytes of a socket that speaks TLS, by calls that do not block or, for who can only do that,
// by calls that do.
package tlsconn

import (
	"io"
	"net"
	"sync"

	"picloud/internal/poll"
	"picloud/internal/tlsrecord"
)

// A Stream is the server's end of a TLS connection besides its descriptor. It is safe for concurrent use, except for
// the methods of its Link: those belong to whoever reads, or writes, alone.
type Stream struct {
	*tlsrecord.Link

	reading sync.Mutex
	ahead   []byte // what has been opened and not been read
	ended   error  // what follows that

	writing sync.Mutex
}

// New makes a Stream of what Handshake or tlsrecord.Restore has returned.
func New(l *tlsrecord.Link) *Stream { return &Stream{Link: l} }

// A buffer has room for what is read, or sealed, at once: two records.
type buffer [2 * tlsrecord.BufferBytes]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Recv reads what the socket has and opens it. p has room for tlsrecord.BufferBytes at least; its first n bytes are the
// client's, and moved is how many bytes were read for that. rekeyed is Open's.
//
// With n 0 and no error there is no whole record yet, and it may be called again. poll.ErrAgain: there is nothing to
// read. io.EOF: the client has ended its side. Any other error ends the connection, and Bye tells the client.
func (s *Stream) Recv(fd int, p []byte) (n, moved int, rekeyed bool, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	switch {
	case len(s.ahead) > 0:
		return s.take(p), 0, false, nil
	case s.ended != nil:
		return 0, 0, false, s.ended
	}
	held := s.Resume(p)
	if moved, err = poll.Recv(fd, p[held:]); err != nil {
		return 0, 0, false, err
	}
	if moved == 0 {
		return 0, 0, false, s.end()
	}
	n, rekeyed, s.ended = s.Open(p[:held+moved])
	if n == 0 {
		err = s.ended
	}
	return n, moved, rekeyed, err
}

// end is what the end of the socket's bytes means. Many clients do not send close_notify.
func (s *Stream) end() error {
	if s.AtRest() {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

func (s *Stream) take(p []byte) int {
	n := copy(p, s.ahead)
	if s.ahead = s.ahead[n:]; len(s.ahead) == 0 {
		s.ahead = nil
	}
	return n
}

// Ahead returns what has been opened and not been read, and that it is no longer the Stream's.
func (s *Stream) Ahead() []byte {
	s.reading.Lock()
	defer s.reading.Unlock()
	p := s.ahead
	s.ahead = nil
	return p
}

// Send sends what is owed and then, if the socket takes all of it, seals and sends bufs: as much as fits into one
// buffer, and as the socket takes without blocking. n bytes of bufs are taken, whatever err is: they have been sent, or
// are owed. moved is how many bytes the socket has taken. sealed is called, if it is not nil, after something has been
// sealed and before any of that is sent.
//
// poll.ErrAgain: the socket takes no more for now.
func (s *Stream) Send(fd int, bufs [][]byte, sealed func(rekeyed bool) error) (n, moved int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if owed := s.Owed(); len(owed) > 0 {
		moved, err = poll.Send(fd, owed)
		if err != nil {
			return 0, 0, err
		}
		if s.Sent(moved); moved < len(owed) {
			return 0, moved, poll.ErrAgain
		}
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	records, n, rekeyed, err := s.Seal(b[:0], bufs)
	if err != nil || len(records) == 0 {
		return 0, moved, err
	}
	if sealed != nil {
		if err := sealed(rekeyed); err != nil { // they must not be sent, nor anything after them
			s.Owe(records)
			return n, moved, err
		}
	}
	sent, err := poll.Send(fd, records)
	s.Owe(records[sent:])
	if err == nil && sent < len(records) {
		err = poll.ErrAgain
	}
	return n, moved + sent, err
}

// Owes reports whether something that has been sealed has not been sent yet.
func (s *Stream) Owes() bool { return len(s.Owed()) > 0 }

// Bye tells the client that nothing follows, and why, if that can be done at once and nobody is writing: see
// tlsrecord.Link's Close. Nothing can be sent after it.
func (s *Stream) Bye(fd int, why error) {
	if !s.writing.TryLock() {
		return
	}
	defer s.writing.Unlock()
	var b [tlsrecord.Overhead + 2]byte
	if record := s.Close(b[:0], why); len(record) > 0 {
		poll.Send(fd, record)
	}
}

// Wipe clears the secrets, and ends the Stream. It waits for calls that are under way.
func (s *Stream) Wipe() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.Link.Wipe()
	s.ahead = nil
}

// Over returns the connection as one whose calls block, for as long as its deadlines allow, on nc, which is the same
// socket. Closing it closes nc and says nothing to the client.
func (s *Stream) Over(nc net.Conn) net.Conn { return blocking{nc, s} }

type blocking struct {
	net.Conn
	*Stream
}

func (c blocking) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for len(c.ahead) == 0 {
		if c.ended != nil {
			return 0, c.ended
		}
		held := c.Resume(b[:])
		moved, err := c.Conn.Read(b[held:])
		if moved == 0 {
			if err == io.EOF {
				err = c.end()
			}
			return 0, err
		}
		n, _, err := c.Open(b[:held+moved])
		c.ahead, c.ended = append([]byte(nil), b[:n]...), err
	}
	return c.take(p), nil
}

func (c blocking) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for {
		for c.Owes() {
			moved, err := c.Conn.Write(c.Owed())
			c.Sent(moved)
			if err != nil {
				return n, err
			}
		}
		if n == len(p) {
			return n, nil
		}
		records, k, _, err := c.Seal(b[:0], [][]byte{p[n:]})
		if err != nil {
			return n, err
		}
		n += k
		c.Owe(records)
	}
}

func (c blocking) Close() error { return c.Conn.Close() }
