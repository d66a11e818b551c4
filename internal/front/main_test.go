package front

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait of these tests; a test that passes does not use it up.
const patience = 2 * time.Minute

// TestMain fails when the tests leave a goroutine or a descriptor behind.
func TestMain(m *testing.M) {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil { // what Go opens once for itself is there before the count
		l.Close()
	}
	before := descriptors()
	code := m.Run()
	if code == 0 {
		deadline := time.Now().Add(patience)
		for goroutines("picloud/internal/front.")+goroutines("picloud/internal/poll.(*Crew)") > 1 && time.Now().Before(deadline) { // this one
			runtime.Gosched()
		}
		if goroutines("picloud/internal/front.")+goroutines("picloud/internal/poll.(*Crew)") > 1 {
			fmt.Fprintf(os.Stderr, "goroutines are left behind:\n%s\n", allStacks())
			code = 1
		}
		if after := descriptors(); after > before {
			fmt.Fprintf(os.Stderr, "%d descriptors are open, there were %d\n", after, before)
			code = 1
		}
	}
	os.Exit(code)
}

func allStacks() string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}

// goroutines counts those whose stack names what.
func goroutines(what string) (n int) {
	for stack := range strings.SplitSeq(allStacks(), "\n\n") {
		if strings.Contains(stack, what) {
			n++
		}
	}
	return n
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// wait returns what comes from ch.
func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s\n%s", what, allStacks())
		panic("unreachable")
	}
}

// within fails unless f returns in time.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	wait(t, done, what)
}

// until returns when something is so that no channel tells of.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
