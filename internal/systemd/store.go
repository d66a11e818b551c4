package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrNoManager: there is no service manager that could store anything.
var ErrNoManager = errors.New("there is no service manager")

// sendTimeout is how long a manager may be too busy to take a notification.
const sendTimeout = 5 * time.Second

// Store gives the manager a copy of f, sd_notify(3): the service's next process gets it from Handed, under the name.
// Only Restarting tells whether it is kept: the unit's FileDescriptorStoreMax= may be too small, and is 0 by default. A
// file that is already stored, under whatever name, is not stored again.
func Store(name string, f *os.File) error {
	if name == "" || len(name) > 255 || strings.ContainsFunc(name,
		func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
		return fmt.Errorf("store %q: the service manager takes no such name", name)
	}
	if !Managed() {
		return fmt.Errorf("store %q: %w", name, ErrNoManager)
	}
	kept, err := Copy(f)
	if err != nil {
		return fmt.Errorf("store %q: %w", name, err)
	}
	return orHold(func() error {
		defer kept.Close()
		// Without FDPOLL=0 the manager throws a file away when its other end hangs up.
		if err := send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, kept); err != nil {
			return fmt.Errorf("store %q: %w", name, err)
		}
		return nil
	})
}

// Forget has the manager close all files that are stored under the name.
func Forget(name string) error {
	return orHold(func() error {
		if err := send("FDSTOREREMOVE=1\nFDNAME="+name, nil); err != nil {
			return fmt.Errorf("forget stored %q: %w", name, err)
		}
		return nil
	})
}

// send sends a notification, and f with it unless it is nil.
func send(state string, f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return ErrNoManager
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if f == nil {
		_, err = c.Write([]byte(state))
		return err
	}
	// Neither File.Fd, which would make the file blocking for everybody, nor WriteMsgUnix, which refuses a connected
	// socket.
	to, err := c.SyscallConn()
	if err != nil {
		return err
	}
	file, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var werr, serr error
	cerr := file.Control(func(fd uintptr) {
		werr = to.Write(func(s uintptr) bool {
			serr = syscall.Sendmsg(int(s), []byte(state), syscall.UnixRights(int(fd)), nil, syscall.MSG_NOSIGNAL)
			return serr != syscall.EAGAIN && serr != syscall.EINTR
		})
	})
	return errors.Join(cerr, werr, serr)
}
