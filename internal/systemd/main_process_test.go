package systemd

import (
	"context"
	"errors"
	"os"
	"testing"

	"picloud/test/wait"
)

// A process that is to become the main one speaks to nobody before it is, and then says everything in order.
func TestNotificationsAreHeldBackUntilTheProcessIsTheMainOne(t *testing.T) {
	m := newManager(t)
	socket := os.Getenv("NOTIFY_SOCKET")
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("WATCHDOG_PID", "1") // another's
	if err := Hold(Address{socket, "2000000"}); err != nil {
		t.Fatal(err)
	}
	if own := Own(); own.NotifySocket != socket || own.WatchdogUsec != "2000000" || os.Getenv("WATCHDOG_PID") != "" {
		t.Errorf("it has %+v", own)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := errors.Join(Store("journal", r), Forget("vault"), Ready("3 clients")); err != nil {
		t.Fatal(err)
	}
	r.Close() // a copy is what is stored
	sent := make(chan error, 1)
	go func() { sent <- send("sent by another", nil) }()
	if state, f := m.nextWith(t); state != "sent by another" || f != nil {
		t.Errorf("before it is the main process it says %q", state)
	}
	if err := wait.For(t, sent, "the other one has sent"); err != nil {
		t.Fatal(err)
	}
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FDSTORE=1\nFDPOLL=0\nFDNAME=journal", "FDSTOREREMOVE=1\nFDNAME=vault",
		"READY=1\nSTATUS=3 clients"} {
		if state, f := m.nextWith(t); state != want || (f != nil) != (want[:3] == "FDS" && want[7] == '=') {
			t.Errorf("got %q with %v, want %q", state, f, want)
		}
	}
	if err := Stopping(); err != nil {
		t.Fatal(err)
	}
	if state, _ := m.nextWith(t); state != "STOPPING=1" {
		t.Errorf("then it says %q", state)
	}
}

// PassMain returns only when the manager has let go of the file that came with BARRIER=1, or when the time is up.
func TestMainProcessIsPassedWhenTheManagerKnows(t *testing.T) {
	m := newManager(t)
	passed := make(chan error, 1)
	go func() { passed <- PassMain(t.Context(), 4711) }()
	if state, _ := m.nextWith(t); state != "MAINPID=4711" {
		t.Errorf("got %q", state)
	}
	state, f := m.nextWith(t)
	if state != "BARRIER=1" || f == nil {
		t.Fatalf("got %q with %v", state, f)
	}
	select {
	case err := <-passed:
		t.Fatalf("it does not wait: %v", err)
	default:
	}
	f.Close()
	if err := wait.For(t, passed, "it returns"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { passed <- PassMain(ctx, 4711) }()
	m.nextWith(t)
	m.nextWith(t)
	cancel()
	if err := wait.For(t, passed, "it returns"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
