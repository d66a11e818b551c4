package handover

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"picloud/internal/leak"

	"golang.org/x/sys/unix"
)

// asProcess makes the test binary a process that uses the descriptors and the journal that it is given, until it is
// killed; asWriter one that writes its journal as fast as it can.
const (
	asProcess = "PICLOUD_TEST_PROCESS"
	asWriter  = "PICLOUD_TEST_WRITER"
)

func TestMain(m *testing.M) {
	var err error
	report := os.NewFile(6, "report")
	if seed, perr := strconv.ParseUint(os.Getenv(asProcess), 10, 64); perr == nil {
		files := []*os.File{os.NewFile(3, singlesName), os.NewFile(4, batchesName)}
		err = process(seed, files, os.NewFile(5, journalName), report)
	} else if seed, perr := strconv.ParseUint(os.Getenv(asWriter), 10, 64); perr == nil {
		report = os.NewFile(5, "report")
		err = writer(seed, os.NewFile(3, journalName), os.NewFile(4, "counter"), report)
	} else {
		os.Exit(leak.Check(m.Run))
	}
	fmt.Fprintln(report, "error", err)
	os.Exit(1)
}

// killed starts the test binary in the role that env names, and kills it after that many lines of its report. handle
// gets those and what comes until it is dead.
func killed(t *testing.T, env string, seed uint64, lines int, files []*os.File, handle func(line string)) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), env+"="+strconv.FormatUint(seed, 10))
	cmd.ExtraFiles = append(files, to)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	to.Close()
	report := bufio.NewReader(from)
	for n := 0; ; n++ {
		if n == lines {
			cmd.Process.Kill()
		}
		line, err := report.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		handle(line[:len(line)-1])
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the process ended by itself: %v", err)
	}
}

// process reports each change before it makes it, and with a line of its own that it has been made.
func process(seed uint64, files []*os.File, journal, report *os.File) error {
	j, records, err := openJournal(journal)
	if err != nil {
		return err
	}
	known := map[uint64]bool{}
	for _, r := range records {
		known[r.ID] = true
	}
	d, fds, err := openDescriptors(files, func(id uint64) bool { return known[id] })
	if err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(fds))
	if len(ids) != len(known) {
		return fmt.Errorf("%d connections are known, and %d are here", len(known), len(ids))
	}
	fmt.Fprintln(report, "opened")
	go j.Run(context.Background(), func(err error) { fmt.Fprintln(report, "error", err) }, 1<<30, func(int) {})
	rng := rand.New(rand.NewPCG(seed, 0))
	for goal := 0; ; {
		if rng.IntN(500) == 0 {
			goal = rng.IntN(800)
		}
		i := 0
		if len(ids) > 0 {
			i = rng.IntN(len(ids))
		}
		switch what := rng.IntN(10); {
		case what < 2 && len(ids) > 0:
			key := strconv.Itoa(rng.IntN(5))
			value := strconv.FormatUint(rng.Uint64(), 36)
			fmt.Fprintln(report, "set", ids[i], key, value)
			err = j.Set(ids[i], 's', key, []byte(value))
		case what == 2 && len(ids) > 0:
			key := strconv.Itoa(rng.IntN(5))
			fmt.Fprintln(report, "delete", ids[i], key)
			err = j.Delete(ids[i], 's', key)
		case what == 3 && rng.IntN(20) == 0:
			fmt.Fprintln(report, "compact")
			err = j.Compact()
		case len(ids) < goal:
			number := rng.Uint64()
			fd, err := numbered(number)
			if err != nil {
				return err
			}
			id, err := identity(fd)
			if err != nil {
				return err
			}
			fmt.Fprintln(report, "put", id, number)
			if _, err := d.Put(fd); err != nil {
				return err
			}
			fmt.Fprintln(report, "done")
			fmt.Fprintln(report, "set", id, "client", number)
			if err := j.Set(id, 's', "client", strconv.AppendUint(nil, number, 10)); err != nil {
				return err
			}
			ids, fds[id] = append(ids, id), fd
		case len(ids) > 0:
			id := ids[i]
			ids = slices.Delete(ids, i, i+1)
			fmt.Fprintln(report, "end", id)
			if err := j.End(id); err != nil {
				return err
			}
			fmt.Fprintln(report, "done")
			fmt.Fprintln(report, "drop", id)
			unix.Shutdown(fds[id], unix.SHUT_RDWR)
			d.Drop(id)
			unix.Close(fds[id])
			delete(fds, id)
		default:
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(report, "done")
	}
}

// state is what the killed process must have left.
type state struct {
	sockets map[uint64]uint64 // their numbers
	values  values
}

func (s state) clone() state { return state{maps.Clone(s.sockets), maps.Clone(s.values)} }

