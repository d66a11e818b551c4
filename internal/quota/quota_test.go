package quota

import (
	"sync"
	"testing"
)

func TestExceeded(t *testing.T) {
	q := New(10)
	told := func() bool {
		select {
		case <-q.Exceeded():
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
