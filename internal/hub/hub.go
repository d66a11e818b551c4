// Package hub knows who is connected and who subscribes to what, and puts each published frame into its subscribers'
// queues.
package hub

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrTooManySubscriptions is what Subscribe returns at the limit of one client.
var ErrTooManySubscriptions = errors.New("too many subscriptions on this connection")

// ErrNoRoom is what Subscribe returns when all subscriptions together take as much memory as they may.
var ErrNoRoom = errors.New("no room for more subscriptions")

// ErrGone is what Subscribe returns for a client that has left.
var ErrGone = errors.New("client has left")

// A Sink takes the frames for one client.
type Sink interface {
	// Queue appends one frame and returns at once: it is called with an event's lock held, so it does no I/O and never
	// calls the hub. The frame's bytes are shared with other sinks, and do not change before a Flush has said that they
	// are free.
	//
	// batch is the number of the publisher's current Batch. Queue reports whether the sink had not been told that
	// number before; the caller then owes it one Flush. A sink that wants none has copied the frame.
	Queue(frame []byte, batch uint64) bool

	// Flush sends the client what is queued, as far as it can without waiting. It reports whether the memory of the
	// frames that have been queued is free: the sink refers to none of them. Safe for concurrent use.
	Flush() (free bool)
}

// A Client is one connection that has joined.
type Client struct {
	Name        string
	Addr        string
	ConnectedAt time.Time

	sink      Sink
	seq       uint64 // order of joining
	rejoined  bool
	published atomic.Uint64

	mu        sync.Mutex
	subs      []*subscription
	left      bool
	delivered uint64 // over subscriptions that have ended
}

// A subscription joins one client to one event. index is its place in the event's subs, guarded by the event's lock.
type subscription struct {
	client *Client
	event  *event
	index  int
	since  uint64 // what had been published to the event when it began
}

// An event is a name that has subscribers. What delivering a message needs lies in the first cache line, and what is
// kept of the message right after it: a test checks that.
type event struct {
	mu        sync.Mutex
	published atomic.Uint64 // grows under mu
	subs      []subscriber
	one       [1]subscriber // where subs begins: most events have one subscriber, which is then close by

	at      atomic.Int64 // in Unix nanoseconds: of its last message, or of its beginning as long as there is none
	from    string       // of its last message, as are bytes and preview
	bytes   uint32
	dead    bool // its last subscriber has left; it is or will be out of the hub's map
	preview [PreviewBytes]byte

	delivered uint64 // over subscriptions that have ended
	name      string

	_ [16]byte // pads to a size that the allocator aligns to a cache line
}

// PreviewBytes is how much of an event's last message is kept at most.
const PreviewBytes = 120

// A Note is what people want to know about a message, besides its frame.
type Note struct {
	At   time.Time
	From string // the name of the client that published it
	Data []byte // Publish copies its beginning
}

// Last is what is kept of an event's last message. The zero Last is that of an event without one.
type Last struct {
	Note      // Data has at most PreviewBytes, and may end within a character
	Bytes int // of the whole data
}

// A subscriber is a subscription and where its frames go, side by side: a fan-out reads nothing else.
type subscriber struct {
	sink Sink
	*subscription
}

// A Hub is safe for concurrent use. Publishers of different events share nothing but a read lock.
//
// Locks are taken in this order: a client's, the hub's, an event's, a sink's own. The hub's lock is never held while an
// event's is waited for, so that a long fan-out delays nobody on another event.
type Hub struct {
	mu     sync.RWMutex
	events map[string]*event

	clientsMu sync.Mutex
	clients   map[*Client]struct{}
	lastSeq   uint64

	room          int64        // bytes
	taken         atomic.Int64 // of the room
	subscriptions atomic.Int64
	published     atomic.Uint64
	delivered     atomic.Uint64
}

// What counts for a subscription and for an event, besides the length of the name: a little more than the memory that
// they take here, slices that have grown for more included. With a subscription's name, which is not kept here once
// more, it is also what others keep of it.
const (
	subscriptionBytes = 128
	eventBytes        = 384
)

// New makes an empty hub, in which the subscriptions of all clients may take that many bytes.
func New(room int) *Hub {
	return &Hub{room: int64(room), events: make(map[string]*event), clients: make(map[*Client]struct{})}
}

// Join lists a client. Clients are listed in the order of at, which carries a monotonic clock's reading, and of
// joining.
func (h *Hub) Join(sink Sink, name, addr string, at time.Time) *Client {
	return h.join(&Client{Name: name, Addr: addr, ConnectedAt: at, sink: sink})
}

