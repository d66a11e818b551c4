package httpconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"picloud/internal/poll"
	"picloud/internal/tlsconn"
	"picloud/internal/tlsrecord"

	"golang.org/x/sys/unix"
)

// A loan is a connection as net/http sees it: lent for one request, of which exactly its bytes can be read, or for
// good.
//
// net/http closes it after a request either way. If it has reported StateIdle before, it would have gone on: then the
// connection comes back to its Conn.
type loan struct {
	conn *Conn

	mu      sync.Mutex // taken before conn.mu
	wake    sync.Cond
	in      []byte   // what has been read of the request, for Read to return
	missing int      // how much of the request is still to come; or unbounded, or inChunks
	chunks  chunks   // for inChunks: where it stands
	taken   []byte   // all that has been read of an unfinished request, while it can be recalled
	file    net.Conn // for calls that block, nil until there is one
	reading bool     // a Read waits for more of the request
	recall  bool     // and is to give the connection back
	read    time.Time
	write   time.Time // deadlines
	expired bool      // the read deadline was in the past when it was set
	idle    bool      // the request has been answered, and the connection could go on
	resting bool      // the same for an unbounded loan, which does not come back
	closed  bool      // the descriptor is not this loan's any more
}

// loanBytes is what net/http takes for a connection: a goroutine, two buffers of 4 KiB and a request.
const loanBytes = 20 << 10

const (
	unbounded = -1 // missing where nobody knows the request's end: the loan is for good
	inChunks  = -2 // missing where chunks will tell
)

var (
	errMisread  = errors.New("httpconn: net/http reads beyond the request")
	errRecalled = errors.New("httpconn: the connection is left to the next process")
)

func newLoan(c *Conn, in []byte, missing int) *loan {
	l := &loan{conn: c, in: in, missing: missing}
	l.wake.L = &l.mu
	if missing != 0 {
		l.taken = in
	}
	return l
}

// Note is the http.Server's ConnState.
func (s *Set) Note(nc net.Conn, state http.ConnState) { nc.(*loan).note(state) }

// loanKey is the key of a request's loan in its context.
type loanKey struct{}

// ConnContext is the http.Server's.
func (s *Set) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, loanKey{}, nc)
}

// Shown notes that the request with this context has shown the key, so that its connection keeps its slot as long as it
// does something. Any other context does nothing.
func (s *Set) Shown(ctx context.Context) {
	if l, ok := ctx.Value(loanKey{}).(*loan); ok {
		l.conn.shown()
	}
}

// note notes what net/http does with the loan.
func (l *loan) note(state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resting = state == http.StateIdle
	switch {
	case l.missing == unbounded && !l.closed:
		c := l.conn
		c.mu.Lock()
		c.since, c.rests = time.Now(), l.resting
		c.mu.Unlock()
		if l.resting && c.slot.pool.waiting.Load() > 0 {
			unix.Shutdown(c.fd, unix.SHUT_RDWR)
		}
	case l.resting:
		l.idle = true
		l.wake.Broadcast()
	}
}

// Read returns the request's bytes, and then blocks until the answer has been given or the deadline is set to the past.
// net/http does either while it reads ahead, by one byte, to see whether the client is still there.
func (l *loan) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	if len(l.in) > 0 {
		n := copy(p, l.in)
		l.in = l.in[n:]
		return n, nil
	}
	if l.missing != 0 {
		return l.readMore(p)
	}
	if len(p) > 1 && !l.idle && !l.closed {
		return 0, errMisread
	}
	for !l.idle && !l.expired && !l.closed {
		l.wake.Wait()
	}
	if l.idle {
		return 0, io.EOF
	}
	if l.closed {
		return 0, net.ErrClosed
	}
	return 0, os.ErrDeadlineExceeded
}

// readMore reads what is still to come of the request. mu must be held, and is released while it blocks.
func (l *loan) readMore(p []byte) (int, error) {
	nc, err := l.waiting()
	if err != nil {
		return 0, err
	}
	if l.missing > 0 && len(p) > l.missing {
		p = p[:l.missing]
	}
	l.reading = true
	l.mu.Unlock()
	n, err := nc.Read(p)
	l.mu.Lock()
	l.reading = false
	if l.closed {
		return n, err
	}
	behind := p[n:n]
	switch l.missing {
	case unbounded:
	case inChunks:
		k := l.chunks.scan(p[:n])
		n, behind = k, p[k:n]
		switch l.chunks.at {
		case chunksEnd:
			l.missing = 0
		case chunksBroken:
			l.missing = unbounded
		}
	default:
		l.missing -= n
	}
	if l.taken != nil {
		if l.taken = append(l.taken, p[:n]...); len(l.taken) > l.conn.set.cfg.RecallBytes {
			l.taken = nil // and whoever reads it keeps it no longer, either
		}
		l.conn.blocks(l.cost())
	}
	if len(behind) > 0 {
		l.conn.keep(behind, false)
	}
	if l.recall && l.taken != nil { // what has just come may have been too much
		l.giveBack()
		return 0, errRecalled
	}
	return n, err
}

