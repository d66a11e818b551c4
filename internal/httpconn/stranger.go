package httpconn

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"picloud/internal/poll"
)

// A stranger is a connection that the http.Server has accepted itself: one with TLS. It has a slot like the others.
type stranger struct {
	nc   net.Conn
	slot *slot

	mu    sync.Mutex
	since time.Time // when it was accepted, its request began, or its last answer was given
	rests bool      // between two requests
	load  load
}

// strangerBytes is what a connection with TLS takes: that of a loan and its keys, buffers and records.
const strangerBytes = 48 << 10

// Note is the http.Server's ConnState. For a new connection that is not the Set's own it waits for a slot, and keeps
// the server from accepting another meanwhile.
func (s *Set) Note(nc net.Conn, state http.ConnState) {
	if l, ok := nc.(*loan); ok {
		l.note(state)
		return
	}
	if state == http.StateNew {
		st := &stranger{nc: nc, since: time.Now()}
		st.slot = s.slots.enter(st, Network(Address(nc.RemoteAddr()), Address(nc.LocalAddr())))
		st.tcp(s.tune)
		st.mu.Lock()
		st.load.set(s, strangerBytes)
		st.mu.Unlock()
		s.mu.Lock()
		s.strangers[nc] = st
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	st := s.strangers[nc]
	if state == http.StateHijacked || state == http.StateClosed {
		delete(s.strangers, nc)
	}
	s.mu.Unlock()
	switch {
	case st == nil:
	case state == http.StateHijacked, state == http.StateClosed:
		st.mu.Lock()
		st.load.set(s, 0)
		st.mu.Unlock()
		s.slots.leave(st.slot)
	default:
		st.note(state == http.StateIdle)
	}
}

func (st *stranger) note(rests bool) {
	st.mu.Lock()
	st.since, st.rests = time.Now(), rests
	st.mu.Unlock()
	if rests && st.slot.pool.waiting.Load() > 0 {
		st.close()
	}
}

func (st *stranger) shown(s *Set) {
	st.mu.Lock()
	first := st.load.shown(s)
	st.mu.Unlock()
	if first {
		s.slots.show(st.slot)
	}
}

// bears is bearer's.
func (st *stranger) bears() (load, time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.load, st.since
}

// yield is holder's.
func (st *stranger) yield(since time.Time, d demand) (ended bool, active time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case d != always && st.since.After(since):
		return false, st.since
	case d == ifResting && !st.rests:
		return false, time.Now()
	}
	st.tcp(poll.Cut)
	st.close()
	return true, since
}

// close ends the connection without a word: crypto/tls would wait for the client to take one.
func (st *stranger) close() { st.below().Close() }

// below is the connection without TLS.
func (st *stranger) below() net.Conn {
	if t, ok := st.nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return st.nc
}

// tcp is bearer's.
func (st *stranger) tcp(use func(fd int)) {
	if tcp, ok := st.below().(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { use(int(fd)) })
		}
	}
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

// ConnContext is the http.Server's.
func (s *Set) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// Shown notes that the request with this context has shown the key, so that its connection keeps its slot as long as it
// does something.
func (s *Set) Shown(ctx context.Context) {
	switch nc := ctx.Value(connKey{}).(type) {
	case *loan:
		nc.conn.shown()
	case net.Conn:
		s.mu.Lock()
		st := s.strangers[nc]
		s.mu.Unlock()
		if st != nil {
			st.shown(s)
		}
	}
}
