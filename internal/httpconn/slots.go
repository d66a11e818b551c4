package httpconn

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds say how many connections may be HTTP at the same time. All must be at least 1.
type Bounds struct {
	TCP     int
	Network int // of TCP: from one network (see Network) without having shown the key
	Local   int // over Unix sockets, besides the others
}

// A Crowding says that connections are closed, or have to wait, because a bound has been reached.
type Crowding struct {
	Kind  CrowdingKind
	From  netip.Addr // the network that holds most slots without the key; the zero Addr is that of Unix sockets
	Holds int        // how many it holds
	Bound int        // the bound that has been reached
}

// A CrowdingKind is what happens at a bound.
type CrowdingKind int

const (
	NetworkFull CrowdingKind = iota // From loses its own oldest connections
	Full                            // the oldest connection without the key goes
	Waiting                         // newcomers wait: all who are there have the key, and are busy
	crowdingKinds
)

// crowdingEvery is how often each kind is told at most.
const crowdingEvery = time.Minute

// mostEnding is how many connections may have lost their slot and not be gone yet: so many files may be open besides
// those of the bounds.
const mostEnding = 16

// slots bounds the connections that are still HTTP, whoever holds them. When all slots are taken, a newcomer gets that
// of the client that has kept the server waiting the longest without having shown the key, whatever that one is doing:
// it may be silent, in the middle of a request, or not taking its answer. Only if there is none goes one that has shown
// the key and is at rest.
//
// A connection that becomes active does not move in a list. It is asked when its turn to go has come, and is listed
// anew if it has been active since. So no request pays for this, and a flood of newcomers little.
type slots struct {
	bounds  Bounds
	crowded func(Crowding) // called without locks

	mu         sync.Mutex
	leaving    sync.Cond // of mu
	unbound    bool
	tcp, local pool
	ending     int                // connections that have lost their slot and are not gone yet
	networks   map[netip.Addr]int // those in tcp.without
	told       [crowdingKinds]time.Time
	entered    uint64
	evicted    uint64
	waited     uint64 // newcomers that had to wait

	present sync.WaitGroup // those that have a slot, or have lost it and are not gone yet
}

// A pool is a number of slots and those who have them.
type pool struct {
	most, taken int
	without     list.List    // of *slot, of those that have not shown the key
	with        list.List    // of *slot, of those that have
	waiting     atomic.Int32 // newcomers for which nobody could be closed
}

// A slot is that of one connection.
type slot struct {
	holder  holder
	network netip.Addr // the zero Addr: it came over a Unix socket
	pool    *pool

	// Guarded by slots.mu.
	shown  bool          // the key
	free   bool          // the connection has it no more
	ending bool          // but is not gone yet
	active time.Time     // when the client was active, as far as is known
	listed *list.Element // in one of pool's lists; nil while the holder is asked
}

func (sl *slot) isLocal() bool { return !sl.network.IsValid() }

// A holder has a slot.
type holder interface {
	// yield ends the connection as far as d allows, and reports whether it did; if not, it returns when the client was
	// last active. No lock of the slots is held.
	yield(since time.Time, d demand) (ended bool, active time.Time)
}

// A demand says which connection has to yield.
type demand int

const (
	ifResting  demand = iota // one at rest whose client has not been active since
	ifInactive               // one whose client has not been active since, whoever works on it
	always
)

func newSlots(b Bounds, crowded func(Crowding)) *slots {
	s := &slots{bounds: b, crowded: crowded, networks: make(map[netip.Addr]int)}
	s.leaving.L = &s.mu
	s.tcp.most, s.local.most = b.TCP, b.Local
	return s
}

// enter gives a slot to a connection from network, and waits if nobody can be closed for it.
func (s *slots) enter(h holder, network netip.Addr) *slot {
	sl := s.newSlot(h, network)
	s.present.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.unbound {
		switch p := sl.pool; {
		case s.ending >= mostEnding:
			s.leaving.Wait()
			continue
		case p.taken < p.most, s.makeRoom(p):
		default:
			s.wait(p)
		}
		if sl.pool.taken < sl.pool.most {
			break
		}
	}
	s.take(sl)
	if n := s.networks[network]; n > s.bounds.Network && s.evict(&s.tcp.without, ifInactive, network) {
		s.tell(Crowding{Kind: NetworkFull, From: network, Holds: n, Bound: s.bounds.Network})
	}
	return sl
}

// tryEnter is enter for a connection that may neither wait nor have another one closed. It returns nil when there is no
// slot.
func (s *slots) tryEnter(h holder, network netip.Addr) *slot {
	sl := s.newSlot(h, network)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl.pool.taken >= sl.pool.most {
		return nil
	}
	s.present.Add(1)
	s.take(sl)
	return sl
}

func (s *slots) newSlot(h holder, network netip.Addr) *slot {
	sl := &slot{holder: h, network: network, pool: &s.local, active: time.Now()}
	if !sl.isLocal() {
		sl.pool = &s.tcp
	}
	return sl
}

// take notes a slot as taken. mu must be held.
func (s *slots) take(sl *slot) {
	s.entered++
	sl.pool.taken++
	s.list(sl)
}

