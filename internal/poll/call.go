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
