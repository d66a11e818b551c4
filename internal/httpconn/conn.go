package httpconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"
	"unsafe"

	"picloud/internal/poll"
	"picloud/internal/tlsconn"

	"golang.org/x/sys/unix"
)

// A Conn is one HTTP connection. Its turn is held by a goroutine in Run, by the loan, or by whoever ends the connection
// and never gives it back.
type Conn struct {
	set           *Set
	remote, local net.Addr
	turn          poll.Turn
	slot          *slot

	mu    sync.Mutex
	fd    int             // -1: closed, or given away
	tls   *tlsconn.Stream // nil: it is plain, or the handshake has not been made
	place poll.Place
	used  bool       // a request has been answered on it
	since time.Time  // when the rest began, or the first byte of in came
	head  bool       // in has a whole head
	rests bool       // it is lent for good, and between two requests
	lent  int        // what a call that blocks costs, as long as it may: bytes
	held  int        // bytes of an unfinished record, when it last came to rest
	shake *handshake // nil: it is plain, or made
	load  load       // what all of it counts for

	in    []byte // what has been read and not yet answered; owned by whoever has the turn
	blank int    // how many bytes of line ends are still skipped before in; owned likewise
	loan  *loan  // what it is lent to, while it is lent
}

// watched is a Conn as the poller sees it.
type watched Conn

func (w *watched) Ready(read, _ bool) {
	if c := (*Conn)(w); read {
		c.set.crew.Wake(&c.turn, c)
	}
}

// goOn passes the turn, which the caller has, to a goroutine, or in a frozen Set gives it back. mu must be held.
func (c *Conn) goOn() {
	if c.set.crew.Frozen() {
		c.turn.Rest()
		return
	}
	c.set.crew.Go(c)
}

