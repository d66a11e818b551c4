// Package httpconn holds HTTP connections between their requests: a connection at rest is its socket and what has come
// of the next request.
//
// A whole request is answered by net/http, which is lent the connection for it, or in a shorter way that the owner has
// for requests of the plain kind.
package httpconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"picloud/internal/poll"
	"picloud/internal/quota"
	"picloud/internal/tlsrecord"

	"golang.org/x/sys/unix"
)

// Config is what a Set is made with. All fields must be set.
type Config struct {
	// Poller wakes the connections. It runs from before the first Serve or Restore until all connections are gone.
	Poller *poll.Poller
	// HTTP answers what Short does not. Its ConnState and ConnContext must be the Set's Note and ConnContext, and it
	// accepts no connections itself; its timeouts apply to a request under way.
	HTTP *http.Server
	// Short answers a plain request that has shown the key, or reports false: then HTTP answers the same bytes. The
	// answer is a whole response that keeps the connection open. Short must not block, and may be called by many
	// goroutines at once.
	Short func(*Request) (answer []byte, ok bool)
	// Join may take over the connection of a request that asks for a WebSocket: it hijacks w, and calls Take on the
	// net.Conn. If it does not, HTTP answers the same bytes, and what has been written to w is dropped. The request's
	// context has http.LocalAddrContextKey. It is called as Short is.
	Join   func(w http.ResponseWriter, r *http.Request)
	Bounds Bounds
	// Waiting counts the memory that is held for connections that have shown the key, or need not: parts of requests,
	// and answers that are not taken. When it is too much, somebody ends those for which Waiting of the Set says that
	// most is held.
	Waiting *quota.Quota
	// KeylessBytes is how much may be held for all others; past it those go for which most is. Half of it may go to
	// handshakes of TLS that are under way; the others wait for their turn.
	KeylessBytes int
	// Panicked is told of a panic of Short or Join. It must not block.
	Panicked func(what any, stack []byte)
	// MQTT is told of a client that speaks MQTT, before its connection is closed. It must not block.
	MQTT func(from net.Addr)
	// Unshaken is told of a handshake of TLS that has failed. It must not block.
	Unshaken func(from net.Addr, why error)
	// Crowded is told when a bound has been reached, each kind at most once a minute. It must not block.
	Crowded func(Crowding)

	HeadTimeout time.Duration // from a request's first byte, or the connection's beginning, to the end of its head
	BodyTimeout time.Duration // and from there to the end of its body
	IdleTimeout time.Duration // from one request to the next
	SendTimeout time.Duration // for an answer that the client does not take at once
	HeadBytes   int           // of a request's head
	UnsentBytes int           // what the kernel takes of an answer that the client does not take
	RecallBytes int           // of an unfinished request that Save may return
}

// A Set holds the HTTP connections of a server: over TCP, TLS and Unix sockets.
type Set struct {
	cfg     Config
	lending relay
	bufs    sync.Pool  // of *buffer
	crew    *poll.Crew // goroutines in Conn.Run
	loans   sync.WaitGroup
	slots   *slots
	keyless *quota.Quota

	handshakes *handshakes

	draining atomic.Bool // each answer is its connection's last
	closed   atomic.Bool // no connection goes on

	mu    sync.Mutex
	conns map[*Conn]struct{}
}

// A buffer is what a connection borrows while it is awake.
type buffer struct {
	in      [restBytes + tlsrecord.BufferBytes]byte
	request Request
	src     bytes.Reader
	text    bufio.Reader // of src
}

// restBytes is how much of a request a connection at rest may hold; a longer one is net/http's while it comes in.
const restBytes = 16 << 10

// New makes a Set.
func New(cfg Config) *Set {
	s := &Set{
		cfg:     cfg,
		crew:    cfg.Poller.NewCrew(),
		lending: relay{conns: make(chan net.Conn), done: make(chan struct{})},
		slots:   newSlots(cfg.Bounds, cfg.Crowded),
		keyless: quota.New(cfg.KeylessBytes),
		conns:   make(map[*Conn]struct{}),

		handshakes: newHandshakes(max(cfg.KeylessBytes/2/shakingBytes, 1), runtime.GOMAXPROCS(0)),
	}
	s.bufs.New = func() any { return new(buffer) }
	return s
}

// Run lends connections to net/http and ends those that take too long, until ctx ends. It is called once.
func (s *Set) Run(ctx context.Context) {
	var lending sync.WaitGroup
	defer lending.Wait()
	lending.Go(func() { s.cfg.HTTP.Serve(&s.lending) })
	lending.Go(func() { s.keyless.Run(ctx, s.shares(false)) })
	defer s.lending.Close()
	s.sweep(ctx)
}

// A Listener is a net.TCPListener or a net.UnixListener.
type Listener interface {
	net.Listener
	File() (*os.File, error) // a duplicate
}

