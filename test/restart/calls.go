package main

import (
	"context"
	"sync"
)

// Calls are for clients that must neither leave nor be idle in a step that is to be gentle: they are called, come to rest, and
// go on when they are released.
type calls struct {
	mu       sync.Mutex
	members  int
	resting  int
	call     chan struct{} // closed: come to rest
	released chan struct{} // closed: go on
	changed  chan struct{} // closed and replaced when somebody has come to rest or left
}

func newCalls() *calls {
	released := make(chan struct{})
	close(released)
	return &calls{call: make(chan struct{}), released: released, changed: make(chan struct{})}
}

func (c *calls) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *calls) enter() { c.change(func() { c.members++ }) }
func (c *calls) leave() { c.change(func() { c.members-- }) }

// called is closed when the members are to come to rest.
func (c *calls) called() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.call
}

// rest returns when the member is to go on.
func (c *calls) rest(ctx context.Context, stop <-chan struct{}) {
	c.change(func() { c.resting++ })
	c.mu.Lock()
	released := c.released
	c.mu.Unlock()
	select {
	case <-released:
	case <-stop:
	case <-ctx.Done():
	}
	c.change(func() { c.resting-- })
}

// calm returns when all members are at rest.
func (c *calls) calm(ctx context.Context) {
	c.change(func() {
		c.released = make(chan struct{})
		close(c.call)
	})
	for {
		c.mu.Lock()
		done, changed := c.resting >= c.members, c.changed
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// stir lets them go on.
func (c *calls) stir() {
	c.change(func() {
		c.call = make(chan struct{})
		close(c.released)
	})
}
