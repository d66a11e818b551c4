package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"picloud/internal/config"
	"picloud/internal/led"
	picloudd "picloud/test/daemon"
)

// layBoard lays out an LED as the kernel does in /sys/class/leds, and points the daemon to it.
func layBoard(t *testing.T, name, trigger string) (dir string) {
	t.Helper()
	before := boardLEDs
	t.Cleanup(func() { boardLEDs = before })
	boardLEDs = t.TempDir()
	dir = filepath.Join(boardLEDs, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"trigger": trigger, "brightness": "1\n", "max_brightness": "1\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestBoardLEDIsTheDaemonsWhileItRuns(t *testing.T) {
	dir := layBoard(t, "ACT", "none [mmc0] timer\n")
	runtime := t.TempDir()
	d, stop := launch(t, env{"LED": "led:ACT", "RUNTIME_DIRECTORY": runtime})
	if got := read(t, dir, "trigger"); got != "none" {
		t.Errorf("while it runs the trigger is %q", got)
	}
	if got := read(t, runtime, "led-trigger"); got != "mmc0" {
		t.Errorf("what is kept for a crash is %q", got)
	}
	stop()
	if err := d.wait(t); err != nil {
		t.Error(err)
	}
	if got := read(t, dir, "trigger"); got != "mmc0" {
		t.Errorf("after the end the trigger is %q, want what it was", got)
	}
	if got := read(t, dir, "brightness"); got != "0" {
		t.Errorf("after the end the brightness is %q", got)
	}
}

func TestLEDOffGivesBackWhatACrashHasLeft(t *testing.T) {
	dir, runtime := layBoard(t, "ACT", "none [mmc0] timer\n"), t.TempDir()
	l := newStatusLED(mustLED(t, "led:ACT"), runtime, newLog(new(picloudd.Log), 0, false)) // never closed, as in a crash,
	t.Cleanup(func() { l.device.Close() })                                                 // until the test is over
	if err := l.device.Set(true); err != nil {
		t.Fatal(err)
	}
	after := env{"LED": "led:ACT", "RUNTIME_DIRECTORY": runtime, "SERVICE_RESULT": "success"}
	if _, _, err := call(t, after, "-led-off"); err != nil || read(t, dir, "brightness") != "1" {
		t.Errorf("after an orderly end: %v, the brightness is %q", err, read(t, dir, "brightness"))
	}
	after["SERVICE_RESULT"] = "signal"
	if _, _, err := call(t, after, "-led-off"); err != nil {
		t.Fatal(err)
	}
	if trigger, lit := read(t, dir, "trigger"), read(t, dir, "brightness"); trigger != "mmc0" || lit != "0" {
		t.Errorf("the trigger is %q and the brightness %q, want mmc0 and 0", trigger, lit)
	}
	if stdout, stderr, err := call(t, nil, "-led-off"); err != nil || stdout+stderr != "" {
		t.Errorf("without an LED: %v, printed %q", err, stdout+stderr)
	}
}

func TestLEDThatDoesNotWorkStopsNothing(t *testing.T) {
	layBoard(t, "ACT", "[mmc0]\n")
	// The manager's socket, to see what systemctl status shows.
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", socket)

	d, _ := launch(t, env{"LED": "led:PWR"})
	line := d.stderr.Await(t, "the status LED does not work")
	if !strings.Contains(line, "LED PWR") || !strings.Contains(line, "there are ACT") {
		t.Errorf("no remedy in %s", line)
	}
	ready, message := "FDSTORE=1", make([]byte, 4096)
	for strings.HasPrefix(ready, "FDSTORE=1") { // what is stored comes first
		n, _, err := manager.ReadFrom(message)
		if err != nil {
			t.Fatal(err)
		}
		ready = string(message[:n])
	}
	if !strings.HasPrefix(ready, "READY=1\n") || !strings.Contains(ready, "0 clients, 0 events, no LED: LED PWR: ") {
		t.Errorf("the manager hears %q", ready)
	}
	if res, err := d.http.Get(d.url + "/healthz"); err != nil || res.StatusCode != 200 {
		t.Errorf("GET /healthz: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	if n := strings.Count(d.stderr.String(), "LED PWR"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, d.stderr)
	}
}

func TestLEDThatFailsLaterIsLoggedOnceAndForgotten(t *testing.T) {
	dir := layBoard(t, "ACT", "[mmc0]\n")
	log := new(picloudd.Log)
	l := newStatusLED(mustLED(t, "led:ACT"), "", newLog(log, 0, false))
	if got := l.status(); got != ", LED on ACT" {
		t.Errorf("the status ends with %q", got)
	}
	l.device.(*led.Board).Close()
	os.RemoveAll(dir)
	l.run(t.Context(), func() led.State { return led.State{} })
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(l.status(), ", no LED: ") {
		t.Errorf("the status ends with %q, and the log is\n%s", l.status(), log)
	}
}

func TestLEDTestNamesEveryPattern(t *testing.T) {
	dir := layBoard(t, "ACT", "none [mmc0]\n")
	ctx, cancel := context.WithCancel(t.Context())
	out := new(picloudd.Log)
	ended := make(chan error, 1)
	go func() { ended <- testLED(ctx, "led:ACT", out) }()
	out.Await(t, "ACT: running, nobody is connected")
	cancel() // as an interrupt does
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := read(t, dir, "trigger"); got != "mmc0" {
		t.Errorf("after it the trigger is %q", got)
	}
	for _, wrong := range []string{"17", " "} {
		if _, _, err := call(t, nil, "-led-test", wrong); err == nil || !strings.Contains(err.Error(), "gpio17") {
			t.Errorf("-led-test %q: %v", wrong, err)
		}
	}
}

func mustLED(t *testing.T, text string) config.LED {
	t.Helper()
	l, err := config.ParseLED(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
