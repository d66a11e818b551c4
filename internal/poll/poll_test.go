package poll

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picloud/internal/leak"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

// A rig is a Poller whose Run can be paused.
type rig struct {
	*Poller
	t     testing.TB
	pause func() // ends Run and waits for it
}

// newRig makes a rig that does not run yet.
func newRig(t testing.TB) *rig {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Poller: p, t: t, pause: func() {}}
	t.Cleanup(func() {
		r.pause()
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) run() {
	r.t.Helper()
	r.pause = wait.Running(r.t, r.Run)
}

// settle returns when Run has reported everything that had happened before: epoll keeps what is ready in the order in
// which it became so, and the probe comes last.
func (r *rig) settle() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	if err := r.Probe(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// add watches the near end of a pair.
func (r *rig) add(p *pair) {
	r.t.Helper()
	place, err := r.Add(p.near, p)
	if err != nil {
		r.t.Fatal(err)
	}
	p.place = place
}

// watched returns how many descriptors the kernel watches for the poller, including the probe's, proc(5).
func (r *rig) watched() int {
	r.t.Helper()
	var text []byte
	var err error
	cerr := r.raw.Control(func(fd uintptr) { text, err = os.ReadFile(fmt.Sprint("/proc/self/fdinfo/", fd)) })
	if cerr != nil || err != nil {
		r.t.Fatal(cerr, err)
	}
	return strings.Count(string(text), "tfd:")
}

// A pair is two connected sockets, the near one watched. It counts the calls of Ready.
type pair struct {
	near, far     int
	place         Place
	reads, writes atomic.Int32
	ready         func(read, write bool) // called too, unless nil
}

func newPair(t testing.TB) *pair {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{near: fds[0], far: fds[1]}
	t.Cleanup(func() {
		unix.Close(p.near)
		unix.Close(p.far)
	})
	return p
}

func (p *pair) Ready(read, write bool) {
	if read {
		p.reads.Add(1)
	}
	if write {
		p.writes.Add(1)
	}
	if p.ready != nil {
		p.ready(read, write)
	}
}

// send makes the near end readable.
func (p *pair) send(t testing.TB) {
	t.Helper()
	if _, err := unix.Write(p.far, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

// heard checks how many times the pair has been called for reading.
func (p *pair) heard(t testing.TB, want int32, when string) {
	t.Helper()
	if got := p.reads.Load(); got != want {
		t.Errorf("%s: called %d times for reading, want %d", when, got, want)
	}
}

func TestWhatCouldBeReadBeforeAddIsHeard(t *testing.T) {
	r := newRig(t)
	early, running := newPair(t), newPair(t)
	early.send(t)
	r.add(early)
	r.run()
	running.send(t)
	r.add(running)
	r.settle()
	early.heard(t, 1, "readable before Add and before Run")
	running.heard(t, 1, "readable before Add")
}

func TestOnlyWhatChangesIsHeard(t *testing.T) {
	r := newRig(t)
	r.run()
	p := newPair(t)
	r.add(p)
	r.settle()
	p.heard(t, 0, "nothing to read")
	if got := p.writes.Load(); got != 1 {
		t.Errorf("writable at Add: called %d times, want once", got)
	}
	p.send(t)
	r.settle()
	r.settle()
	p.heard(t, 1, "one byte that nobody reads")
	p.send(t)
	r.settle()
	p.heard(t, 2, "another byte")

	// Ready is called for writing when there was no room and now there is.
	for {
		if _, err := unix.Write(p.near, make([]byte, 4096)); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	r.settle()
	before := p.writes.Load()
	for buf := make([]byte, 64<<10); ; {
		if _, err := unix.Read(p.far, buf); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	r.settle()
	if p.writes.Load() == before {
		t.Error("room to write is not heard of")
	}

	reads := p.reads.Load()
	unix.Shutdown(p.far, unix.SHUT_WR)
	r.settle()
	p.heard(t, reads+1, "the peer's end")
}

func TestRemovedHearsNothing(t *testing.T) {
	for name, keep := range map[string]func(t *testing.T, fd int){
		"alone": func(*testing.T, int) {},
		"duplicate": func(t *testing.T, fd int) {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(dup) })
		},
		"copy under way": func(t *testing.T, fd int) {
			if err := unix.Sendmsg(newPair(t).far, []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.run()
			p := newPair(t)
			r.add(p)
			keep(t, p.near)
			p.send(t)
			r.settle()
			r.Remove(p.place)
			if got := r.watched(); got != 1 {
				t.Errorf("the kernel still watches %d descriptors, want the probe's only", got)
			}
			unix.Close(p.near)
			p.near = -1
			unix.Write(p.far, []byte("x")) // EPIPE when nothing holds the other end
			r.settle()
			p.heard(t, 1, "removed")

			// Its slot's next owner is told of its own events.
			next := newPair(t)
			r.add(next)
			if next.place.slot != p.place.slot {
				t.Fatalf("the next one is in slot %d, want %d again", next.place.slot, p.place.slot)
			}
			next.send(t)
			unix.Write(p.far, []byte("x"))
			r.settle()
			p.heard(t, 1, "removed, its slot somebody else's")
			next.heard(t, 1, "the slot's next owner")
			r.Remove(Place{})
			r.settle()
			if got := r.watched(); got != 2 {
				t.Errorf("the kernel watches %d descriptors, want the next one's and the probe's", got)
			}
		})
	}
}

// A place that changes hands costs no system call, and its next owner is told of what comes.
func TestHandedPlaceIsTheNextOwners(t *testing.T) {
	r := newRig(t)
	r.run()
	before, after := newPair(t), &pair{}
	r.add(before)
	r.settle()
	before.send(t)
	r.settle()
	before.heard(t, 1, "before")
	r.Hand(before.place, after)
	if got := r.watched(); got != 2 {
		t.Errorf("the kernel watches %d descriptors, want this one and the probe's", got)
	}
	before.send(t)
	r.settle()
	before.heard(t, 1, "what it has handed over")
	after.heard(t, 1, "what it was handed")
	r.Remove(before.place)
	before.send(t)
	r.settle()
	after.heard(t, 1, "removed")
}

// An event that epoll has already reported when its watcher is removed reaches neither that watcher nor the next in its
// slot.
func TestLateEventReachesNobody(t *testing.T) {
	r := newRig(t)
	first, removed, next := newPair(t), newPair(t), newPair(t)
	for _, p := range []*pair{first, removed} {
		p.send(t)
		r.add(p)
	}
	first.ready = func(bool, bool) { // removed's event is behind this one, in the same report
		first.ready = nil
		r.Remove(removed.place)
		r.add(next)
	}
	r.run()
	r.settle()
	r.settle() // next's own event may have come behind the first probe
	first.heard(t, 1, "the first of two")
	if next.place.slot != removed.place.slot {
		t.Fatalf("the next one is in slot %d, want %d", next.place.slot, removed.place.slot)
	}
	removed.heard(t, 0, "removed before its turn")
	next.heard(t, 0, "with nothing to read, in the slot of a late event")
	if got := next.writes.Load(); got != 1 {
		t.Errorf("the next one was called %d times for writing, want once for its own event", got)
	}
}

func TestAddThatFailsLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.run()
	f, err := os.Create(filepath.Join(t.TempDir(), "regular"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newPair(t)
	for range 3 {
		if place, err := r.Add(int(f.Fd()), p); err == nil || place != (Place{}) {
			t.Fatalf("a regular file: got %v, error %v, want nowhere and an error", place, err)
		}
	}
	r.add(p)
	if place, err := r.Add(p.near, p); err == nil || place != (Place{}) {
		t.Fatalf("watched twice: got %v, error %v, want nowhere and an error", place, err)
	}
	if got := len(r.slots) - len(r.free); got != 1 {
		t.Errorf("%d slots are taken, want one", got)
	}
	p.send(t)
	r.settle()
	p.heard(t, 1, "watched after all")
}

// The end of one Run's context must not end the next Run, however late it is noticed.
func TestRunCanBeRunAgain(t *testing.T) {
	// On one processor, what a cancelled context calls is called only when this goroutine waits.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r := newRig(t)
	p := newPair(t)
	r.add(p)
	for round := range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		p.ready = func(read, _ bool) {
			if read {
				unix.Read(p.near, make([]byte, 16))
				cancel()
				p.send(t) // so that Run need not wait before it looks at its context
			}
		}
		p.send(t)
		if err := r.Run(ctx); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		heard := make(chan struct{}, 1)
		p.ready = func(bool, bool) {
			unix.Read(p.near, make([]byte, 16))
			select {
			case heard <- struct{}{}:
			default:
			}
		}
		second, end := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(second) }()
		r.settle()
		runtime.Gosched() // to what is waiting to be called
		p.send(t)
		select {
		case err := <-ended:
			t.Fatalf("round %d: the second Run ends before its context: %v", round, err)
		case <-heard:
		case <-time.After(wait.Patience):
			t.Fatalf("round %d: the second Run hears nothing", round)
		}
		end()
		if err := wait.For(t, ended, "Run ends with its context"); err != nil {
			t.Fatalf("round %d, the second: %v", round, err)
		}
	}
}

func TestProbe(t *testing.T) {
	r := newRig(t)
	giveUp := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := r.Probe(ctx); err == nil {
			t.Fatal("the probe succeeds, and nothing runs")
		}
	}
	for range 300 { // the eventfd's counter is full long before that
		giveUp()
	}
	// An answer that comes too late does not count for the next probe.
	p := newPair(t)
	heard := make(chan struct{})
	p.ready = func(bool, bool) { close(heard) }
	r.add(p)
	r.run()
	wait.For(t, heard, "the event behind the probe's")
	r.pause()
	giveUp()
	r.run()
	r.settle()
	r.Remove(p.place)

	// The probe is to find a watcher that blocks, which none must.
	inside, leave := make(chan struct{}), make(chan struct{})
	p.ready = func(bool, bool) {
		p.ready = nil
		close(inside)
		<-leave
	}
	r.add(p)
	wait.For(t, inside, "the watcher is called")
	giveUp()
	close(leave)
	r.settle()
}

func TestRunEndsWhenThePollerFails(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(context.Background()) }()
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	if err := p.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	err = wait.For(t, ended, "Run ends without its epoll set")
	if err == nil || !strings.HasPrefix(err.Error(), "wait for connections: ") {
		t.Errorf("Run: %v, want why it cannot wait", err)
	}
}

func TestReleaseFreesTheDescriptors(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	for range 10 {
		p, err := New()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors are open, there were %d", after, before)
	}
}

// Watchers come and go while events come: each is told of its own events and, once it has been removed and a call under
// way has had time to return, of nothing.
func TestManyComeAndGo(t *testing.T) {
	r := newRig(t)
	r.run()
	const crowd, lives = 50, 10
	var living sync.WaitGroup
	gone := make([][]*pair, crowd)
	for n := range crowd {
		living.Go(func() {
			for range lives {
				p := newPair(t)
				heard := make(chan struct{}, 8)
				p.ready = func(read, _ bool) {
					if read {
						select {
						case heard <- struct{}{}:
						default:
						}
					}
				}
				place, err := r.Add(p.near, p)
				if err != nil {
					t.Error(err)
					return
				}
				for range 2 {
					p.send(t)
					select {
					case <-heard:
					case <-time.After(wait.Patience):
						t.Error("a byte is not heard of")
						return
					}
				}
				p.send(t)
				r.Remove(place)
				gone[n] = append(gone[n], p)
			}
		})
	}
	living.Wait()
	r.settle()
	before := make(map[*pair]int32)
	for _, pairs := range gone {
		for _, p := range pairs {
			before[p] = p.reads.Load()
			p.send(t)
		}
	}
	r.settle()
	for p, n := range before {
		p.heard(t, n, "removed long ago")
	}
	if len(r.free) != len(r.slots) || len(r.slots) > crowd {
		t.Errorf("of %d slots for %d watchers at a time %d are free", len(r.slots), crowd, len(r.free))
	}
}
