package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// An Offer is where a new process asks for the work.
type Offer struct{ listener *net.UnixListener }

// Open listens at path, which must be where only this user may connect, and replaces what an earlier process has left
// there.
func Open(path string) (*Offer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("offer a take-over: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("offer a take-over: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then the new process's may be there
	return &Offer{l}, nil
}

// Close ends the offer. The path stays.
func (o *Offer) Close() error { return o.listener.Close() }

// Wait returns the next process of this user that asks. It blocks until ctx ends, and is called by one at a time.
func (o *Offer) Wait(ctx context.Context) (*Heir, error) {
	stop := context.AfterFunc(ctx, func() { o.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c, err := o.listener.AcceptUnix()
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		cred, err := peer(c)
		if err == nil && int(cred.Uid) == os.Getuid() {
			return &Heir{conn: c, pid: int(cred.Pid)}, nil
		}
		c.Close()
	}
}

// peer returns who is at the other end, SO_PEERCRED of unix(7).
func peer(c *net.UnixConn) (cred *syscall.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	return cred, errors.Join(err, cerr)
}

// An Heir is the new process, to the old one. Its methods are called one after the other.
type Heir struct {
	conn *net.UnixConn
	pid  int
}

// PID is the new process's number.
func (h *Heir) PID() int { return h.pid }

// ErrRestart is what Ready's error wraps when the new process has found that only a restart will do.
var ErrRestart = errors.New("only a restart will do")

// Ready tells the new process the terms, as JSON, and returns when it is ready for the work; or an error, after which
// the process that calls keeps the work. It blocks until ctx ends.
func (h *Heir) Ready(ctx context.Context, value any) error {
	defer until(ctx, h.conn)()
	p, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := say(h.conn, message{Kind: terms, Terms: p}); err != nil {
		return err
	}
	m, with, err := hear(h.conn)
	closeAll(with)
	switch {
	case errors.Is(err, io.EOF):
		return errGone
	case err != nil:
		return err
	case m.Kind == restart:
		return fmt.Errorf("%w: %s", ErrRestart, m.Why)
	case m.Kind != ready:
		return fmt.Errorf("the new process says %q, want %q", m.Kind, ready)
	}
	return nil
}

// Give gives the new process the files, under their names. They still belong to the caller.
func (h *Heir) Give(list []*os.File) error {
	m := message{Kind: files}
	for _, f := range list {
		m.Names = append(m.Names, f.Name())
	}
	return say(h.conn, m, list...)
}

// Begun returns when the new process has said that the work is its own from now on. After an error it is not, if End
// succeeds. It blocks until ctx ends.
func (h *Heir) Begun(ctx context.Context) error {
	defer until(ctx, h.conn)()
	_, with, err := expect(h.conn, begins)
	closeAll(with)
	return err
}

// End kills the new process, and returns nil when it is gone, with all that it has been given.
func (h *Heir) End(ctx context.Context) error {
	defer h.conn.Close()
	if err := syscall.Kill(h.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the new process: %w", err)
	}
	h.conn.SetDeadline(time.Time{})
	defer until(ctx, h.conn)()
	for { // its end of the conversation is closed when all of its threads are gone
		_, with, err := hear(h.conn) // what it said before
		closeAll(with)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the new process does not end: %w", err)
		}
	}
}

// Leave tells the new process that nobody else has anything to do with the work, and ends the conversation.
func (h *Heir) Leave() error { return errors.Join(say(h.conn, message{Kind: leaves}), h.conn.Close()) }

// Refuse ends the conversation.
func (h *Heir) Refuse() error { return h.conn.Close() }
