// Package wsconn holds one client's socket: what is read from it becomes messages, and what is queued for it goes out
// in order.
//
// A connection at rest is its socket and a small record: no goroutine, no buffer. When the socket becomes readable, a
// goroutine borrows a buffer, handles everything at hand and puts the connection to rest again. Everything that is
// written (data, pongs and the close frame) goes through the connection's one outbox.
package wsconn

import (
	"errors"
	"slices"
	"sync"
	"time"

	"picloud/internal/handover"
	"picloud/internal/poll"
	"picloud/internal/tlsrecord"

	"github.com/gorilla/websocket"
)

// Why a connection ended, as passed to Handler.Closed, besides io.EOF and system errors.
var (
	ErrGoodbye  = errors.New("closed by the client")
	ErrTooSlow  = errors.New("reads too slowly: its queue is full")
	ErrStalled  = errors.New("reads too slowly: it took nothing for a whole ping interval")
	ErrLongest  = errors.New("reads too slowly: all that waits is too much, and most of it waits for this client")
	ErrProtocol = errors.New("broke the WebSocket protocol")
	ErrClosed   = errors.New("closed by the server")
	ErrSaved    = errors.New("saved for the next process")
)

// How long a connection that is being closed may take to accept what is queued for it and the close frame, and then to
// answer. Who has not taken all of it from the kernel has the rest of flushGrace for that.
const (
	flushGrace  = 5 * time.Second
	answerGrace = time.Second
)

// A Handler gets what a connection receives. Its methods are called by one goroutine at a time.
type Handler interface {
	// Receive gets one message; p is valid only during the call. A text message is valid UTF-8.
	Receive(binary bool, p []byte)
	// Rest says that there is no more input at hand: whatever was held back during a burst goes out now.
	Rest()
	// Closed is called once, last, with the reason. What is still queued may yet go out.
	Closed(why error)
}

// A Conn is one WebSocket connection. All exported methods are safe for concurrent use, and none of them blocks.
type Conn struct {
	// What a delivery touches lies in the first two cache lines, up to the word in sock that says whether there is a
	// stream, and a test keeps it there: with many subscribers, fetching those lines is most of what a delivery costs
	// outside the kernel.
	mu        sync.Mutex
	writing   bool    // a goroutine is in write: it alone takes from out
	stalled   bool    // the socket takes no more; the poller resumes
	again     bool    // the socket has become writable since the write began
	cut       bool    // the queue is to be cut when the write under way returns
	dead      bool    // sock must not be used any more; it is closed when users is 0
	lenient   bool    // the kernel does not watch over the peer
	uncounted bool    // kept with a mark, but the kernel does not count its bytes
	charged   bool    // charge is not 0
	users     int32   // calls to sock under way, plus one until Start returns and one until Closed has been called
	taken     uint32  // bytes that the socket has taken in total; if kept, as the kernel counts them
	batch     uint64  // the last batch number seen, see hub.Sink
	ending    *ending // if set, the connection is being closed and nothing more is queued
	mark      *handover.Mark
	out       outbox
	sock      socket

	set     *Set
	handler Handler
	addr    string
	kept    *handover.Kept // nil: it ends with the process
	place   poll.Place
	slot    int    // place in the set
	pinged  uint32 // taken, at the last ping
	stuck   bool   // stalled, at the last ping
	quiet   bool   // nothing but a ping had gone out since the one before, and the answer has not been looked at
	held    int32  // len(partial), at the beginning or when the reading side last rested
	room    int32  // cap(partial) at that time
	charge  int    // what the connection counts for in the Set's quota

	turn poll.Turn // of the reading side: held by a goroutine in reading.Run

	// Used by the reading side only.
	ended   bool   // Closed has been called, input is thrown away
	read    uint32 // bytes in total, if kept
	gather  gather
	partial []byte // what was read of an unfinished message, from its first byte

	_ [24]byte // pads to a size that the allocator aligns to a cache line
}

// An ending is the state of a connection that is being closed.
type ending struct {
	why   error
	frame []byte      // the close frame, if one is to be sent
	timer *time.Timer // bounds the closing
	until time.Time   // when flushGrace ends
}

// Local is the address of a client of a Unix socket.
const Local = "local"

// Addr is the client's address, "192.168.99.1:62178", or Local.
func (c *Conn) Addr() string { return c.addr }

// TLS is the version of TLS that the client speaks, such as tls.VersionTLS13, or 0.
func (c *Conn) TLS() uint16 {
	if over, ok := c.sock.stream.(*sealed); ok {
		return over.Version()
	}
	return 0
}

