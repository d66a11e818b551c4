package poll

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a call would block: Ready tells when it no longer would.
var ErrAgain = errors.New("try again")

// LimitUnsent bounds what the kernel takes of a TCP socket's output besides what is on its way, tcp(7): by itself it
// takes up to 4 MiB for a peer that does not read. Sockets accepted from a listener inherit it. Where the option is not
// known (an emulator), the kernel does as it likes.
func LimitUnsent(fd, bytes int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

// Held is how many bytes of memory the kernel has for what a socket has received and nobody has read, and for what is
// not acknowledged yet, SO_MEMINFO (Linux 4.12): 0 where that cannot be told.
func Held(fd int) int {
	// linux/sock_diag.h
	const (
		receiveQueue  = 0
		forwardAlloc  = 4
		transmitQueue = 5
		backlog       = 7
	)
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return int(info[receiveQueue] + info[transmitQueue] + info[forwardAlloc] + info[backlog])
}

// Reset ends a TCP connection without a word more: the peer gets a reset, the kernel lets go at once of all that it
// holds for the socket, whoever else has it open, and calls on it fail, connect(2) with AF_UNSPEC.
func Reset(fd int) {
	unspecified := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)),
		unsafe.Sizeof(unspecified))
}

// Cut ends both directions of a connection whose peer has been given up. If there is something that the peer has no
// room for, the kernel would keep it for as long as the peer's system answers: it is let go of, with Reset.
func Cut(fd int) {
	if Unsent(fd) > 0 {
		Reset(fd)
	}
	unix.Shutdown(fd, unix.SHUT_RDWR)
}

// Unsent is how many bytes the kernel has taken of a TCP socket's output and not sent yet, mostly because the peer has
// no room for them: 0 where that cannot be told.
func Unsent(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil {
		return 0
	}
	return n
}

// Recv makes one non-blocking recv(2) on a socket: ErrAgain when there is nothing to read, 0 at the end. Go's scheduler
// is not told, since a call that never blocks need not trouble it. read(2) would do the same, but looks first at what a
// file would have: memory that is in no cache when there are many sockets.
func Recv(fd int, p []byte) (int, error) { return call("recv", unix.SYS_RECVFROM, fd, p) }

// Send makes one non-blocking send(2) on a socket. The socket may take less than all of p: ErrAgain when it takes
// nothing.
func Send(fd int, p []byte) (int, error) { return call("send", unix.SYS_SENDTO, fd, p) }

func call(name string, number uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, ErrAgain
		default:
			return 0, os.NewSyscallError(name, errno)
		}
	}
}
