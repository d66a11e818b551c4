package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"picloud/internal/config"
	"picloud/internal/systemd"
	"picloud/internal/takeover"
)

// A reload of the unit has a new process take over from the one that serves: of the program, the unit and the settings
// as they are now. The command of ExecReload=, picloudd -take-over, is that of a process that systemd starts beside the
// one that serves, in a sandbox as the unit has it now. It starts the successor, which outlives it, and waits for word.
//
// The successor has not been started as the service's main process. What such a one gets, it asks the one that serves
// for: the sockets and stored files, the way to systemd, and the key.

// offerFile is where the one that serves listens, in the service's runtime directory.
const offerFile = "take-over.sock"

// successor, in the environment, has the number of the descriptor on which a successor says what has become of it.
const successor = "PICLOUDD_SUCCESSOR"

// What a successor says: a line.
const (
	hasTakenOver = "taken over"
	hasRestarted = "restarted"
)

// How long the steps of a take-over may take, on a busy Pi Zero. While a successor gets ready, all are served. From
// there until it begins nobody is, so that this and a stop is less than the unit's WatchdogSec= allows.
const (
	readyTime = 60 * time.Second
	beginTime = 15 * time.Second
	passTime  = 5 * time.Second
)

// terms are what the one that serves tells its successor.
type terms struct {
	Key     string          `json:"key"`
	KeyFrom string          `json:"key_from"` // config.Config.APIKeyFrom
	Manager systemd.Address `json:"manager"`

	// What a successor cannot change.
	Port    int    `json:"port"`
	UseTLS  bool   `json:"use_tls"`
	Network string `json:"network"` // network namespace
}