// Queue appends a frame from an Arena to what is to be sent, and reports whether the caller owes a Flush for its batch:
// see hub.Sink. A connection whose queue is full and which takes nothing is closed; nothing is queued for one that is
// being closed.
func (c *Conn) Queue(frame []byte, batch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != nil {
		return false
	}
	if c.stalled && c.out.size > 0 && c.out.size+len(frame) > c.set.limits.QueueBytes {
		c.closeSlow(ErrTooSlow)
		return false
	}
	refers := c.push(frame)
	if c.stalled {
		c.settle()
		if !refers {
			return false
		}
	}
	if c.batch == batch {
		return false
	}
	c.batch = batch
	return true
}

// push appends a frame to what is to be sent. From now until everything is written, the mark says that something is
// owed: the publisher may get its ack before the frame is written, and if the process is killed in between, the
// connection must not be kept over a restart. mu must be held.
func (c *Conn) push(frame []byte) (refers bool) {
	if c.out.size == 0 {
		c.ends(markWritten, c.taken, false)
	}
	return c.out.push(frame, c.stalled)
}

// settle brings up to date what the connection counts for in the Set's quota: what is kept of an unfinished message
// and, while it is stalled, its queue. What is queued for others is written in a moment. mu must be held.
func (c *Conn) settle() {
	n := int(c.room)
	if c.stalled {
		n += c.out.size
	}
	if n != c.charge {
		c.set.waiting.Add(n - c.charge)
		c.charge, c.charged = n, n != 0
	}
}

// Flush writes what is queued, as far as the socket takes it now; the rest follows by itself. It reports whether the
// memory of all frames that have been queued is free: each was written, copied or dropped.
func (c *Conn) Flush() (free bool) {
	c.mu.Lock()
	c.flush()
	free = !c.writing && !c.out.lent
	c.mu.Unlock()
	return free
}

// flush is Flush. mu must be held, and is released while it writes.
func (c *Conn) flush() {
	if c.writing || c.stalled || c.dead || c.out.isOut() {
		return
	}
	c.writing = true
	c.users++
	c.write()
}

// Idle reports whether everything queued has been given to the socket.
func (c *Conn) Idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.isOut()
}

// Close sends what is queued, then a close frame (RFC 6455 §7.4), and ends the connection, in the background and in
// bounded time. Handler.Closed gets ErrClosed. Closing again does nothing.
func (c *Conn) Close(code int, reason string) {
	c.sayGoodbye(appendFrame(nil, opClose, websocket.FormatCloseMessage(code, reason)), ErrClosed)
	c.Flush()
	c.ready(true, false)
}

// maxSlices is how many slices one system call writes at most.
const maxSlices = 8

// write runs with writing set, in the goroutine that set it, which holds one of users. mu must be held, and is released
// while it writes.
func (c *Conn) write() {
	for !c.out.isOut() && !c.dead {
		var store [maxSlices][]byte
		bufs := c.out.head(store[:0])
		c.again = false
		c.mu.Unlock()
		n, moved, err := c.sock.write(bufs)
		c.mu.Lock()
		if c.dead {
			break
		}
		if n > 0 {
			c.out.took(n)
		}
		c.taken += uint32(moved)
		c.out.owes = c.sock.owes()
		c.ends(markWritten, c.taken, c.out.isOut() && c.ending == nil) // after a goodbye it must not be kept
		if c.cut {
			c.cut = false
			c.out.cut()
			c.out.push(c.ending.frame, false)
		}
		if err == errAgain {
			if c.again {
				continue
			}
			c.writing, c.stalled = false, true
			c.patient(true)
			c.out.own()
			if c.out.behind() > c.set.limits.QueueBytes && c.ending == nil {
				c.closeSlow(ErrTooSlow)
			}
			c.settle()
			c.leave()
			return
		}
		if err != nil {
			c.fail(err)
			break
		}
	}
	if e := c.ending; e != nil && e.frame != nil && !c.dead {
		e.timer.Reset(answerGrace)
		c.mu.Unlock()
		c.sock.bye(nil)
		c.sock.closeWrite()
		c.mu.Lock()
	}
	c.writing, c.stalled = false, false
	c.patient(false)
	if c.charged {
		c.settle()
	}
	c.leave()
}

// patient suspends the kernel's watch over a peer that has stalled, or resumes it. A peer whose window is shut
// acknowledges nothing new, however alive it is, and the kernel would take it for dead, tcp(7): ping judges whether it
// still reads. mu must be held.
func (c *Conn) patient(on bool) {
	if c.lenient == on || c.addr == Local {
		return
	}
	c.lenient = on
	c.watchPeer()
}

// watchPeer tells the kernel how long the peer may acknowledge nothing: without limit while lenient.
func (c *Conn) watchPeer() {
	timeout := c.set.limits.PeerTimeout
	if c.lenient {
		timeout = 0
	}
	watchPeer(c.sock.fd, timeout)
}

