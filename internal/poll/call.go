package poll

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a call would have to wait: Ready tells when it does not any more.
var ErrAgain = errors.New("try again")

// Recv makes one recv(2) that does not wait, on a socket: ErrAgain when there is nothing, 0 at the end. Go's scheduler
// is not told, which a call that never waits need not trouble. Before read(2) does the same, it looks at what a file
// would have: memory that is in no cache, when there are many sockets.
func Recv(fd int, p []byte) (int, error) { return call("recv", unix.SYS_RECVFROM, fd, p) }

// Send makes one send(2) that does not wait, on a socket. It may take less than all: ErrAgain when it takes nothing.
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
