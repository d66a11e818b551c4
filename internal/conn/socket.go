package conn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errAgain says that a read or write would have to wait.
var errAgain = errors.New("try again")

// A socket moves bytes. Its calls are safe beside each other, but not after close.
type socket interface {
	// read returns errAgain or waits when there is nothing, io.EOF as (0, nil) at the end.
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

// A plain socket is a non-blocking descriptor that no other part of the program knows.
type plain struct{ fd int }

func (s plain) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, fmt.Errorf("read: %w", err)
		}
	}
}

func (s plain) write(bufs [][]byte) (int, error) {
	for {
		var n int
		var err error
		if len(bufs) == 1 {
			n, err = unix.Write(s.fd, bufs[0])
		} else {
			n, err = unix.Writev(s.fd, bufs)
		}
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, fmt.Errorf("write: %w", err)
		}
	}
}

func (s plain) closeWrite() { unix.Shutdown(s.fd, unix.SHUT_WR) }
func (s plain) interrupt()  {} // they do not wait
func (s plain) abort()      { unix.Shutdown(s.fd, unix.SHUT_RDWR) }
func (s plain) close()      { unix.Close(s.fd) }

// A secure socket is a TLS connection: Go's TLS waits, so each end of it has a goroutine while it is in use.
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

// newSocket takes over a hijacked connection. Of a plain one it keeps a duplicate of the descriptor and closes nc, so
// that Go's poller has no part in it any more.
func newSocket(nc net.Conn, peerTimeout time.Duration) (socket, error) {
	tc, isTLS := nc.(*tls.Conn)
	if isTLS {
		nc = tc.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("connection of type %T has no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := raw.Control(func(p uintptr) {
		if _, isTCP := nc.(*net.TCPConn); isTCP {
			// The kernel ends a connection whose peer acknowledges nothing for this long, tcp(7). Where it is not
			// known (an emulator), its own retransmission limit does it later.
			unix.SetsockoptInt(int(p), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
		}
		if !isTLS {
			fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("take over descriptor: %w", err)
	}
	if isTLS {
		return secure{tc}, nil
	}
	nc.Close()
	return plain{fd}, nil
}
