package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"picloud/internal/certs"
	"picloud/internal/config"
	"picloud/internal/led"
	"picloud/internal/server"
	"picloud/internal/systemd"
	"picloud/internal/takeover"
	"picloud/internal/wsconn"

	"golang.org/x/sync/errgroup"
)

// A service is what a process serves with. It lives more than once if a new process was to take over and did not: then
// it starts anew with what it had left for that one, as a restarted one would.
type service struct {
	cfg       config.Config
	limits    wsconn.Limits
	files     int // that may be open
	pair      *certs.Pair
	key       string
	isHanded  bool    // it has its sockets from systemd
	inherited *estate // nil: this process has taken over from nobody
	greet     func(port int)
	runtime   string // its directory, or ""
	log       *slog.Logger
	lines     *spool
	hangups   <-chan os.Signal

	offer   *takeover.Offer // nil: no new process can take over
	sockets []*os.File      // the listeners', where there is an offer
	stored  []*os.File      // what an earlier process has left

	theLED *statusLED
	leaves atomic.Pointer[departure] // set when this process is to leave
}

// A departure is why a process leaves that has not been told to stop.
type departure struct{ heir *takeover.Heir } // nil: systemd restarts the service

// newLED opens the LED.
func (d *service) newLED() { d.theLED = newStatusLED(d.cfg.LED, d.runtime, d.log) }

// offers lets a new process ask for the service, where there is a service manager.
func (d *service) offers(listeners []net.Listener) error {
	if !systemd.Managed() || d.runtime == "" {
		return nil
	}
	for _, l := range listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return err
		}
		d.sockets = append(d.sockets, f)
	}
	var err error
	d.offer, err = takeover.Open(filepath.Join(d.runtime, offerFile))
	return err
}

// runtimeDirectory is where the service's files are that do not outlive it: the first of those that the unit names.
func runtimeDirectory(getenv func(string) string) string {
	first, _, _ := strings.Cut(getenv("RUNTIME_DIRECTORY"), ":")
	return first
}

// serveOn serves until ctx ends, or until another process does.
func (d *service) serveOn(ctx context.Context, listeners []net.Listener) error {
	if d.offer != nil {
		defer d.offer.Close()
	}
	for {
		err := d.live(ctx, listeners)
		if !errors.Is(err, errPassed) {
			return err
		}
		if err := pass(d.leaves.Swap(nil).heir, d.log); !errors.Is(err, errBack) {
			return err
		}
		d.inherited = nil
		d.newLED()
		var copies []*os.File
		for _, f := range d.sockets {
			c, err := systemd.Copy(f)
			if err != nil {
				return err
			}
			copies = append(copies, c)
		}
		if listeners, _, err = systemd.Sort(copies); err != nil {
			return err
		}
	}
}

