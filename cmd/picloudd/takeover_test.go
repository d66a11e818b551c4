package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"picloud/internal/takeover"
	await "picloud/test/wait"
)

// takeOver has a new process take over, with the manager's settings and others.
func (m *manager) takeOver(more ...string) error {
	m.t.Helper()
	settings := []string{"API_KEY=" + testKey}
	for k, v := range m.env {
		settings = append(settings, k+"="+v)
	}
	return m.TakeOver(append(settings, more...)...)
}

// mustTakeOver returns when the new process is the main one.
func (m *manager) mustTakeOver(more ...string) {
	m.t.Helper()
	before := m.Life().Cmd.Process.Pid
	if err := m.takeOver(more...); err != nil {
		m.t.Fatalf("the take-over: %v", err)
	}
	await.For(m.t, m.Life().Ready, "the new process is ready")
	if m.Life().Cmd.Process.Pid == before {
		m.t.Fatal("nobody has taken over")
	}
}

// goesOn publishes the next number, which must reach a subscriber.
func (m *manager) goesOn(sub *guest, number *int) {
	m.t.Helper()
	*number++
	m.post("e", fmt.Sprint(*number))
	if got := receive(m.t, sub.Conn); !strings.Contains(got, fmt.Sprintf(`"data":%d`, *number)) {
		m.t.Fatalf("got %s, want %d", got, *number)
	}
}

// Whoever is connected stays so, in the middle of whatever they say, however often a new process takes over; and over
// its end, whatever that is.
func TestClientsOutliveTakeOvers(t *testing.T) { eachManager(t, outliveTakeOvers) }

func outliveTakeOvers(t *testing.T, m *manager) {
	m.start()
	sub, half := m.guest("sub", "/subscribe"), m.guest("half", "/subscribe")
	sub.subscribe(t, "e")
	number := 0
	goesOn := func() { m.goesOn(sub, &number) }
	goesOn()
	for range 3 {
		w, err := half.NextWriter(1)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, `{"action":"publish",%s`, strings.Repeat(" ", 5000)) // a frame goes out
		m.mustTakeOver()
		goesOn()
		number++
		fmt.Fprintf(w, `"event":"e","data":%d}`, number)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, sub.Conn); !strings.Contains(got, fmt.Sprintf(`"data":%d`, number)) {
			t.Fatalf("got %s, want %d", got, number)
		}
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		m.mustTakeOver()
		goesOn()
		m.End(signal)
		m.start()
		goesOn()
	}
}

// A new process that does not take over, however far it comes, costs nobody a connection, and the one that was there
// serves on; also one that comes after that can take over.
func TestServiceOutlivesSuccessorsThatFail(t *testing.T) { eachManager(t, outlivesFailures) }

func outlivesFailures(t *testing.T, m *manager) {
	m.start()
	sub := m.guest("sub", "/subscribe")
	sub.subscribe(t, "e")
	number := 0
	goesOn := func() { m.goesOn(sub, &number) }
	goesOn()
	process := m.Life().Cmd.Process.Pid
	for range 2 {
		if err := m.takeOver("MAX_MESSAGE_BYTES=none"); err == nil || !strings.Contains(err.Error(), "MAX_MESSAGE_BYTES") {
			t.Errorf("a setting that is wrong: %v", err)
		}
		goesOn()
		for _, fault := range []string{"asks", "is ready", "has the files"} {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), failing+"="+fault, "RUNTIME_DIRECTORY="+m.Runtime())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("a successor that ends when it %s: %v %s", fault, err, out)
			}
			goesOn()
		}
		if got := m.Life().Cmd.Process.Pid; got != process {
			t.Fatalf("process %d serves, want %d", got, process)
		}
	}
	m.mustTakeOver()
	goesOn()
}

// failing, in the environment, is for a successor that ends: how far it comes.
const failing = "TEST_SUCCESSOR_THAT"

func failAsSuccessor(how string) error {
	var t terms
	claim, err := takeover.Ask(filepath.Join(os.Getenv("RUNTIME_DIRECTORY"), offerFile), &t)
	if err != nil {
		return err
	}
	if t.Key != testKey || t.Manager.NotifySocket == "" {
		return fmt.Errorf("the terms are %+v", t)
	}
	if how == "asks" {
		return nil
	}
	if how == "is ready" { // and is gone before it is given the files
		return claim.Ready()
	}
	if err := claim.Ready(); err != nil {
		return err
	}
	files, err := claim.Files()
	if err == nil && len(files) < 5 {
		err = fmt.Errorf("%d files", len(files))
	}
	if how == "hangs" {
		select {}
	}
	return err
}

