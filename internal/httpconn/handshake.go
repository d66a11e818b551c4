package httpconn

import (
	"crypto/tls"
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

// A shaking is a Conn while the client and crypto/tls make the handshake.
type shaking struct {
	conn   *Conn
	config *tls.Config
}

// Run implements poll.Runner.
func (s shaking) Run() {
	c := s.conn
	if err := c.shake(s.config); err != nil {
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

// shake makes the handshake, within Config.HeadTimeout. The caller has the turn.
func (c *Conn) shake(config *tls.Config) error {
	nc, err := c.rawFile()
	if err != nil {
		return err
	}
	defer nc.Close()
	c.blocks(shakingBytes)
	defer c.blocks(0)
	c.set.relieve()
	nc.SetDeadline(time.Now().Add(c.set.cfg.HeadTimeout))
	link, err := tlsrecord.Handshake(nc, config)
	if err != nil {
		return c.speaksNoTLS(nc, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tls, c.shakes, c.since = tlsconn.New(link), false, time.Now()
	return nil
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
