package wsconn

import (
	"fmt"
	"runtime/debug"
	"slices"
	"unicode/utf8"

	"picloud/internal/poll"

	"github.com/gorilla/websocket"
)

// reading is a connection's reading side, while it is awake.
type reading Conn

// Run implements poll.Runner: it looks until nothing has happened since the last look began.
func (r *reading) Run() {
	for c := (*Conn)(r); ; {
		c.look()
		if c.turn.Done() {
			return
		}
	}
}

// look handles what is at hand. The caller has the turn of the reading side.
func (c *Conn) look() {
	c.mu.Lock()
	if c.ended && c.dead {
		c.mu.Unlock()
		return
	}
	c.users++
	c.mu.Unlock()

	if !c.ended {
		c.beginsReading()
		err := c.receiveAndRest()
		c.Flush()
		// The answers are out, or Written shows that they are not.
		c.ends(markRead, c.read, len(c.partial) == 0 && c.sock.rests())
		if err != nil {
			c.end(err)
		}
	}
	if c.ended {
		c.discard()
	}

	c.mu.Lock()
	c.held = int32(len(c.partial) + c.sock.holds())
	if room := int32(cap(c.partial) + c.sock.holds()); c.room != room {
		c.room = room
		c.settle()
	}
	if c.quiet { // this was the answer to the ping, or else it will be next time
		c.quiet = false
		c.sock.stream.DropInCipher()
	}
	c.leave()
	c.mu.Unlock()
}

// receiveAndRest handles all input that is at hand. A panic of the handler ends the connection and no other, as
// net/http has it for requests, so that whoever knows a message that makes the server panic cannot end it again and
// again. A panic with a lock held leaves the lock: Probe then hangs, and the watchdog ends the process.
func (c *Conn) receiveAndRest() (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = c.refuse(websocket.CloseInternalServerErr, "internal error", &Panic{what, debug.Stack()})
			defer func() { recover() }() // the same once more, perhaps
			c.handler.Rest()             // for whoever is owed a flush
		}
	}()
	err = c.receive()
	c.handler.Rest()
	return err
}

// A Panic is why a connection ended whose handler has panicked.
type Panic struct {
	What  any
	Stack []byte
}

func (p *Panic) Error() string { return fmt.Sprint("its handler panicked: ", p.What) }

// end tells the handler that the connection has ended. Unless a goodbye is on its way, there is nothing to wait for.
func (c *Conn) end(err error) {
	c.ended = true
	c.partial = nil
	c.mu.Lock()
	if c.ending == nil {
		c.ending = &ending{why: err}
	}
	err = c.ending.why
	if c.ending.frame == nil && !c.dead {
		c.fail(err)
	}
	c.mu.Unlock()
	c.handler.Closed(err)
	c.mu.Lock()
	c.leave() // the one held until Closed was called
	c.mu.Unlock()
}

// A buffer is what a connection borrows while it has something to read.
type buffer [32 << 10]byte

// receive handles all input that is at hand and returns nil, or what ended the connection.
func (c *Conn) receive() error {
	if err := c.closed(); err != nil {
		return err
	}
	buf := c.set.bufs.Get().(*buffer)
	defer c.set.bufs.Put(buf)
	if err := c.handleEarly(); err != nil {
		return err
	}
	for !c.set.crew.Frozen() {
		// A short piece of an unfinished message is continued in the large buffer; a long one grows in a buffer of its
		// own.
		in := buf[:]
		if len(c.partial) > len(in)/8 {
			c.partial = slices.Grow(c.partial, max(min(len(c.partial), len(in)), c.sock.reads()))
			in = c.partial[:cap(c.partial)]
		} else {
			copy(in, c.partial)
		}
		n, moved, err := c.sock.read(in[len(c.partial):])
		c.read += uint32(moved)
		if n > 0 {
			if err := c.handle(in[:len(c.partial)+n]); err != nil {
				return err
			}
		}
		if err == errAgain {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// handleEarly handles what came with the handshake, which may hold whole messages.
func (c *Conn) handleEarly() error {
	if len(c.partial) == 0 || c.gather.pos > 0 {
		return nil
	}
	return c.handle(c.partial)
}

// handle takes the whole messages out of in, which begins with partial, and keeps the rest in partial.
func (c *Conn) handle(in []byte) error {
	for len(in) > 0 {
		what, start, end := c.gather.next(in, c.set.limits.MessageBytes)
		switch what {
		case needMore:
			c.keep(in)
			return nil
		case gotControl:
			if err := c.control(in[start]&0xf, payload(in[start:end])); err != nil {
				return err
			}
			if err := c.closed(); err != nil {
				return err
			}
			in = append(in[:start], in[end:]...)
		case gotMessage:
			binary, p := in[0]&0xf == opBinary, payload(in[:end])
			if !binary && !utf8.Valid(p) {
				return c.refuse(websocket.CloseInvalidFramePayloadData, c.set.notUTF8(p), errNotUTF8)
			}
			c.handler.Receive(binary, p)
			if err := c.closed(); err != nil {
				return err
			}
			in = in[end:]
		case gotMistake:
			return c.mistake(wrong(in[start:], start > 0))
		case gotTooBig:
			return c.refuse(websocket.CloseMessageTooBig, "", errTooBig)
		case gotOverlong:
			return c.refuse(websocket.CloseMessageTooBig, "", errFragments)
		}
	}
	c.keep(nil)
	return nil
}

// keptRoom is how much room more than it needs a partial message may keep.
const keptRoom = 4 << 10

// keep makes rest the partial message. rest may lie in partial or in a borrowed buffer.
func (c *Conn) keep(rest []byte) {
	if len(rest) == 0 {
		c.partial = nil
		return
	}
	if cap(c.partial) > 4*len(rest)+keptRoom { // a large message is done with
		c.partial = nil
	}
	c.partial = append(c.partial[:0], rest...)
}

// discard throws input away until the peer has answered the goodbye, so that the kernel does not answer it with a
// reset, which could overtake the goodbye.
func (c *Conn) discard() {
	buf := c.set.bufs.Get().(*buffer)
	defer c.set.bufs.Put(buf)
	for {
		c.mu.Lock()
		dead := c.dead
		c.mu.Unlock()
		if dead {
			return
		}
		n, err := poll.Recv(c.sock.fd, buf[:]) // what TLS is around it does not matter any more
		if err == errAgain {
			return
		}
		if err != nil || n == 0 {
			c.kill()
			return
		}
	}
}
