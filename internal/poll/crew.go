package poll

import (
	"sync"
	"sync/atomic"
)

// A Crew does what those who wake have to do, each on a goroutine of its own. Goroutines that have done so wait a while
// for more: a new one has to grow its stack first, which takes a twelfth of what a message costs that comes alone.
//
// The zero Crew is ready. It is safe for concurrent use.
type Crew struct {
	busy   sync.WaitGroup
	frozen atomic.Bool // set with mu held

	mu       sync.Mutex
	idle     []chan Runner // goroutines that wait, the latest last
	low      int           // the fewest since the last Trim
	released bool
}

// A Runner has something to do.
type Runner interface{ Run() }

// mostIdle is how many goroutines wait at most.
const mostIdle = 64

// Wake has r run with the turn t, which r gives back. If somebody has the turn, that one looks again. In a frozen Crew
// who is at rest stays there. It does not wait.
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

// Go runs r, which may take as long as it likes. It does not wait, and does so in a frozen Crew too.
func (c *Crew) Go(r Runner) {
	c.mu.Lock()
	c.start(r)
}

// start runs r. mu must be held, and is given up.
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
		r = <-next // nil: go home
	}
}

// Freeze ends the waking: who is at rest stays there, and who has the turn should give it back at the next opportunity.
// When it returns no Wake is under way that could still start something; Wait then waits for those who have the turn.
func (c *Crew) Freeze() {
	c.mu.Lock()
	c.frozen.Store(true)
	c.mu.Unlock()
}

// Frozen reports whether Freeze has been called.
func (c *Crew) Frozen() bool { return c.frozen.Load() }

// Trim sends those home who have had nothing to do since the last Trim.
func (c *Crew) Trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, next := range c.idle[:c.low] {
		close(next)
	}
	c.idle = append(c.idle[:0], c.idle[c.low:]...)
	c.low = len(c.idle)
}

// Wait returns when everything has been done. As with a sync.WaitGroup nothing may begin meanwhile, unless something is
// going on.
func (c *Crew) Wait() { c.busy.Wait() }

// Release is Wait, and sends all home.
func (c *Crew) Release() {
	c.Wait()
	c.mu.Lock()
	c.released = true
	c.low = len(c.idle)
	c.mu.Unlock()
	c.Trim()
}
