package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// ErrFull is what Upgrade returns at the limit; nothing has been answered then.
var ErrFull = errors.New("connection limit reached")

// Limits hold for each connection of a Set, Connections for all of them. All must be set.
type Limits struct {
	Connections  int
	MessageBytes int           // of one message's payload
	QueueBytes   int           // what may wait for a client that takes nothing; a single frame may be larger
	PingEvery    time.Duration // a peer's kernel is made to acknowledge something this often
	PeerTimeout  time.Duration // and is taken for gone when it acknowledges nothing for this long
}

// A Set is all connections of a server, and the poller that wakes them.
type Set struct {
	limits   Limits
	upgrader websocket.Upgrader
	readers  sync.Pool
	epoll    *os.File        // nested in Go's own poller, so that waiting for it blocks no thread
	raw      syscall.RawConn // of epoll
	wg       sync.WaitGroup  // goroutines of connections
	probe    int             // an eventfd that the poller watches beside the connections
	answers  chan struct{}   // it has seen it

	mu    sync.Mutex
	slots []entry
	free  []int32
	open  int           // connections, and handshakes under way
	full  uint64        // times at which open has reached the limit
	bye   func(*Conn)   // set: the Set is closing, this is how
	empty chan struct{} // closed when open is 0 after that
}

// An entry's generation tells a late event from one for the slot's next owner.
type entry struct {
	conn       *Conn
	generation int32
}

// New makes a Set. onError answers a request that is no WebSocket handshake, with a status and a reason for the client.
func New(limits Limits, onError func(w http.ResponseWriter, status int, reason error)) (*Set, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll non-blocking: %w", err)
	}
	s := &Set{limits: limits, epoll: os.NewFile(uintptr(fd), "epoll")}
	s.raw, err = s.epoll.SyscallConn()
	if err != nil {
		s.epoll.Close()
		return nil, err
	}
	if err := s.addProbe(); err != nil {
		s.epoll.Close()
		return nil, err
	}
	s.readers.New = func() any { return newReader() }
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   128, // this gorilla Conn reads nothing
		WriteBufferPool:  engineUpgrader.WriteBufferPool,
		// Any page may connect: it has to know the key, which no browser sends by itself.
		CheckOrigin: func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			onError(w, status, reason)
		},
	}
	return s, nil
}

// Len is the number of connections, those being closed included.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Filled is how often the number of connections has reached the limit.
func (s *Set) Filled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

// Upgrade answers a WebSocket handshake and takes over its connection, which does nothing until Start. It returns
// ErrFull before it has answered; otherwise a request that failed has been answered or its connection is closed.
func (s *Set) Upgrade(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	s.mu.Lock()
	if s.open >= s.limits.Connections {
		s.mu.Unlock()
		return nil, ErrFull
	}
	s.open++
	if s.open == s.limits.Connections {
		s.full++
	}
	s.mu.Unlock()

	c, err := s.upgrade(w, r)
	if err != nil {
		s.mu.Lock()
		s.gone()
		s.mu.Unlock()
		return nil, err
	}
	return c, nil
}

func (s *Set) upgrade(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	hs := &handshake{ResponseWriter: w}
	ws, err := s.upgrader.Upgrade(hs, r, nil)
	if err != nil {
		return nil, err
	}
	nc := ws.NetConn()
	addr := nc.RemoteAddr().String()
	if _, ok := nc.RemoteAddr().(*net.UnixAddr); ok {
		addr = "local"
	}
	sock, err := newSocket(nc, s.limits.PeerTimeout)
	if err != nil {
		nc.Close()
		return nil, err
	}
	_, isTLS := sock.stream.(secure)
	return &Conn{set: s, sock: sock, addr: addr, secure: isTLS, partial: hs.early, users: 2}, nil
}

// Start lets c receive. h may be called before Start returns.
func (c *Conn) Start(h Handler) {
	c.handler = h
	s := c.set
	s.mu.Lock()
	if n := len(s.free); n > 0 {
		c.slot = int(s.free[n-1])
		s.free = s.free[:n-1]
	} else {
		c.slot = len(s.slots)
		s.slots = append(s.slots, entry{})
	}
	e := &s.slots[c.slot]
	e.conn = c
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     int32(c.slot),
		Pad:    e.generation,
	}
	bye := s.bye
	s.mu.Unlock()

	if c.sock.stream == nil {
		// Edge-triggered and registered once: a rest costs no system call.
		if err := s.control(c.sock.fd, &event); err != nil {
			c.mu.Lock()
			c.fail(err)
			c.mu.Unlock()
		}
	}
	if bye != nil {
		bye(c)
	}
	c.ready(true, false) // what came with the handshake
	c.mu.Lock()
	c.leave()
	c.mu.Unlock()
}

