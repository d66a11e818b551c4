// Package wait lets a test wait for what must happen: long enough for any machine, and no longer than it takes.
package wait

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait of the tests. What should happen has happened by then, on a busy machine too; a test that
// passes does not use it up.
const Patience = 2 * time.Minute

// For returns what it receives from ch, or the zero value once it is closed.
func For[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(Patience):
		t.Fatalf("waited in vain: %s\n%s", what, Stacks())
		panic("unreachable")
	}
}

// Within fails unless f returns in time.
func Within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	For(t, done, what)
}

// Until polls for a condition that no channel reports. It returns as soon as so returns true, and fails the test if it
// never does.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !so(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Running runs parts that live as long as their context, such as a Run, and returns how to stop them: stop ends the
// context and returns when all parts have, and the test fails if one returns an error. Calling stop again does nothing.
func Running(t testing.TB, parts ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(parts))
	for _, run := range parts {
		go func() { ended <- run(ctx) }()
	}
	return sync.OnceFunc(func() {
		t.Helper()
		cancel()
		for range parts {
			if err := For(t, ended, "what runs ends with its context"); err != nil {
				t.Errorf("what ran: %v", err)
			}
		}
	})
}

// Stacks returns the stacks of all goroutines, the caller's first, with an empty line between them.
func Stacks() string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}