// Rejoin is Join for a client that was in another process's hub: at is by a clock that may have been set since. Clients
// that rejoin are listed before the others, in the order in which they rejoin.
func (h *Hub) Rejoin(sink Sink, name, addr string, at time.Time) *Client {
	return h.join(&Client{Name: name, Addr: addr, ConnectedAt: at, sink: sink, rejoined: true})
}

func (h *Hub) join(c *Client) *Client {
	h.clientsMu.Lock()
	defer h.clientsMu.Unlock()
	h.lastSeq++
	c.seq = h.lastSeq
	h.clients[c] = struct{}{}
	return c
}

// Sink returns where c's frames go.
func (c *Client) Sink() Sink { return c.sink }

// Events lists what c is subscribed to.
func (c *Client) Events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, len(c.subs))
	for i, s := range c.subs {
		names[i] = s.event.name
	}
	return names
}

// Leave ends all subscriptions of c and forgets it. After it returns no frame is queued for c any more. Calling it
// again does nothing.
func (h *Hub) Leave(c *Client) {
	c.mu.Lock()
	c.left = true
	h.dropAll(c)
	c.mu.Unlock()
	h.clientsMu.Lock()
	delete(h.clients, c)
	h.clientsMu.Unlock()
}

// Subscribe makes c receive what is published to the event from now on, and reports whether that is new: subscribing
// twice is the same as subscribing once. It returns ErrTooManySubscriptions when c has max subscriptions already, and
// ErrNoRoom when there is no room for one more, and perhaps its event.
func (h *Hub) Subscribe(c *Client, name []byte, max int) (added bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.left:
		return false, ErrGone
	case c.find(name) >= 0:
		return false, nil
	case len(c.subs) >= max:
		return false, ErrTooManySubscriptions
	case h.taken.Load()+subscriptionBytes+eventBytes+2*int64(len(name)) > h.room:
		return false, ErrNoRoom
	}
	h.subscribe(c, name)
	return true, nil
}

// Resubscribe is Subscribe for what a client that rejoins had in another process's hub: nothing is too much.
func (h *Hub) Resubscribe(c *Client, name []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left && c.find(name) < 0 {
		h.subscribe(c, name)
	}
}

// subscribe adds a subscription that c does not have. c.mu must be held.
func (h *Hub) subscribe(c *Client, name []byte) {
	s := &subscription{client: c}
	for {
		ev := h.lookupOrCreate(name)
		ev.mu.Lock()
		if ev.dead { // emptied since the lookup: help to remove it and look again
			ev.mu.Unlock()
			h.forget(ev)
			continue
		}
		s.event, s.index, s.since = ev, len(ev.subs), ev.published.Load()
		ev.subs = append(ev.subs, subscriber{c.sink, s})
		ev.mu.Unlock()
		break
	}
	c.subs = append(c.subs, s)
	h.subscriptions.Add(1)
	h.taken.Add(subscriptionBytes + int64(len(name)))
}

// Unsubscribe ends one subscription, if c has it, and reports whether it had. After it returns no frame of that event
// is queued for c.
func (h *Hub) Unsubscribe(c *Client, name []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(name)
	if i < 0 {
		return false
	}
	h.drop(c.subs[i])
	last := len(c.subs) - 1
	c.subs[i] = c.subs[last]
	c.subs[last] = nil
	c.subs = c.subs[:last]
	return true
}

// UnsubscribeAll ends all subscriptions of c. After it returns no published frame is queued for c.
func (h *Hub) UnsubscribeAll(c *Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.dropAll(c)
}

// Publish puts frame into the queue of every current subscriber of the event, and lists in b the sinks to be flushed.
// When it returns the message is accepted: it is in all those queues, after everything that was published to the event
// before. It reports the number of subscribers. What note says is kept until the event's next message.
func (h *Hub) Publish(b *Batch, name, frame []byte, note Note) int {
	h.published.Add(1)
	h.mu.RLock()
	ev := h.events[string(name)]
	h.mu.RUnlock()
	if ev == nil {
		return 0
	}
	ev.mu.Lock()
	for i := range ev.subs {
		b.Queue(ev.subs[i].sink, frame)
	}
	n := len(ev.subs)
	ev.published.Add(1)
	ev.at.Store(note.At.UnixNano())
	ev.from, ev.bytes = note.From, uint32(len(note.Data))
	copy(ev.preview[:], note.Data)
	ev.mu.Unlock()
	h.delivered.Add(uint64(n))
	return n
}

