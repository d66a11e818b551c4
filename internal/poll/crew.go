package poll

import (
	"sync"
	"sync/atomic"
)

// A Crew runs what has been woken, each Runner on a goroutine of its own. A goroutine that has finished waits a while
// for more: a new one has to grow its stack first, which takes a twelfth of the cost of a message that comes alone.
//
// The zero Crew is ready for use. It is safe for concurrent use.
type Crew struct {
	busy   sync.WaitGroup
	frozen atomic.Bool // set with mu held

	mu       sync.Mutex
	idle     []chan Runner // goroutines that wait, the latest last
	low      int           // the fewest idle since the last Trim
	released bool
}

// A Runner has something to do.
type Runner interface{ Run() }

// mostIdle is how many goroutines wait for work at most.
const mostIdle = 64

// Wake runs r with the turn t, which r gives back. If the turn is taken, whoever has it looks again. In a frozen Crew a
// socket at rest stays at rest. Wake does not block.
func (c *Crew) Wake(t *Turn, r Runner) {
	for !t.note() {
		c.mu.Lock()
		if c.frozen.Load() {
			c.mu.Unlock()
			return
		}
		if t.Take() {
			c.start(r)
			return
		}
		c.mu.Unlock()
	}
}

// Go runs r, which may take as long as it likes. Go does not block, and runs r in a frozen Crew too.
func (c *Crew) Go(r Runner) {
	c.mu.Lock()
	c.start(r)
}

// start runs r. mu must be held, and is released.
func (c *Crew) start(r Runner) {
	c.busy.Add(1)
	n := len(c.idle) - 1
	if n < 0 {
		c.mu.Unlock()
		go c.work(r)
		return
	}
	next := c.idle[n] // whose stack is most likely still in the processor's cache
	c.idle = c.idle[:n]
	c.low = min(c.low, n)
	c.mu.Unlock()
	next <- r
}

func (c *Crew) work(r Runner) {
	next := make(chan Runner, 1)
	for r != nil {
		r.Run()
		c.mu.Lock()
		stays := len(c.idle) < mostIdle && !c.released
		if stays {
			c.idle = append(c.idle, next)
		}
		c.mu.Unlock()
		c.busy.Done()
		if !stays {
			return
		}
		r = <-next // nil: Trim has closed it
	}
}

// Freeze ends the waking: a socket at rest stays at rest, and whoever has a turn should give it back at the next
// opportunity. When Freeze returns, no Wake is under way that could still start something; Wait then waits for those
// that have a turn.
func (c *Crew) Freeze() {
	c.mu.Lock()
	c.frozen.Store(true)
	c.mu.Unlock()
}

// Frozen reports whether Freeze has been called.
func (c *Crew) Frozen() bool { return c.frozen.Load() }

// Trim ends the goroutines that have had nothing to do since the last Trim.
func (c *Crew) Trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, next := range c.idle[:c.low] {
		close(next)
	}
	c.idle = append(c.idle[:0], c.idle[c.low:]...)
	c.low = len(c.idle)
}

// Wait returns when all work is done. As with a sync.WaitGroup, nothing may begin meanwhile unless something else is
// still running.
func (c *Crew) Wait() { c.busy.Wait() }

// Release is Wait, and then ends all goroutines.
func (c *Crew) Release() {
	c.Wait()
	c.mu.Lock()
	c.released = true
	c.low = len(c.idle)
	c.mu.Unlock()
	c.Trim()
}