// comeBack is called when the process is about to end: a request that is not whole, and whose answer has not begun, is
// left to the next process with all that has come of it. Nothing acts on a request before it is whole, so it has had no
// effect yet.
func (l *loan) comeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
	case l.missing == unbounded && l.resting: // what net/http has read of the next request is not known
		l.mu.Unlock()
		l.Close()
		l.mu.Lock()
	case l.missing == 0 || l.taken == nil:
	case l.reading:
		l.recall = true
		l.file.SetReadDeadline(time.Unix(1, 0))
	default:
		l.giveBack()
	}
}

// giveBack ends the loan of an unfinished request. mu must be held.
func (l *loan) giveBack() {
	l.shut()
	c := l.conn
	c.mu.Lock()
	c.returned(l.taken)
	c.mu.Unlock()
	c.set.loans.Done()
}

func (l *loan) Write(p []byte) (int, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, net.ErrClosed
	}
	if !bytes.HasPrefix(p, goOn) {
		l.taken = nil // the answer has begun
	}
	n := 0
	if l.file == nil {
		var err error
		n, err = l.conn.post(p)
		if err != poll.ErrAgain {
			l.mu.Unlock()
			return n, err
		}
	}
	nc, err := l.waiting()
	if err == nil {
		l.conn.blocks(l.cost() + cap(p)) // which may be nobody else's any more
	}
	l.mu.Unlock()
	if err != nil {
		return n, err
	}
	m, err := nc.Write(p[n:])
	l.mu.Lock()
	if !l.closed {
		l.conn.blocks(l.cost())
		if errors.Is(err, os.ErrDeadlineExceeded) {
			poll.Cut(l.conn.fd)
		}
	}
	l.mu.Unlock()
	return n + m, err
}

// goOn is how net/http asks for a body that a client holds back, RFC 9110 §10.1.1: it is not an answer.
var goOn = []byte("HTTP/1.1 100 ")

// waiting returns the connection for calls that block. mu must be held.
func (l *loan) waiting() (net.Conn, error) {
	if l.file == nil {
		nc, err := l.conn.file()
		if err != nil {
			return nil, err
		}
		nc.SetReadDeadline(l.read)
		nc.SetWriteDeadline(l.write)
		l.file = nc
		l.conn.blocks(l.cost())
	}
	return l.file, nil
}

// cost is what a loan takes that may last: net/http's part of it, a request both here and where it is read, and with
// TLS what has been opened of a record and not been read. mu must be held.
func (l *loan) cost() int {
	n := loanBytes + 2*cap(l.taken)
	if l.conn.tls != nil {
		n += tlsrecord.MaxPlaintext
	}
	return n
}

// Close gives the connection back, or ends it. Closing again does nothing.
func (l *loan) Close() error {
	ended, goesOn := l.end()
	if !ended {
		return nil
	}
	defer l.conn.set.loans.Done()
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if goesOn {
		l.conn.returned(nil)
	} else {
		l.conn.close()
	}
	return nil
}

// end ends the loan, and reports whether it had not ended before and whether the connection goes on: only after a
// request whose end httpconn, too, has seen.
func (l *loan) end() (ended, goesOn bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, false
	}
	l.shut()
	return true, l.idle && l.missing == 0
}

// shut marks the loan as closed. mu must be held.
func (l *loan) shut() {
	l.closed = true
	l.wake.Broadcast()
	if l.file != nil {
		l.file.Close()
	}
}

// Take gives the descriptor to the caller, non-blocking, with its place in the poller, what it speaks TLS with, and
// whatever has come from the client and was not read from the loan, even of the request's body: the connection has
// become something else. Take closes the loan.
func (l *loan) Take() (fd int, place poll.Place, tls *tlsconn.Stream, behind []byte, err error) {
	if ended, _ := l.end(); !ended {
		return -1, poll.Place{}, nil, nil, net.ErrClosed
	}
	c := l.conn
	defer c.set.loans.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, place = c.release()
	return fd, place, c.tls, append(l.in, c.unread()...), nil
}

// CloseWrite is how net/http lets a client read its last answer.
func (l *loan) CloseWrite() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.conn.bye(nil)
	return os.NewSyscallError("shutdown", unix.Shutdown(l.conn.fd, unix.SHUT_WR))
}

func (l *loan) LocalAddr() net.Addr  { return l.conn.local }
func (l *loan) RemoteAddr() net.Addr { return l.conn.remote }

func (l *loan) SetDeadline(t time.Time) error {
	return errors.Join(l.SetReadDeadline(t), l.SetWriteDeadline(t))
}

func (l *loan) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = t
	l.expired = !t.IsZero() && t.Before(time.Now())
	if l.expired {
		l.wake.Broadcast()
	}
	if l.file != nil && !l.recall {
		return l.file.SetReadDeadline(t)
	}
	return nil
}

func (l *loan) SetWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write = t
	if l.file != nil {
		return l.file.SetWriteDeadline(t)
	}
	return nil
}