// live serves until ctx ends, or a new process is ready to take over: then it has given that one everything, and
// returns errPassed.
func (d *service) live(ctx context.Context, listeners []net.Listener) error {
	store, left := openStore(d.stored, d.limits, d.files, d.log)
	d.stored = nil
	if store != nil {
		defer store.Close()
	}
	defer closeFiles(left.foreign)
	if store == nil && d.offer != nil { // there is nothing to take over by
		d.offer.Close()
		d.offer = nil
	}
	keepSecrets(store, d.cfg.UseTLS && d.cfg.CarryTLS, d.log)
	var to *takeover.Heir        // that is given everything
	shown := make(chan struct{}) // closed when the LED is free
	port := 0                    // set before anything is served
	srv, err := server.New(server.Config{
		Key:           d.key,
		Version:       version,
		Limits:        d.limits,
		Subscriptions: d.cfg.MaxSubscriptions,

		SubscriptionBytes: subscriptionBytes(memory()),
		TCPBytes:          tcpBytes(lowMemory()),
		WaitingBytes:      waitingBytes(memory()),

		HeaderTimeout: d.cfg.HeaderTimeout,
		WrongKeys:     d.cfg.MaxWrongKeys,
		Requests:      requests(d.files),
		Reload:        reloader(d.pair),
		Store:         store,
		CarryTLS:      d.cfg.CarryTLS,
		Ending: func() server.Ending {
			leaves := d.leaves.Load()
			isAsked := leaves != nil && ctx.Err() == nil
			if isAsked && leaves.heir != nil { // whatever systemd stores
				to = leaves.heir
				return server.HandOver
			}
			return ending(store, len(left.foreign), isAsked, d.log)
		},
		HandedOver: func() {
			if to != nil {
				<-shown
				d.give(to, slices.Concat(store.Files(), left.foreign))
			}
		},
		About: func() server.About {
			at, fault := d.theLED.about()
			return server.About{Port: port, TLS: d.cfg.UseTLS, LED: at, LEDError: fault,
				LogLinesDropped: d.lines.dropped.Load()}
		},
	}, d.log)
	if err != nil {
		return err
	}
	srv.Restore(left.conns, left.general)
	ports := secure(listeners, d.pair)
	switch i := slices.Index(ports, d.cfg.Port); {
	case i >= 0:
		port = ports[i]
	case len(ports) > 0:
		port = ports[0]
	}
	about := ""
	if d.isHanded {
		about = tellPort(ports, d.cfg.Port, d.runtime, d.log)
	}
	d.log.Info("listening", "port", port, "tls", d.cfg.UseTLS, "version", version)
	if d.inherited == nil {
		d.greet(port)
	}
	status := func() string { return srv.Status() + about + d.theLED.status() }
	if err := d.inherited.begin(); err != nil {
		return err
	}
	if err := systemd.Ready(status()); err != nil {
		d.log.Warn("ready, but the service manager could not be told", "error", err)
	}
	context.AfterFunc(ctx, func() { systemd.Stopping() })
	parts, serving := errgroup.WithContext(ctx)
	parts.Go(func() error { return srv.Run(serving, listeners...) })
	if store != nil {
		parts.Go(func() error {
			return store.Run(serving, func(err error) {
				d.log.Warn("the store of the connections cannot be compacted", "error", err)
			}, srv.StoreFilling(), srv.WarnFilling)
		})
	}
	probe := func(ctx context.Context) error {
		d.tellStarted()
		return srv.Probe(ctx)
	}
	parts.Go(func() error {
		return systemd.Watch(serving, status, probe, func(err error) {
			d.log.Error("the watchdog's probe failed", "error", err)
		})
	})
	parts.Go(func() error {
		defer close(shown)
		d.theLED.run(serving, func() led.State {
			clients, incidents := srv.Load()
			return led.State{Clients: clients, Incidents: incidents}
		})
		return nil
	})
	parts.Go(func() error {
		reloadOn(serving, d.hangups, reloader(d.pair), d.log)
		return nil
	})
	parts.Go(func() error { return d.inherited.settle(d.log) })
	parts.Go(func() error {
		d.hasStarted(serving)
		return nil
	})
	if d.offer != nil {
		parts.Go(func() error {
			heir, err := awaitHeir(serving, d.offer, d.terms(), d.log)
			if err != nil {
				d.leaves.Store(&departure{heir})
			}
			return err
		})
	}
	err = parts.Wait()
	switch leaves := d.leaves.Load(); {
	case to != nil:
		return errPassed
	case leaves != nil && leaves.heir != nil: // there was a stop in between
		leaves.heir.Refuse()
	}
	d.log.Info("stopped")
	return err
}

// startingFolder is made by systemd at each start, in the service's runtime directory. If it is still there at the
// next, systemd waits a while before that.
const startingFolder = "starting"

// startsFile has a byte for each process of late that was started, and has not been seen to last.
const startsFile = "starts"

// After manyStarts a process must last until the watchdog first asks before the next is started at once, and after
// lastingTime what was before is forgotten.
const (
	manyStarts  = 30
	lastingTime = time.Minute
)

// hasStarted tells systemd that the next process need not wait, since this one serves. It returns when ctx ends.
func (d *service) hasStarted(ctx context.Context) {
	if !d.isHanded || d.runtime == "" {
		return
	}
	path := filepath.Join(d.runtime, startsFile)
	starts, err := appendByte(path)
	if err != nil {
		d.log.Warn("it cannot be noted how often the service has been started", "error", err)
	}
	if starts < manyStarts {
		d.tellStarted()
	}
	lasts := time.NewTimer(lastingTime)
	defer lasts.Stop()
	select {
	case <-ctx.Done():
		d.tellStarted()
		os.Remove(path)
	case <-lasts.C:
		d.tellStarted()
		os.Remove(path)
		<-ctx.Done()
	}
}

// appendByte makes a file longer by a byte, and returns its length.
func appendByte(path string) (length int, err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Write([]byte{'.'}); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return int(info.Size()), nil
}

// tellStarted is called now and then, too: systemd makes the folder also for a process that is to take over.
func (d *service) tellStarted() {
	if !d.isHanded || d.runtime == "" {
		return
	}
	err := os.RemoveAll(filepath.Join(d.runtime, startingFolder)) // with what picloud-pause.service has there
	if err != nil {
		d.log.Warn("systemd cannot be told that the service has started: the next start waits", "error", err)
	}
}

// terms are for a successor.
func (d *service) terms() terms {
	return terms{Key: d.key, KeyFrom: d.cfg.APIKeyFrom, Manager: systemd.Own(), Port: d.cfg.Port, UseTLS: d.cfg.UseTLS,
		Network: network()}
}

// give gives the heir all that it needs, and keeps it too.
func (d *service) give(heir *takeover.Heir, store []*os.File) {
	err := heir.Give(slices.Concat(d.sockets, store))
	for _, f := range store {
		c, cerr := systemd.Copy(f)
		if cerr != nil {
			err = errors.Join(err, cerr)
			continue
		}
		d.stored = append(d.stored, c)
	}
	if err != nil {
		d.log.Error("a new process cannot be given the service", "error", err)
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
