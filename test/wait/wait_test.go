package wait

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A failure is a test that records why it fails, and ends its goroutine as a test does.
type failure struct {
	testing.TB
	why string
}

func (f *failure) Helper() {}

func (f *failure) Fatalf(format string, args ...any) {
	f.why = fmt.Sprintf(format, args...)
	panic(f)
}

func (f *failure) Errorf(format string, args ...any) { f.why += fmt.Sprintf(format, args...) }

// fails returns why a wait fails the test, and after how long by the bubble's clock.
func fails(t *testing.T, wait func(testing.TB)) (why string, after time.Duration) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		begin := time.Now()
		f := new(failure)
		defer func() {
			if recover() != f {
				t.Error("it does not fail")
			}
			why, after = f.why, time.Since(begin)
		}()
		wait(f)
	})
	return why, after
}

func TestWaitInVainEndsTheTest(t *testing.T) {
	why, after := fails(t, func(tb testing.TB) { For(tb, make(chan int), "the ship comes in") })
	if !strings.HasPrefix(why, "waited in vain: the ship comes in\n") ||
		!strings.Contains(why, "TestWaitInVainEndsTheTest") || after != Patience {
		t.Errorf("it fails after %v with %.200q", after, why)
	}
	end := make(chan struct{})
	why, after = fails(t, func(tb testing.TB) {
		defer close(end)
		end := make(chan struct{})
		defer close(end)
		Within(tb, "it returns", func() { <-end })
	})
	if !strings.HasPrefix(why, "waited in vain: it returns\n") || after != Patience {
		t.Errorf("it fails after %v with %.200q", after, why)
	}
}

func TestWaitEndsWithWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ch := make(chan int)
		time.AfterFunc(time.Second, func() { ch <- 7 })
		if got := For(t, ch, "a number"); got != 7 {
			t.Errorf("got %d, want 7", got)
		}
		Within(t, "a nap", func() { time.Sleep(time.Second) })
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("it took %v, want 2s", took)
		}
	})
	calls := 0
	Until(t, "it is so at the third look", func() bool { calls++; return calls == 3 })
	if calls != 3 {
		t.Errorf("it looked %d times, want 3", calls)
	}
}

func TestWhatRunsIsStoppedAndItsErrorsAreTheTests(t *testing.T) {
	f := new(failure)
	var ended atomic.Int32
	part := func(err error) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			ended.Add(1)
			return err
		}
	}
	stop := Running(f, part(nil), part(errors.New("broken")), part(nil))
	if ended.Load() != 0 {
		t.Error("it ends before it is stopped")
	}
	for range 2 {
		stop()
	}
	if ended.Load() != 3 || f.why != "what ran: broken" {
		t.Errorf("%d of 3 parts have ended, and the test fails with %q", ended.Load(), f.why)
	}
}