func (s *Set) control(fd int, event *unix.EpollEvent) error {
	var err error
	cerr := s.raw.Control(func(ep uintptr) {
		err = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, fd, event)
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("watch the connection: %w", err)
	}
	return nil
}

// remove forgets c, whose socket is about to be closed. It is called with c.mu held.
func (s *Set) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[c.slot].conn = nil
	s.slots[c.slot].generation++
	s.free = append(s.free, int32(c.slot))
	s.gone()
}

// gone counts one connection less. It needs mu.
func (s *Set) gone() {
	s.open--
	if s.open == 0 && s.bye != nil {
		close(s.empty)
		s.empty = make(chan struct{}) // for a handshake that was under way
	}
}

// Run wakes connections and pings them until ctx ends. It is called once.
func (s *Set) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pinger sync.WaitGroup
	pinger.Go(func() { s.pingAll(ctx) })
	defer pinger.Wait()

	var events [128]unix.EpollEvent
	for {
		var n int
		var err error
		rerr := s.raw.Read(func(ep uintptr) bool {
			n, err = unix.EpollWait(int(ep), events[:], 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if ctx.Err() != nil {
			return nil
		}
		if err = errors.Join(rerr, err); err != nil {
			return fmt.Errorf("wait for connections: %w", err)
		}
		for _, e := range events[:n] {
			if e.Fd == probeSlot {
				s.answer()
				continue
			}
			c := s.lookup(e.Fd, e.Pad)
			if c == nil {
				continue
			}
			c.ready(e.Events&^unix.EPOLLOUT != 0, e.Events&unix.EPOLLOUT != 0)
		}
	}
}

func (s *Set) lookup(slot, generation int32) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.slots[slot]; e.generation == generation {
		return e.conn
	}
	return nil
}

// pingTurns is how many turns the pings of one interval are spread over.
const pingTurns = 25

func (s *Set) pingAll(ctx context.Context) {
	tick := time.NewTicker(s.limits.PingEvery / pingTurns)
	defer tick.Stop()
	var conns []*Conn
	var house housekeeping
	for turn := 0; ; turn = (turn + 1) % pingTurns {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		open := s.open
		for i := turn; i < len(s.slots); i += pingTurns {
			if c := s.slots[i].conn; c != nil {
				conns = append(conns, c)
			}
		}
		s.mu.Unlock()
		for _, c := range conns {
			c.ping()
		}
		clear(conns)
		conns = conns[:0]
		if house.due(open) {
			debug.FreeOSMemory()
		}
	}
}

// A housekeeping tells when memory is to be given back to the kernel: after a crowd has come, whose handshakes took more
// than what they leave, or has gone. Go's own collector does it within some minutes, which on a machine of 512 MB can be
// late.
type housekeeping struct {
	done  int // connections when it was last due
	last  int // a turn ago
	turns int // since it was last due
}

// A crowd is so many connections more or less; a few that still come do not matter. There are turnsApart turns at least
// between two collections, which take the longer the more connections there are.
const (
	crowd      = 500
	straggling = 50
	turnsApart = 5
)

// due is asked once in a turn, with the number of connections.
func (h *housekeeping) due(open int) bool {
	settled := abs(open-h.last) < straggling
	h.last = open
	h.turns++
	if !settled || abs(open-h.done) < crowd || h.turns < turnsApart {
		return false
	}
	h.done, h.turns = open, 0
	return true
}

func abs(n int) int { return max(n, -n) }

// Close closes every connection, and those that still come, with code and reason: what is queued goes out first. When
// ctx ends the rest is cut off. Run must go on until Close has returned, with all connections gone and every
// Handler.Closed called. Close is called once.
func (s *Set) Close(ctx context.Context, code int, reason string) {
	s.mu.Lock()
	s.bye = func(c *Conn) { c.Close(code, reason) }
	s.empty = make(chan struct{})
	empty := s.empty
	if s.open == 0 {
		close(empty)
		s.empty = make(chan struct{}) // as in gone
	}
	conns := s.conns()
	s.mu.Unlock()
	for _, c := range conns {
		s.bye(c)
	}
	select {
	case <-empty:
	case <-ctx.Done():
		s.mu.Lock()
		conns = s.conns()
		s.bye = (*Conn).kill
		s.mu.Unlock()
		for _, c := range conns {
			c.kill()
		}
		<-empty
	}
}

// conns needs mu.
func (s *Set) conns() []*Conn {
	var conns []*Conn
	for _, e := range s.slots {
		if e.conn != nil {
			conns = append(conns, e.conn)
		}
	}
	return conns
}

// Release waits for the last goroutines and closes the poller. It is called after Close and Run have returned.
func (s *Set) Release() error {
	s.wg.Wait()
	return errors.Join(s.epoll.Close(), unix.Close(s.probe))
}

// IsUpgrade reports whether a request asks for a WebSocket.
func IsUpgrade(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }
