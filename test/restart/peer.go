package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"picloud/test/others"
	ws "picloud/test/peer"
)

// Close codes, RFC 6455 §7.4.1 and 7.1.5.
const (
	normal        = 1000
	goingAway     = 1001 // a server that stops says so when everything accepted has been delivered
	abnormal      = 1006 // there was no close frame
	tryAgainLater = 1013 // to a client that reads too slowly
)

// A closeError says how the server ended a connection.
type closeError struct {
	code   int
	reason error
}

func (e *closeError) Error() string { return fmt.Sprintf("closed with %d: %v", e.code, e.reason) }
func (e *closeError) Unwrap() error { return e.reason }

// errRefused means that a connection could not be made: nothing listens.
var errRefused = errors.New("refused")

func refusedNow(err error) bool { return errors.Is(err, errRefused) }

// A target is a way to the server.
type target struct {
	network, address string
	moved            string          // the address to try next
	secure           bool            // TLS, without checking the certificate
	by               *others.Program // makes the connections, over TLS; nil: crypto/tls does
	key              string
}

// dial opens a connection, which ends with ctx. receiveBytes, when not 0, is how much unread data the kernel may
// buffer.
func (t target) dial(ctx context.Context, receiveBytes int) (net.Conn, error) {
	if t.by != nil {
		return t.by.Dial(ctx, t.address)
	}
	d := &net.Dialer{}
	if receiveBytes != 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBytes)
			}), err)
		}
	}
	nc, err := d.DialContext(ctx, t.network, t.address)
	if err != nil && t.moved != "" {
		nc, err = d.DialContext(ctx, t.network, t.moved)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	if t.secure {
		over := tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		if err := over.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("the handshake of TLS: %w", err)
		}
		nc = over
	}
	return &bound{nc, context.AfterFunc(ctx, func() { nc.Close() })}, nil
}

// A bound connection ends with its context.
type bound struct {
	net.Conn
	stays func() bool
}

func (b *bound) Close() error {
	b.stays()
	return b.Conn.Close()
}

// reset ends the connection as when a program is killed: data in transit is discarded, in both directions.
func (p *peer) reset() {
	if b, ok := p.nc.(*bound); ok {
		if tcp, ok := b.Conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
	}
	p.nc.Close()
}

// widen lets the kernel buffer more unread data.
func (p *peer) widen() {
	if b, ok := p.nc.(*bound); ok {
		if c, ok := b.Conn.(interface{ SetReadBuffer(int) error }); ok {
			c.SetReadBuffer(wideBuffer)
		}
	}
}

// closeWrite tells the server that nothing more will be sent.
func (p *peer) closeWrite() {
	if b, ok := p.nc.(*bound); ok {
		if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
}

// A peer is one WebSocket, spoken by hand so that a frame can be cut anywhere. One goroutine reads, and any writes.
type peer struct {
	name   string
	secure bool
	mute   bool // answers no pings, as when in the middle of a frame

	nc net.Conn
	br *bufio.Reader
	mu sync.Mutex // held while a frame is written
}

// open opens a WebSocket on a route.
func (t target) open(ctx context.Context, route, name string, receiveBytes int) (*peer, error) {
	nc, err := t.dial(ctx, receiveBytes)
	if err != nil {
		return nil, err
	}
	p := &peer{name: name, secure: t.secure, nc: nc, br: bufio.NewReaderSize(nc, 1<<10)}
	_, err = io.WriteString(nc, ws.Handshake("/"+route, ws.Nonce, "X-API-Key", t.key, "X-API-Client-Name", name))
	if err == nil {
		err = p.switched()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open /%s: %w", route, err)
	}
	return p, nil
}

func (p *peer) switched() error {
	res, err := http.ReadResponse(p.br, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // says more than the status, if there is one
		return fmt.Errorf("%s %s", res.Status, body)
	}
	return nil
}

// write sends bytes, whole frames or not.
func (p *peer) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.nc.Write(b)
	return err
}

func (p *peer) text(format string, args ...any) error {
	return p.write(ws.Frame(ws.Fin|ws.Text, fmt.Appendf(nil, format, args...)))
}

// read returns the next message or pong, and a *closeError at the end.
func (p *peer) read() (op byte, payload []byte, err error) {
	for {
		op, payload, err = ws.ReadFrame(p.br, nil)
		switch {
		case err != nil:
			return 0, nil, &closeError{abnormal, err}
		case op == ws.Close && len(payload) >= 2:
			return 0, nil, &closeError{int(binary.BigEndian.Uint16(payload)), errors.New(string(payload[2:]))}
		case op == ws.Close:
			return 0, nil, &closeError{1005, errors.New("no code")}
		case op != ws.Ping:
			return op, payload, nil
		case !p.mute:
			p.write(ws.Frame(ws.Fin|ws.Pong, payload)) // an error shows at the next read
		}
	}
}

// ask sends a message that ends in an id and waits for the ack, skipping deliveries.
func (p *peer) ask(message string) error {
	if err := p.text("%s", message); err != nil {
		return err
	}
	for {
		_, payload, err := p.read()
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(string(payload), `{"action":"ack"`):
			return nil
		case strings.HasPrefix(string(payload), `{"action":"error"`):
			return fmt.Errorf("%s is answered %s", message, payload)
		}
	}
}
