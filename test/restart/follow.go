package main

import (
	"context"
	"time"
)

// There is one laggard for each way to the server.
const (
	bulk        = 60 // messages for a laggard in each step, of bulkBytes each: less than a queue's limit, 1 MiB
	bulkBytes   = 16 << 10
	smallBuffer = 64 << 10 // what the kernel buffers for them
	wideBuffer  = 4 << 20
)

// follow connects a client that subscribes at once and stays.
func (l *load) follow(way target, name string, events ...*event) (*client, error) {
	c, err := l.join(l.ctx, way, "subscribe", name, 0)
	if err != nil {
		return nil, err
	}
	l.stay(c)
	return c, l.begun(c, events...)
}

// stay counts a client among those that stay.
func (l *load) stay(c *client) {
	l.expect(c.secure)
	l.clients = append(l.clients, c)
}

// begun subscribes a client, which reads from now on, and returns when the ack has come.
func (l *load) begun(c *client, events ...*event) error {
	l.reading.Go(c.listen)
	return c.begin(events...)
}

// begin subscribes and returns when the ack has come.
func (c *client) begin(events ...*event) error {
	if err := c.subscribe(events...); err != nil {
		return err
	}
	if !c.answered(0) {
		return c.why
	}
	return nil
}

// A laggard reads only when it is its turn, and then everything published for it in a step: until then its queue is
// full.
type laggard struct {
	*client
	event      *event
	turn, took chan struct{} // took is closed when the connection ends
	got        int
}

// lag connects a laggard.
func (l *load) lag(way target, e *event) error {
	c, err := l.join(l.ctx, way, "subscribe", e.name, smallBuffer)
	if err != nil {
		return err
	}
	l.stay(c)
	g := &laggard{client: c, event: e, turn: make(chan struct{}), took: make(chan struct{})}
	c.heard = func(*event, int) { g.got++ }
	if err := c.subscribe(e); err != nil {
		return err
	}
	if err := g.readAnswered(); err != nil {
		return err
	}
	l.laggards = append(l.laggards, g)
	l.reading.Go(func() { g.live(l.ctx) })
	return nil
}

// sip is how often a laggard reads one message while it is not its turn: the server closes a client that reads nothing
// from one ping to the next, and a step may be long. It leaves some messages unread.
const (
	sip  = 5 * time.Second
	some = 10
)

// live reads whenever it has a turn and, after the last turn, whatever is left.
func (g *laggard) live(ctx context.Context) {
	defer close(g.took)
	sips := time.NewTicker(sip)
	defer sips.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-sips.C:
			if g.event.count()-g.got > some {
				err = g.readOne()
			}
		case _, more := <-g.turn:
			if !more {
				g.listen()
				return
			}
			g.probe()
			if err = g.readAnswered(); err == nil {
				g.took <- struct{}{}
			}
		}
		if err != nil {
			g.end(err)
			return
		}
	}
}

// takeTurn makes the laggard read what is waiting for it.
func (g *laggard) takeTurn() {
	select {
	case g.turn <- struct{}{}:
		<-g.took
	case <-g.took: // its connection has ended
	}
}

func (c *client) readOne() error {
	_, payload, err := c.read()
	if err == nil {
		c.take(payload)
	}
	return err
}

// readAnswered reads until everything is answered, on a connection without a listen.
func (c *client) readAnswered() error {
	for {
		c.mu.Lock()
		left := len(c.asked)
		c.mu.Unlock()
		if left == 0 {
			return nil
		}
		if err := c.readOne(); err != nil {
			return err
		}
	}
}

// end ends a connection without a listen.
func (c *client) end(err error) {
	c.why = err
	c.close(err)
	close(c.ended)
}
