package client

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const batchBytes = 16 << 10

// dial connects to the client's server, whatever network and address it is given, and does TLS if the server's address
// asks for it.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.Connect(ctx)
	if err != nil || !c.address.tls {
		return conn, err
	}
	var config *tls.Config
	if c.options.TLS != nil {
		config = c.options.TLS.Clone()
	} else {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.NextProtos = []string{"http/1.1"} // a WebSocket handshake needs it
	if config.ServerName == "" {
		config.ServerName = c.address.name
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

const (
	headStart = 250 * time.Millisecond // of one address over the next, RFC 8305 §5
	remember  = time.Minute            // what LookUp found
)

// Connect opens a connection to the server, without TLS. The caller closes it.
func (c *Client) Connect(ctx context.Context) (net.Conn, error) {
	a := c.address
	if c.options.LookUp == nil || !strings.HasSuffix(strings.TrimSuffix(strings.ToLower(a.name), "."), ".local") {
		return c.dialer(ctx, a.network, a.dial)
	}
	c.mu.Lock()
	list, age := c.found, time.Since(c.foundAt)
	c.mu.Unlock()
	if len(list) == 0 || age > remember {
		var err error
		if list, err = c.options.LookUp(ctx, a.name); err != nil {
			return nil, err
		}
	}
	_, port, err := net.SplitHostPort(a.dial)
	if err != nil {
		return nil, err
	}
	conn, err := c.dialFirst(ctx, list, port)
	if err != nil {
		list = nil // it may have another address now
	}
	c.mu.Lock()
	c.found, c.foundAt = list, time.Now()
	c.mu.Unlock()
	return conn, err
}

// dialFirst connects to whichever address answers first. It tries them in order, the next one as soon as those before
// have failed or had a head start.
func (c *Client) dialFirst(ctx context.Context, list []netip.Addr, port string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	under := 0
	try := func() {
		if len(list) == 0 || ctx.Err() != nil {
			return
		}
		address := net.JoinHostPort(list[0].String(), port)
		list = list[1:]
		under++
		go func() {
			conn, err := c.dialer(ctx, "tcp", address)
			results <- result{conn, err}
		}()
	}
	next := time.NewTicker(headStart)
	defer next.Stop()
	var first net.Conn
	var failed error
	for try(); under > 0; {
		select {
		case <-next.C:
			try()
		case r := <-results:
			under--
			switch {
			case r.err != nil:
				failed = cmp.Or(failed, r.err)
				try()
			case first == nil:
				first = r.conn
				cancel() // no more is tried
			default:
				r.conn.Close()
			}
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, cmp.Or(failed, ctx.Err(), errors.New("its name has no address"))
}

// link buffers what is written until flush, so that a burst takes few system calls, and limits how long the other side
// may neither send nor accept anything.
type link struct {
	net.Conn

	mu sync.Mutex    // guards w and the socket's writes: gorilla's reader answers broken framing itself
	w  *bufio.Writer // nil until begin: the dialer's deadline covers the handshake
}

// begin is called after the handshake, before anything else reads or writes.
func (l *link) begin() { l.w = bufio.NewWriterSize(patientWriter{l.Conn}, batchBytes) }

func (l *link) Read(p []byte) (int, error) {
	if l.w != nil {
		l.SetReadDeadline(time.Now().Add(silence))
	}
	return l.Conn.Read(p)
}

func (l *link) Write(p []byte) (int, error) {
	if l.w == nil {
		return l.Conn.Write(p)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (l *link) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Flush()
}

type patientWriter struct{ net.Conn }

func (w patientWriter) Write(p []byte) (int, error) {
	w.SetWriteDeadline(time.Now().Add(patience))
	return w.Conn.Write(p)
}
