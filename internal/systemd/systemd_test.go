package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/internal/leak"
)

// asService makes the test binary a service that takes over its sockets, answers one connection on each, and says what
// was stored.
const asService = "PICLOUD_TEST_SERVICE"

func TestMain(m *testing.M) {
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // the manager knows it after the fork; a test cannot
	if os.Getenv(asService) == "" {
		os.Exit(leak.Check(m.Run))
	}
	listeners, stored, err := Handed()
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(0)
	}
	fmt.Println("listeners:", len(listeners), "environment left:", os.Getenv("LISTEN_FDS"))
	for _, l := range listeners {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(0)
		}
		fmt.Fprintf(c, "hello over %s", l.Addr().Network())
		c.Close()
	}
	for _, f := range stored {
		b, err := io.ReadAll(f)
		fmt.Printf("%s: %q %v\n", f.Name(), b, err)
	}
	os.Exit(0)
}

// service runs the test binary with the files as handed descriptors, and returns what it says.
func service(t *testing.T, files ...*os.File) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), asService+"=1", "LISTEN_FDS="+strconv.Itoa(len(files)))
	cmd.ExtraFiles = files
	cmd.Stderr = t.Output()
	return cmd
}

func TestHandedSocketsAreServed(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "sock")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	var files []*os.File
	for _, l := range []interface{ File() (*os.File, error) }{tcp.(*net.TCPListener), unix.(*net.UnixListener)} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd := service(t, files...)
	var said strings.Builder
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{tcp, unix} {
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		if want := "hello over " + l.Addr().Network(); string(got) != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "listeners: 2 environment left: \n"; said.String() != want {
		t.Errorf("got %q, want %q", said.String(), want)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the service took the manager's socket file away: %v", err)
	}
}

// Listening sockets are told apart from the stored files handed over with them, even from a connected socket.
func TestStoredFilesComeBackUnderTheirNames(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fmt.Fprint(w, "state")
	w.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	peer := os.NewFile(uintptr(pair[0]), "peer")
	fmt.Fprint(peer, "request")
	peer.Close()
	client := os.NewFile(uintptr(pair[1]), "client")
	defer client.Close()

	cmd := service(t, r, listening, client)
	cmd.Env = append(cmd.Env, "LISTEN_FDNAMES=journal:picloud:client-1")
	var said strings.Builder
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want := "listeners: 1 environment left: \njournal: \"state\" <nil>\nclient-1: \"request\" <nil>\n"
	if said.String() != want {
		t.Errorf("got %q, want %q", said.String(), want)
	}
}

func TestWithoutAManagerNothingHappens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	listeners, stored, err := Handed()
	if listeners != nil || stored != nil || err != nil || Managed() {
		t.Errorf("got %v, %v, %v; want nothing", listeners, stored, err)
	}
	if err := errors.Join(Ready("x"), Stopping()); err != nil {
		t.Error(err)
	}
	for _, err := range []error{Store("x", os.Stdin), Forget("x")} {
		if !errors.Is(err, ErrNoManager) {
			t.Errorf("got %v, want %v", err, ErrNoManager)
		}
	}
	if err := Watch(t.Context(), nil, nil, nil); err != nil {
		t.Error(err)
	}
}

// manager is a notify socket; it stands for systemd's.
type manager struct{ *net.UnixConn }

func newManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	t.Setenv("NOTIFY_SOCKET", path)
	return manager{c}
}

func (m manager) next(t *testing.T) string {
	t.Helper()
	var buf [512]byte
	n, err := m.Read(buf[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestReadyAndStopping(t *testing.T) {
	m := newManager(t)
	if err := errors.Join(Ready("3 clients, 2 events"), Stopping()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1\nSTATUS=3 clients, 2 events", "STOPPING=1"} {
		if got := m.next(t); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The watchdog is notified only as long as the service's probe succeeds; failures are reported.
func TestWatchdogHearsOnlyOfProbesThatSucceed(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var probes atomic.Int64
	failures := make(chan error, 10_000) // never full
	ended := make(chan error)
	go func() {
		ended <- Watch(ctx, func() string { return "busy" }, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a probe has no deadline")
			}
			if probes.Add(1) > 3 {
				return errors.New("stuck")
			}
			return nil
		}, func(err error) { failures <- err })
	}()
	for range 3 {
		if got := m.next(t); got != "WATCHDOG=1" {
			t.Errorf("got %q, want WATCHDOG=1", got)
		}
	}
	for range 3 {
		if err := <-failures; err.Error() != "stuck" {
			t.Errorf("got %v, want the probe's error", err)
		}
	}
	if got := m.next(t); got != "STATUS=busy" { // nothing of the failed ones came between
		t.Errorf("got %q, want STATUS=busy", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
