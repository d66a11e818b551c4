// Package daemon builds the commands, and runs a picloudd as a process of its own.
package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// A Mode is how the commands are built.
type Mode int

const (
	// Raced is with the race detector, for tests, where Go has one: a daemon in which it has found a race does not end
	// with status 0.
	Raced Mode = iota
	// Plain is as users get them, for measurements and pictures.
	Plain
)

// raceable says whether Go has a race detector for this processor: it has none of 32 bits.
const raceable = runtime.GOARCH != "386" && runtime.GOARCH != "arm"

// Built builds picloudd and picloud into a folder, hands it to use, and removes it. It returns what use returns, or 1
// after printing why they cannot be built. It is for TestMain, where use calls M.Run.
func Built(mode Mode, use func(bin string) int) int {
	bin, err := os.MkdirTemp("", "picloud-built-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	args := []string{"build", "-o", bin + "/"}
	if mode == Raced && raceable {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "picloud/cmd/picloudd",
		"picloud/cmd/picloud")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the commands: %v\n%s", err, out)
		return 1
	}
	return use(bin)
}