// quiet reports whether the connection is at rest and nothing has come that Ready is still to report. mu must be held.
func (c *Conn) quiet() bool {
	if !c.turn.Rests() {
		return false
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(c.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != nil || n == 0
}

// idle reports whether the connection rests after an answer and nothing has come of a next request. mu must be held.
func (c *Conn) idle() bool { return c.turn.Rests() && len(c.in) == 0 && c.used }

// late reports whether the connection has rested for too long. mu must be held.
func (c *Conn) late(now time.Time) bool {
	if !c.turn.Rests() {
		return false
	}
	cfg := &c.set.cfg
	limit := cfg.HeadTimeout
	switch {
	case c.head:
		limit += cfg.BodyTimeout
	case c.idle():
		limit = cfg.IdleTimeout
	}
	return now.Sub(c.since) >= limit
}

// closeIf closes the connection if so holds and it is at rest, and reports whether it did.
func (c *Conn) closeIf(so func(*Conn) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !so(c) || !c.turn.Take() {
		return false
	}
	c.close()
	return true
}

// abort ends the connection, whoever has it.
func (c *Conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.turn.Take():
		c.close()
	case c.loan == nil && c.fd >= 0:
		unix.Shutdown(c.fd, unix.SHUT_RDWR) // Run will see it
	}
}

// close ends the connection. The caller has the turn, and mu must be held. Another process's store may still hold the
// socket, whose end must not wait for that.
func (c *Conn) close() {
	c.bye(nil)
	fd, place := c.release()
	c.set.cfg.Poller.Remove(place)
	unix.Shutdown(fd, unix.SHUT_RDWR)
	unix.Close(fd)
	if c.tls != nil {
		c.tls.Wipe()
	}
}

// bye tells the client that nothing follows, and why, in the words of TLS. Only who may write may call it.
func (c *Conn) bye(why error) {
	if c.tls != nil {
		c.tls.Bye(c.fd, why)
	}
}

// release gives away the descriptor and its place. The caller has the turn, and mu must be held.
func (c *Conn) release() (fd int, place poll.Place) {
	fd, place = c.fd, c.place
	c.fd, c.place, c.loan = -1, poll.Place{}, nil
	c.load.set(c.set, 0)
	if c.shake != nil {
		c.set.handshakes.leave(c.shake)
	}
	c.set.mu.Lock()
	delete(c.set.conns, c)
	c.set.mu.Unlock()
	c.set.slots.leave(c.slot)
	return fd, place
}

// network is what counts as the client's address.
func (c *Conn) network() netip.Addr { return Network(Address(c.remote), Address(c.local)) }

// shown notes that a request of the connection has shown the key.
func (c *Conn) shown() {
	c.mu.Lock()
	first := c.load.shown(c.set)
	c.mu.Unlock()
	if first {
		c.set.slots.show(c.slot)
	}
}

// bears returns what memory the connection counts for, and when the client was last active. What a handshake under way
// takes is bounded otherwise.
func (c *Conn) bears() (load, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.load
	if c.shake != nil {
		l.bytes -= c.lent
	}
	return l, c.since
}

// tcp calls use with the descriptor, unless it is closed or a Unix socket's.
func (c *Conn) tcp(use func(fd int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 && !c.slot.isLocal() {
		use(c.fd)
	}
}

// unread is what has come and has not been looked at. The caller has the turn.
func (c *Conn) unread() []byte {
	if c.tls != nil {
		return append(c.in, c.tls.Ahead()...)
	}
	return c.in
}

// settle brings up to date what the connection counts for. mu must be held.
func (c *Conn) settle() {
	if c.fd >= 0 {
		c.load.set(c.set, cap(c.in)+c.lent+c.held)
	}
}

// blocks notes what the call costs that may block now: 0 when it has ended.
func (c *Conn) blocks(bytes int) {
	c.mu.Lock()
	c.lent = bytes
	c.settle()
	c.mu.Unlock()
}

// yield is holder's.
func (c *Conn) yield(since time.Time, d demand) (ended bool, active time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fd < 0: // and its slot is free in a moment
		return false, time.Now()
	case d != always && c.since.After(since):
		return false, c.since
	case d != always && c.turn.Rests() && !c.quiet():
		return false, time.Now()
	}
	rested := c.turn.Take()
	if !rested && d == ifResting && !c.rests {
		return false, time.Now()
	}
	poll.Cut(c.fd) // whoever has the turn will see it
	if rested {
		c.close()
	}
	return true, since
}

// Run is the goroutine of a Conn that is awake, a poll.Runner: it answers what is at hand.
func (c *Conn) Run() {
	for {
		switch err := c.lookAndRecover(); err {
		case errLent:
			return
		case nil, poll.ErrAgain:
		default:
			c.mu.Lock()
			c.bye(err)
			c.close()
			c.mu.Unlock()
			return
		}
		if c.rest() {
			return
		}
	}
}

// rest gives the turn back unless there is more to look at, and reports whether it has. A connection that comes to rest
// while others wait for a slot, or idle while the Set drains, is closed.
func (c *Conn) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tls != nil && c.held != c.tls.Held() {
		c.held = c.tls.Held()
		c.settle()
	}
	if !c.turn.Done() {
		return false
	}
	if (c.slot.pool.waiting.Load() > 0 || c.idle() && c.set.draining.Load()) && c.turn.Take() {
		c.close()
	}
	return true
}

var (
	errLent = errors.New("it is lent")
	errMQTT = errors.New("the client speaks MQTT")

	errPanicked = errors.New("its request made the server panic")
)

// lookAndRecover is look. A panic of Short or Join ends the connection, as one of a handler does in net/http.
func (c *Conn) lookAndRecover() (err error) {
	defer func() {
		what := recover()
		if what == nil {
			return
		}
		c.set.cfg.Panicked(what, debug.Stack())
		c.mu.Lock()
		l, gone := c.loan, c.fd < 0
		c.mu.Unlock()
		err = errPanicked
		if l != nil || gone { // it was being given away
			if l != nil {
				l.Close()
			}
			err = errLent
		}
	}()
	return c.look()
}

