package main

import (
	"context"
	"sync"
)

// Calls are for clients that must neither leave nor be idle at the end of the load: they are called to rest, and wait.
type calls struct {
	call chan struct{} // closed: come to rest

	mu      sync.Mutex
	members int
	resting int
	changed chan struct{} // closed and replaced when a member comes to rest or leaves
}

func newCalls() *calls {
	return &calls{call: make(chan struct{}), changed: make(chan struct{})}
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

// called returns a channel that is closed when the members are to come to rest.
func (c *calls) called() <-chan struct{} { return c.call }

// rest marks a member as resting until stop is closed or ctx ends.
func (c *calls) rest(ctx context.Context, stop <-chan struct{}) {
	c.change(func() { c.resting++ })
	select {
	case <-stop:
	case <-ctx.Done():
	}
	c.change(func() { c.resting-- })
}

// calm calls the members, and returns when all are at rest. It is called once.
func (c *calls) calm(ctx context.Context) {
	close(c.call)
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
