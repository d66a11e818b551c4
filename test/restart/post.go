package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
)

// A caller is an HTTP connection for posts, kept or opened anew for each.
type caller struct {
	way target
	nc  net.Conn
	br  *bufio.Reader
}

// open connects, unless it is connected.
func (c *caller) open(ctx context.Context) error {
	if c.nc != nil {
		return nil
	}
	var err error
	if c.nc, err = c.way.dial(ctx, 0); err != nil {
		c.nc = nil
		return err
	}
	c.br = bufio.NewReader(c.nc)
	return nil
}

// post posts one message and waits for the answer: nil for a 201.
func (c *caller) post(e *event, n int, keep bool) error {
	e.send(n)
	_, err := c.nc.Write(request(c.way, e, n, keep))
	if err == nil {
		err = created(c.br)
	}
	if err != nil || !keep {
		c.close()
	}
	return err
}

func (c *caller) close() {
	if c.nc != nil {
		c.nc.Close()
		c.nc = nil
	}
}

// post is a source over HTTP, with one connection for all its posts or one for each.
func (l *load) post(way target, e *event, keep bool) {
	defer e.end()
	c := &caller{way: way}
	defer c.close()
	for n := 0; !l.stopped(); l.rest() {
		switch err := c.open(l.passing); {
		case err == nil:
		case l.shut, l.ends:
			continue
		default:
			l.refuse(e.name, err)
			return
		}
		switch err := c.post(e, n, keep); {
		case err == nil:
			e.accept(n)
			n++
		case l.passing.Err() != nil || l.toldAll():
			return
		case l.shut: // it was not accepted
		default:
			if !l.mayEnd(true) {
				l.tally.count(&l.tally.failed, 1, "%s, connection kept: %v: %v", e.name, keep, err)
			}
			n++
		}
	}
}

// head is the head of a post, without the field for the body's length and the empty line.
func head(way target, e *event, keep bool) string {
	connection := "close"
	if keep {
		connection = "keep-alive"
	}
	return fmt.Sprintf("POST /publish HTTP/1.1\r\nHost: picloud\r\nConnection: %s\r\nX-API-Key: %s\r\nX-API-Client-Name: %s\r\n", connection, way.key, e.name)
}

// request is the whole post of an event's message.
func request(way target, e *event, n int, keep bool) []byte {
	body := fmt.Sprintf(`{"event":%q,"data":[%d]}`, e.name, n)
	return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", head(way, e, keep), len(body), body)
}

// created reads the answer to a post.
func created(br *bufio.Reader) error {
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s %s", res.Status, body)
	}
	return err
}

// A half is a post of which all but the end is sent before a step; the end follows after the step.
type half struct {
	way   target
	event *event
	kind  string // of halfKinds
	n     int
	nc    net.Conn
	left  []byte
}

// halfKinds are the kinds of posts that are half sent at each step. The plain one is short, the others have 20 to 60
// KB.
var halfKinds = []string{"plain", "long", "chunked", "with a type", "chunked with a type", "in its head"}

// first sends all but the end of a post.
func (h *half) first(ctx context.Context, r *rand.Rand) error {
	var err error
	if h.nc, err = h.way.dial(ctx, 0); err != nil {
		return err
	}
	var b []byte
	cut := 3
	switch h.kind {
	case "plain":
		b = request(h.way, h.event, h.n, true)
	case "in its head":
		b = request(h.way, h.event, h.n, true)
		cut = len(b) - 1 - r.IntN(100)
	default:
		body := fmt.Sprintf(`{"event":%q,"data":[%d,%q]}`, h.event.name, h.n,
			strings.Repeat("z", 20_000+r.IntN(40_000)))
		text := head(h.way, h.event, true)
		if strings.Contains(h.kind, "type") {
			text += "Content-Type: application/json\r\n"
		}
		if strings.Contains(h.kind, "chunked") {
			at := 1 + r.IntN(len(body)-1)
			b = fmt.Appendf(nil, "%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", text, at,
				body[:at], len(body)-at, body[at:])
		} else {
			b = fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", text, len(body), body)
		}
		cut = 1 + r.IntN(len(b)-len(text)-100)
	}
	h.event.send(h.n)
	_, err = h.nc.Write(b[:len(b)-cut])
	h.left = b[len(b)-cut:]
	return err
}

func (h *half) second() error {
	defer h.nc.Close()
	if _, err := h.nc.Write(h.left); err != nil {
		return err
	}
	if err := created(bufio.NewReader(h.nc)); err != nil {
		return err
	}
	h.event.accept(h.n)
	return nil
}

// beginHalves sends the first parts, of short ones only or of all.
func (l *load) beginHalves(short bool) {
	kinds := halfKinds
	if short {
		kinds = kinds[:1]
	}
	for i, kind := range kinds {
		h := &half{way: l.ways()[i%len(l.ways())], event: l.halves, kind: kind, n: l.halvesAt}
		l.halvesAt++
		if err := h.first(l.ctx, l.rand); err != nil {
			l.tally.count(&l.tally.failed, 1, "half a post, %s: %v", h.kind, err)
			continue
		}
		l.half = append(l.half, h)
	}
}

// endHalves sends the rest of each, once the one before is answered.
func (l *load) endHalves() {
	for _, h := range l.half {
		if err := h.second(); err != nil {
			l.tally.count(&l.tally.failed, 1, "the other half of a post, %s: %v", h.kind, err)
		}
	}
	l.half = nil
}
