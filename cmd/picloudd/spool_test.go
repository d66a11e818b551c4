package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A sink holds each print until the test says how it ends.
type sink struct {
	ends  chan error
	taken []string
}

func (s *sink) Write(p []byte) (int, error) {
	if err := <-s.ends; err != nil {
		return 0, err
	}
	s.taken = append(s.taken, string(p))
	return len(p), nil
}

func tell(lost uint64) []byte { return fmt.Appendf(nil, "%d dropped", lost) }

// line returns a line that takes 1 KiB of the spool.
func line(i int) string { return fmt.Sprintf("%-*d", 1<<10-recordBytes, i) }

const lines = spoolBytes >> 10 // how many fit

func TestALogThatTakesNothingIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{ends: make(chan error)}
		s := newSpool(w, tell)
		for i := range 2 * lines {
			if n, err := s.Write([]byte(line(i))); n != len(line(i)) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		if got := s.dropped.Load(); got != lines {
			t.Errorf("%d lines are dropped, want %d", got, lines)
		}
		begin := time.Now()
		s.flush(flushTime / 2)
		s.close(flushTime)
		if took := time.Since(begin); took != flushTime/2+flushTime {
			t.Errorf("a flush and a close took %v, want what they may take", took)
		}
		begin = time.Now()
		s.close(flushTime)
		if took := time.Since(begin); took != 0 {
			t.Errorf("a close with a print that has hung for long took %v", took)
		}

		// The reader comes back: what waited is whole and in order, then a note on the rest.
		close(w.ends)
		<-s.done
		if len(w.taken) != lines+1 {
			t.Fatalf("%d prints, want %d", len(w.taken), lines+1)
		}
		for i, got := range w.taken[:lines] {
			if got != line(i) {
				t.Fatalf("print %d is %q", i, got)
			}
		}
		if got, want := w.taken[lines], fmt.Sprint(lines, " dropped"); got != want {
			t.Errorf("the last print is %q, want %q", got, want)
		}
	})
}

// A slow reader gets one note for a gap, and not one for each line that it makes room for.
func TestOneNoteTellsOfAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{ends: make(chan error)}
		s := newSpool(w, tell)
		for i := range lines {
			s.Write([]byte(line(i)))
		}
		for i := range 10 {
			s.Write([]byte(line(lines + i)))
			w.ends <- nil
			synctest.Wait()
		}
		for range lines - 10 + 1 { // the note too
			w.ends <- nil
			synctest.Wait()
		}
		s.Write([]byte("after"))
		w.ends <- nil
		s.close(flushTime)
		got := w.taken[lines:]
		if want := []string{"10 dropped", "after"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after the gap: %q, want %q", got, want)
		}
		if s.dropped.Load() != 10 {
			t.Errorf("%d lines are dropped, want 10", s.dropped.Load())
		}
	})
}

// While printing fails, as on a full card, each line is tried, and the loss is reported once one succeeds.
func TestLinesThatCannotBePrintedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{ends: make(chan error)}
		s := newSpool(w, tell)
		for range 3 {
			s.Write([]byte("lost"))
			w.ends <- syscall.ENOSPC
			synctest.Wait()
		}
		s.Write([]byte("again"))
		w.ends <- nil
		w.ends <- syscall.ENOSPC // the note
		synctest.Wait()
		s.Write([]byte("and again"))
		w.ends <- nil
		w.ends <- nil
		s.close(flushTime)
		if want := []string{"again", "and again", "3 dropped"}; fmt.Sprint(w.taken) != fmt.Sprint(want) {
			t.Errorf("got %q, want %q", w.taken, want)
		}
		if s.dropped.Load() != 3 {
			t.Errorf("%d lines are dropped, want 3", s.dropped.Load())
		}
	})
}

func TestAnEndPrintsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{ends: make(chan error, 3)}
		s := newSpool(w, nil)
		text := []byte("a")
		s.Write(text)
		text[0] = 'x' // a copy was taken
		s.Write([]byte("b"))
		w.ends <- nil
		w.ends <- nil
		s.flush(flushTime)
		if fmt.Sprint(w.taken) != "[a b]" {
			t.Errorf("a flush has printed %q", w.taken)
		}
		s.Write([]byte("c"))
		w.ends <- nil
		s.close(flushTime)
		if fmt.Sprint(w.taken) != "[a b c]" {
			t.Errorf("an end has printed %q", w.taken)
		}
		s.Write([]byte("d"))
		if s.dropped.Load() != 1 {
			t.Error("a line that comes after the end is not counted")
		}
	})
}

func TestDroppedLinesAreToldAsALogLine(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, lines := openLog(w, slog.LevelError, true)
	w.Close() // every print fails
	log.Error("lost")
	lines.flush(patience)
	if got := string(lines.note(lines.dropped.Load())); got != "<4>msg=\"log lines were dropped\" lines=1\n" {
		t.Errorf("got %q", got)
	}
	lines.close(patience)
}

// full is a pipe that takes no more bytes: its writers block.
func full(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var werr, serr error
	cerr := raw.Control(func(fd uintptr) {
		for werr == nil {
			_, werr = syscall.Write(int(fd), []byte{'x'})
		}
		serr = syscall.SetNonblock(int(fd), false)
	})
	if cerr != nil || serr != nil || !errors.Is(werr, syscall.EAGAIN) {
		t.Fatal(cerr, serr, werr)
	}
	return w
}

// greeted waits for the address in the greeting.
func (d *daemon) greeted(t *testing.T) {
	t.Helper()
	_, d.url, _ = strings.Cut(d.stdout.Await(t, "listens on"), "listens on ")
}

// servesAndEnds does what a client does, and a service manager.
func servesAndEnds(t *testing.T, d *daemon, process *os.Process) {
	t.Helper()
	sub := d.subscriber(t, "S")
	d.post(t, `{"event":"e","data":1}`)
	wantData(t, sub, "1")
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantClose(t, sub, 1001)
	if err := d.wait(t); err != nil {
		t.Errorf("%v, want the status 0", err)
	}
}

func TestDaemonWithAStuckLogServesAndEnds(t *testing.T) {
	d := newDaemon(testKey)
	process := d.begin(t, env{"LOG_LEVEL": "debug"}, d.stdout, full(t))
	d.greeted(t)
	servesAndEnds(t, d, process)
}

func TestDaemonWhoseGreetingNobodyTakesServesAndEnds(t *testing.T) {
	d := newDaemon(testKey)
	process := d.begin(t, nil, full(t), d.stderr)
	d.find(t)
	servesAndEnds(t, d, process)
}

func TestAnErrorThatCannotBePrintedEndsTheProgramAllTheSame(t *testing.T) {
	d := newDaemon(testKey)
	d.begin(t, env{"PORT": "x"}, io.Discard, full(t))
	if err := d.wait(t); err == nil || err.Error() != "exit status 1" {
		t.Errorf("got %v, want the status 1", err)
	}
}

// The log's reader is gone: Go would kill the process with SIGPIPE.
func TestDaemonOutlivesTheReaderOfItsLog(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d := newDaemon(testKey)
	process := d.begin(t, env{"LOG_LEVEL": "debug"}, d.stdout, w)
	d.greeted(t)
	r.Close()
	d.subscriber(t, "S").Close() // which is logged
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		_, text := d.request(t, "GET", "/metrics", "")
		if !strings.Contains(text, "\npicloud_log_lines_dropped_total 0\n") {
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("no lost line is counted:\n%s", text)
		}
	}
	servesAndEnds(t, d, process)
}
