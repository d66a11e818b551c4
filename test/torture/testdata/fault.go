// Package fault kills the process at a step that the environment names, and takes locks away. It is in no daemon but
// the tortured one: see edits_test.go.
package fault

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

var (
	step    = os.Getenv("FAULT_STEP")
	pass, _ = strconv.Atoi(os.Getenv("FAULT_PASS")) // which time the step comes, from 1
	locks   = strings.Split(os.Getenv("FAULT_WITHOUT"), ",")

	passed atomic.Int32
	armed  atomic.Bool // the next step is the last
)

// Now reports whether the process is to die in the middle of this step.
func Now(name string) bool { return name == step && int(passed.Add(1)) == pass }

// At is a step.
func At(name string) {
	if Now(name) || armed.Load() {
		Die()
	}
}

// Part returns all of p, or only some of it: then the process dies at the next step.
func Part(name string, p []byte) []byte {
	if !Now(name) || len(p) == 0 {
		return p
	}
	armed.Store(true)
	return p[:rand.IntN(len(p))]
}

// Die is as kill -9.
func Die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Without reports whether a lock is taken away.
func Without(lock string) bool { return slices.Contains(locks, lock) }

var (
	mu     sync.Mutex
	behind = map[any]func(){}
)

// Later has f run when it is called for the same again.
func Later(of any, f func()) {
	mu.Lock()
	g := behind[of]
	behind[of] = f
	mu.Unlock()
	if g != nil {
		g()
	}
}