// make makes the change that the process has reported.
func (s state) make(t *testing.T, change string) {
	t.Helper()
	var what, key, value string
	var id uint64
	fmt.Sscan(change, &what, &id, &key, &value)
	switch what {
	case "put":
		number, err := strconv.ParseUint(key, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s.sockets[id] = number
	case "drop":
		delete(s.sockets, id)
	case "set":
		s.values.set(id, 's', key, value)
	case "delete":
		s.values.delete(id, 's', key)
	case "end":
		s.values.end(id)
	case "opened": // what is not recorded is not kept
		maps.DeleteFunc(s.sockets, func(id, _ uint64) bool { return s.values[valueOf(id, 's', "client")] == "" })
	case "compact":
	default:
		t.Fatalf("the process says %q", change)
	}
}

// Every change that was made before the process was killed is there, whatever the moment; the change under way is
// either made or not; and there is nothing else. The next process goes on from there and is killed too.
func TestKilledProcessLosesNothing(t *testing.T) {
	d, j := newTestDescriptors(t), newTestJournal(t, 1<<17)
	was := state{map[uint64]uint64{}, values{}}
	ever := map[uint64]bool{} // each socket that was put in
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		seed, lines := rng.Uint64(), max(0, rng.IntN(4000)-200)
		t.Logf("round %d: seed %d, killed after %d lines, with %d connections", round, seed, lines, len(was.sockets))
		doing := ""
		killed(t, asProcess, seed, lines, append(d.Files(), j.File()), func(line string) {
			switch line {
			case "done":
				was.make(t, doing)
				doing = ""
			case "opened":
				was.make(t, line)
			default:
				doing = line
				var id uint64
				if n, _ := fmt.Sscanf(line, "put %d", &id); n == 1 {
					ever[id] = true
				}
			}
		})
		or := was.clone()
		if doing != "" {
			or.make(t, doing)
		}

		_, records, err := reopen(t, j)
		if err != nil {
			t.Fatal(err)
		}
		got := state{found(t, stored(t, d), func(id uint64) bool {
			if !ever[id] {
				t.Errorf("there is a connection %d, which was never put in", id)
			}
			return was.sockets[id] != 0 || or.sockets[id] != 0
		}), valuesOf(t, records)}
		if !maps.Equal(got.values, was.values) && !maps.Equal(got.values, or.values) {
			t.Fatalf("at %q: %d values are there, which are not those %d that were set", doing, len(got.values),
				len(was.values))
		}
		// A dropped socket's copies may be there or not: nothing asks for them any more.
		for id, number := range was.sockets {
			if or.sockets[id] == number && got.sockets[id] != number {
				t.Errorf("at %q: connection %d is gone, or another", doing, id)
			}
		}
		if t.Failed() {
			return
		}
		was = got
	}
}

// writer makes the same changes over and over, and counts them in shared memory: one line of its report would take
// longer than a few hundred changes.
func writer(seed uint64, journal, counter, report *os.File) error {
	j, _, err := openJournal(journal)
	if err != nil {
		return err
	}
	made, err := counterOf(counter)
	if err != nil {
		return err
	}
	go j.Run(context.Background(), func(err error) { fmt.Fprintln(report, "error", err) }, 1<<30, func(int) {})
	changes := changesOf(seed)
	for {
		for range 100 {
			n := made.Load()
			if err := changes[n%uint32(len(changes))].in(j); err != nil {
				return err
			}
			made.Store(n + 1)
		}
		fmt.Fprintln(report, "more")
	}
}

func counterOf(f *os.File) (*atomic.Uint32, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*atomic.Uint32)(unsafe.Pointer(&mem[0])), nil
}

func changesOf(seed uint64) []aChange {
	rng := rand.New(rand.NewPCG(seed, 0))
	changes := make([]aChange, 1000)
	for i := range changes {
		changes[i] = newChange(rng.Int(), rng.Int())
		if rng.IntN(20) == 0 {
			changes[i].action = retain
		}
	}
	return changes
}

// Here the process is nearly always killed in the middle of a change, or while it compacts.
func TestKilledWriterTearsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	changes := changesOf(seed)
	fd, err := unix.MemfdCreate("counter", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	counter := os.NewFile(uintptr(fd), "counter")
	defer counter.Close()
	if err := counter.Truncate(4); err != nil {
		t.Fatal(err)
	}
	made, err := counterOf(counter)
	if err != nil {
		t.Fatal(err)
	}
	j, want := newTestJournal(t, 1<<14), values{}
	at := uint32(0)
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		killed(t, asWriter, seed, 1+rng.IntN(30), []*os.File{j.File(), counter}, func(line string) {
			if line != "more" {
				t.Fatal(line)
			}
		})
		for ; at < made.Load(); at++ {
			changes[at%uint32(len(changes))].of(want)
		}
		_, records, err := reopen(t, j)
		if err != nil {
			t.Fatalf("round %d, seed %d, after %d changes: %v", round, seed, at, err)
		}
		got := valuesOf(t, records)
		if maps.Equal(got, want) {
			continue
		}
		// The change that was made last was not counted yet. The next process makes it again, which changes nothing.
		or := maps.Clone(want)
		changes[at%uint32(len(changes))].of(or)
		if !maps.Equal(got, or) {
			t.Fatalf("round %d, seed %d, after %d changes: %d values are there, which are not those %d that were set",
				round, seed, at, len(got), len(want))
		}
	}
}
