package conn

import (
	"bytes"
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
	// What Go opens once for itself is there before the count.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	before := descriptors()
	code := m.Run()
	if code == 0 {
		if left := leftovers(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines are left behind:\n%s\n", left)
			code = 1
		}
		if after := descriptors(); len(after) > len(before) {
			fmt.Fprintf(os.Stderr, "descriptors are left behind: before %q, after %q\n", before, after)
			code = 1
		}
	}
	os.Exit(code)
}

// leftovers returns the stacks of this package's goroutines that do not end. One that has told its WaitGroup so is
// about to.
func leftovers() string {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		left := append(stacks("picloud/internal/conn."), stacks("picloud/internal/poll.(*Crew)")...)
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// stacks returns the stacks that name what, but for the caller's own.
func stacks(what string) []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var found []string
	for i, stack := range bytes.Split(buf, []byte("\n\n")) {
		if i > 0 && bytes.Contains(stack, []byte(what)) {
			found = append(found, string(stack))
		}
	}
	return found
}

// descriptors lists what this process has open.
func descriptors() []string {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		panic(err)
	}
	var open []string
	for _, e := range entries {
		if to, err := os.Readlink(folder + "/" + e.Name()); err == nil {
			open = append(open, e.Name()+" "+to)
		}
	}
	return open
}

// wait returns what comes from ch.
func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain: %s", what)
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