// takeOver has a new process take over from the service's, and returns when it has, or has seen to it that systemd
// restarts the service. Otherwise the service goes on as it was.
func takeOver(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("take over: %w: the service goes on as it was", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, readyTime+beginTime)
	defer cancel()
	here, there, err := socketPair()
	if err != nil {
		return err
	}
	defer here.Close()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// It is systemd's child, as the one that serves is, and not this process's.
	p, err := os.StartProcess(program, []string{program}, &os.ProcAttr{
		Env:   append(os.Environ(), successor+"=3"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, there},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_PARENT},
	})
	there.Close()
	if err != nil {
		return err
	}
	defer p.Release()
	stop := context.AfterFunc(ctx, func() { here.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	word, _ := bufio.NewReader(here).ReadString('\n')
	switch strings.TrimSpace(word) {
	case hasTakenOver, hasRestarted:
		return nil
	}
	if ctx.Err() != nil {
		p.Kill()
		return fmt.Errorf("the new process does not get ready: %w", ctx.Err())
	}
	return errors.New("the new process has ended, and says why above")
}

// socketPair returns two ends of a connection, socketpair(2).
func socketPair() (here, there *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there"), nil
}

// An estate is what a successor takes over.
type estate struct {
	terms terms
	claim *takeover.Claim
	asker *os.File // the process of takeOver
}

// claimEstate asks the one that serves, if this process is to take over from it; otherwise it returns nil.
func claimEstate(getenv func(string) string) (*estate, error) {
	if getenv(successor) == "" {
		return nil, nil
	}
	const fd = 3
	if getenv(successor) != "3" {
		return nil, fmt.Errorf("%s=%q: it is set by picloudd -take-over alone", successor, getenv(successor))
	}
	os.Unsetenv(successor)
	syscall.CloseOnExec(fd)
	e := &estate{asker: os.NewFile(fd, "asker")}
	var err error
	if e.claim, err = takeover.Ask(filepath.Join(runtimeDirectory(getenv), offerFile), &e.terms); err != nil {
		return nil, fmt.Errorf("%w: a service that cannot be taken over is replaced by systemctl restart picloud", err)
	}
	return e, systemd.Hold(e.terms.Manager)
}

// settings returns getenv without the credential, which only the service's first process can read.
func (e *estate) settings(getenv func(string) string) func(string) string {
	if e == nil {
		return getenv
	}
	return func(name string) string {
		if name == "CREDENTIALS_DIRECTORY" {
			return ""
		}
		return getenv(name)
	}
}

// keyFile is what the unit's LoadCredential= names.
var keyFile = "/etc/picloud/api-key"

// inherit completes the settings by the key. It returns why this process cannot take over with these settings, or "".
func (e *estate) inherit(cfg *config.Config) (why string) {
	t := e.terms
	switch {
	case cfg.Port != t.Port:
		return "PORT has changed"
	case cfg.UseTLS != t.UseTLS:
		return "USE_TLS has changed"
	case network() != t.Network:
		return "the service has another network"
	case cfg.APIKey != "":
		return ""
	case t.KeyFrom == "API_KEY":
		return "API_KEY is no longer set"
	}
	if p, err := os.ReadFile(keyFile); err == nil && config.Trim(string(p)) != t.Key {
		return "the key has changed"
	}
	cfg.APIKey, cfg.APIKeyFrom = t.Key, t.KeyFrom
	return ""
}

// network names this process's network namespace, namespaces(7).
func network() string {
	name, _ := os.Readlink("/proc/self/ns/net") // where it cannot be told, all are one
	return name
}

// handed says that this process is ready, and returns what systemd.Handed does to a first one.
func (e *estate) handed() ([]net.Listener, []*os.File, error) {
	if err := e.claim.Ready(); err != nil {
		return nil, nil, err
	}
	files, err := e.claim.Files()
	if err != nil {
		return nil, nil, err
	}
	return systemd.Sort(files)
}

// restarts has systemd restart the service. By then the reload is over, or it would have failed.
func (e *estate) restarts(why string) error {
	_, err := e.asker.WriteString(hasRestarted + "\n")
	if err == nil {
		io.Copy(io.Discard, e.asker) // until that process has ended
	}
	return errors.Join(err, e.claim.Restart(why), fmt.Errorf("not taken over, but restarted: %s", why))
}

// begin makes the service this process's. It is called before anybody is served.
func (e *estate) begin() error {
	if e == nil {
		return nil
	}
	return e.claim.Begin()
}

// settle waits until systemd takes this process for the service's, and speaks to it. An error says that it does not.
func (e *estate) settle(log *slog.Logger) error {
	if e == nil {
		return nil
	}
	if err := e.claim.Alone(); err != nil {
		return err
	}
	if err := systemd.Release(); err != nil {
		log.Warn("taken over, but the service manager could not be told all", "error", err)
	}
	e.asker.WriteString(hasTakenOver + "\n") // it may have given up waiting
	e.asker.Close()
	return nil
}

// errPassed says that a successor is ready.
var errPassed = errors.New("a new process takes over")

// errRestart says that systemd is to restart the service.
var errRestart = errors.New("the service is restarted")

// awaitHeir returns errPassed with the process that is ready to take over, errRestart if only that will do, and nil
// once ctx has ended.
func awaitHeir(ctx context.Context, offer *takeover.Offer, t terms, log *slog.Logger) (*takeover.Heir, error) {
	for {
		h, err := offer.Wait(ctx)
		if ctx.Err() != nil {
			return nil, nil
		}
		if err != nil {
			log.Error("no new process can take over", "error", err)
			return nil, nil
		}
		err = func() error {
			ctx, cancel := context.WithTimeout(ctx, readyTime)
			defer cancel()
			return h.Ready(ctx, t)
		}()
		switch {
		case err == nil:
			return h, errPassed
		case errors.Is(err, takeover.ErrRestart):
			h.Refuse()
			return nil, fmt.Errorf("%w: %w", errRestart, err)
		}
		h.Refuse()
		if ctx.Err() == nil {
			log.Info("a new process was to take over and did not get ready: this one goes on", "pid", h.PID(), "error",
				err)
		}
	}
}

// pass returns nil when the service is the new process's, which has been given everything. It returns errBack if that
// process has ended before, so that this one goes on; another error says that nobody can.
func pass(h *takeover.Heir, log *slog.Logger) error {
	within := func(d time.Duration, do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		return do(ctx)
	}
	if err := within(beginTime, h.Begun); err != nil {
		log.Error("a new process was to take over and did not: this one goes on", "pid", h.PID(), "error", err)
		if err := within(passTime, h.End); err != nil {
			return err
		}
		return errBack
	}
	err := within(passTime, func(ctx context.Context) error { return systemd.PassMain(ctx, h.PID()) })
	if err != nil {
		return fmt.Errorf("systemd does not know the new process: %w", err)
	}
	log.Info("taken over", "by", h.PID())
	return h.Leave()
}

var errBack = errors.New("the new process has ended")