// A successor that hangs is ended.
func TestServiceEndsASuccessorThatHangs(t *testing.T) {
	m := manage(t, nil)
	m.start()
	sub := m.guest("sub", "/subscribe")
	sub.subscribe(t, "e")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), failing+"=hangs", "RUNTIME_DIRECTORY="+m.Runtime())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
	m.post("e", "1")
	if got := receive(t, sub.Conn); !strings.Contains(got, `"data":1`) {
		t.Errorf("got %s", got)
	}
}

// What a new process cannot change by taking over has the service end, for systemd to start it: nobody is lost.
func TestChangesThatTakeARestart(t *testing.T) {
	for _, change := range []string{"PORT=1", "API_KEY="} {
		t.Run(change, func(t *testing.T) {
			m := manage(t, nil)
			m.start()
			sub := m.guest("sub", "/subscribe")
			sub.subscribe(t, "e")
			before := m.Life()
			if err := m.takeOver(change); err != nil {
				t.Errorf("the take-over: %v", err)
			}
			await.For(t, before.Ended, "the service ends")
			if before.Err == nil {
				t.Error("it ended well, so that systemd would not start it again")
			}
			m.start()
			m.post("e", "1")
			if got := receive(t, sub.Conn); !strings.Contains(got, `"data":1`) {
				t.Errorf("got %s", got)
			}
		})
	}
}

// With another key in the settings those who came with the old one leave, as over a restart.
func TestTakeOverWithAnotherKey(t *testing.T) {
	m := manage(t, nil)
	m.start()
	old := m.guest("sub", "/subscribe")
	if err := m.TakeOver("API_KEY=another"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := old.ReadMessage(); err == nil || !strings.Contains(err.Error(), "1012") {
		t.Errorf("who came with the old key: %v", err)
	}
}

// A process that serves tells systemd that the next one need not wait; one of many that died soon does so only when it
// has lasted, or ends in order.
func TestProcessTellsThatItHasStarted(t *testing.T) {
	m := manage(t, nil)
	starting, starts := filepath.Join(m.Runtime(), startingFolder), filepath.Join(m.Runtime(), startsFile)
	isGone := func(path string) func() bool {
		return func() bool {
			_, err := os.Stat(path)
			return errors.Is(err, os.ErrNotExist)
		}
	}
	made := func() { // by systemd, and picloud-pause.service
		t.Helper()
		err := os.MkdirAll(starting, 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(starting, "pause"), []byte("4\n"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		made()
		m.start()
		await.Until(t, "it has told", isGone(starting))
		m.End(syscall.SIGKILL)
	}
	if text, err := os.ReadFile(starts); err != nil || len(text) != 3 {
		t.Fatalf("%d starts are noted, want 3; %v", len(text), err)
	}
	made()
	if err := os.WriteFile(starts, make([]byte, manyStarts-1), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	await.Until(t, "it has noted its start", func() bool {
		text, _ := os.ReadFile(starts)
		return len(text) == manyStarts
	})
	m.info()
	if isGone(starting)() {
		t.Error("it has told, after so many starts")
	}
	m.End(syscall.SIGTERM)
	if !isGone(starting)() || !isGone(starts)() {
		t.Error("it ended in order, and the next one will wait")
	}
}

// A process that speaks nonsense costs nobody anything.
func TestOfferIsForSuccessors(t *testing.T) {
	m := manage(t, nil)
	m.start()
	sub := m.guest("sub", "/subscribe")
	sub.subscribe(t, "e")
	for _, nonsense := range []string{"", "{", `{"kind":"begins"}`, strings.Repeat("x", 70_000)} {
		c, err := net.Dial("unixpacket", filepath.Join(m.Runtime(), offerFile))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(nonsense))
		c.Close()
	}
	m.mustTakeOver()
	m.post("e", "1")
	if got := receive(t, sub.Conn); !strings.Contains(got, `"data":1`) {
		t.Errorf("got %s", got)
	}
}
