// Package systemd is the daemon's side of its service manager: handed sockets, stored files, notifications and the
// watchdog.
//
// Without a manager there are no sockets, and notifications go nowhere.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Handed returns what the manager has handed over, sd_listen_fds(3): the listening sockets, and the stored files under
// their names. Without a manager it returns nothing. It is called once, before anything else opens descriptors.
func Handed() (listeners []net.Listener, stored []*os.File, err error) {
	return Sort(activation.Files(true))
}

// Sort makes listeners of the files that are listening sockets. Files that it does not return it has closed.
func Sort(files []*os.File) (listeners []net.Listener, stored []*os.File, err error) {
	var errs []error
	for _, f := range files {
		switch listens, err := listens(f); {
		case err != nil:
			errs = append(errs, fmt.Errorf("take over %q: %w", f.Name(), err))
		case !listens:
			stored = append(stored, f)
			continue
		default:
			l, err := net.FileListener(f)
			if err != nil {
				errs = append(errs, fmt.Errorf("take over socket %q: %w", f.Name(), err))
				break
			}
			listeners = append(listeners, l)
		}
		f.Close() // the listener has its own descriptor
	}
	if err := errors.Join(errs...); err != nil {
		for _, l := range listeners {
			l.Close()
		}
		for _, f := range stored {
			f.Close()
		}
		return nil, nil, err
	}
	return listeners, stored, nil
}

// listens tells a listening socket from everything else. net.FileListener does not: it takes a connected socket without
// complaint, and Accept fails later.
func listens(f *os.File) (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	cerr := raw.Control(func(fd uintptr) {
		n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	if errors.Is(err, syscall.ENOTSOCK) {
		return false, cerr
	}
	return n != 0, errors.Join(cerr, err)
}

// Managed reports whether there is a service manager to notify.
func Managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Ready tells the manager that the service is ready, sd_notify(3).
func Ready(status string) error { return notify(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Stopping tells the manager that the service is ending.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

func notify(state string) error {
	return orHold(func() error {
		if _, err := daemon.SdNotify(false, state); err != nil {
			return fmt.Errorf("notify the service manager: %w", err)
		}
		return nil
	})
}

// statusEvery is how often a changed status is shown.
const statusEvery = 2 * time.Second

// Watch shows the manager the current status and, if the unit has a watchdog, serves it: after each successful probe
// the manager is told that the service is alive; when probes fail or hang it is told nothing, and ends the process.
// onFailure is called with each error. Watch returns when ctx ends, or at once without a manager.
func Watch(ctx context.Context, status func() string, probe func(context.Context) error, onFailure func(error)) error {
	if !Managed() {
		return nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's settings: %w", err)
	}
	alive := make(<-chan time.Time)
	if watchdog > 0 {
		t := time.NewTicker(watchdog / 3)
		defer t.Stop()
		alive = t.C
	}
	show := time.NewTicker(statusEvery)
	defer show.Stop()
	shown := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-show.C:
			if s := status(); s != shown {
				shown = s
				if err := notify("STATUS=" + s); err != nil {
					onFailure(err)
				}
			}
		case <-alive:
			err := func() error {
				ctx, cancel := context.WithTimeout(ctx, watchdog/2)
				defer cancel()
				return probe(ctx)
			}()
			if err == nil {
				err = notify(daemon.SdNotifyWatchdog)
			}
			if err != nil && ctx.Err() == nil {
				onFailure(err)
			}
		}
	}
}
