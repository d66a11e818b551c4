package front

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"picloud/internal/poll"

	"golang.org/x/sys/unix"
)

// A loan is a connection as net/http has it: for one request, of which exactly its bytes can be read, or for good.
//
// net/http closes it behind a request either way. Having said StateIdle before, it would have gone on: then the
// connection comes back to its Conn.
type loan struct {
	conn    *Conn
	in      []byte // what of the request has been read already
	missing int    // how much of it has not; or unbounded

	mu      sync.Mutex
	wake    sync.Cond
	file    net.Conn // for what has to wait, nil until it has to
	read    time.Time
	write   time.Time // deadlines
	expired bool      // the read deadline was in the past when it was set
	idle    bool      // the request has been answered, and the connection could go on
	closed  bool      // the descriptor is not this loan's any more
}

// unbounded is missing where nobody knows the request's end: the loan is for good.
const unbounded = -1

var errMisread = errors.New("front: net/http reads beyond the request")

func newLoan(c *Conn, in []byte, missing int) *loan {
	l := &loan{conn: c, in: in, missing: missing}
	l.wake.L = &l.mu
	return l
}

// Note is for the http.Server's ConnState, and reports whether the connection is one of a Server's.
func Note(nc net.Conn, state http.ConnState) bool {
	l, ok := nc.(*loan)
	if ok && state == http.StateIdle && l.missing != unbounded {
		l.mu.Lock()
		l.idle = true
		l.wake.Broadcast()
		l.mu.Unlock()
	}
	return ok
}

// Read gives the request's bytes, and then waits: for the answer to be given, or the deadline to be set to the past. Both
// are what net/http does when it has read ahead, by one byte, to see whether the client is still there.
func (l *loan) Read(p []byte) (int, error) {
	if len(l.in) > 0 {
		n := copy(p, l.in)
		l.in = l.in[n:]
		return n, nil
	}
	if l.missing != 0 {
		nc, err := l.waiting()
		if err != nil {
			return 0, err
		}
		if l.missing > 0 && len(p) > l.missing {
			p = p[:l.missing]
		}
		n, err := nc.Read(p)
		if l.missing > 0 {
			l.missing -= n
		}
		return n, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
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

func (l *loan) Write(p []byte) (int, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, net.ErrClosed
	}
	n := 0
	if l.file == nil {
		var err error
		n, err = poll.Send(l.conn.fd, p)
		if n == len(p) || err != nil && err != poll.ErrAgain {
			l.mu.Unlock()
			return n, err
		}
	}
	l.mu.Unlock()
	nc, err := l.waiting()
	if err != nil {
		return n, err
	}
	m, err := nc.Write(p[n:])
	return n + m, err
}

// waiting returns the connection for what has to wait.
func (l *loan) waiting() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if l.file == nil {
		nc, err := l.conn.file()
		if err != nil {
			return nil, err
		}
		nc.SetReadDeadline(l.read)
		nc.SetWriteDeadline(l.write)
		l.file = nc
	}
	return l.file, nil
}

// Close gives the connection back, or ends it. Closing again does nothing.
func (l *loan) Close() error {
	ended, goesOn := l.end()
	if !ended {
		return nil
	}
	defer l.conn.server.loans.Done()
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if goesOn {
		l.conn.returned()
	} else {
		l.conn.close()
	}
	return nil
}

// end ends the loan, and reports whether it had not ended before and whether the connection goes on.
func (l *loan) end() (ended, goesOn bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, false
	}
	l.closed = true
	l.wake.Broadcast()
	if l.file != nil {
		l.file.Close()
	}
	return true, l.idle
}

// Take makes the descriptor the caller's, non-blocking, with what has come from the client and was not read from the loan,
// of the request's body too: the connection has become something else. The loan is closed with it.
func (l *loan) Take() (fd int, behind []byte, err error) {
	if ended, _ := l.end(); !ended {
		return -1, nil, net.ErrClosed
	}
	c := l.conn
	defer c.server.loans.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
	return c.fd, append(l.in, c.in...), nil
}

// CloseWrite is net/http's way to let a client read its last answer.
func (l *loan) CloseWrite() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
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
	if l.file != nil {
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