// makeRoom closes one connection of a pool for a newcomer, unless a slot becomes free meanwhile, and reports whether
// there may be one now. mu must be held, and is released meanwhile.
func (s *slots) makeRoom(p *pool) bool {
	// No key is asked for on a Unix socket, so that whoever is busy there may be anybody.
	if p == &s.local && s.evict(&p.without, ifResting, anybody) {
		return true
	}
	for _, d := range []demand{ifInactive, always} {
		if p.taken < p.most {
			return true
		}
		if s.evict(&p.without, d, anybody) {
			s.tell(Crowding{Kind: Full, Bound: p.most})
			return true
		}
	}
	return p.taken < p.most || s.evict(&p.with, ifResting, anybody)
}

// wait waits until a slot may be free. mu must be held, and is released meanwhile.
func (s *slots) wait(p *pool) {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	if s.makeRoom(p) { // one that came to rest before it could see that somebody waits
		return
	}
	s.waited++
	s.tell(Crowding{Kind: Waiting, Bound: p.most})
	for p.taken >= p.most && !s.unbound {
		s.leaving.Wait()
	}
}

// anybody is no network.
var anybody netip.Addr

// evict closes the connection of a list, and of a network if one is given, whose client has been inactive the longest,
// and reports whether there was one that had to yield. mu must be held, and is released meanwhile.
func (s *slots) evict(l *list.List, d demand, from netip.Addr) bool {
	for range 2 * l.Len() { // the first time may only show that a client has been active
		e := l.Front()
		for e != nil && from != anybody && e.Value.(*slot).network != from {
			e = e.Next()
		}
		if e == nil {
			break
		}
		sl := e.Value.(*slot)
		s.unlist(sl)
		since := sl.active
		s.mu.Unlock()
		ended, active := sl.holder.yield(since, d)
		s.mu.Lock()
		switch {
		case ended:
			s.evicted++
			if !sl.free {
				s.vacate(sl)
				sl.ending = true
				s.ending++
			}
			return true
		case !sl.free:
			sl.active = active
			s.list(sl)
		}
	}
	return false
}

// list puts a slot into its list, which is in the order of slot.active. mu must be held.
func (s *slots) list(sl *slot) {
	if sl.shown {
		sl.listed = insert(&sl.pool.with, sl)
		return
	}
	sl.listed = insert(&sl.pool.without, sl)
	if !sl.isLocal() {
		s.networks[sl.network]++
	}
}

// insert is quick for one that was active a moment ago.
func insert(l *list.List, sl *slot) *list.Element {
	for e := l.Back(); e != nil; e = e.Prev() {
		if !sl.active.Before(e.Value.(*slot).active) {
			return l.InsertAfter(sl, e)
		}
	}
	return l.PushFront(sl)
}

// unlist takes a slot out of its list. mu must be held.
func (s *slots) unlist(sl *slot) {
	if sl.listed == nil {
		return
	}
	if sl.shown {
		sl.pool.with.Remove(sl.listed)
	} else {
		sl.pool.without.Remove(sl.listed)
		if n := s.networks[sl.network]; n > 1 {
			s.networks[sl.network] = n - 1
		} else {
			delete(s.networks, sl.network)
		}
	}
	sl.listed = nil
}

// show notes that a connection has shown the key.
func (s *slots) show(sl *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl.shown || sl.free {
		return
	}
	listed := sl.listed != nil
	s.unlist(sl)
	sl.shown = true
	if listed {
		s.list(sl)
	}
}

// leave notes that a connection is gone. It is called once for each.
func (s *slots) leave(sl *slot) {
	s.mu.Lock()
	if sl.ending {
		s.ending--
		s.leaving.Broadcast()
	}
	if !sl.free {
		s.vacate(sl)
	}
	s.mu.Unlock()
	s.present.Done()
}

// vacate makes a slot free. mu must be held.
func (s *slots) vacate(sl *slot) {
	s.unlist(sl)
	sl.free = true
	sl.pool.taken--
	s.leaving.Broadcast()
}

// unbind ends the bounds, so that no newcomer waits while the server stops.
func (s *slots) unbind() {
	s.mu.Lock()
	s.unbound = true
	s.mu.Unlock()
	s.leaving.Broadcast()
}

// tell reports c, which is completed, unless its kind has been told a moment ago. mu must be held, and is released
// meanwhile.
func (s *slots) tell(c Crowding) {
	now := time.Now()
	if last := s.told[c.Kind]; !last.IsZero() && now.Sub(last) < crowdingEvery {
		return
	}
	s.told[c.Kind] = now
	if c.Kind != NetworkFull {
		for network, n := range s.networks {
			if n > c.Holds {
				c.From, c.Holds = network, n
			}
		}
	}
	s.mu.Unlock()
	s.crowded(c)
	s.mu.Lock()
}

// A Usage is how many slots are taken at a moment, and what has happened since the start.
type Usage struct {
	Open, Bound int    // connections that are HTTP, and how many may be
	Entered     uint64 // connections that got a slot
	Evicted     uint64 // connections that were closed for newcomers
	Waited      uint64 // newcomers that had to wait for somebody to come to rest
}

func (s *slots) usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{Open: s.tcp.taken + s.local.taken, Bound: s.tcp.most + s.local.most, Entered: s.entered,
		Evicted: s.evicted, Waited: s.waited}
}
