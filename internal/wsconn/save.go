package wsconn

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"picloud/internal/handover"
	"picloud/internal/poll"
	"picloud/internal/tlsconn"
)

// Saved is what a connection at rest consists of, besides its descriptor and its handler.
type Saved struct {
	Addr    string
	Partial []byte `json:",omitempty"` // what was read of an unfinished message, from its first byte
	Frames  int    `json:",omitempty"` // how many bytes of it are whole frames
	Payload int    `json:",omitempty"` // and how many bytes of payload those hold
	Queued  []byte `json:",omitempty"` // what is still to be sent
	Left    int    `json:",omitempty"` // how much of that is the rest of a half-written frame

	// How many bytes have been read from the descriptor, and taken by it, modulo 2^32. Nil: the kernel is to be asked.
	Moved *[2]uint32 `json:",omitempty"`

	// With TLS, besides the secret: see tlsconn.
	Held []byte `json:",omitempty"`
	Owed []byte `json:",omitempty"`
}

// Freeze brings all connections to rest at the end of a message or of the input so far, and keeps them there: further
// input is left to the process that restores them. Connections that are not kept in the store cannot be saved: they are
// closed with code and reason, and cut off when ctx ends. Freeze is called once, while the poller runs; afterwards
// nothing is received or closed any more.
func (s *Set) Freeze(ctx context.Context, code int, reason string) {
	s.crew.Freeze()
	for _, c := range s.All() {
		if c.kept == nil {
			c.Close(code, reason)
			defer context.AfterFunc(ctx, c.kill)()
		}
	}
	s.crew.Wait()
}

// All returns the connections, including those being closed.
func (s *Set) All() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns()
}

// Holds is how many bytes Save would return: of an unfinished message, as of when the connection last rested,
// and of what is still to be sent.
func (c *Conn) Holds() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int(c.held) + c.out.size
	if over, ok := c.sock.stream.(*sealed); ok && !c.writing {
		n += len(over.Owed())
	}
	return n
}

// Save returns what has to be restored of a frozen Set's connection; nothing is queued for it from now on. It reports
// false for a connection that is being closed.
func (c *Conn) Save() (Saved, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing { // by a timer's goroutine, which does not block
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	if c.ending != nil || c.dead {
		return Saved{}, false
	}
	sv := Saved{Addr: c.addr, Partial: c.partial, Frames: c.gather.pos, Payload: c.gather.payload,
		Left: int(c.out.left)}
	if c.mark != nil && !c.uncounted {
		sv.Moved = &[2]uint32{c.read, c.taken}
	}
	if over, ok := c.sock.stream.(*sealed); ok {
		if sv.Held, sv.Owed, ok = over.Leave(); !ok {
			return Saved{}, false
		}
	}
	c.ending = &ending{why: ErrSaved}
	if c.out.size > 0 {
		sv.Queued = slices.Concat(append([][]byte{c.out.first}, c.out.rest...)...)
	}
	return sv, true
}

// Restore makes a connection from a descriptor, which it takes over, and from what Save has returned: nothing but the
// address if the process was killed between two messages. The connection is kept as before. meet is called as by
// Upgrade. The connection reads nothing until Start, but others may queue something for it before. After an error the
// descriptor is still the caller's.
func (s *Set) Restore(fd int, kept *handover.Kept, sv Saved, meet func(*Conn) Handler) (*Conn, error) {
	if err := sv.check(); err != nil {
		return nil, err
	}
	sock := socket{fd: fd}
	if kept.IsSecret() {
		over, err := tlsconn.Restore(kept.Secret(), sv.Held, sv.Owed)
		if err != nil {
			return nil, err
		}
		over.Keep(kept.Secret())
		sock.stream = &sealed{fd, over}
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	c := &Conn{set: s, sock: sock, addr: sv.Addr, kept: kept, partial: sv.Partial,
		held: int32(len(sv.Partial)), room: int32(cap(sv.Partial)), users: 2}
	c.gather = gather{pos: sv.Frames, payload: sv.Payload}
	if len(sv.Queued) > 0 {
		c.out = outbox{first: slices.Clip(sv.Queued), size: len(sv.Queued), left: int32(sv.Left)}
	}
	c.out.owes = len(sv.Owed) > 0
	if c.addr != Local {
		// Another process has set the timeout, perhaps under another setting, or has suspended it for a client that had
		// stalled. A client that is still owed something may have stalled, until a write shows that it has not.
		c.lenient = !c.out.isOut()
		c.watchPeer()
		poll.LimitUnsent(fd, s.limits.UnsentBytes)
	}
	if err := c.count(sv.Moved); err != nil {
		s.mu.Lock()
		s.gone()
		s.mu.Unlock()
		return nil, err
	}
	c.mu.Lock()
	c.settle()
	c.mu.Unlock()
	s.admit(c, meet)
	return c, nil
}

// check refuses what Save cannot have returned, since it has been stored elsewhere in between.
func (sv *Saved) check() error {
	if sv.Frames < 0 || sv.Frames > len(sv.Partial) || sv.Payload < 0 || sv.Payload > sv.Frames {
		return fmt.Errorf("of %d bytes of a message %d are whole frames, with %d bytes", len(sv.Partial), sv.Frames,
			sv.Payload)
	}
	if sv.Left < 0 || sv.Left > len(sv.Queued) {
		return fmt.Errorf("of %d bytes to be sent %d are half a frame", len(sv.Queued), sv.Left)
	}
	for b := sv.Queued[sv.Left:]; len(b) > 0; {
		if len(b) < 2 || b[1] == 126 && len(b) < 4 || b[1] == 127 && len(b) < 10 {
			return errors.New("what is to be sent ends inside a frame's header")
		}
		n := frameLen(b)
		if n < 0 || n > len(b) {
			return errors.New("what is to be sent ends inside a frame")
		}
		b = b[n:]
	}
	return nil
}

// Abandon closes the descriptors of a frozen Set whose poller no longer runs, and ends no connection: what is in the
// store lives on. It is called instead of Close.
func (s *Set) Abandon() {
	s.mu.Lock()
	conns := s.conns()
	s.slots, s.free, s.open = nil, nil, 0
	s.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		c.dead = true
		c.stopTimer()
		c.mu.Unlock()
		s.poller.Remove(c.place)
		c.sock.close()
	}
}
