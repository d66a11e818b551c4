package httpconn

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"picloud/internal/poll"
	"picloud/internal/tlsconn"
	"picloud/internal/tlsrecord"
)

// shakingBytes is what a handshake of TLS takes: a goroutine, buffers, keys and certificates.
const shakingBytes = 48 << 10

// helloBytes is how much is taken in of what a client says first: the longest record that is not encrypted, RFC 8446
// §5.1.
const helloBytes = recordHeader + 1<<14

// recordHeader is the length of a record's header: its type, which is handshakeType for a ClientHello, a version and
// the length of what follows.
const (
	recordHeader  = 5
	handshakeType = 22
)

// isGreeting reports whether a client has said enough to begin with: a record, or something else.
func isGreeting(in []byte) bool {
	if len(in) < recordHeader || in[0] != handshakeType {
		return len(in) >= recordHeader
	}
	whole := recordHeader + int(binary.BigEndian.Uint16(in[3:]))
	return len(in) >= whole || whole > helloBytes
}

// hear takes in what the client says first, and begins the handshake when it is its turn: then it returns errLent. Who
// says nothing, or only half of it, takes no more than a plain connection does.
func (c *Conn) hear(p []byte) error {
	for !c.set.crew.Frozen() {
		n, err := 0, poll.ErrAgain
		if room := helloBytes - len(c.in); room > 0 {
			n, err = c.recv(p[:min(room, len(p))])
		}
		switch {
		case n > 0:
			c.more(p[:n])
			continue
		case err == io.EOF && isGreeting(c.in) && c.in[0] != handshakeType: // it is told what is wrong
		case err != poll.ErrAgain:
			return err
		}
		if !isGreeting(c.in) || !c.set.handshakes.enter(c.shake) {
			return poll.ErrAgain
		}
		c.set.crew.Go(shaking{c})
		return errLent
	}
	return nil
}

// shaking reports whether the handshake has not been made.
func (c *Conn) shaking() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shake != nil
}

// A shaking is a Conn while the client and crypto/tls make the handshake.
type shaking struct{ conn *Conn }

// Run implements poll.Runner.
func (s shaking) Run() {
	c := s.conn
	if err := c.makeHandshake(); err != nil {
		c.set.cfg.Unshaken(c.remote, err)
		c.mu.Lock()
		c.close()
		c.mu.Unlock()
		return
	}
	if !c.rest() { // something has come that the handshake did not need
		c.Run()
	}
}

// makeHandshake returns when the handshake has been made, or has failed. The caller has the turn.
func (c *Conn) makeHandshake() error {
	h, all := c.shake, c.set.handshakes
	nc, err := c.rawFile()
	if err != nil {
		return err
	}
	defer nc.Close()
	c.blocks(shakingBytes)
	defer c.blocks(0)
	c.set.relieve()
	all.goes(h, nc)
	link, err := tlsrecord.Handshake(&heard{Conn: nc, in: c.in, waits: func() { all.waits(h) }}, h.config)
	if err != nil {
		return c.speaksNoTLS(nc, err)
	}
	all.leave(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tls, c.shake, c.in, c.lent, c.since = tlsconn.New(link), nil, nil, 0, time.Now()
	return nil
}

// A heard is a connection of which something has been read.
type heard struct {
	net.Conn
	in    []byte
	waits func() // called when more is read
}

func (h *heard) Read(p []byte) (int, error) {
	if len(h.in) > 0 {
		n := copy(p, h.in)
		h.in = h.in[n:]
		return n, nil
	}
	h.waits()
	return h.Conn.Read(p)
}

// speaksNoTLS tells a client that speaks HTTP what is wrong, in net/http's words, and whom it may concern of one that
// speaks MQTT.
func (c *Conn) speaksNoTLS(nc net.Conn, err error) error {
	header, ok := errors.AsType[tls.RecordHeaderError](err)
	if !ok || header.Conn == nil {
		return err
	}
	first := header.RecordHeader
	switch string(first[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		var rest [4 << 10]byte
		poll.Recv(c.fd, rest[:]) // or the connection's end would be a reset, which may overtake the answer
		io.WriteString(nc, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	default:
		if mayBeMQTT(first[:]) {
			c.set.cfg.MQTT(c.remote)
		}
	}
	return err
}
