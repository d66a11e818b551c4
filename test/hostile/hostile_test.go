package hostile

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"picloud/internal/leak"
	"picloud/test/daemon"
	"picloud/test/wait"
)

// all, in the environment, is for every kind at every size, with a daemon as users get it; otherwise a sample of kinds
// comes to a small daemon that has the race detector in it.
var all = os.Getenv("HOSTILE") == "all"

// bin is the folder of the commands.
var bin string

func TestMain(m *testing.M) {
	if text := os.Getenv(visiting); text != "" {
		if err := visits(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	mode := daemon.Raced
	if all {
		mode = daemon.Plain
	}
	os.Exit(leak.Check(func() int {
		return daemon.Built(mode, func(built string) int {
			bin = built
			return m.Run()
		})
	}))
}

// A size is that of a daemon, and of the floods that come to it.
type size struct {
	files  int // that the daemon may open
	places int // for HTTP connections that follow from this
	flood  int // hostile connections at a time
}

var small, full = size{256, 64, 300}, size{20_000, 4096, 5120}

// A stage is a daemon and those who are connected to it before a flood comes.
type stage struct {
	*door
	size
	asks, rests *resident   // both have shown the key
	listens     *subscriber // with the key, too
	number      int         // of the message that was published last
}

func TestNewcomersAreServedBesideHostileConnections(t *testing.T) {
	sizes := []size{small}
	if all {
		sizes = append(sizes, full)
	}
	for _, size := range sizes {
		for _, network := range []string{"tcp", "tls", "unix"} {
			for _, addresses := range []int{1, 250} {
				if addresses > 1 && (network == "unix" || network == "tls" && !all) {
					continue
				}
				t.Run(fmt.Sprintf("%d places/%s/addresses=%d", size.places, network, addresses), func(t *testing.T) {
					var files syscall.Rlimit
					if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
						t.Fatal(err)
					}
					if most := max(size.files, 2*size.flood); files.Cur < uint64(most) {
						t.Fatalf("this process may open %d files, and %d are needed: ulimit -n %d", files.Cur, most, most)
					}
					s := &stage{door: openDoor(t, size.files, network == "tls"), size: size}
					for _, k := range kinds {
						if k.below && network != "tls" || k.isClient && network == "unix" || !all && !k.sample {
							continue
						}
						for _, returns := range []bool{false, true} {
							if returns && !all && !k.cheap(network) {
								continue
							}
							name := k.name
							if returns {
								name += ", again and again"
							}
							t.Run(name, func(t *testing.T) {
								s.withstands(t, &flood{kind: k, door: s.door, network: network, size: size.flood,
									addresses: addresses, returns: returns})
							})
						}
					}
				})
			}
		}
	}
}

// withstands has newcomers come while a flood lasts.
func (s *stage) withstands(t *testing.T, f *flood) {
	s.asks, s.rests, s.listens = s.settle(t), s.settle(t), s.subscribe(t)
	before := s.asks.metric(t, evicted)
	end := f.begin(t)
	defer end()
	wait.Until(t, "the flood is there", func() bool { return f.here.Load() >= int64(f.size) })
	wait.Until(t, "the flood has taken more places than there are",
		func() bool { return f.gone.Load() >= int64(s.flood-s.places) })
	var sum tally
	from := []string{"127.0.1.1", f.address(0)}
	if f.guesses { // whose address is refused for that
		from[1] = "127.0.1.2"
	}
	for _, from := range from {
		for i, n := range newcomers {
			sum.add(n.name, s.serve(t, i, from))
		}
		s.listens.awaits(t, s.number)
		s.asks.ask(t, "/info")
	}
	s.rests.ask(t, "/info")
	closed := s.asks.metric(t, evicted) - before
	resident, peak := s.memory(t)
	end()
	wait.Until(t, "only the two who were there before are left", func() bool { return s.asks.metric(t, open) <= 2 })
	s.rests.ask(t, "/info")
	if newcomer := s.serve(t, 0, from[0]); newcomer.Tries > 1 {
		t.Errorf("a newcomer after the flood takes %d tries", newcomer.Tries)
	}
	t.Logf("%d connections came, %.0f closed for others; %d newcomers took %d tries, at most %d, and %.3f s at most (%s); the daemon has %d MiB, %d at the peak",
		f.came.Load(), closed, sum.newcomers, sum.tries, sum.most, sum.worst.Seconds(), sum.slowest, resident, peak)
}

// memory returns how much memory the daemon has and has had at most: MiB resident, proc_pid_status(5).
func (d *door) memory(t *testing.T) (now, most int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) (kib int) {
		_, rest, _ := strings.Cut(string(status), name)
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			t.Fatalf("%s %v", name, err)
		}
		return kib >> 10
	}
	return field("VmRSS:"), field("VmHWM:")
}

// begin lets the flood come, and returns how to end it: end returns when all of it is gone, and may be called again.
func (f *flood) begin(t *testing.T) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var lives sync.WaitGroup
	for i := range f.size {
		lives.Go(func() {
			for first := true; ctx.Err() == nil && (first || f.returns); {
				nc, err := f.dial(ctx, i)
				if err != nil { // a Unix socket's queue is full
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond):
					}
					continue
				}
				if first {
					f.here.Add(1)
					first = false
				}
				f.came.Add(1)
				f.live(ctx, i, nc)
				f.gone.Add(1)
			}
		})
	}
	return func() {
		cancel()
		wait.Within(t, "the flood is gone", lives.Wait)
	}
}
