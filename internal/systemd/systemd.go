// Package systemd is the daemon's side of its service manager: handed sockets, notifications and the watchdog.
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

// Listeners returns the listening sockets that the manager has handed over, sd_listen_fds(3): none without a manager.
// It is called once, before anything else opens descriptors.
func Listeners() ([]net.Listener, error) {
	var listeners []net.Listener
	var errs []error
	for _, f := range activation.Files(true) {
		l, err := listener(f)
		f.Close() // the listener has its own descriptor
		if err != nil {
			errs = append(errs, fmt.Errorf("take over socket %q: %w", f.Name(), err))
			continue
		}
		listeners = append(listeners, l)
	}
	if err := errors.Join(errs...); err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return nil, err
	}
	return listeners, nil
}

// listener checks what net.FileListener does not: that the socket listens. A connected one would be accepted without
// complaint and fail later.
func listener(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var listens int
	cerr := raw.Control(func(fd uintptr) {
		listens, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, err
	}
	if listens == 0 {
		return nil, errors.New("it does not listen")
	}
	return net.FileListener(f)
}

// Ready tells the manager that the service serves, sd_notify(3).
func Ready(status string) error { return notify(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Stopping tells the manager that the service is ending.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// statusEvery is how often a changed status is shown.
const statusEvery = 2 * time.Second

// Watch shows the manager the current status and, when the unit has a watchdog, lives up to it: after each probe that
// succeeds the manager hears that the service is alive; when probes fail or hang it hears nothing, and ends the process.
// onFailure hears of a probe that failed. Watch returns when ctx ends, at once without a manager.
func Watch(ctx context.Context, status func() string, probe func(context.Context) error, onFailure func(error)) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
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