// last copies the event's newest message. mu must be held.
func (ev *event) last() Last {
	if ev.published.Load() == 0 {
		return Last{}
	}
	data := bytes.Clone(ev.preview[:min(ev.bytes, PreviewBytes)])
	return Last{Note{time.Unix(0, ev.at.Load()), ev.from, data}, int(ev.bytes)}
}

// Sent counts one message that c has published.
func (c *Client) Sent() { c.published.Add(1) }

// Traffic is how many messages c has published, and how many have been put into its queue. Counting the second costs a
// delivery nothing: it is what has been published to each event while c was subscribed.
func (c *Client) Traffic() (published, delivered uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delivered = c.delivered
	for _, s := range c.subs {
		delivered += s.event.published.Load() - s.since
	}
	return c.published.Load(), delivered
}

// find returns the place of the event in c.subs, or -1. c.mu must be held.
func (c *Client) find(name []byte) int {
	for i, s := range c.subs {
		if s.event.name == string(name) {
			return i
		}
	}
	return -1
}

func (h *Hub) lookupOrCreate(name []byte) *event {
	h.mu.RLock()
	ev := h.events[string(name)]
	h.mu.RUnlock()
	if ev != nil {
		return ev
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ev = h.events[string(name)]
	if ev == nil {
		ev = &event{name: string(name)}
		ev.at.Store(time.Now().UnixNano())
		ev.subs = ev.one[:0]
		h.events[ev.name] = ev
		h.taken.Add(eventBytes + int64(len(name)))
	}
	return ev
}

// dropAll ends all of c's subscriptions. c.mu must be held.
func (h *Hub) dropAll(c *Client) {
	for _, s := range c.subs {
		h.drop(s)
	}
	c.subs = nil
}

// drop takes s out of its event: the last entry takes its place, so the cost does not grow with the subscribers. The
// client's mu must be held.
func (h *Hub) drop(s *subscription) {
	ev := s.event
	ev.mu.Lock()
	last := len(ev.subs) - 1
	ev.subs[s.index] = ev.subs[last]
	ev.subs[s.index].index = s.index
	ev.subs[last] = subscriber{}
	ev.subs = ev.subs[:last]
	delivered := ev.published.Load() - s.since
	ev.delivered += delivered
	s.client.delivered += delivered
	switch {
	case last == 0:
		ev.dead = true
	case last >= 64 && last < cap(ev.subs)/4:
		ev.subs = slices.Clone(ev.subs) // most subscribers have left: their places are freed
	}
	dead := ev.dead
	ev.mu.Unlock()
	h.subscriptions.Add(-1)
	h.taken.Add(-subscriptionBytes - int64(len(ev.name)))
	if dead {
		h.forget(ev)
	}
}

// forget takes a dead event out of the map, unless it is out already.
func (h *Hub) forget(ev *event) {
	h.mu.Lock()
	if h.events[ev.name] == ev {
		delete(h.events, ev.name)
		h.taken.Add(-eventBytes - int64(len(ev.name)))
	}
	h.mu.Unlock()
}

// Counts are the hub's figures at one moment. Published and Delivered only grow.
type Counts struct {
	Clients, Events, Subscriptions int
	Published, Delivered           uint64
}

// Counts returns the current figures. It does not wait for a fan-out.
func (h *Hub) Counts() Counts {
	h.clientsMu.Lock()
	clients := len(h.clients)
	h.clientsMu.Unlock()
	h.mu.RLock()
	events := len(h.events)
	h.mu.RUnlock()
	return Counts{
		Clients:       clients,
		Events:        events,
		Subscriptions: int(h.subscriptions.Load()),
		Published:     h.published.Load(),
		Delivered:     h.delivered.Load(),
	}
}

// Probe passes through every lock of the hub. It returns at once while the hub works, and hangs when it hangs.
func (h *Hub) Probe() {
	h.clientsMu.Lock()
	h.clientsMu.Unlock() //lint:ignore SA2001 passing is the test
	for _, ev := range h.allEvents() {
		ev.mu.Lock()
		ev.mu.Unlock() //lint:ignore SA2001 passing is the test
	}
}

// allEvents copies the map, so that the hub's lock is not held while an event's is waited for.
func (h *Hub) allEvents() []*event {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Collect(maps.Values(h.events))
}
