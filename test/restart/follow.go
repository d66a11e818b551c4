package main

import (
	"context"
	"time"
)

// Of laggards there is one on each way.
const (
	bulk        = 60 // messages for a laggard in each step, of bulkBytes each: less than a queue's limit, 1 MiB
	bulkBytes   = 16 << 10
	smallBuffer = 64 << 10 // what the kernel keeps for them
	wideBuffer  = 4 << 20
)

// follow makes a client that subscribes at once, and stays.
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

// begun subscribes a client, which reads from then on, and returns when that is acked.
func (l *load) begun(c *client, events ...*event) error {
	l.reading.Go(c.listen)
	return c.begin(events...)
}

// begin subscribes and returns when that is acked.
func (c *client) begin(events ...*event) error {
	if err := c.subscribe(events...); err != nil {
		return err
	}
	if !c.answered(0) {
		return c.why
	}
	return nil
}

// A laggard reads only when it is its turn, and then what has been published for it in a step: its queue is full
// before.
type laggard struct {
	*client
	event      *event
	turn, took chan struct{} // took is closed at the end
	got        int
}

// lag makes a laggard.
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

// sip is how often a laggard reads one message while it is not its turn: who takes nothing from one ping to the next is
// let go, and a step may be long. It leaves so many.
const (
	sip  = 5 * time.Second
	some = 10
)

// live reads in turns until there are no more, and then what is left.
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

// takeTurn has the laggard read what is there for it.
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

// readAnswered reads until everything is answered, on a connection on which nobody listens.
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

// end is the end of a connection on which nobody listens.
func (c *client) end(err error) {
	c.why = err
	c.close(err)
	close(c.ended)
}
