package front

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// Saved is what a connection at rest consists of, with its descriptor, which stays the Conn's.
type Saved struct {
	FD    int
	Local bool   // of a Unix socket
	In    []byte // what has come of the next request
}

// Freeze brings the connections to rest and keeps them there: what comes is left to who restores them. One that is lent is
// waited for until ctx ends. It is called once, while Run goes on and nothing is accepted any more.
func (s *Server) Freeze(ctx context.Context) {
	s.frozen.Store(true)
	for _, c := range s.all() {
		c.mu.Lock()   // whoever was about to start a goroutine has done so
		c.mu.Unlock() //lint:ignore SA2001 to pass is the point
	}
	resting := make(chan struct{})
	go func() {
		s.crew.Wait() // they may lend
		s.loans.Wait()
		close(resting)
	}()
	select {
	case <-resting:
	case <-ctx.Done():
	}
}

// Save returns what there is to be restored of a frozen Server.
func (s *Server) Save() []Saved {
	var all []Saved
	for _, c := range s.all() {
		c.mu.Lock()
		if c.state == resting {
			_, isUnix := c.local.(*net.UnixAddr)
			all = append(all, Saved{FD: c.fd, Local: isUnix, In: c.in})
		}
		c.mu.Unlock()
	}
	return all
}

// Restore makes a connection of what Save has returned; saved.FD becomes its own. Its requests come after Run.
func (s *Server) Restore(saved Saved) error {
	sa, err := unix.Getpeername(saved.FD)
	if err != nil {
		return err
	}
	remote := address(sa)
	var local net.Addr = &net.TCPAddr{}
	if saved.Local {
		local = &net.UnixAddr{Net: "unix"}
	}
	s.cfg.Enter()
	s.adopt(saved.FD, remote, local, saved.In)
	return nil
}

// Abandon closes the descriptors of a frozen Server whose Run has ended, and ends nothing: a descriptor that is somewhere
// else too lives on. It takes the place of Close.
func (s *Server) Abandon() {
	for _, c := range s.all() {
		c.mu.Lock()
		if c.rests() {
			c.release()
			unix.Close(c.fd)
		}
		c.mu.Unlock()
	}
}
