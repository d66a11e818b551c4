package daemon

import (
	"debug/buildinfo"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"picloud/internal/leak"
)

// bin is the folder of the commands, built as Raced.
var bin string

func TestMain(m *testing.M) {
	os.Exit(leak.Check(func() int {
		return Built(Raced, func(built string) int {
			bin = built
			return m.Run()
		})
	}))
}

// raced reports whether a command has the race detector in it.
func raced(t *testing.T, command string) bool {
	t.Helper()
	info, err := buildinfo.ReadFile(command)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

func TestCommandsAreBuiltAsAskedFor(t *testing.T) {
	var built string
	status := Built(Plain, func(plain string) int {
		built = plain
		for _, name := range []string{"picloudd", "picloud"} {
			if raced(t, filepath.Join(bin, name)) != raceable {
				t.Errorf("the %s of Raced has a race detector: %t, want %t", name, !raceable, raceable)
			}
			if raced(t, filepath.Join(plain, name)) {
				t.Errorf("the %s of Plain has the race detector", name)
			}
		}
		return 7
	})
	if _, err := os.Stat(built); status != 7 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("status %d, want 7; the folder: %v, want none", status, err)
	}
}

func TestProcessServesUntilItIsEnded(t *testing.T) {
	p := Start(t, bin, "API_KEY=sesame")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://127.0.0.1:" + p.Port() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	for range 2 { // the second does nothing
		if err := p.End(); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.Get("http://127.0.0.1:" + p.Port() + "/healthz"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an ended process: %v, want that nobody listens", err)
	}
}

func TestProcessThatDoesNotServeIsAnError(t *testing.T) {
	for _, script := range []string{"exit 3", "echo no address; exec sleep 1000"} {
		cmd := exec.Command("sh", "-c", script)
		if p, err := Begin(cmd); err == nil || p != nil || cmd.ProcessState == nil {
			t.Errorf("%s: %v, %v, %v", script, p, err, cmd.ProcessState)
		}
	}
	if _, err := Begin(exec.Command("/nowhere/picloudd")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestProcessThatEndsBadlyIsAnError(t *testing.T) {
	p, err := Begin(exec.Command("sh", "-c",
		`trap 'exit 66' TERM; echo PiCloud listens on http://localhost:1; while :; do sleep 0.01; done`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(); err == nil || !strings.Contains(err.Error(), "exit status 66") {
		t.Errorf("got %v, want the exit status 66", err)
	}
}

func TestLineThatComesInPiecesIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Log
		io.WriteString(&l, "one\ntwo hal")
		line := make(chan string)
		go func() { line <- l.Await(t, "two") }()
		synctest.Wait()
		io.WriteString(&l, "ves\nthree\n")
		if got := <-line; got != "two halves" {
			t.Errorf("got %q", got)
		}
		if got := l.Await(t, "one"); got != "one" || l.String() != "one\ntwo halves\nthree\n" {
			t.Errorf("got %q of %q", got, l.String())
		}
	})
}
