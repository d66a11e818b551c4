package httpconn

import (
	"context"
	"errors"
	"net"
	"time"

	"picloud/internal/tlsconn"

	"golang.org/x/sys/unix"
)

// Saved is what a connection at rest consists of, with its descriptor, which stays the Conn's.
type Saved struct {
	FD    int
	Local bool            // of a Unix socket
	Used  bool            // a request has been answered on it
	In    []byte          // what has come of the next request
	TLS   *tlsconn.Stream // nil: it is plain
}

// Freeze brings the connections to rest and keeps them there: further input is left to the process that restores them.
// A connection that is lent for an unfinished request comes back with what there is of it; any other that is lent is
// waited for until ctx ends. Freeze is called once, while Run goes on and nothing is accepted any more.
func (s *Set) Freeze(ctx context.Context) {
	s.crew.Freeze()
	defer s.endHandshakes()
	defer time.AfterFunc(shakeGrace, s.endHandshakes).Stop()
	s.recall() // and whoever was about to start a goroutine has done so
	resting := make(chan struct{})
	go func() {
		s.crew.Wait() // they may still lend
		s.recall()
		s.loans.Wait()
		close(resting)
	}()
	select {
	case <-resting:
	case <-ctx.Done():
	}
}

// shakeGrace is how long a handshake that is under way may delay a hand-over: only this process can go on with it.
const shakeGrace = 200 * time.Millisecond

// endHandshakes ends all connections whose handshake has not been made.
func (s *Set) endHandshakes() {
	for _, c := range s.all() {
		if c.shaking() {
			c.abort()
		}
	}
}

// recall asks for what is lent to come back.
func (s *Set) recall() {
	for _, c := range s.all() {
		c.mu.Lock()
		l := c.loan
		c.mu.Unlock()
		if l != nil {
			l.comeBack()
		}
	}
}

// Save returns what has to be restored of a frozen Set.
func (s *Set) Save() []Saved {
	var all []Saved
	for _, c := range s.all() {
		c.mu.Lock()
		if sv, ok := c.save(); ok {
			all = append(all, sv)
		}
		c.mu.Unlock()
	}
	return all
}

// save is Save for one connection, and reports false if it cannot be saved. mu must be held.
func (c *Conn) save() (Saved, bool) {
	if !c.turn.Rests() {
		return Saved{}, false
	}
	_, isUnix := c.local.(*net.UnixAddr)
	return Saved{FD: c.fd, Local: isUnix, Used: c.used, In: c.unread(), TLS: c.tls}, true
}

// ErrCrowded is returned by Restore when there is no slot.
var ErrCrowded = errors.New("there is no room for one more HTTP connection")

// Restore makes a connection from what Save has returned. It takes over saved.FD, and closes it on an error. The
// connection is lent only once Run runs. Restore does not wait for a slot, since newcomers wait behind it.
func (s *Set) Restore(saved Saved) error {
	var c *Conn
	sa, err := unix.Getpeername(saved.FD)
	if err == nil {
		var local net.Addr = &net.TCPAddr{}
		if saved.Local {
			local = &net.UnixAddr{Net: "unix"}
		}
		c = s.newConn(saved.FD, address(sa), local)
		c.in, c.used, c.tls = saved.In, saved.Used, saved.TLS
		if c.used { // by whatever request: it may have been a POST
			c.blank = lineEnds
		}
		if c.slot = s.slots.tryEnter(c, c.network()); c.slot == nil {
			err = ErrCrowded
		}
	}
	if err != nil {
		unix.Shutdown(saved.FD, unix.SHUT_RDWR)
		unix.Close(saved.FD)
		return err
	}
	s.adopt(c, nil)
	return nil
}

// Abandon closes the descriptors of a frozen Set whose Run has ended, and ends no connection: one whose descriptor is
// held elsewhere too lives on. It is called instead of Close.
func (s *Set) Abandon() {
	for _, c := range s.all() {
		c.mu.Lock()
		if c.turn.Take() {
			c.bye(nil)
			fd, place := c.release()
			s.cfg.Poller.Remove(place)
			unix.Close(fd)
		}
		c.mu.Unlock()
	}
}
