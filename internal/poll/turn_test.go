package poll

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTurnIsOneOwners(t *testing.T) {
	var turn Turn
	if !turn.Rests() || !turn.Take() || turn.Take() || turn.Rests() {
		t.Fatal("a turn is taken once")
	}
	if !turn.Done() || !turn.Rests() {
		t.Error("it is not given back")
	}
	if !turn.Wake() {
		t.Error("who wakes one at rest does not get the turn")
	}
	for range 2 {
		if turn.Wake() {
			t.Error("two have the turn")
		}
	}
	if turn.Done() {
		t.Error("it rests, and something has happened")
	}
	if !turn.Done() {
		t.Error("it does not rest after the second look")
	}
	turn.Take()
	turn.Wake()
	if turn.Rest(); !turn.Rests() {
		t.Error("it does not rest whatever has happened")
	}
}

// A turn that has a place in line is nobody's until it comes out; whoever still has it then looks again at once.
func TestTurnWaitsInLine(t *testing.T) {
	for _, isInLine := range []bool{false, true} {
		var turn Turn
		if !turn.line(isInLine) || turn.line(isInLine) || turn.Rests() || turn.Take() {
			t.Fatal("it is not put into the line once, and for itself")
		}
		if !turn.begin() || !turn.Done() || !turn.Rests() {
			t.Error("it does not begin in its place, or does not rest afterwards")
		}
	}
	var turn Turn
	turn.Take()
	if turn.line(false) || turn.Done() || !turn.Done() {
		t.Error("with nobody in line, whoever has it does not look again")
	}
	turn.Take()
	if !turn.line(true) || turn.line(true) || turn.Wake() {
		t.Error("one that is taken is not put into the line once")
	}
	if !turn.Done() || turn.Rests() || turn.Take() {
		t.Error("it is not left to its place in line")
	}
	if !turn.begin() || !turn.line(true) {
		t.Error("it does not begin there")
	}
	if turn.begin() || turn.Done() || !turn.Done() || !turn.Rests() {
		t.Error("its place comes while somebody has it, who does not look again")
	}
	if turn.begin() {
		t.Error("it begins at rest")
	}
}

// A sleeper notes what it finds when it looks.
type sleeper struct {
	turn   Turn
	happen atomic.Int64
	inside atomic.Int32
	t      *testing.T

	seen int64 // for whoever has the turn
}

func (s *sleeper) Run() {
	if s.inside.Add(1) != 1 {
		s.t.Error("two look at a time")
	}
	for {
		s.seen = s.happen.Load()
		s.inside.Add(-1)
		if s.turn.Done() {
			return
		}
		s.inside.Add(1)
	}
}

// Nothing that happens is missed, whoever wakes when, and only one looks at a time.
func TestWhatHappensIsSeen(t *testing.T) {
	var w Workers
	defer w.release()
	c := w.NewCrew()
	s := &sleeper{t: t}
	for range 200 {
		var wakers sync.WaitGroup
		for range 8 {
			wakers.Go(func() {
				for range 50 {
					s.happen.Add(1)
					c.Wake(&s.turn, s)
				}
			})
		}
		wakers.Wait()
		c.Wait()
		if !s.turn.Rests() {
			t.Fatal("nobody works and it does not rest")
		}
		if s.seen != s.happen.Load() {
			t.Fatalf("%d of %d were seen", s.seen, s.happen.Load())
		}
	}
}

// After Freeze and Wait nobody has a turn, whoever wakes meanwhile.
func TestFrozenCrewWakesNobody(t *testing.T) {
	for range 100 {
		var w Workers
		c := w.NewCrew()
		sleepers := make([]*sleeper, 16)
		for i := range sleepers {
			sleepers[i] = &sleeper{t: t}
		}
		var wakers sync.WaitGroup
		stop := make(chan struct{})
		for n := range 4 {
			wakers.Go(func() {
				for i := n; ; i++ {
					select {
					case <-stop:
						return
					default:
						s := sleepers[i%len(sleepers)]
						s.happen.Add(1)
						c.Wake(&s.turn, s)
					}
				}
			})
		}
		c.Freeze()
		c.Wait()
		var seen []int64
		for i, s := range sleepers {
			if !s.turn.Rests() {
				t.Errorf("%d does not rest", i)
			}
			seen = append(seen, s.seen)
		}
		happened := func() (n int64) {
			for _, s := range sleepers {
				n += s.happen.Load()
			}
			return n
		}
		for before := happened(); happened() < before+64; {
			runtime.Gosched()
		}
		close(stop)
		wakers.Wait()
		for i, s := range sleepers {
			if s.seen != seen[i] || !s.turn.Rests() {
				t.Errorf("%d has been woken", i)
			}
		}
		ran := false
		c.Go(task(func() { ran = true }))
		c.Wait()
		w.release()
		if !ran {
			t.Error("what is asked for by Go is not done")
		}
	}
}