// ready says that the socket may be read, or takes bytes again, as the poller reports it.
func (c *Conn) ready(read, write bool) {
	c.mu.Lock()
	if read {
		c.kick()
	}
	if write {
		c.again = true
		if c.stalled && !c.writing && !c.dead {
			c.stalled = false
			c.flush()
		}
	}
	c.mu.Unlock()
}

// ping queues a ping, so that the peer's kernel has something to acknowledge, and closes a connection that has taken
// nothing since the last ping although something was waiting.
func (c *Conn) ping() {
	c.mu.Lock()
	switch {
	case c.ending != nil:
	case c.stalled && c.stuck && c.taken == c.pinged:
		c.closeSlow(ErrStalled)
	default:
		c.push(pingFrame)
	}
	c.quiet = c.sock.stream != nil && c.taken-c.pinged <= quietBytes
	c.pinged, c.stuck = c.taken, c.stalled
	c.flush()
	if c.quiet && !c.writing && !c.dead {
		c.sock.stream.DropOutCipher()
	}
	c.mu.Unlock()
}

// quietBytes is what goes out between two pings where nothing else does: one of them.
const quietBytes = 2 + tlsrecord.Overhead

var pingFrame = appendFrame(nil, opPing, nil)

// replyBytes is how much may be queued, unflushed, when a control frame is answered.
const replyBytes = 16 << 10

// reply queues a control frame in answer to another. It is flushed when the input at hand is used up, or earlier in a
// flood that never ends: only an attempt to write shows whether the queue is too long.
func (c *Conn) reply(frame []byte) {
	c.Queue(frame, 0)
	c.mu.Lock()
	if c.out.size >= replyBytes {
		c.flush()
	}
	c.mu.Unlock()
}

// sayGoodbye queues a close frame as the last frame and notes why. Only the first goodbye counts.
func (c *Conn) sayGoodbye(frame []byte, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != nil {
		return
	}
	c.closing(frame, why)
	c.push(c.ending.frame)
}

// closeSlow drops what is queued, except the rest of a half-written frame, and closes with 1013. mu must be held.
func (c *Conn) closeSlow(why error) {
	c.closing(appendFrame(nil, opClose, websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "reads too slowly")),
		why)
	if c.writing {
		c.cut = true
	} else {
		c.out.cut()
		c.out.push(c.ending.frame, false)
		c.settle()
	}
	c.kick()
}

// closing begins to close the connection. mu must be held.
func (c *Conn) closing(goodbye []byte, why error) {
	c.ending = &ending{why, slices.Clone(goodbye), time.AfterFunc(flushGrace, c.expire), time.Now().Add(flushGrace)}
}

// expire ends a closing that has taken its time. A client that reads slowly still gets what the kernel has for it: the
// connection's reset would destroy that, and the close frame with it.
func (c *Conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead && poll.Unsent(c.sock.fd) > 0 && time.Now().Before(c.ending.until) {
		c.ending.timer.Reset(answerGrace)
		return
	}
	c.cutOff()
}

// fail notes that the socket is broken. mu must be held.
func (c *Conn) fail(err error) {
	if c.ending == nil {
		c.ending = &ending{why: err}
	}
	c.ending.frame = nil
	c.out = outbox{}
	c.dead = true
	c.settle()
	c.patient(false) // or the kernel would keep what it has for the peer as long as the peer's answers to its probes
	if !c.writing {
		c.ends(markWritten, c.taken, false)
		c.sock.bye(err)
	}
	c.sock.abort()
	c.kick()
}

// kill ends the connection at once. Handler.Closed follows, if it has not been called.
func (c *Conn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutOff()
}

// cutOff is kill. mu must be held.
func (c *Conn) cutOff() {
	if c.dead { // and perhaps closed: its descriptor may be another client's by now
		return
	}
	poll.Cut(c.sock.fd)
	c.fail(ErrClosed)
	c.users++ // there may be none
	c.leave()
}

// leave gives up one of users; the last to leave a dead connection closes it. mu must be held.
func (c *Conn) leave() {
	c.users--
	if c.users == 0 && c.dead {
		c.room = 0
		c.settle()
		c.stopTimer()
		c.set.remove(c)
		c.sock.close()
	}
}

// stopTimer stops the timer that bounds the closing. mu must be held.
func (c *Conn) stopTimer() {
	if c.ending != nil && c.ending.timer != nil {
		c.ending.timer.Stop()
	}
}

// kick makes the reading side look at the connection: the socket is readable, or something has ended it. mu must be
// held, so that a goroutine is started only for a connection that is still open: Set.Close would not wait for any
// other.
func (c *Conn) kick() {
	if !c.dead || c.users > 0 {
		c.set.crew.Wake(&c.turn, (*reading)(c))
	}
}

// closed returns why the connection is being closed, or nil.
func (c *Conn) closed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == nil {
		return nil
	}
	return c.ending.why
}
