package wsconn

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"picloud/internal/poll"

	"golang.org/x/sys/unix"
)

// errAgain says that a read or write would block.
var errAgain = poll.ErrAgain

// A socket is a value, so that a delivery finds it in the connection itself: a non-blocking descriptor that no other
// part of the program knows and, where its bytes are not simply what is read and written, a stream.
type socket struct {
	fd     int    // -1: there is none to watch or to keep
	stream stream // nil: the descriptor's bytes as they are
}

// A stream moves bytes. Its methods may be called concurrently, but not after close.
type stream interface {
	// waits reports whether read and write block, instead of returning errAgain. The answer never changes.
	waits() bool
	// read returns errAgain or blocks when there is nothing to read; it returns (0, nil) or io.EOF at the end.
	read(p []byte) (int, error)
	// write may write less than all; it returns errAgain or blocks when the kernel takes no more.
	write(bufs [][]byte) (int, error)
	// closeWrite tells the peer that nothing follows.
	closeWrite()
	// interrupt ends reads that block, resume lets them block again, for that long at most. Both are called only where
	// waits is true.
	interrupt()
	resume(most time.Duration)
	// abort ends all reads and writes, including those to come.
	abort()
	close()
}

func (s socket) waits() bool { return s.stream != nil && s.stream.waits() }

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
	if s.waits() {
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

// A secure stream is a TLS connection: Go's TLS blocks, so reading and writing each have a goroutine while in use.
type secure struct{ *tls.Conn }

func (s secure) waits() bool { return true }

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
func (s secure) resume(most time.Duration) {
	s.NetConn().SetReadDeadline(time.Now().Add(most))
}
func (s secure) abort() { s.NetConn().SetDeadline(time.Unix(1, 0)) }
func (s secure) close() { s.NetConn().Close() }

// A Taker is a connection that can give its descriptor away, non-blocking, with its place in the Set's poller and what
// it has read ahead. Take closes it.
type Taker interface {
	Take() (fd int, place poll.Place, ahead []byte, err error)
}

// newSocket takes over a hijacked connection, a Taker or one of crypto/tls.
func newSocket(nc net.Conn, peerTimeout time.Duration) (s socket, place poll.Place, ahead []byte, err error) {
	switch nc := nc.(type) {
	case Taker:
		_, isTCP := nc.(net.Conn).RemoteAddr().(*net.TCPAddr)
		if s.fd, place, ahead, err = nc.Take(); err == nil && isTCP {
			watchPeer(s.fd, peerTimeout)
		}
		return s, place, ahead, err
	case *tls.Conn:
		if err := watchPeerOf(nc.NetConn(), peerTimeout); err != nil {
			return socket{}, place, nil, err
		}
		return socket{fd: -1, stream: secure{nc}}, place, nil, nil
	}
	return socket{}, place, nil, fmt.Errorf("a connection of type %T cannot be taken over", nc)
}

// watchPeerOf is watchPeer for a connection of package net.
func watchPeerOf(nc net.Conn, timeout time.Duration) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { watchPeer(int(fd), timeout) })
}

// watchPeer makes the kernel end a connection whose peer acknowledges nothing for that long, tcp(7). Where the option
// is not known (an emulator), the kernel's own retransmission limit does so later.
func watchPeer(fd int, timeout time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}
