// Package leak finds the goroutines and descriptors that a package's tests leave behind.
package leak

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"picloud/test/wait"
)

// module is the prefix of the names of this module's functions.
const module = "picloud/"

// Check runs the tests, which is TestMain's M.Run, and returns the exit status: 1 when they pass but leave a goroutine
// of this module behind, or more descriptors open than before.
func Check(run func() int) int {
	// What Go opens once for itself must be open before the count.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	before := Descriptors()
	code := run()
	if code != 0 {
		return code
	}
	if left := leftovers(wait.Patience); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "goroutines are left behind:\n%s\n", strings.Join(left, "\n\n"))
		code = 1
	}
	if after := Descriptors(); len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors are left behind: before %q, after %q\n", before, after)
		code = 1
	}
	return code
}

// leftovers returns the stacks of the module's goroutines that do not end. A goroutine that has called its WaitGroup's
// Done is about to.
func leftovers(patience time.Duration) []string {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		left := Goroutines(module)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// Goroutines returns the stacks, except the caller's own, with a function whose name begins with what, such as
// "net/http.(*conn)". That may be the function that started the goroutine.
func Goroutines(what string) []string {
	var found []string
	for i, stack := range strings.Split(wait.Stacks(), "\n\n") {
		if i > 0 && (strings.Contains(stack, "\n"+what) || strings.Contains(stack, "\ncreated by "+what)) {
			found = append(found, stack)
		}
	}
	return found
}

// Descriptors lists what this process has open: each descriptor's number and what it leads to.
func Descriptors() []string {
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
