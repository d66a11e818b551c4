package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	picloudd "picloud/test/daemon"
)

// spawn starts the real binary and returns when it serves. The test's end kills it.
func spawn(t *testing.T, e env) (*daemon, *os.Process) {
	t.Helper()
	d := newDaemon(testKey)
	process := d.begin(t, e, d.stdout, d.stderr)
	d.find(t)
	return d, process
}

// begin starts the real binary, which prints to stdout and stderr.
func (d *daemon) begin(t *testing.T, e env, stdout, stderr io.Writer) *os.Process {
	t.Helper()
	return d.become(t, exec.Command(binary), e, stdout, stderr)
}

// become is begin for a command that ends up as picloudd.
func (d *daemon) become(t *testing.T, cmd *exec.Cmd, e env, stdout, stderr io.Writer) *os.Process {
	t.Helper()
	cmd.Env = []string{picloudd.AtOnce}
	for k, v := range e.with("PORT", "0").with("API_KEY", testKey) {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-d.ended
		d.http.CloseIdleConnections()
	})
	return cmd.Process
}

// output runs the real binary to its end.
func output(t *testing.T, e env, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{picloudd.AtOnce}
	for k, v := range e {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    env
		args   []string
		status int
	}{
		{"version", nil, []string{"-version"}, 0},
		{"help", nil, []string{"-help"}, 0},
		{"check", nil, []string{"-check"}, 0},
		{"wrong setting", env{"PORT": "x"}, nil, 1},
		{"wrong setting, checked", env{"MAX_CONNECTIONS": "-1"}, []string{"-check"}, 1},
		{"stray argument", nil, []string{"serve"}, 2},
		{"unknown flag", nil, []string{"-x"}, 2},
	} {
		stdout, stderr, status := output(t, tt.env, tt.args...)
		if status != tt.status {
			t.Errorf("%s: status %d, want %d; printed %q and %q", tt.name, status, tt.status, stdout, stderr)
		}
		if tt.status == 1 && (stdout != "" || strings.Count(stderr, "\n") != 1 ||
			!strings.HasPrefix(stderr, "picloudd: ")) {
			t.Errorf("%s: printed %q and %q, want one line", tt.name, stdout, stderr)
		}
		if strings.Contains(stderr, "goroutine") || strings.Contains(stderr, "panic") {
			t.Errorf("%s: a stack trace: %s", tt.name, stderr)
		}
	}
}

func TestConnectionsAreAtMostWhatTheProcessMayOpen(t *testing.T) {
	for limit, want := range map[string]string{"1024": "connections  704 (MAX_CONNECTIONS is 8192)", "200": ""} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "ulimit -n "+limit+` && exec "$0" -check`, binary)
		cmd.Env = []string{picloudd.AtOnce}
		out, err := cmd.CombinedOutput()
		if want == "" {
			if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "ulimit") {
				t.Errorf("with %s files: %v, printed %q, want one line", limit, err, out)
			}
		} else if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("with %s files: %v, printed\n%s\nwant %s", limit, err, out, want)
		}
	}
}

func TestSignalStopsInOrder(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		d, process := spawn(t, env{"MAX_QUEUE_BYTES": "64M"})
		late, prompt := d.subscriber(t, "Late"), d.connect(t, "/subscribe?clientName=Prompt")
		d.fill(t)
		if err := process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		wantClose(t, prompt, 1001)
		for range backlog {
			receive(t, late)
		}
		wantClose(t, late, 1001)
		if err := d.wait(t); err != nil {
			t.Errorf("%v: %v, want the status 0", signal, err)
		}
		d.stderr.Await(t, "msg=stopped")
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d, process := spawn(t, env{"MAX_QUEUE_BYTES": "64M"})
		d.subscriber(t, "Stalled") // stops reading
		prompt := d.connect(t, "/subscribe?clientName=Prompt")
		d.fill(t)
		if err := process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		wantClose(t, prompt, 1001) // the stop has begun; the next signal becomes fatal a moment later
		tick := time.NewTicker(20 * time.Millisecond)
		for running := true; running; {
			process.Signal(signal)
			select {
			case <-d.ended:
				running = false
			case <-tick.C:
			}
		}
		tick.Stop()
		exit, ok := errors.AsType[*exec.ExitError](d.err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != signal {
			t.Errorf("%v: ended with %v, want the signal, and not the stop's end", signal, d.err)
		}
	}
}

func TestHangUpIsAReload(t *testing.T) {
	caught := make(chan os.Signal, 1) // so that it is not ignored in the child, even if nohup(1) started the tests
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	pair := newPair(t, "localhost")
	d, process := spawn(t, pair.env())
	d.trust(t, pair.cert)
	sub := d.subscriber(t, "S")
	if err := process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.stderr.Await(t, "msg=reloaded signal=SIGHUP")

	if err := os.WriteFile(pair.key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := d.stderr.Await(t, "the reload has failed, and changed nothing"); !strings.Contains(line, pair.key) {
		t.Errorf("it says %q, want the file in it", line)
	}
	d.post(t, `{"event":"e","data":1}`)
	wantData(t, sub, "1")
}

// nohup(1) starts its command with the signal ignored.
func TestHangUpThatIsIgnoredStaysIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	d, process := spawn(t, env{})
	if err := process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// A mask in which the lowest bit is SIGHUP, proc(5).
	m := regexp.MustCompile(`(?m)^SigIgn:\s+\S*([0-9a-f])$`).FindSubmatch(status)
	if bits, err := strconv.ParseUint(string(m[1]), 16, 8); err != nil || bits&1 == 0 {
		t.Errorf("the signal is not ignored: %s", m[0])
	}
	process.Signal(syscall.SIGTERM)
	if err := d.wait(t); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.stderr.String(), "reloaded") {
		t.Errorf("it is a reload:\n%s", d.stderr)
	}
}
