package daemon

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"picloud/test/wait"
)

// A Manager is to picloudd what systemd is: it holds the listener, stores the files that it is given, and starts each
// process with both. To a process every end is one before a restart.
type Manager struct {
	Addr     string   // where it listens
	Listener *os.File // what it listens with
	Files    int      // how many a process may open; 0: no limit
	Log      *Log     // of the present process

	t        testing.TB
	picloudd string
	dir      string // with the socket for notifications
	life     *Life  // the last

	mu     sync.Mutex
	stored map[string]*os.File
	ready  chan struct{} // closed by READY=1
	main   int           // the number that the process has named by MAINPID=, or 0
}

// A Life is one of a Manager's processes.
type Life struct {
	Cmd   *exec.Cmd
	Log   *Log
	Ready <-chan struct{} // closed when it is
	Ended <-chan struct{} // closed when it has ended, and Err is set
	Err   error
}

// Manage returns a Manager that has not started the picloudd in bin. When the test ends it kills the process, and
// forgets what is stored.
func Manage(t testing.TB, bin string) *Manager {
	t.Helper()
	tcp, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	m := &Manager{Addr: tcp.Addr().String(), t: t, picloudd: filepath.Join(bin, "picloudd"),
		stored: make(map[string]*os.File), ready: make(chan struct{})}
	if m.Listener, err = tcp.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	if m.dir, err = os.MkdirTemp("", "picloud"); err != nil { // a socket's path must be short
		t.Fatal(err)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		m.listen(notify)
	}()
	t.Cleanup(func() {
		m.End(syscall.SIGKILL)
		notify.Close()
		<-listening
		m.Listener.Close()
		for _, f := range m.stored {
			f.Close()
		}
		os.RemoveAll(m.dir)
	})
	return m
}

func (m *Manager) socket() string { return filepath.Join(m.dir, "notify") }

// listen receives notifications, sd_notify(3).
func (m *Manager) listen(notify *net.UnixConn) {
	var buf, oob [4096]byte
	for {
		n, oobn, _, _, err := notify.ReadMsgUnix(buf[:], oob[:])
		if err != nil {
			return
		}
		var f *os.File
		if messages, _ := syscall.ParseSocketControlMessage(oob[:oobn]); len(messages) == 1 {
			if fds, err := syscall.ParseUnixRights(&messages[0]); err == nil {
				f = os.NewFile(uintptr(fds[0]), "stored")
			}
		}
		fields := make(map[string]string)
		for line := range strings.Lines(string(buf[:n])) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			fields[name] = value
		}
		m.mu.Lock()
		switch name := fields["FDNAME"]; {
		case fields["FDSTORE"] == "1" && f != nil:
			m.stored[name], f = f, m.stored[name]
		case fields["FDSTOREREMOVE"] == "1":
			f = m.stored[name]
			delete(m.stored, name)
		case fields["MAINPID"] != "":
			m.main, _ = strconv.Atoi(fields["MAINPID"])
		case fields["READY"] == "1":
			select {
			case <-m.ready:
			default:
				close(m.ready)
			}
		}
		if f != nil {
			f.Close()
		}
		m.mu.Unlock()
	}
}

// Life returns the process that is the main one, nil without one.
func (m *Manager) Life() *Life { return m.life }

// Runtime is the process's runtime directory.
func (m *Manager) Runtime() string { return m.dir }

// Stored lets do see and change what is stored, by name.
func (m *Manager) Stored(do func(files map[string]*os.File)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do(m.stored)
}

// Start is Launch, and returns when the process is ready.
func (m *Manager) Start(settings ...string) {
	m.t.Helper()
	l, err := m.Launch(settings...)
	if err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-l.Ready:
	case <-time.After(wait.Patience):
		m.t.Fatalf("it does not get ready:\n%s", m.Log)
	}
}

// Launch starts a process with these settings, such as "API_KEY=sesame", and nothing else in its environment. The
// process before must have ended.
func (m *Manager) Launch(settings ...string) (*Life, error) {
	limit := ""
	if m.Files > 0 {
		limit = fmt.Sprintf("ulimit -n %d && ", m.Files)
	}
	// The process's number is known only after the fork.
	cmd := exec.Command("sh", "-c", limit+`LISTEN_PID=$$ exec "$0"`, m.picloudd)
	m.Log = new(Log)
	cmd.Stderr = m.Log
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = make(chan struct{})
	names := slices.Sorted(maps.Keys(m.stored))
	cmd.ExtraFiles = []*os.File{m.Listener}
	for _, name := range names {
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.stored[name])
	}
	cmd.Env = append([]string{
		AtOnce,
		"NOTIFY_SOCKET=" + m.socket(), "LISTEN_FDS=" + fmt.Sprint(len(cmd.ExtraFiles)),
		"LISTEN_FDNAMES=" + strings.Join(append([]string{"picloud"}, names...), ":"),
		"DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere", // no answer: every stop is a restart
		"PORT=0", "RUNTIME_DIRECTORY=" + m.dir,
	}, settings...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	m.life = &Life{Cmd: cmd, Log: m.Log, Ready: m.ready, Ended: ended}
	go func(l *Life) {
		l.Err = cmd.Wait()
		close(ended)
	}(m.life)
	return m.life, nil
}

// TakeOver runs the command of ExecReload= beside the process, as systemd does: with these settings, and nothing that
// is the main process's. After an error of the command the process is still the same, unless it has ended.
func (m *Manager) TakeOver(settings ...string) error {
	m.t.Helper()
	r, w, err := os.Pipe() // the new process holds on to it
	if err != nil {
		m.t.Fatal(err)
	}
	log := new(Log)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer r.Close()
		io.Copy(log, r)
	}()
	cmd := exec.CommandContext(m.t.Context(), m.picloudd, "-take-over")
	cmd.Stderr = w
	cmd.Env = append([]string{AtOnce, "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere", "PORT=0",
		"RUNTIME_DIRECTORY=" + m.dir}, settings...)
	m.mu.Lock()
	m.main, m.ready = 0, make(chan struct{})
	m.mu.Unlock()
	err = cmd.Run()
	w.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.main == 0 {
		if err != nil {
			<-copied
			err = fmt.Errorf("%w: %s", err, log)
		}
		return err
	}
	before := m.life
	p, ferr := os.FindProcess(m.main) // a child of this process, not of the command
	if ferr != nil {
		m.t.Fatal(ferr)
	}
	ended := make(chan struct{})
	m.Log = log
	m.life = &Life{Cmd: &exec.Cmd{Process: p}, Log: log, Ready: m.ready, Ended: ended}
	go func(l *Life) {
		state, err := p.Wait()
		if err == nil && !state.Success() {
			err = &exec.ExitError{ProcessState: state}
		}
		l.Err = err
		close(ended)
	}(m.life)
	<-before.Ended
	return errors.Join(err, before.Err)
}

// End ends the process by a signal, and fails the test if it takes SIGTERM for anything but a wish to end well. Without
// a process it does nothing.
func (m *Manager) End(signal syscall.Signal) {
	l := m.life
	if l == nil {
		return
	}
	m.life = nil
	err := l.Cmd.Process.Signal(signal)
	<-l.Ended
	if err := errors.Join(err, l.Err); err != nil && signal == syscall.SIGTERM {
		m.t.Errorf("the daemon ended with %v:\n%s", err, l.Log)
	}
}
