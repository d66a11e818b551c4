// Package tlsconn moves the bytes of a socket that speaks TLS, by calls that do not block or, for who can only do that,
// by calls that do.
package tlsconn

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"picloud/internal/poll"
	"picloud/internal/tlsrecord"
)

// A Stream is the server's end of a TLS connection besides its descriptor. As with its Link, one goroutine may read and
// one may write at the same time.
type Stream struct {
	*tlsrecord.Link
	ahead  []byte // what has been opened and not been read
	ended  error  // what follows that
	secret Secret // nil: it is not kept
}

// New makes a Stream of what Handshake or tlsrecord.Restore has returned.
func New(l *tlsrecord.Link) *Stream { return &Stream{Link: l} }

// A buffer has room for what is read, or sealed, at once: two records.
type buffer [2 * tlsrecord.BufferBytes]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Recv reads what the socket has and opens it. p has room for tlsrecord.BufferBytes at least; its first n bytes are the
// client's, and moved is how many bytes were read for that.
//
// With n 0 and no error there is no whole record yet, and it may be called again. poll.ErrAgain: there is nothing to
// read. io.EOF: the client has ended its side. Any other error ends the connection, and Bye tells the client.
func (s *Stream) Recv(fd int, p []byte) (n, moved int, err error) {
	switch {
	case len(s.ahead) > 0:
		return s.take(p), 0, nil
	case s.ended != nil:
		return 0, 0, s.ended
	}
	held := s.Resume(p)
	if moved, err = poll.Recv(fd, p[held:]); err != nil {
		return 0, 0, err
	}
	if moved == 0 {
		return 0, 0, s.end()
	}
	var rekeyed bool
	n, rekeyed, s.ended = s.Open(p[:held+moved])
	if rekeyed && s.secret != nil {
		s.noteInKey()
	}
	if n == 0 {
		err = s.ended
	}
	return n, moved, err
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
	p := s.ahead
	s.ahead = nil
	return p
}

// Send sends what is owed and then, if the socket takes all of it, seals and sends bufs: as much as fits into one
// buffer, and as the socket takes without blocking. n bytes of bufs are taken, whatever err is: they have been sent, or
// are owed. moved is how many bytes the socket has taken.
//
// poll.ErrAgain: the socket takes no more for now.
func (s *Stream) Send(fd int, bufs [][]byte) (n, moved int, err error) {
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
	if s.secret != nil {
		s.noteOut(rekeyed)
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

// Bye tells the client that nothing follows, and why, if that can be done at once: see tlsrecord.Link's Close. Nothing
// can be sent after it.
func (s *Stream) Bye(fd int, why error) {
	var b [tlsrecord.Overhead + 2]byte
	if record := s.Close(b[:0], why); len(record) > 0 {
		poll.Send(fd, record)
	}
}

// Over returns the connection as one whose calls block, for as long as its deadlines allow, on nc, which is the same
// socket. Closing it closes nc and says nothing to the client; when Close has returned, no call uses the Stream any
// more.
func (s *Stream) Over(nc net.Conn) (net.Conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T has no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	return &blocking{Conn: nc, raw: raw, stream: s}, err
}

// The Stream is used inside raw's calls only: Conn's Close waits for those, and they fail after it.
type blocking struct {
	net.Conn
	raw    syscall.RawConn
	stream *Stream
	in     sync.Mutex // held while the Stream is used, so that the race detector sees that Close waits
	out    sync.Mutex
}

func (c *blocking) Close() error {
	err := c.Conn.Close()
	c.in.Lock()
	c.out.Lock()
	defer c.in.Unlock()
	defer c.out.Unlock()
	return err
}

func (c *blocking) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	rerr := c.raw.Read(func(fd uintptr) bool {
		c.in.Lock()
		defer c.in.Unlock()
		n, err = c.stream.read(int(fd), p)
		return err != poll.ErrAgain
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

// read is Recv for any p.
func (s *Stream) read(fd int, p []byte) (n int, err error) {
	if len(s.ahead) == 0 && s.ended == nil {
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		for n == 0 && err == nil {
			n, _, err = s.Recv(fd, b[:tlsrecord.BufferBytes])
		}
		if n == 0 {
			return 0, err
		}
		k := copy(p, b[:n])
		s.ahead = append(s.ahead, b[k:n]...)
		return k, nil
	}
	n, _, err = s.Recv(fd, p)
	return n, err
}

func (c *blocking) Write(p []byte) (n int, err error) {
	werr := c.raw.Write(func(fd uintptr) bool {
		c.out.Lock()
		defer c.out.Unlock()
		for {
			var k int
			k, _, err = c.stream.Send(int(fd), [][]byte{p[n:]})
			n += k
			if err != nil || n == len(p) {
				return err != poll.ErrAgain
			}
		}
	})
	return n, cmp.Or(werr, err)
}
