package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

const batchBytes = 16 << 10

// dial connects to the client's server, whatever network and address it is given, and does TLS if the server's address
// asks for it.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.dialer(ctx, c.address.network, c.address.dial)
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