// Serve accepts connections until ctx ends, or returns why it cannot. They speak TLS if config, which is
// tlsrecord.Handshake's, is not nil. It leaves l open.
func (s *Set) Serve(ctx context.Context, l Listener, config *tls.Config) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, isTCP := l.Addr().(*net.TCPAddr)
	if isTCP {
		if err := raw.Control(func(fd uintptr) { s.tune(int(fd)) }); err != nil {
			return err
		}
	}
	early := isTCP // what comes has been waiting since before the listener had its options
	for pause := time.Duration(0); ; {
		var fd int
		var sa unix.Sockaddr
		var err error
		rerr := raw.Read(func(lfd uintptr) bool {
			fd, sa, err = unix.Accept4(int(lfd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			early = early && err != unix.EAGAIN
			return err != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			if err == nil && rerr == nil {
				s.admit(fd, address(sa), l.Addr(), config)
			}
			return nil
		case rerr != nil:
			return rerr
		case err == unix.EINTR, err == unix.ECONNABORTED:
			continue
		case err != nil: // no more files or memory, accept(2): it will pass
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		if early {
			s.tune(fd)
		}
		s.admit(fd, address(sa), l.Addr(), config)
	}
}

// tune sets the options of a TCP socket, or of a listener for those that it accepts, tcp(7): nothing is delayed, little
// is kept in the kernel, and a client that acknowledges nothing is gone after as long as it may take for an answer,
// even if the connection has been closed here.
func (s *Set) tune(fd int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.cfg.SendTimeout.Milliseconds()))
	poll.LimitUnsent(fd, s.cfg.UnsentBytes)
}

// admit makes a Conn from an accepted socket, once there is a slot for it.
func (s *Set) admit(fd int, remote, local net.Addr, config *tls.Config) {
	c := s.newConn(fd, remote, local)
	c.slot = s.slots.enter(c, c.network())
	s.adopt(c, config)
}

// newConn makes a Conn, which has no slot yet, from a connected, non-blocking socket.
func (s *Set) newConn(fd int, remote, local net.Addr) *Conn {
	c := &Conn{set: s, fd: fd, remote: remote, local: localAddr(fd, remote, local), since: time.Now()}
	c.turn.Take()
	return c
}

// adopt makes a Conn with a slot, whose turn the caller has, one of the Set's. If config is not nil, a handshake of TLS
// comes first.
func (s *Set) adopt(c *Conn, config *tls.Config) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load.known = c.slot.isLocal()
	c.settle()
	if config != nil {
		c.shake = &handshake{conn: c, config: config, due: c.since.Add(s.cfg.HeadTimeout)}
	}
	if s.closed.Load() {
		c.close()
		return
	}
	// The poller alone wakes it, and reports what is there already: a request that was read before its event was
	// fetched would leave that event, whose place then has what comes behind the answer.
	c.turn.Rest()
	place, err := s.cfg.Poller.Add(c.fd, (*watched)(c))
	if err != nil {
		c.turn.Take()
		c.close()
		return
	}
	c.place = place
	if len(c.in) > 0 || c.slot.pool.waiting.Load() > 0 {
		s.crew.Wake(&c.turn, c)
	}
}

// Unbind ends the bounds, so that no newcomer waits while the server stops.
func (s *Set) Unbind() { s.slots.unbind() }

// None returns a channel that is closed when no connection is open. It is called once nothing accepts any more.
func (s *Set) None() <-chan struct{} {
	none := make(chan struct{})
	go func() {
		s.slots.present.Wait()
		close(none)
	}()
	return none
}

// Usage returns how many connections there are.
func (s *Set) Usage() Usage { return s.slots.usage() }

func (s *Set) all() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// sweep ends connections at rest that take too long.
func (s *Set) sweep(ctx context.Context) {
	tick := time.NewTicker(max(s.cfg.HeadTimeout/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, c := range s.all() {
				c.closeIf(func(c *Conn) bool { return c.late(now) })
			}
		}
	}
}

// Drain makes the next answer of each connection its last, and ends those that are idle: what has come by now is
// answered. Calling it again does nothing.
func (s *Set) Drain() {
	s.draining.Store(true)
	for _, c := range s.all() {
		c.closeIf(func(c *Conn) bool { return c.idle() && c.quiet() })
	}
}

// Close ends every connection at once, including those that still come, except those lent to the http.Server: its own
// Close ends them, or the end of what they are lent for.
func (s *Set) Close() {
	s.closed.Store(true)
	for _, c := range s.all() {
		c.abort()
	}
}

// Release waits for the last goroutines. It is called after Run has returned and all connections are gone.
func (s *Set) Release() { s.crew.Wait() }

// address returns a peer's address as package net would.
func address(sa unix.Sockaddr) net.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port}
	case *unix.SockaddrInet6:
		a := &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port}
		if sa.ZoneId != 0 {
			a.Zone = zone(int(sa.ZoneId))
		}
		return a
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return &net.UnixAddr{Net: "unix"}
}

// zone returns an interface's name, or its number if the name cannot be found.
func zone(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprint(index)
}

// A relay is the listener from which the http.Server gets the connections that it is lent.
type relay struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

var errRelayClosed = errors.New("no more connections")

func (r *relay) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.done:
		return nil, errRelayClosed
	}
}

// give reports whether c has been taken.
func (r *relay) give(c net.Conn) bool {
	select {
	case r.conns <- c:
		return true
	case <-r.done:
		return false
	}
}

func (r *relay) Close() error {
	r.once.Do(func() { close(r.done) })
	return nil
}

// Addr is no address of anything: above all not a Unix socket's, which means that no key is needed.
func (r *relay) Addr() net.Addr { return relayed{} }

// relayed stands where a listener's address would.
type relayed struct{}

func (relayed) Network() string { return "relay" }
func (relayed) String() string  { return "relay" }
