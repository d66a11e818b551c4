package poll

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

type task func()

func (t task) Run() { t() }

// who returns the calling goroutine's number, as the first line of its stack gives it.
func who() string {
	var b [64]byte
	line := string(b[:runtime.Stack(b[:], false)])
	for i := range line {
		if line[i] == '[' {
			return line[:i]
		}
	}
	return line
}

// together has the crew run n tasks, each of which waits for all the others.
func together(t *testing.T, c *Crew, n int) {
	t.Helper()
	var all sync.WaitGroup
	all.Add(n)
	var ran atomic.Int32
	for range n {
		c.Go(task(func() {
			all.Done()
			all.Wait()
			ran.Add(1)
		}))
	}
	c.Wait()
	if got := int(ran.Load()); got != n {
		t.Fatalf("%d of %d tasks have run", got, n)
	}
}

func TestGoroutineIsKeptForTheNextTask(t *testing.T) {
	var c Crew
	defer c.Release()
	var first string
	c.Go(task(func() { first = who() }))
	c.Wait()
	for range 3 {
		c.Go(task(func() {
			if is := who(); is != first {
				t.Errorf("a task is done by %s, while %s has nothing to do", is, first)
			}
		}))
		c.Wait()
	}
}

// A task that takes its time delays no other.
func TestTasksRunBesideEachOther(t *testing.T) {
	var c Crew
	for range 2 {
		together(t, &c, 2*mostIdle)
	}
	if n := len(c.idle); n > mostIdle {
		t.Errorf("%d goroutines wait, at most %d may", n, mostIdle)
	}
	c.Release()
	if n := len(c.idle); n != 0 {
		t.Errorf("%d goroutines wait after Release", n)
	}
}

// Goroutines that were needed since the last Trim stay, the others end.
func TestTrimSendsHomeWhoWasNotNeeded(t *testing.T) {
	var c Crew
	defer c.Release()
	waiting := func(want int) {
		t.Helper()
		if n := len(c.idle); n != want {
			t.Errorf("%d goroutines wait, want %d", n, want)
		}
	}
	together(t, &c, 5)
	waiting(5)
	c.Trim() // all of them were needed
	waiting(5)
	together(t, &c, 2)
	c.Trim()
	waiting(2)
	c.Trim()
	waiting(0)
	together(t, &c, 1)
	waiting(1)
}

func TestTaskOfAReleasedCrewLeavesNobody(t *testing.T) {
	var c Crew
	c.Release()
	done := make(chan struct{})
	c.Go(task(func() { close(done) }))
	<-done
	c.Wait()
	if n := len(c.idle); n != 0 {
		t.Errorf("%d goroutines wait", n)
	}
}

// Except for a new goroutine.
func TestTaskCostsNoMemory(t *testing.T) {
	var c Crew
	defer c.Release()
	ran := 0
	var r Runner = task(func() { ran++ })
	c.Go(r)
	c.Wait()
	if n := testing.AllocsPerRun(100, func() { c.Go(r); c.Wait() }); n > 0 {
		t.Errorf("a task costs %v allocations", n)
	}
}
