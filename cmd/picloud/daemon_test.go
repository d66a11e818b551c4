package main

import (
	"bufio"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"picloud/internal/leak"
	picloudd "picloud/test/daemon"
	"picloud/test/wait"

	"github.com/rogpeppe/go-internal/testscript"
)

const key = "open-sesame"

// watched runs the tests with the commands built.
type watched struct{ *testing.M }

func (m watched) Run() int {
	return leak.Check(func() int {
		return picloudd.Built(picloudd.Raced, func(built string) int {
			bin = built
			return m.M.Run()
		})
	})
}

func TestMain(m *testing.M) {
	testscript.Main(watched{m}, map[string]func(){"picloud": func() {
		root = os.Getenv(scriptRoot)
		main()
	}})
}

var bin string // has the real picloud and picloudd

// daemon is a real picloudd.
type daemon = picloudd.Process

// serve starts one on a free port, or on the given one, with more settings.
func serve(t *testing.T, port string, settings ...string) *daemon {
	t.Helper()
	return picloudd.Start(t, bin, append([]string{"PORT=" + port, "API_KEY=" + key}, settings...)...)
}

// job is a picloud that runs: run in this process, or the real binary.
type job struct {
	t         *testing.T
	args      []string
	stdin     io.WriteCloser
	out, err  <-chan string // lines
	status    <-chan int
	interrupt func()
}

func environment(d *daemon, more map[string]string) map[string]string {
	env := map[string]string{"API_KEY": key}
	if d != nil {
		env["PICLOUD_URL"] = d.URL
	}
	maps.Copy(env, more)
	return env
}

// call runs run.
func call(t *testing.T, env map[string]string, args ...string) *job {
	t.Helper()
	stdin, feed := io.Pipe()
	stdout, outEnd := io.Pipe()
	stderr, errEnd := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	status := make(chan int, 1)
	go func() {
		err := run(ctx, args, stdin, outEnd, errEnd, func(name string) string { return env[name] })
		code := exitStatus(err, errEnd)
		outEnd.Close()
		errEnd.Close()
		stdin.Close()
		status <- code
	}()
	return &job{t, args, feed, scan(stdout), scan(stderr), status, cancel}
}

// start starts the real binary.
func start(t *testing.T, env map[string]string, args ...string) *job {
	t.Helper()
	cmd := exec.Command(bin+"/picloud", args...)
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, outEnd := io.Pipe()
	stderr, errEnd := io.Pipe()
	cmd.Stdout, cmd.Stderr = outEnd, errEnd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	status := make(chan int, 1)
	go func() {
		cmd.Wait()
		outEnd.Close()
		errEnd.Close()
		status <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { cmd.Process.Kill() })
	return &job{t, args, stdin, scan(stdout), scan(stderr), status, func() { cmd.Process.Signal(os.Interrupt) }}
}

func scan(r io.Reader) <-chan string {
	lines := make(chan string, 1<<17)
	go func() {
		defer close(lines)
		for b := bufio.NewReader(r); ; {
			line, err := b.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// line returns the next line of c without its end.
func (j *job) line(c <-chan string) string {
	j.t.Helper()
	select {
	case line, ok := <-c:
		if !ok {
			j.t.Fatalf("picloud %q ended, exit status %d", j.args, <-j.status)
		}
		if strings.Contains(line, key) {
			j.t.Errorf("picloud %q printed the key: %q", j.args, line)
		}
		return strings.TrimSuffix(line, "\n")
	case <-time.After(wait.Patience):
		j.t.Fatalf("picloud %q prints nothing", j.args)
	}
	return ""
}

// expect checks the next lines of the output.
func (j *job) expect(want ...string) {
	j.t.Helper()
	for _, w := range want {
		if got := j.line(j.out); got != w {
			j.t.Errorf("picloud %q printed %q, want %q", j.args, got, w)
		}
	}
}

// says checks that the next line of stderr has each of want.
func (j *job) says(want ...string) {
	j.t.Helper()
	got := j.line(j.err)
	for _, w := range want {
		if !strings.Contains(got, w) {
			j.t.Errorf("picloud %q said %q, want it to have %q", j.args, got, w)
		}
	}
}

// ends waits for the end and returns what was not yet read.
func (j *job) ends(want int) (out, err string) {
	j.t.Helper()
	select {
	case got := <-j.status:
		for line := range j.out {
			out += line
		}
		for line := range j.err {
			err += line
		}
		if got != want {
			j.t.Errorf("picloud %q: exit status %d, want %d; it said %q", j.args, got, want, err)
		}
		if strings.Contains(out+err, key) {
			j.t.Errorf("picloud %q printed the key: %q", j.args, out+err)
		}
	case <-time.After(wait.Patience):
		j.t.Fatalf("picloud %q does not end", j.args)
	}
	return out, err
}

// does runs picloud to a good end and returns its output.
func does(t *testing.T, d *daemon, args ...string) string {
	t.Helper()
	out, said := call(t, environment(d, nil), args...).ends(0)
	if said != "" {
		t.Errorf("picloud %q said %q", args, said)
	}
	return out
}

// subscribed starts picloud sub and waits until it is.
func subscribed(t *testing.T, d *daemon, args ...string) *job {
	t.Helper()
	j := call(t, environment(d, nil), append([]string{"sub"}, args...)...)
	j.says("subscribed")
	return j
}
