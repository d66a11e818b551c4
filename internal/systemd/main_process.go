package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// An Address is what a process needs to speak to the manager as the service's main process: two variables of
// sd_notify(3) and sd_watchdog_enabled(3), of which a process that is not started as such has none.
type Address struct {
	NotifySocket string `json:"notify_socket"`
	WatchdogUsec string `json:"watchdog_usec"`
}

// Own is this process's Address.
func Own() Address { return Address{os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC")} }

// held are the notifications that wait for Release.
var held struct {
	sync.Mutex
	on    bool
	queue []func() error
}

// Hold makes the Address this process's, and holds all notifications back until Release: the manager listens to the
// main process only. It is called before anything is sent.
func Hold(a Address) error {
	held.Lock()
	defer held.Unlock()
	held.on = true
	return errors.Join(os.Setenv("NOTIFY_SOCKET", a.NotifySocket), os.Setenv("WATCHDOG_USEC", a.WatchdogUsec),
		os.Unsetenv("WATCHDOG_PID"))
}

// Release sends what has been held back, in order. It is called once the manager takes this process for the main one.
func Release() error {
	held.Lock()
	defer held.Unlock()
	held.on = false
	var errs []error
	for _, send := range held.queue {
		errs = append(errs, send())
	}
	held.queue = nil
	return errors.Join(errs...)
}

// orHold sends a notification, or holds it back.
func orHold(send func() error) error {
	held.Lock()
	defer held.Unlock()
	if held.on {
		held.queue = append(held.queue, send)
		return nil
	}
	return send()
}

// PassMain tells the manager that the service's main process is now pid, instead of this one, and returns when it has
// taken note, or ctx ends: MAINPID= and BARRIER= of sd_notify(3). After an error it may have.
func PassMain(ctx context.Context, pid int) error {
	if err := notify("MAINPID=" + strconv.Itoa(pid)); err != nil {
		return err
	}
	if err := barrier(ctx); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	return nil
}

// barrier returns when the manager has dealt with all that this process has sent before.
func barrier(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = send("BARRIER=1", w)
	w.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return nil
}

// Copy returns a file with a descriptor of its own, and the same name.
func Copy(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	cerr := raw.Control(func(old uintptr) {
		var errno syscall.Errno
		var n uintptr
		n, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		fd = int(n)
		if errno != 0 {
			err = os.NewSyscallError("fcntl", errno)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
