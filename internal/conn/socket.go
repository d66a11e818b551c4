package conn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"picloud/internal/poll"

	"golang.org/x/sys/unix"
)

// errAgain says that a read or write would have to wait.
var errAgain = poll.ErrAgain

// A socket is a non-blocking descriptor that no other part of the program knows or, where that is not enough, a stream.
// It is a value, so that a delivery finds it in the connection itself.
type socket struct {
	fd     int
	stream stream // nil: the descriptor
}

// A stream moves bytes. Its calls are safe beside each other, but not after close.
type stream interface {
	// read returns errAgain or waits when there is nothing, (0, nil) or io.EOF at the end.
	read(p []byte) (int, error)
	// write may write less than all; it returns errAgain or waits when the kernel takes no more.
	write(bufs [][]byte) (int, error)
	// closeWrite tells the peer that nothing follows.
	closeWrite()
	// interrupt ends the reads that wait.
	interrupt()
	// abort ends all reads and writes, those to come too.
	abort()
	close()
}

func (s socket) read(p []byte) (int, error) {
	if s.stream != nil {
		return s.stream.read(p)
	}
	return poll.Recv(s.fd, p)
}

// write takes from 1 to maxSlices buffers.
func (s socket) write(bufs [][]byte) (int, error) {
	if s.stream != nil {
		return s.stream.write(slices.Clone(bufs)) // a clone, so that bufs itself stays on its stack
	}
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

func (s socket) closeWrite() {
	if s.stream != nil {
		s.stream.closeWrite()
		return
	}
	unix.Shutdown(s.fd, unix.SHUT_WR)
}

func (s socket) interrupt() {
	if s.stream != nil { // another does not wait
		s.stream.interrupt()
	}
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

// A secure stream is a TLS connection: Go's TLS waits, so each end of it has a goroutine while it is in use.
type secure struct{ *tls.Conn }

func (s secure) read(p []byte) (int, error) { return s.Read(p) }

func (s secure) write(bufs [][]byte) (n int, err error) {
	for _, b := range bufs {
		k, err := s.Write(b)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s secure) closeWrite() { s.CloseWrite() }
func (s secure) interrupt()  { s.NetConn().SetReadDeadline(time.Unix(1, 0)) }
func (s secure) abort()      { s.NetConn().SetDeadline(time.Unix(1, 0)) }
func (s secure) close()      { s.NetConn().Close() }

// A Taker is a connection that can give its descriptor away, non-blocking, with what it has read ahead. It is closed by
// that.
type Taker interface {
	Take() (fd int, ahead []byte, err error)
}

// newSocket takes over a hijacked connection, with what has been read ahead: from a Taker, or, of another plain one, by
// keeping a duplicate of the descriptor and closing nc, so that Go's poller has no part in it any more.
func newSocket(nc net.Conn, peerTimeout time.Duration) (s socket, ahead []byte, err error) {
	if t, ok := nc.(Taker); ok {
		_, isTCP := nc.RemoteAddr().(*net.TCPAddr)
		if s.fd, ahead, err = t.Take(); err == nil && isTCP {
			watchPeer(s.fd, peerTimeout)
		}
		return s, ahead, err
	}
	tc, isTLS := nc.(*tls.Conn)
	if isTLS {
		nc = tc.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return socket{}, nil, fmt.Errorf("connection of type %T has no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return socket{}, nil, err
	}
	fd := -1
	cerr := raw.Control(func(p uintptr) {
		if _, isTCP := nc.(*net.TCPConn); isTCP {
			watchPeer(int(p), peerTimeout)
		}
		if !isTLS {
			fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return socket{}, nil, fmt.Errorf("take over descriptor: %w", err)
	}
	if isTLS {
		return socket{stream: secure{tc}}, nil, nil
	}
	nc.Close()
	return socket{fd: fd}, nil, nil
}

// watchPeer makes the kernel end a connection whose peer acknowledges nothing for so long, tcp(7). Where that is not known
// (an emulator), its own retransmission limit does it later.
func watchPeer(fd int, timeout time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}
