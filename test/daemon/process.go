package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/test/wait"
)

// AtOnce, in a command's environment, makes it end without the second that the race detector spends waiting for further
// races. By then it has reported those that it has found.
const AtOnce = "GORACE=atexit_sleep_ms=0"

// A Process is a picloudd that serves, until Stop or End.
type Process struct {
	URL string // as it prints it, such as http://localhost:9000
	Cmd *exec.Cmd
}

// Start runs the picloudd in bin for a test: on any free port, with settings like "API_KEY=sesame" and nothing else in
// its environment. Its log goes to the test's. It is stopped when the test ends, at the latest, and must end with
// status 0.
func Start(t testing.TB, bin string, settings ...string) *Process {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "picloudd"))
	cmd.Env = append([]string{"PORT=0"}, settings...)
	return Launch(t, cmd)
}

// Launch is Start for a command that ends up as picloudd.
func Launch(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	cmd.Stderr = t.Output()
	p, err := Begin(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(t) })
	return p
}

// Begin starts a command that ends up as picloudd, and returns when that says where it listens. After an error there is
// no process left. The caller must End the process.
func Begin(cmd *exec.Cmd) (*Process, error) {
	cmd.Env = append([]string{AtOnce}, cmd.Environ()...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start picloudd: %w", err)
	}
	late := time.AfterFunc(wait.Patience, func() { cmd.Process.Kill() })
	r := bufio.NewReader(stdout)
	first, err := r.ReadString('\n')
	late.Stop()
	_, url, ok := strings.Cut(strings.TrimSpace(first), " listens on ")
	if !ok {
		cmd.Process.Kill()
		return nil, fmt.Errorf("picloudd says %q where its address is due, then %w", first,
			errors.Join(err, cmd.Wait()))
	}
	go io.Copy(io.Discard, r) // ends with the process
	return &Process{URL: url, Cmd: cmd}, nil
}

// Port is the port of its address, also after it has ended.
func (p *Process) Port() string { return p.URL[strings.LastIndex(p.URL, ":")+1:] }

// End makes the daemon stop in an orderly way, and returns an error unless it ends with status 0. If it has already
// ended, End does nothing.
func (p *Process) End() error {
	if p.Cmd.ProcessState != nil {
		return nil
	}
	p.Cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(wait.Patience,
		func() { p.Cmd.Process.Signal(syscall.SIGABRT) }) // so that its stacks are in its log
	defer late.Stop()
	if err := p.Cmd.Wait(); err != nil {
		return fmt.Errorf("picloudd: %w", err)
	}
	return nil
}

// Stop is End for a test, which fails on an error.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if err := p.End(); err != nil {
		t.Error(err)
	}
}