// look reads until there is no more. Anything but nil and poll.ErrAgain ends Run.
func (c *Conn) look() error {
	b := c.set.bufs.Get().(*buffer)
	defer c.set.bufs.Put(b)
	if c.shake != nil {
		return c.hear(b.in[:])
	}
	if len(c.in) > 0 { // what came while the connection was lent, or to another process
		if err := c.answerAll(b, slices.Clone(c.in)); err != nil {
			return err
		}
	}
	buf := b.in[:]
	held := copy(buf, c.in)
	for !c.set.crew.Frozen() {
		n, err := c.recv(buf[held:])
		switch {
		case err == io.EOF && held > 0: // net/http answers a request that ends in the middle
			return c.lend(buf[:held], nil, unbounded, chunks{})
		case err != nil:
			return err
		case n == 0:
			continue
		}
		if isMQTT(buf[:held+n]) {
			c.set.cfg.MQTT(c.remote)
			return errMQTT
		}
		if held == 0 {
			c.begins()
		} else if !c.head && held+n <= c.set.cfg.HeadBytes && bytes.IndexByte(buf[held:held+n], '\n') < 0 {
			c.more(buf[held : held+n]) // of a line that may drip in byte by byte
			held += n
			continue
		}
		if err := c.answerAll(b, buf[:held+n]); err != nil {
			return err
		}
		held = copy(buf, c.in)
	}
	return nil
}

// begins notes the first byte of a request.
func (c *Conn) begins() {
	c.mu.Lock()
	c.since, c.head = time.Now(), false
	c.mu.Unlock()
}

// answerAll answers the whole requests in in, in its own way or by lending the connection, and keeps the rest.
func (c *Conn) answerAll(b *buffer, in []byte) error {
	r := &b.request
	for in = c.skip(in); len(in) > 0; in = c.skip(in) {
		f, plain := r.scan(in)
		size := f.head + f.body
		var ch chunks
		if f.chunked {
			size = f.head + ch.scan(in[f.head:])
			if ch.at == chunksBroken {
				f.kind = opaque
			}
		}
		known := f.kind == framed || f.kind == expecting
		whole := known && size <= len(in) && (!f.chunked || ch.at == chunksEnd)
		switch {
		case f.kind == unfinished && len(in) <= c.set.cfg.HeadBytes,
			f.kind == framed && !whole && size <= restBytes:
			c.keep(in, f.kind == framed)
			return nil
		case whole && plain && f.head <= c.set.cfg.HeadBytes:
			r.Body = in[f.head:size]
			r.Remote, r.Local = c.remote, c.local
			if !c.set.draining.Load() {
				if answer, ok := c.set.cfg.Short(r); ok {
					c.shown()
					if err := c.send(answer); err != nil {
						return err
					}
					c.asked(in)
					in = in[size:]
					c.answered()
					continue
				}
			}
			fallthrough
		case whole:
			if f.upgrade && f.body == 0 && f.head <= c.set.cfg.HeadBytes && !c.set.draining.Load() &&
				c.join(b, in[:size], in[size:]) {
				return errLent
			}
			return c.lend(in[:size], in[size:], 0, ch)
		case known && f.chunked:
			return c.lend(in, nil, inChunks, ch)
		case known:
			return c.lend(in, nil, size-len(in), ch)
		default:
			return c.lend(in, nil, unbounded, ch)
		}
	}
	c.keep(nil, false)
	return nil
}

// lineEnds is how many bytes of line ends are skipped behind a POST, as net/http's server does it: small devices print
// a line, and so send one more line end than the body has. A loan's server cannot do it: it sees no request before.
const lineEnds = 4

// asked notes what may come behind a request, which in begins with.
func (c *Conn) asked(in []byte) {
	c.blank = 0
	if bytes.HasPrefix(in, []byte("POST ")) {
		c.blank = lineEnds
	}
}

