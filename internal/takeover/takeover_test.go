package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"picloud/internal/leak"
	"picloud/test/wait"
)

// stops, in the environment, makes this process a new one that stops after so many steps, or hangs.
const stops = "TEST_STOPS"

func TestMain(m *testing.M) {
	if how := os.Getenv(stops); how != "" {
		if err := claims(os.Getenv("TEST_PATH"), how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(leak.Check(m.Run))
}

// claims goes as far as how says.
func claims(path, how string) error {
	var told string
	c, err := Ask(path, &told)
	switch {
	case err != nil || how == "asked":
		return err
	case told != "the terms":
		return fmt.Errorf("told %q", told)
	case how == "restart":
		return c.Restart("the moon has changed")
	case how == "nonsense":
		return say(c.conn, message{Kind: leaves})
	}
	if err := c.Ready(); err != nil || how == "ready" {
		return err
	}
	files, err := c.Files()
	if err != nil || how == "given" {
		return err
	}
	for _, f := range files {
		said, err := io.ReadAll(f)
		if err != nil || string(said) != "in "+f.Name() {
			return fmt.Errorf("file %q has %q, %v", f.Name(), said, err)
		}
	}
	if how == "hangs" {
		select {}
	}
	if err := c.Begin(); err != nil || how == "begun" {
		return err
	}
	return c.Alone()
}

// An old is the old process, and a new one.
type old struct {
	*Heir
	t     *testing.T
	ended chan error // of the new process
}

// asked returns when a new process has asked.
func asked(t *testing.T, how string) *old {
	t.Helper()
	path := filepath.Join(t.TempDir(), "o")
	o, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stops+"="+how, "TEST_PATH="+path)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var h *Heir
	wait.Within(t, "it asks", func() { h, err = o.Wait(t.Context()) })
	if err != nil || h.PID() != cmd.Process.Pid {
		t.Fatalf("%v, and it is process %d, want %d", err, h.PID(), cmd.Process.Pid)
	}
	t.Cleanup(func() { h.Refuse() })
	return &old{h, t, ended}
}

func (o *old) ready() error { return o.Heir.Ready(o.t.Context(), "the terms") }

// give gives two files, one of them empty but for its name.
func (o *old) give() {
	o.t.Helper()
	var files []*os.File
	for _, name := range []string{"one", "two"} {
		path := filepath.Join(o.t.TempDir(), name)
		if err := os.WriteFile(path, []byte("in "+path), 0o600); err != nil {
			o.t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			o.t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := o.Give(files); err != nil {
		o.t.Errorf("give: %v", err)
	}
}

func TestWorkIsPassed(t *testing.T) {
	o := asked(t, "leaves")
	if err := o.ready(); err != nil {
		t.Fatal(err)
	}
	o.give()
	if err := errors.Join(o.Begun(t.Context()), o.Leave()); err != nil {
		t.Fatal(err)
	}
	if err := wait.For(t, o.ended, "the new process has ended"); err != nil {
		t.Error(err)
	}
}

// Wherever the new process stops, the old one learns it in the step that it is at.
func TestOldProcessLearnsThatTheNewOneHasStopped(t *testing.T) {
	o := asked(t, "asked")
	if err := o.ready(); !errors.Is(err, errGone) {
		t.Errorf("it only asked: %v", err)
	}
	o = asked(t, "restart")
	if err := o.ready(); !errors.Is(err, ErrRestart) || !strings.Contains(err.Error(), "the moon has changed") {
		t.Errorf("it wants a restart: %v", err)
	}
	o = asked(t, "nonsense")
	if err := o.ready(); err == nil || !strings.Contains(err.Error(), `"leaves"`) {
		t.Errorf("it says something else: %v", err)
	}
	for _, how := range []string{"ready", "given"} {
		o = asked(t, how)
		if err := o.ready(); err != nil {
			t.Fatal(err)
		}
		o.Give(nil)
		if err := o.Begun(t.Context()); !errors.Is(err, errGone) {
			t.Errorf("it stopped when it was %s: %v", how, err)
		}
		if err := o.End(t.Context()); err != nil {
			t.Errorf("to end one that is gone: %v", err)
		}
	}
	o = asked(t, "begun")
	if err := o.ready(); err != nil {
		t.Fatal(err)
	}
	o.give()
	if err := o.Begun(t.Context()); err != nil {
		t.Error(err)
	}
	wait.For(t, o.ended, "the new process has ended")
	if err := o.Leave(); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody hears that it leaves: %v", err)
	}
}

// One that hangs is given up when the time has come, and is gone when End returns.
func TestNewProcessThatHangsIsEnded(t *testing.T) {
	o := asked(t, "hangs")
	if err := o.ready(); err != nil {
		t.Fatal(err)
	}
	o.give()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Begun(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := o.End(t.Context()); err != nil {
		t.Error(err)
	}
	err := wait.For(t, o.ended, "the new process has ended")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok ||
		exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
}

// The old process may end at any step, too.
func TestNewProcessLearnsThatTheOldOneIsGone(t *testing.T) {
	for _, after := range []string{"asked", "ready", "given", "begun"} {
		o := asked(t, "leaves")
		steps := []func() error{
			func() error { return nil },
			o.ready,
			func() error { o.give(); return nil },
			func() error { return o.Begun(t.Context()) },
		}
		for i, name := range []string{"asked", "ready", "given", "begun"} {
			if err := steps[i](); err != nil {
				t.Fatal(err)
			}
			if name == after {
				break
			}
		}
		o.Refuse()
		if err := wait.For(t, o.ended, "the new process has ended"); err == nil {
			t.Errorf("the old one has gone when it was %s, and the new one ends well", after)
		}
	}
}

// What a process left behind is in nobody's way, and nobody listens where nobody offers.
func TestOfferReplacesOneThatWasLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o")
	var told string
	if _, err := Ask(path, &told); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody offers: %v", err)
	}
	for range 2 {
		o, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
	if _, err := Ask(path, &told); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody offers any more: %v", err)
	}
	if _, err := Open(filepath.Join(path, "beneath a socket")); err == nil {
		t.Error("an offer where none can be")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	o, err := Open(filepath.Join(t.TempDir(), "o"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, err := o.Wait(ctx)
		waits <- err
	}()
	cancel()
	if err := wait.For(t, waits, "Wait returns"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What comes that is no message is an error, and leaves no file open.
func TestMessagesThatAreNone(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		defer c.Close()
	}
	named, err := json.Marshal(message{Kind: files, Names: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"{", "[]", string(named)} {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if _, _, err := ends[0].WriteMsgUnix([]byte(text), syscall.UnixRights(int(fd)), nil); err != nil {
				t.Error(err)
			}
		})
		f.Close()
		if m, with, err := hear(ends[1]); err == nil || with != nil {
			t.Errorf("%q is %+v with %v, %v", text, m, with, err)
		}
	}
	if err := say(ends[0], message{Why: strings.Repeat("x", mostBytes)}); err == nil {
		t.Error("a message that is too long")
	}
}
