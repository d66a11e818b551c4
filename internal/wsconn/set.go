package wsconn

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"picloud/internal/handover"
	"picloud/internal/poll"
	"picloud/internal/quota"

	"github.com/gorilla/websocket"
)

// ErrFull is returned by Upgrade at the limit, before anything has been answered.
var ErrFull = errors.New("connection limit reached")

// Limits apply to each connection of a Set; Connections applies to all of them together. All must be set.
type Limits struct {
	Connections  int
	MessageBytes int           // of one message's payload
	QueueBytes   int           // what may wait for a client that takes nothing; a single frame may be larger
	UnsentBytes  int           // what the kernel takes besides, for a client that takes nothing
	PingEvery    time.Duration // a peer's kernel is made to acknowledge something this often
	PeerTimeout  time.Duration // and is taken for gone when it acknowledges nothing for this long
}

// A Set holds all connections of a server.
type Set struct {
	limits   Limits
	waiting  *quota.Quota    // of bytes that wait: for slow clients, and for the rest of messages
	store    *handover.Store // nil: none
	upgrader websocket.Upgrader
	onError  func(w http.ResponseWriter, status int, reason error)
	notUTF8  func(text []byte) (reason string)
	bufs     sync.Pool // of *buffer
	poller   *poll.Poller
	watch    func(fd int, w poll.Watcher) (poll.Place, error) // poller.Add, except in tests
	crew     *poll.Crew                                       // goroutines of connections

	mu    sync.Mutex
	slots []*Conn // nil: free
	free  []int32
	open  int           // connections, and handshakes under way
	full  uint64        // how many times open has reached the limit
	bye   func(*Conn)   // if set, the Set is closing, and this closes a connection
	empty chan struct{} // closed when open reaches 0 after that
}

// New makes a Set, which keeps its connections in store unless that is nil. onError answers a request that is not a
// WebSocket handshake, with a status and a reason for the client. poller wakes the connections: it must run from before
// the first one comes until all are gone. What waits in the connections is counted in waiting; when it is too much,
// somebody ends those for which Waiting says that most waits. notUTF8 says in at most 123 bytes, for a close frame,
// what a text message is that is not UTF-8.
func New(limits Limits, poller *poll.Poller, store *handover.Store, waiting *quota.Quota,
	onError func(w http.ResponseWriter, status int, reason error), notUTF8 func(text []byte) (reason string)) *Set {
	s := &Set{limits: limits, waiting: waiting, store: store, onError: onError, notUTF8: notUTF8, poller: poller,
		watch: poller.Add, crew: poller.NewCrew()}
	s.bufs.New = func() any { return new(buffer) }
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   128, // this gorilla Conn reads nothing
		WriteBufferPool:  new(sync.Pool),
		// Any page may connect: it has to know the key, which no browser sends by itself.
		CheckOrigin: func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			onError(w, status, reason)
		},
	}
	return s
}

// Len is the number of connections, including those being closed.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Filled counts how many times the number of connections has reached the limit.
func (s *Set) Filled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

// Upgrade takes over the connection of a WebSocket handshake, starts it, and answers the handshake last:
// then it is ready for whatever comes. meet is called once, before anything else knows of the connection, and returns
// its handler. With ErrFull nothing has been answered; with any other error the request has been refused or its
// connection closed.
func (s *Set) Upgrade(w http.ResponseWriter, r *http.Request, meet func(*Conn) Handler) (*Conn, error) {
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
	c.enlist()
	s.admit(c, meet)
	c.Start()
	return c, nil
}

// admit completes a connection: it gives it a handler and a slot in the set. Only then may others know of it, since
// whoever queues something for it may find its socket broken, and that wakes its handler.
func (s *Set) admit(c *Conn, meet func(*Conn) Handler) {
	c.handler = meet(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		c.slot = int(s.free[n-1])
		s.free = s.free[:n-1]
	} else {
		c.slot = len(s.slots)
		s.slots = append(s.slots, nil)
	}
	s.slots[c.slot] = c
}

func (s *Set) upgrade(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	hs, err := s.upgradeHTTP(w, r)
	if err != nil {
		return nil, err
	}
	nc := hs.Conn
	addr := nc.RemoteAddr().String()
	if _, ok := nc.RemoteAddr().(*net.UnixAddr); ok {
		addr = Local
	}
	sock, place, ahead, err := newSocket(nc, s.limits.PeerTimeout)
	if err != nil {
		nc.Close()
		return nil, err
	}
	n := len(hs.answer)
	early := append(hs.early, ahead...)
	return &Conn{set: s, sock: sock, place: place, addr: addr, partial: early, held: int32(len(early)), users: 2,
		out: outbox{first: slices.Clip(hs.answer), size: n, left: int32(n)}}, nil // no frame, and never cut
}