// skip returns what is left of in without the line ends behind the request before. A connection of which nothing else
// has come stays idle.
func (c *Conn) skip(in []byte) []byte {
	for c.blank > 0 && len(in) > 0 && (in[0] == '\r' || in[0] == '\n') {
		in = in[1:]
		c.blank--
	}
	return in
}

// answered notes that a request has been answered.
func (c *Conn) answered() {
	c.mu.Lock()
	c.used, c.head, c.since = true, false, time.Now()
	c.mu.Unlock()
}

func (c *Conn) keep(in []byte, head bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.head = head
	if len(in) == 0 {
		c.in = nil
	} else {
		c.in = append(c.in[:0], in...)
	}
	c.settle()
}

// more keeps what follows what is kept of a head.
func (c *Conn) more(in []byte) {
	c.mu.Lock()
	c.in = append(c.in, in...)
	c.settle()
	c.mu.Unlock()
}

// send writes an answer, and waits for a client that takes it slowly.
func (c *Conn) send(p []byte) error {
	n, err := c.post(p)
	if n == len(p) && err == nil || err != nil && err != poll.ErrAgain {
		return err
	}
	nc, err := c.file()
	if err != nil {
		return err
	}
	defer nc.Close()
	c.blocks(int(unsafe.Sizeof(buffer{})))
	defer c.blocks(0)
	nc.SetWriteDeadline(time.Now().Add(c.set.cfg.SendTimeout))
	if _, err = nc.Write(p[n:]); errors.Is(err, os.ErrDeadlineExceeded) {
		poll.Cut(c.fd)
	}
	return err
}

// recv reads what is at hand: io.EOF at the end. With TLS, what has come may bring nothing yet.
func (c *Conn) recv(p []byte) (int, error) {
	if c.tls != nil {
		n, _, err := c.tls.Recv(c.fd, p)
		return n, err
	}
	n, err := poll.Recv(c.fd, p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// post sends as much as the socket takes: poll.ErrAgain means that not all of p has gone out, n of which is taken care
// of.
func (c *Conn) post(p []byte) (n int, err error) {
	if c.tls == nil {
		n, err = poll.Send(c.fd, p)
		if err == nil && n < len(p) {
			err = poll.ErrAgain
		}
		return n, err
	}
	for n < len(p) && err == nil {
		var k int
		k, _, err = c.tls.Send(c.fd, [][]byte{p[n:]})
		n += k
	}
	return n, err
}

// file returns the connection as one whose calls block.
func (c *Conn) file() (net.Conn, error) {
	nc, err := c.rawFile()
	if err != nil || c.tls == nil {
		return nc, err
	}
	return c.tls.Over(nc)
}

// rawFile returns the socket with a descriptor in Go's poller.
func (c *Conn) rawFile() (net.Conn, error) {
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	return net.FileConn(f)
}

// lend lends the connection to net/http for the request that has begun, and keeps what follows it.
func (c *Conn) lend(request, behind []byte, missing int, ch chunks) error {
	c.set.relieve() // before more is taken in
	c.asked(request)
	l := c.borrowed(slices.Clone(request), behind, missing)
	l.chunks = ch
	if !c.set.lending.give(l) {
		l.Close()
	}
	return errLent
}

// borrowed turns the connection into a loan, from which request can be read, and keeps what follows it.
func (c *Conn) borrowed(request, behind []byte, missing int) *loan {
	l := newLoan(c, request, missing)
	c.keep(behind, false)
	c.set.loans.Add(1) // before Freeze can call it back
	c.mu.Lock()
	c.loan = l
	c.mu.Unlock()
	return l
}

// returned ends a loan: the connection goes on after an answer, or with what has come of an unfinished request. mu must
// be held.
func (c *Conn) returned(unfinished []byte) {
	c.loan, c.lent = nil, 0
	if c.set.closed.Load() {
		c.close()
		return
	}
	if unfinished != nil {
		c.head, c.in = true, append(unfinished, c.in...)
	} else {
		c.used, c.head = true, false
	}
	c.since = time.Now()
	c.settle()
	c.goOn()
}
