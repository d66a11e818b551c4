package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A filler has as many subscriptions as a client may have, with names as long as allowed.
const (
	fillEach  = 1024
	fillName  = 255
	fillBatch = 64
	fillTries = 12 // of a filler's events are tried at the end
)

// A filler is a client that only holds many subscriptions with long names. It is told which are refused; what is acked
// it must hear at the end.
type filler struct {
	*client
	events  []*event
	refused bool
}

// fillUp makes the fillers, until one is refused a subscription. It then gives up some others, so that there is a
// little room.
func (l *load) fillUp() error {
	for i := range l.fill {
		c, err := l.join(l.ctx, l.ways()[i%len(l.ways())], "subscribe", fmt.Sprintf("filler%d", i), 0)
		if err != nil {
			return err
		}
		c.busy = false
		l.stay(c)
		l.reading.Go(c.listen)
		f := &filler{client: c}
		l.fillers = append(l.fillers, f)
		for len(f.events) < fillEach && !f.refused {
			var batch []*event
			for range fillBatch {
				name := fmt.Sprintf("f%d-%d-", i, len(f.events)+len(batch))
				batch = append(batch, newEvent(name+strings.Repeat("x", fillName-len(name))))
			}
			if err := f.begin(batch...); err != nil {
				return err
			}
			f.events = append(f.events, batch...)
			f.refused = f.has() < len(f.events)
		}
		if f.refused {
			if err := f.unsubscribe(f.events[:len(f.events)/2]...); err != nil || !f.answered(0) {
				return fmt.Errorf("%s: gives up subscriptions: %v, %v", f.name, err, f.why)
			}
			return nil
		}
	}
	return nil
}

// has returns how many subscriptions the client has.
func (c *client) has() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pages)
}

// tryFillers publishes to some of the events that each filler has asked for.
func (l *load) tryFillers(p *client, r *rand.Rand) error {
	for _, f := range l.fillers {
		for range min(fillTries, len(f.events)) {
			e := f.events[r.IntN(len(f.events))]
			if err := p.publish(message{event: e, n: e.begun()}); err != nil {
				return err
			}
		}
		if !p.answered(0) {
			return p.why
		}
	}
	return nil
}
