package poll

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
	var w Workers
	defer w.release()
	c := w.NewCrew()
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
	var w Workers
	c := w.NewCrew()
	for range 2 {
		together(t, c, 2*mostIdle)
	}
	if n := len(w.idle); n > mostIdle {
		t.Errorf("%d goroutines wait, at most %d may", n, mostIdle)
	}
	w.release()
	if n := len(w.idle); n != 0 {
		t.Errorf("%d goroutines wait after Release", n)
	}
}

// Goroutines that were needed since the last Trim stay, the others end.
func TestTrimSendsHomeWhoWasNotNeeded(t *testing.T) {
	var w Workers
	defer w.release()
	c := w.NewCrew()
	waiting := func(want int) {
		t.Helper()
		if n := len(w.idle); n != want {
			t.Errorf("%d goroutines wait, want %d", n, want)
		}
	}
	together(t, c, 5)
	waiting(5)
	w.Trim() // all of them were needed
	waiting(5)
	together(t, c, 2)
	w.Trim()
	waiting(2)
	w.Trim()
	waiting(0)
	together(t, c, 1)
	waiting(1)
}

func TestTaskOfAReleasedCrewLeavesNobody(t *testing.T) {
	var w Workers
	c := w.NewCrew()
	w.release()
	done := make(chan struct{})
	c.Go(task(func() { close(done) }))
	<-done
	c.Wait()
	if n := len(w.idle); n != 0 {
		t.Errorf("%d goroutines wait", n)
	}
}

// Except for a new goroutine.
func TestTaskCostsNoMemory(t *testing.T) {
	var w Workers
	defer w.release()
	c := w.NewCrew()
	ran := 0
	var r Runner = task(func() { ran++ })
	c.Go(r)
	c.Wait()
	if n := testing.AllocsPerRun(100, func() { c.Go(r); c.Wait() }); n > 0 {
		t.Errorf("a task costs %v allocations", n)
	}
}

// turns makes a Turn for each of n tasks that gives it back when do has returned.
func turns(n int, do func(i int)) (list []*Turn, tasks []Runner) {
	for i := range n {
		turn := new(Turn)
		list = append(list, turn)
		tasks = append(tasks, task(func() {
			do(i)
			for !turn.Done() {
			}
		}))
	}
	return list, tasks
}

// What is woken first is begun first, and has ended before the next begins, whatever crews they are of.
func TestWokenInOrder(t *testing.T) {
	w := Workers{patience: time.Hour}
	defer w.release()
	crews := []*Crew{w.NewCrew(), w.NewCrew()}
	const n = 200
	var running, next int // races and disorder are seen
	list, tasks := turns(n, func(i int) {
		running++
		if running != 1 || i != next {
			t.Errorf("task %d runs beside %d others, want task %d alone", i, running-1, next)
		}
		next = i + 1
		running--
	})
	hold := make(chan struct{})
	crews[0].Wake(new(Turn), task(func() { <-hold })) // so that all are in line before the first begins
	for i := range n {
		crews[i%2].Wake(list[i], tasks[i])
	}
	close(hold)
	for _, c := range crews {
		c.Wait()
	}
	if next != n {
		t.Errorf("%d have run, want %d", next, n)
	}
}

// What is woken again while it runs comes behind what was woken before that.
func TestWokenAgainInOrder(t *testing.T) {
	w := Workers{patience: time.Hour}
	defer w.release()
	c := w.NewCrew()
	var ran []string // races are seen
	var once, again Turn
	begun, goOn := make(chan struct{}), make(chan struct{})
	r := task(func() {
		for done := false; !done; done = again.Done() {
			if ran = append(ran, "again"); len(ran) == 1 {
				close(begun)
				<-goOn
			}
		}
	})
	c.Wake(&again, r)
	<-begun
	c.Wake(&once, task(func() {
		ran = append(ran, "once")
		once.Done()
	}))
	c.Wake(&again, r)
	close(goOn)
	c.Wait()
	if want := []string{"again", "once", "again"}; !slices.Equal(ran, want) {
		t.Errorf("they ran in the order %q, want %q", ran, want)
	}
}

// Whoever takes its time delays those behind it for a moment only, even if there are many such.
func TestStuckTasksKeepNobodyWaiting(t *testing.T) {
	var w Workers
	defer w.release()
	c := w.NewCrew()
	release := make(chan struct{})
	for range 5 {
		c.Wake(new(Turn), task(func() { <-release }))
	}
	const n = 50
	var ran sync.WaitGroup
	ran.Add(n)
	list, tasks := turns(n, func(int) { ran.Done() })
	for i := range n {
		c.Wake(list[i], tasks[i])
	}
	ran.Wait()
	close(release)
	c.Wait()
}

// A frozen crew wakes nobody, and another one of the same workers does.
func TestFreezeIsOfOneCrew(t *testing.T) {
	var w Workers
	defer w.release()
	frozen, other := w.NewCrew(), w.NewCrew()
	frozen.Freeze()
	turn := new(Turn)
	frozen.Wake(turn, task(func() { t.Error("a frozen crew wakes") }))
	frozen.Wait()
	if !turn.Rests() {
		t.Error("it has the turn")
	}
	done := make(chan struct{})
	other.Wake(new(Turn), task(func() { close(done) }))
	<-done
	other.Wait()
}

// However long the line is, it takes no more room than those who are in it.
func TestLineKeepsNobody(t *testing.T) {
	var w Workers
	defer w.release()
	c := w.NewCrew()
	var rounds atomic.Int32
	for range 100 {
		list, tasks := turns(100, func(int) { rounds.Add(1) })
		for i := range list {
			c.Wake(list[i], tasks[i])
		}
	}
	c.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.line) != 0 || w.first != 0 {
		t.Errorf("%d in line, from %d on", len(w.line), w.first)
	}
	for i, j := range w.line[:cap(w.line)] {
		if j.Runner != nil {
			t.Fatalf("place %d still has its task", i)
		}
	}
	if n := rounds.Load(); n != 10_000 {
		t.Errorf("%d have run", n)
	}
}
