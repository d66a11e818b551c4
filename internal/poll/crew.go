package poll

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"
)

// Workers are goroutines that run what has been woken, in the order in which it was: what one look of a Poller finds
// ready first is begun first, and has an effect before what comes behind it begins. As long as what is run is short,
// one goroutine does it all. What has waited in the line for patience gets another one.
//
// A goroutine that has finished waits a while for more: a new one has to grow its stack first, which takes a twelfth of
// the cost of a message that comes alone.
//
// The zero Workers are ready for use. They are safe for concurrent use.
type Workers struct {
	mu       sync.Mutex
	line     []job // from first on
	first    int
	begun    uint32 // jobs that have been taken out of the line
	serving  int    // goroutines that do so
	idle     []chan job
	low      int // the fewest idle since the last Trim
	released bool

	patience time.Duration // 0: patience
	timer    *time.Timer   // of help
	armed    bool
	due      uint32 // begun, when what was last in line as the timer was set has begun
}

// A job is a Runner of a Crew.
type job struct {
	Runner
	crew *Crew
	turn *Turn // of a job that has been in line
}

// A Runner has something to do.
type Runner interface{ Run() }

// mostIdle is how many goroutines wait for work at most.
const mostIdle = 64

// patience is how long the first in line waits for another one to end, before it runs beside it.
const patience = 500 * time.Microsecond

// start runs a job on a goroutine of its own. mu must be held, and is released.
func (w *Workers) start(j job) {
	n := len(w.idle) - 1
	if n < 0 {
		w.mu.Unlock()
		go w.work(j)
		return
	}
	next := w.idle[n] // whose stack is most likely still in the processor's cache
	w.idle = w.idle[:n]
	w.low = min(w.low, n)
	w.mu.Unlock()
	next <- j
}

func (w *Workers) work(j job) {
	next := make(chan job, 1)
	for j.Runner != nil {
		if j.turn == nil || j.turn.begin() {
			j.Run()
		}
		crew := j.crew
		w.mu.Lock()
		if j.turn != nil && w.first < len(w.line) {
			j = w.take()
			w.mu.Unlock()
			crew.busy.Done()
			continue
		}
		if j.turn != nil {
			w.serving--
		}
		stays := len(w.idle) < mostIdle && !w.released
		if stays {
			w.idle = append(w.idle, next)
		}
		w.mu.Unlock()
		crew.busy.Done()
		if !stays {
			return
		}
		j = <-next // without a Runner: Trim has closed it
	}
}

// queue puts a job into the line. mu must be held, and is released.
func (w *Workers) queue(j job) {
	if w.serving == 0 { // and nobody is in line
		w.serving++
		w.start(j)
		return
	}
	w.line = append(w.line, j)
	if !w.armed {
		w.arm()
	}
	w.mu.Unlock()
}

// take takes the first out of the line. mu must be held.
func (w *Workers) take() job {
	j := w.line[w.first]
	w.line[w.first] = job{}
	w.first++
	w.begun++
	if n := len(w.line) - w.first; w.first >= n { // more places are behind than in use: nothing is copied often
		copy(w.line, w.line[w.first:])
		clear(w.line[n:])
		w.line, w.first = w.line[:n], 0
	}
	return j
}

// arm has help look after patience. mu must be held.
func (w *Workers) arm() {
	w.armed = true
	w.due = w.begun + uint32(len(w.line)-w.first)
	d := cmp.Or(w.patience, patience)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.help)
	} else {
		w.timer.Reset(d)
	}
}

// help gives the line one more goroutine if it has not moved on.
func (w *Workers) help() {
	w.mu.Lock()
	w.armed = false
	if w.first == len(w.line) {
		w.mu.Unlock()
		return
	}
	late := int32(w.due-w.begun) > 0
	if !late {
		w.arm()
		w.mu.Unlock()
		return
	}
	j := w.take()
	w.serving++
	if w.first < len(w.line) {
		w.arm()
	}
	w.start(j)
}

// Trim ends the goroutines that have had nothing to do since the last Trim.
func (w *Workers) Trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, next := range w.idle[:w.low] {
		close(next)
	}
	w.idle = append(w.idle[:0], w.idle[w.low:]...)
	w.low = len(w.idle)
}

// release ends all goroutines, once nothing is run any more.
func (w *Workers) release() {
	w.mu.Lock()
	w.released = true
	w.low = len(w.idle)
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.Trim()
}

// A Crew is those of the Workers that work for one room, which can be frozen without the others. It is made by NewCrew.
type Crew struct {
	workers *Workers
	busy    sync.WaitGroup
	frozen  atomic.Bool // set with the Workers' mu held
}

// NewCrew makes a Crew.
func (w *Workers) NewCrew() *Crew { return &Crew{workers: w} }

// Wake runs r, which is short or does not mind to be waited for, with the turn t, which r gives back. It has its place
// in the line of all that is woken, also if the turn is taken and others are in line; if nobody is, whoever has the
// turn looks again. In a frozen Crew a socket at rest stays at rest. Wake does not block.
func (c *Crew) Wake(t *Turn, r Runner) {
	w := c.workers
	w.mu.Lock()
	switch {
	case c.frozen.Load():
		t.note()
	case t.line(w.first < len(w.line)):
		c.busy.Add(1)
		w.queue(job{r, c, t})
		return
	}
	w.mu.Unlock()
}

// Go runs r at once, which may take as long as it likes. Go does not block, and runs r in a frozen Crew too.
func (c *Crew) Go(r Runner) {
	c.workers.mu.Lock()
	c.busy.Add(1)
	c.workers.start(job{Runner: r, crew: c})
}

// Freeze ends the waking: a socket at rest stays at rest, and whoever has a turn should give it back at the next
// opportunity. When Freeze returns, no Wake is under way that could still start something; Wait then waits for those
// that have a turn.
func (c *Crew) Freeze() {
	c.workers.mu.Lock()
	c.frozen.Store(true)
	c.workers.mu.Unlock()
}

// Frozen reports whether Freeze has been called.
func (c *Crew) Frozen() bool { return c.frozen.Load() }

// Wait returns when all work is done. As with a sync.WaitGroup, nothing may begin meanwhile unless something else is
// still running.
func (c *Crew) Wait() { c.busy.Wait() }
