package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	picloudd "picloud/test/daemon"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptRoot is where the picloud of a script has this machine's files.
const scriptRoot = "PICLOUD_TEST_ROOT"

// The scripts run this binary as picloud, and the real picloudd. Their own commands:
//
//	daemon [NAME=VALUE...]    start one, on the port of the one before; PICLOUD_URL and API_KEY are set for it
//	daemon stop
//	status N COMMAND...       like exec; its exit status is N
//	start NAME COMMAND...     in the background, and go on when it is subscribed
//	interrupt NAME            Ctrl-C
//	end NAME N                wait for the end; the exit status is N, and NAME.out and NAME.err have what it printed
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv(scriptRoot, e.Cd+"/root")
			e.Setenv("TERM", plainTerminal)
			e.Values[stageKey{}] = &stage{jobs: make(map[string]*backgroundJob)}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": func(ts *testscript.TestScript, neg bool, args []string) { stageOf(ts).daemon(ts, args) },
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				expectStatus(ts, err, args[0])
			},
			"start": func(ts *testscript.TestScript, neg bool, args []string) { stageOf(ts).start(ts, args) },
			"interrupt": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Check(stageOf(ts).jobs[args[0]].cmd.Process.Signal(os.Interrupt))
			},
			"end": func(ts *testscript.TestScript, neg bool, args []string) { stageOf(ts).end(ts, args) },
		},
	})
}

type stageKey struct{}

// stage is what a script has running.
type stage struct {
	running *daemon
	port    string
	jobs    map[string]*backgroundJob
}

type backgroundJob struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	reading  sync.WaitGroup
}

func stageOf(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

func (s *stage) daemon(ts *testscript.TestScript, settings []string) {
	if len(settings) == 1 && settings[0] == "stop" {
		ts.Check(s.running.End())
		return
	}
	if s.port == "" {
		s.port = "0"
	}
	cmd := exec.Command(bin + "/picloudd")
	cmd.Env = append([]string{"PORT=" + s.port, "API_KEY=" + key}, settings...)
	d, err := picloudd.Begin(cmd)
	ts.Check(err)
	ts.Defer(func() { ts.Check(d.End()) })
	s.running, s.port = d, d.Port()
	ts.Setenv("PICLOUD_URL", d.URL)
	ts.Setenv("PORT", s.port)
	ts.Setenv("API_KEY", key)
}

func (s *stage) start(ts *testscript.TestScript, args []string) {
	// Exec would wait for the end, and go's own background is silent until then.
	path := ""
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		if _, err := os.Stat(dir + "/" + args[1]); err == nil {
			path = dir + "/" + args[1]
			break
		}
	}
	j := &backgroundJob{cmd: exec.Command(path, args[2:]...)}
	for _, name := range []string{"PATH", "HOME", "PICLOUD_URL", "API_KEY", "PICLOUD_NAME", scriptRoot} {
		j.cmd.Env = append(j.cmd.Env, name+"="+ts.Getenv(name))
	}
	j.cmd.Dir = ts.MkAbs(".")
	j.cmd.Stdout = &j.out
	stderr, err := j.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(j.cmd.Start())
	ts.Defer(func() { j.cmd.Process.Kill() })
	s.jobs[args[0]] = j
	r := bufio.NewReader(stderr)
	for {
		line, err := r.ReadString('\n')
		j.err.WriteString(line)
		if strings.HasSuffix(line, "picloud: subscribed\n") {
			break
		}
		if err != nil {
			ts.Fatalf("%q ended and said %q", args, j.err.String())
		}
	}
	j.reading.Go(func() { j.err.ReadFrom(r) })
}

func (s *stage) end(ts *testscript.TestScript, args []string) {
	j := s.jobs[args[0]]
	j.reading.Wait()
	expectStatus(ts, j.cmd.Wait(), args[1])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), j.out.Bytes(), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), j.err.Bytes(), 0o644))
}

func expectStatus(ts *testscript.TestScript, err error, want string) {
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit status %d, want %s", got, want)
	}
}
