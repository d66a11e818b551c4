package httpconn

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Saved is what a connection at rest consists of, with its descriptor, which stays the Conn's.
type Saved struct {
	FD    int
	Local bool   // of a Unix socket
	Used  bool   // it has had an answer
	In    []byte // what has come of the next request
}

// Freeze brings the connections to rest and keeps them there: what comes is left to who restores them. One that is lent
// for a request which is not whole comes back with what there is of it; another is waited for until ctx ends. It is
// called once, while Run goes on and nothing is accepted any more.
func (s *Set) Freeze(ctx context.Context) {
	s.crew.Freeze()
	s.recall() // and whoever was about to start a goroutine has done so
	resting := make(chan struct{})
	go func() {
		s.crew.Wait() // they may lend
		s.recall()
		s.loans.Wait()
		close(resting)
	}()
	select {
	case <-resting:
	case <-ctx.Done():
	}
}

// recall asks for what is lent.
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

// Save returns what there is to be restored of a frozen Set.
func (s *Set) Save() []Saved {
	var all []Saved
	for _, c := range s.all() {
		c.mu.Lock()
		if c.turn.Rests() {
			_, isUnix := c.local.(*net.UnixAddr)
			all = append(all, Saved{FD: c.fd, Local: isUnix, Used: c.used, In: c.in})
		}
		c.mu.Unlock()
	}
	return all
}

// ErrCrowded is what Restore returns when there is no place.
var ErrCrowded = errors.New("there is no place for one more HTTP connection")

// Restore makes a connection of what Save has returned; saved.FD becomes its own, and is closed with an error. Its
// requests come after Run. It does not wait for a place, as newcomers wait behind it.
func (s *Set) Restore(saved Saved) error {
	sa, err := unix.Getpeername(saved.FD)
	if err == nil && !s.cfg.TryEnter() {
		err = ErrCrowded
	}
	if err != nil {
		unix.Shutdown(saved.FD, unix.SHUT_RDWR)
		unix.Close(saved.FD)
		return err
	}
	remote := address(sa)
	var local net.Addr = &net.TCPAddr{}
	if saved.Local {
		local = &net.UnixAddr{Net: "unix"}
	}
	s.adopt(saved.FD, remote, local, saved.In, saved.Used)
	return nil
}

// Abandon closes the descriptors of a frozen Set whose Run has ended, and ends nothing: a descriptor that is somewhere
// else too lives on. It takes the place of Close.
func (s *Set) Abandon() {
	for _, c := range s.all() {
		c.mu.Lock()
		if c.turn.Take() {
			fd, place := c.release()
			s.cfg.Poller.Remove(place)
			unix.Close(fd)
		}
		c.mu.Unlock()
	}
}
