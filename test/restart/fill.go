package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// What a filler has: as many subscriptions as one client may have, of names as long as may be.
const (
	fillEach  = 1024
	fillName  = 255
	fillBatch = 64
	fillTries = 12 // of a filler's events that are tried when all is over
)

// A filler is a client whose only work is to have many long subscriptions. What it is refused it knows; what it is
// acked it has to hear at the end.
type filler struct {
	*client
	events  []*event
	refused bool
}

// fillUp makes the fillers. When one is refused a subscription it gives up some others, so that there is a little room.
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

// has is how many subscriptions the client has.
func (c *client) has() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pages)
}

// tryFillers publishes to some of what each filler has asked for.
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
