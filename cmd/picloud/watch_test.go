package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"picloud/internal/wire"
	"picloud/test/wait"
)

const plainTerminal = "xterm-256color"

// resize makes the terminal so many lines high, which its processes are told with SIGWINCH.
func resize(t *testing.T, outside *os.File, width, height uint16) {
	t.Helper()
	size := [4]uint16{height, width} // struct winsize, ioctl_tty(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, outside.Fd(), syscall.TIOCSWINSZ,
		uintptr(unsafe.Pointer(&size))); errno != 0 {
		t.Fatal(errno)
	}
}

// session is a real program on a terminal of its own.
type session struct {
	t       *testing.T
	outside *os.File
	cmd     *exec.Cmd
	chunks  <-chan string
	seen    string
}

// picloudOnTerminal starts the real picloud there.
func picloudOnTerminal(t *testing.T, env map[string]string, args ...string) *session {
	t.Helper()
	cmd := exec.Command(bin+"/picloud", args...)
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return onTerminal(t, cmd)
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *session {
	t.Helper()
	outside, inside := terminal(t)
	resize(t, outside, 80, 24)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inside, inside, inside
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	inside.Close() // so that reading ends with the process
	chunks := make(chan string, 1<<10)
	go func() {
		defer close(chunks)
		for p := make([]byte, 64<<10); ; {
			n, err := outside.Read(p)
			if err != nil {
				return
			}
			chunks <- string(p[:n])
		}
	}()
	return &session{t: t, outside: outside, cmd: cmd, chunks: chunks}
}

// shows waits until what came since the last call has want, and returns it.
func (s *session) shows(want string) string {
	s.t.Helper()
	for timeout := time.After(wait.Patience); ; {
		if before, after, ok := strings.Cut(s.seen, want); ok {
			s.seen = after
			return before + want
		}
		select {
		case chunk, ok := <-s.chunks:
			if !ok {
				s.t.Fatalf("%s ended and had shown %q, want %q", s.cmd, s.seen, want)
			}
			s.seen += chunk
		case <-timeout:
			s.t.Fatalf("the terminal shows %q, want %q", s.seen, want)
		}
	}
}

// ends waits for the end, and returns what was not yet seen.
func (s *session) ends(want int) string {
	s.t.Helper()
	for chunk := range s.chunks {
		s.seen += chunk
	}
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.t.Errorf("exit status %d, want %d; it showed %q", got, want, s.seen)
	}
	return s.seen
}

const (
	screenOpens  = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	screenCloses = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

func TestWatchIsALiveTableThatLeavesTheTerminalAsItWas(t *testing.T) {
	d := serve(t, "0")
	w := picloudOnTerminal(t, environment(d, map[string]string{"TERM": plainTerminal}), "info", "--watch")
	w.shows(screenOpens)
	w.shows("\x1b[H\x1b[1mPiCloud dev\x1b[m at " + d.URL)
	w.shows("connections 0 of ")
	s := subscribed(t, d, "door", "--name", "Porch")
	w.shows("connections 1 of ")
	w.shows("published and ")
	w.shows("Porch")

	resize(t, w.outside, 80, 5)
	w.shows("… and ")
	resize(t, w.outside, 80, 40)
	w.shows("door    Porch")
	s.interrupt()
	s.ends(0)
	w.shows("connections 0 of ")

	w.outside.Write([]byte{3}) // Ctrl-C
	if rest := w.ends(0); !strings.HasSuffix(rest, screenCloses) {
		t.Errorf("after Ctrl-C the terminal got %q, want its end to be %q", rest, screenCloses)
	}
}

func TestWatchWaitsForAServerThatWentAway(t *testing.T) {
	d := serve(t, "0")
	w := picloudOnTerminal(t, environment(d, map[string]string{"TERM": plainTerminal}), "info", "--watch")
	w.shows("connections 0 of ")
	d.Stop(t)
	w.shows("\x1b[31minfo: connect to " + d.URL)
	w.shows("trying again")
	again := serve(t, d.Port())
	w.shows("published and 0.0 delivered a second")
	again.Stop(t)
	serve(t, d.Port(), "API_KEY=another")
	w.shows(screenCloses)
	if rest := w.ends(1); !strings.Contains(rest, "refuses this key") {
		t.Errorf("with a key that is no longer right it said %q", rest)
	}
}

func TestWatchHasNoColoursWhereTheyAreNotWanted(t *testing.T) {
	d := serve(t, "0")
	w := picloudOnTerminal(t, environment(d, map[string]string{"TERM": plainTerminal, "NO_COLOR": "1"}), "info",
		"--watch")
	first := w.shows("wrong keys 0")
	w.outside.Write([]byte{3})
	if all := first + w.ends(0); regexp.MustCompile(`\x1b\[[0-9;]*m`).MatchString(all) {
		t.Errorf("it showed %q", all)
	}

	w = picloudOnTerminal(t, environment(d, map[string]string{"TERM": "dumb"}), "info", "--watch")
	first = w.shows("wrong keys 0\r\n")
	w.outside.Write([]byte{3})
	if all := first + w.ends(0); strings.Contains(all, "\x1b") {
		t.Errorf("a dumb terminal got %q", all)
	}
}

func TestWatchIsALineEachTimeInAPipe(t *testing.T) {
	d := serve(t, "0")
	w := call(t, environment(d, nil), "info", "--watch")
	line := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ connections 0 of 8192, events 0, subscriptions 0, published 0, delivered 0, slow clients closed 0, wrong keys 0$`)
	if got := w.line(w.out); !line.MatchString(got) {
		t.Errorf("got %q", got)
	}
	d.Stop(t)
	w.says("picloud: info: connect to "+d.URL, "trying again")
	serve(t, d.Port())
	w.says("picloud: connected again")
	w.line(w.out)
	w.interrupt()
	if _, said := w.ends(0); said != "" {
		t.Errorf("said %q", said)
	}

	w = call(t, environment(d, nil), "info", "--watch", "--json")
	var i wire.Info
	for range 2 {
		if err := json.Unmarshal([]byte(w.line(w.out)), &i); err != nil || i.Server.MaxConnections != 8192 {
			t.Errorf("%v: %v", err, i)
		}
	}
	w.interrupt()
	w.ends(0)
}
