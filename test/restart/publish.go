package main

import (
	"math/rand/v2"
	"time"
)

// A publisher is a source over a WebSocket. Its messages have ids.
type publisher struct {
	way   target
	event *event
	rand  *rand.Rand

	under int  // at most this many unanswered messages
	burst int  // at most this many messages in one write
	hears bool // it subscribes to its event itself
}

// publish is the life of a publisher: one connection or, where the server may end it, several.
func (l *load) publish(p publisher) {
	defer p.event.end()
	for n := 0; !l.stopped(); {
		route := "publish"
		if p.hears {
			route = "subscribe"
		}
		c, err := l.join(l.ctx, p.way, route, p.event.name, 0)
		switch {
		case err != nil && l.ends: // the server may have no room
			l.rest()
			continue
		case err != nil:
			l.refuse(p.event.name, err)
			return
		}
		l.reading.Go(c.listen)
		if p.hears && c.begin(p.event) != nil && !l.mayEnd(true) {
			return
		}
		n = l.publishOver(c, p, n)
		if !l.mayEnd(true) {
			return
		}
	}
}

// publishOver publishes over one connection until the load stops or the connection ends, and returns the next number.
func (l *load) publishOver(c *client, p publisher, n int) (next int) {
	for !l.stopped() {
		burst := 1
		if p.burst > 1 {
			burst = 1 + p.rand.IntN(p.burst)
		}
		if !c.answered(p.under - burst) {
			return n
		}
		var messages []message
		for range burst {
			if p.burst > 1 && p.rand.IntN(2) == 0 { // preceded by a message without subscribers
				messages = append(messages, message{event: l.nobody})
			}
			messages = append(messages, message{event: p.event, n: n})
			n++
		}
		if c.publish(messages...) != nil {
			<-c.ended // the reader knows why
			return n
		}
		l.rest()
	}
	if c.answered(0) {
		c.hearAll()
	}
	return n
}

// hearAll returns when the client has heard everything that it must, and is closed. On /publish that is nothing.
func (c *client) hearAll() {
	if c.unsubscribeAll(lastOne) == nil {
		c.answered(0)
		<-c.ended
	}
}

// rest is the time between two messages of one source.
func (l *load) rest() { l.sleep(l.pause) }

// sleep returns after that time, or when the load stops.
func (l *load) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.stop:
	case <-l.ctx.Done():
	}
}