// Start lets c receive. It is called once: by Upgrade for a new connection, by the caller of Restore for a restored
// one. The handler may be called before Start returns, and even before Start is called, if something was queued for c
// and its socket was broken.
func (c *Conn) Start() {
	s := c.set
	switch {
	case !c.place.IsNowhere():
		s.poller.Hand(c.place, (*watched)(c))
	case c.sock.fd >= 0: // but in tests
		place, err := s.watch(c.sock.fd, (*watched)(c))
		c.mu.Lock()
		c.place = place
		if err != nil && !c.dead {
			c.fail(err)
		}
		c.mu.Unlock()
	}
	s.mu.Lock()
	bye := s.bye
	s.mu.Unlock()
	if bye != nil {
		bye(c)
	}
	// What came before the answer may have been reported to the place's previous owner. If nothing has, nothing is
	// woken: it would stand in line from now on, and what comes behind the answer would have this place.
	c.mu.Lock()
	if c.held > 0 || !c.sock.quiet() {
		c.kick()
	}
	c.flush()
	c.leave()
	c.mu.Unlock()
}

// watched is a Conn as the poller sees it.
type watched Conn

func (w *watched) Ready(read, write bool) { (*Conn)(w).ready(read, write) }

// remove forgets c, whose socket is about to be closed. c.mu must be held.
func (s *Set) remove(c *Conn) {
	s.poller.Remove(c.place)
	c.kept.Drop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[c.slot] = nil
	s.free = append(s.free, int32(c.slot))
	s.gone()
}

// gone counts one connection fewer. mu must be held.
func (s *Set) gone() {
	s.open--
	if s.open == 0 && s.bye != nil {
		close(s.empty)
		s.empty = make(chan struct{}) // for a handshake that was under way
	}
}

// pingTurns is how many turns the pings of one interval are spread over.
const pingTurns = 25

// Run pings connections until ctx ends. It is called once.
func (s *Set) Run(ctx context.Context) {
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
			if c := s.slots[i]; c != nil {
				conns = append(conns, c)
			}
		}
		s.mu.Unlock()
		for _, c := range conns {
			c.ping()
		}
		clear(conns)
		conns = conns[:0]
		s.poller.Trim()
		if house.due(open) {
			debug.FreeOSMemory()
		}
	}
}

// A housekeeping tells when memory is to be given back to the kernel: after a crowd has come, whose handshakes took
// more memory than they leave in use, or has gone. Go does so by itself within some minutes, which can be too late on a
// machine with 512 MB.
type housekeeping struct {
	done  int // connections when it was last due
	last  int // connections a turn ago
	turns int // since it was last due
}

// A crowd is so many connections more or fewer; while fewer than straggling come or go in a turn, it counts as settled.
// At least turnsApart turns lie between two collections, which take longer the more connections there are.
const (
	crowd      = 500
	straggling = 50
	turnsApart = 5
)

// due is called once per turn, with the number of connections.
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

// Close closes every connection, including those that still come, with code and reason: what is queued goes out first.
// When ctx ends, those that are left are cut off. Close returns when all connections are gone and every Handler.Closed
// has been called; the poller must run until then. Close is called once.
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

// conns returns the connections that are not gone. mu must be held.
func (s *Set) conns() []*Conn {
	var conns []*Conn
	for _, c := range s.slots {
		if c != nil {
			conns = append(conns, c)
		}
	}
	return conns
}

// Waiting is what counts in the Set's quota.
func (s *Set) Waiting() iter.Seq[quota.Share] {
	return func(yield func(quota.Share) bool) {
		for _, c := range s.All() {
			c.mu.Lock()
			n := c.charge
			c.mu.Unlock()
			if n > 0 && !yield(quota.Share{Held: n, End: c.closeLongest}) {
				return
			}
		}
	}
}

// Buffered is what the kernel holds, over TCP, for those who take nothing of what is sent to them. Whoever is ended
// here gets a reset.
func (s *Set) Buffered() iter.Seq[quota.Share] {
	return func(yield func(quota.Share) bool) {
		for _, c := range s.All() {
			n := 0
			c.mu.Lock()
			if c.stalled && !c.dead && c.addr != Local {
				n = poll.Held(c.sock.fd)
			}
			c.mu.Unlock()
			if n > 0 && !yield(quota.Share{Held: n, End: c.cutLongest}) {
				return
			}
		}
	}
}

// cutLongest ends the connection because what the kernel holds for it is more than what it holds for any other.
func (c *Conn) cutLongest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || !c.stalled {
		return
	}
	poll.Reset(c.sock.fd)
	if c.ending == nil {
		c.ending = &ending{why: ErrLongest}
	}
	c.cutOff()
}

// closeLongest closes the connection because what waits for it is more than what waits for any other.
func (c *Conn) closeLongest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == nil {
		c.closeSlow(ErrLongest)
	} else {
		c.cutOff()
	}
}

// Probe returns when it has held every connection's lock once: it hangs if a connection does.
func (s *Set) Probe() {
	for _, c := range s.All() {
		c.Idle()
	}
}

// Release waits for the last goroutines. It is called after Close and Run have returned.
func (s *Set) Release() { s.crew.Wait() }
