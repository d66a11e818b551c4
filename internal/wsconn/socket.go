package wsconn

import (
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"picloud/internal/poll"
	"picloud/internal/tlsconn"
	"picloud/internal/tlsrecord"

	"golang.org/x/sys/unix"
)

// errAgain says that a read or write would block.
var errAgain = poll.ErrAgain

// A socket is a value, so that a delivery finds it in the connection itself: a non-blocking descriptor that no other
// part of the program knows and, where its bytes are not simply what is read and written, a stream.
type socket struct {
	fd     int
	stream stream // nil: the descriptor's bytes as they are
}

// A stream moves bytes over the descriptor, in another form. One goroutine may read and one may write at the same time;
// nothing is called after close.
type stream interface {
	// read returns errAgain when there is nothing to read, and io.EOF at the end. moved is how many bytes were read
	// from the descriptor for n, which can be 0 for now. p has room for tlsrecord.BufferBytes at least.
	read(p []byte) (n, moved int, err error)
	// holds is how many bytes have been read that bring nothing yet.
	holds() int
	// rests notes where the reading side stands, and reports whether nothing is unfinished there.
	rests() bool
	// write may take less than all, and returns errAgain when the descriptor takes no more. n bytes are taken, whatever
	// err is; moved is how many the descriptor has taken for them, and owes tells whether it has to take more.
	write(bufs [][]byte) (n, moved int, err error)
	owes() bool
	// DropInCipher and DropOutCipher give up what read and write make again: see tlsrecord.Link.
	DropInCipher()
	DropOutCipher()
	// bye tells the peer that nothing follows, and why. It is the writer's.
	bye(why error)
	// closeWrite ends the stream to the peer, after bye.
	closeWrite()
	// abort ends all reads and writes, including those to come.
	abort()
	close()
}

func (s socket) read(p []byte) (n, moved int, err error) {
	if s.stream != nil {
		return s.stream.read(p)
	}
	n, err = poll.Recv(s.fd, p)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, n, err
}

// reads is how much room read needs to have.
func (s socket) reads() int {
	if s.stream != nil {
		return tlsrecord.BufferBytes
	}
	return 1
}

func (s socket) holds() int {
	if s.stream != nil {
		return s.stream.holds()
	}
	return 0
}

// quiet reports whether the poller will tell of all that there is to read.
func (s socket) quiet() bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN
}

func (s socket) rests() bool { return s.stream == nil || s.stream.rests() }

// write takes from 1 to maxSlices buffers.
func (s socket) write(bufs [][]byte) (n, moved int, err error) {
	switch st := s.stream.(type) {
	case nil:
		n, err = s.writePlain(bufs)
		return n, n, err
	case *sealed: // known, so that bufs can stay on its stack
		return st.write(bufs)
	default:
		return st.write(slices.Clone(bufs))
	}
}

func (s socket) writePlain(bufs [][]byte) (int, error) {
	if len(bufs) == 1 {
		return poll.Send(s.fd, bufs[0])
	}
	for {
		n, errno := writev(s.fd, bufs)
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, fmt.Errorf("write: %w", errno)
		}
	}
}

func (s socket) owes() bool { return s.stream != nil && s.stream.owes() }

// writev makes one system call, as poll.Send does.
func writev(fd int, bufs [][]byte) (int, syscall.Errno) {
	var vec [maxSlices]unix.Iovec
	for i, b := range bufs {
		vec[i].Base = unsafe.SliceData(b)
		vec[i].SetLen(len(b))
	}
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&vec)), uintptr(len(bufs)))
	return int(n), errno
}

func (s socket) bye(why error) {
	if s.stream != nil {
		s.stream.bye(why)
	}
}

func (s socket) closeWrite() {
	if s.stream != nil {
		s.stream.closeWrite()
		return
	}
	unix.Shutdown(s.fd, unix.SHUT_WR)
}

func (s socket) abort() {
	if s.stream != nil {
		s.stream.abort()
		return
	}
	unix.Shutdown(s.fd, unix.SHUT_RDWR)
}

func (s socket) close() {
	if s.stream != nil {
		s.stream.close()
		return
	}
	unix.Close(s.fd)
}

// sealed is the stream of a connection with TLS.
type sealed struct {
	fd int
	*tlsconn.Stream
}

func (s *sealed) read(p []byte) (n, moved int, err error)       { return s.Recv(s.fd, p) }
func (s *sealed) holds() int                                    { return s.Held() }
func (s *sealed) rests() bool                                   { return s.Rests() }
func (s *sealed) write(bufs [][]byte) (n, moved int, err error) { return s.Send(s.fd, bufs) }
func (s *sealed) owes() bool                                    { return s.Owes() }
func (s *sealed) bye(why error)                                 { s.Bye(s.fd, why) }
func (s *sealed) closeWrite()                                   { unix.Shutdown(s.fd, unix.SHUT_WR) }
func (s *sealed) abort()                                        { unix.Shutdown(s.fd, unix.SHUT_RDWR) }
func (s *sealed) close() {
	s.Wipe()
	unix.Close(s.fd)
}

// A Taker is a connection that can give its descriptor away, non-blocking, with its place in the Set's poller, what it
// speaks TLS with, and what it has read ahead. Take closes it.
type Taker interface {
	Take() (fd int, place poll.Place, tls *tlsconn.Stream, ahead []byte, err error)
}

// newSocket takes over a hijacked connection, which must be a Taker.
func newSocket(nc net.Conn, peerTimeout time.Duration) (s socket, place poll.Place, ahead []byte, err error) {
	t, ok := nc.(Taker)
	if !ok {
		return socket{}, place, nil, fmt.Errorf("a connection of type %T cannot be taken over", nc)
	}
	_, isTCP := nc.RemoteAddr().(*net.TCPAddr)
	var over *tlsconn.Stream
	if s.fd, place, over, ahead, err = t.Take(); err == nil && isTCP {
		watchPeer(s.fd, peerTimeout)
	}
	if over != nil {
		s.stream = &sealed{s.fd, over}
	}
	return s, place, ahead, err
}

// watchPeer makes the kernel end a connection whose peer acknowledges nothing for that long, tcp(7). Where the option
// is not known (an emulator), the kernel's own retransmission limit does so later.
func watchPeer(fd int, timeout time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}
