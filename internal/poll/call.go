package poll

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a call would have to wait: Ready tells when it does not any more.
var ErrAgain = errors.New("try again")

// Read makes one read(2) of a non-blocking descriptor: ErrAgain when there is nothing, 0 at the end. Go's scheduler is not
// told, which a call that never waits need not trouble.
func Read(fd int, p []byte) (int, error) { return call("read", unix.SYS_READ, fd, p) }

// Write makes one write(2) to a non-blocking descriptor, which may take less than all: ErrAgain when it takes nothing.
func Write(fd int, p []byte) (int, error) { return call("write", unix.SYS_WRITE, fd, p) }

func call(name string, number uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
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
