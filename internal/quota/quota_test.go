package quota

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"
)

func TestExceeded(t *testing.T) {
	q := New(10)
	told := func() bool {
		select {
		case <-q.exceeded:
			return true
		default:
			return false
		}
	}
	q.Add(10)
	if told() || q.Over() || q.Used() != 10 || q.Limit() != 10 {
		t.Errorf("at the limit: over is %t, used %d of %d", q.Over(), q.Used(), q.Limit())
	}
	q.Add(1)
	q.Add(5)
	if !q.Over() || !told() || told() {
		t.Error("past the limit it is told once")
	}
	q.Add(-1)
	if told() {
		t.Error("it is told when less is held")
	}
	q.Add(-5)
	if q.Over() || q.Used() != 10 {
		t.Errorf("over is %t, used %d", q.Over(), q.Used())
	}
}

func TestManyAddAtOnce(t *testing.T) {
	q := New(1)
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			for range 1000 {
				q.Add(3)
				q.Add(-3)
			}
		})
	}
	adding.Wait()
	if q.Used() != 0 || q.Over() {
		t.Errorf("used %d", q.Used())
	}
}

// holders hold so much each, the first the longest. What is ended is noted, and given back at once or not.
func holders(q *Quota, atOnce bool, ended *[]int, held ...int) iter.Seq[Share] {
	began := time.Now()
	return func(yield func(Share) bool) {
		for i, n := range held {
			end := func() {
				*ended = append(*ended, n)
				if atOnce {
					q.Add(-n)
				}
			}
			if !yield(Share{n, began.Add(time.Duration(i)), end}) {
				return
			}
		}
	}
}

// Those who hold most go, and no more of them than need to, whether they give back at once or later.
func TestRelieveEndsThoseWhoHoldMost(t *testing.T) {
	for _, atOnce := range []bool{true, false} {
		q := New(100)
		var ended []int
		a, b := holders(q, atOnce, &ended, 5, 60, 20), holders(q, atOnce, &ended, 30, 70)
		q.Add(100)
		if q.Relieve(a, b); len(ended) > 0 {
			t.Errorf("%v are ended at the limit", ended)
		}
		q.Add(85)
		if q.Relieve(a, b); !slices.Equal(ended, []int{70, 60}) {
			t.Errorf("ended %v, want 70 and 60", ended)
		}
	}
}

// Of those who hold the same the one that has it the longest goes.
func TestRelieveEndsTheEarliestOfEquals(t *testing.T) {
	q := New(0)
	var ended []time.Time
	began := time.Now()
	q.Add(1)
	q.Relieve(func(yield func(Share) bool) {
		for _, after := range []time.Duration{3, 1, 2} {
			since := began.Add(after)
			if !yield(Share{1, since, func() { ended = append(ended, since) }}) {
				return
			}
		}
	})
	if len(ended) != 1 || !ended[0].Equal(began.Add(1)) {
		t.Errorf("ended %v, want only %v", ended, began.Add(1))
	}
}

func TestRunRelievesWhenItIsDue(t *testing.T) {
	q := New(10)
	var ended []int
	list := holders(q, true, &ended, 3, 9)
	stop := wait.Running(t, func(ctx context.Context) error {
		q.Run(ctx, list)
		return nil
	})
	q.Add(12)
	wait.Until(t, "it is no more than may be", func() bool { return !q.Over() })
	stop()
	if !slices.Equal(ended, []int{9}) {
		t.Errorf("ended %v, want 9", ended)
	}
}
