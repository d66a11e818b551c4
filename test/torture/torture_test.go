package torture

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/test/daemon"
	"picloud/test/wait"
)

// A field is where clients come and go while one process follows another.
type field struct {
	*manager
	*findings
	ledger *ledger
	seed   uint64
	stop   chan struct{} // closed when nobody is to publish any more

	killing atomic.Bool  // the life that goes on is to be killed
	kills   atomic.Int64 // such lives that there have been
	came    atomic.Int64 // connections
	lasting sync.WaitGroup
	reading sync.WaitGroup

	sum tally

	mu   sync.Mutex
	here map[*client]bool
	dead []*client
}

// A tally is what a test has done.
type tally struct {
	lives, records, changes, kept, lost int
	suites                              map[*suite]int // records
	reached                             map[string]int // times that a step was a life's last
}

func newField(t *testing.T, seed uint64) *field {
	t.Helper()
	return &field{manager: manage(t), findings: newFindings(), ledger: &ledger{all: map[string]*message{}}, seed: seed,
		stop: make(chan struct{}), here: map[*client]bool{},
		sum: tally{suites: map[*suite]int{}, reached: map[string]int{}}}
}

func (f *field) find(format string, args ...any) { f.findings.add(format, args...) }

// known notes a client that has come, unknown one that has not got in, gone one that has gone, and why.
func (f *field) known(c *client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.here[c] = true
}

func (f *field) unknown(c *client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaves(c)
}

func (f *field) gone(c *client, err error) {
	c.mu.Lock()
	leaving := c.leaving
	c.mu.Unlock()
	switch {
	case errors.Is(err, errClosed):
	case !broken(err):
		f.find("%s: %v", c, err)
	case !leaving && !c.excused && c.kills == f.kills.Load() && (c.role == posts && c.acked > 0 || !c.since.IsZero()):
		f.find("%s: ended, although nobody was killed: %v", c, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaves(c)
}

// leaves adds up what a client has seen. mu must be held.
func (f *field) leaves(c *client) {
	delete(f.here, c)
	f.dead = append(f.dead, c)
	f.sum.records += c.judge.records
	f.sum.changes += len(c.judge.keys) - 1
	f.sum.suites[c.judge.keys[0].suite] += c.judge.records
	c.judge.seen = nil
}

// populate has clients of that role come, one at a time in each of n places, until stop.
func (f *field) populate(n int, r role) {
	for range n {
		f.lasting.Go(func() {
			for {
				select {
				case <-f.stop:
					return
				default:
				}
				n := f.came.Add(1)
				c, err := f.come(r, n, suites[int(n)%6])
				if err != nil {
					select {
					case <-f.stop:
						return
					case <-time.After(5 * time.Millisecond): // nobody may serve
					}
					continue
				}
				c.live()
			}
		})
	}
}

// A plan is how a life ends.
type plan struct {
	step string        // at this step, if it comes
	pass int           // for that time
	term time.Duration // after which it is told to restart; negative: never
	kill time.Duration // after which it is killed; negative: never
	lock string        // what it does without
}

func (p plan) kills() bool { return p.step != "" || p.kill >= 0 }

// live runs one process to its end.
func (f *field) live(t *testing.T, rng *rand.Rand, p plan) {
	t.Helper()
	f.expects(p)
	room := []int{8 << 10, 256 << 10}[rng.IntN(2)]
	l, err := f.start(f.certs[rng.IntN(len(f.certs))], room, "FAULT_STEP="+p.step, fmt.Sprint("FAULT_PASS=", p.pass),
		"FAULT_WITHOUT="+p.lock)
	if err != nil {
		t.Fatal(err)
	}
	var term, kill, late <-chan time.Time
	if p.term >= 0 {
		term = time.After(p.term)
	}
	if p.kill >= 0 {
		kill = time.After(p.kill)
	}
	for ended := false; !ended; {
		select {
		case <-l.Ended:
			ended = true
		case <-term:
			select {
			case <-l.Ready: // before, it does not know what the signal means
			case <-l.Ended:
			case <-kill:
				l.Cmd.Process.Kill()
			}
			l.Cmd.Process.Signal(syscall.SIGTERM)
			late = time.After(wait.Patience)
		case <-kill:
			l.Cmd.Process.Kill()
		case <-late:
			l.Cmd.Process.Signal(syscall.SIGABRT)
		}
	}
	f.buries(t, p, l)
}

// expects says, before a life can end, how it will: a client that comes or goes meanwhile is excused if that is by a
// kill.
func (f *field) expects(p plan) {
	f.killing.Store(p.kills())
	if p.kills() {
		f.kills.Add(1)
	}
}

// ends ends a life that does not end by itself, now.
func (f *field) ends(t *testing.T, p plan, l *daemon.Life) {
	t.Helper()
	f.expects(p)
	signal := syscall.SIGTERM
	if p.kills() {
		signal = syscall.SIGKILL
	}
	l.Cmd.Process.Signal(signal)
	wait.For(t, l.Ended, "the process ends")
	f.buries(t, p, l)
}

// buries looks at a life that has ended.
func (f *field) buries(t *testing.T, p plan, l *daemon.Life) {
	t.Helper()
	log := l.Log.String()
	if l.Err != nil && !(killed(l) && p.kills()) || strings.Contains(log, "panic") ||
		strings.Contains(log, "DATA RACE") {
		t.Errorf("the daemon ended with %v:\n%s", l.Err, log)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sum.lives++
	if p.step != "" && killed(l) && p.kill < 0 {
		f.sum.reached[p.step]++
	}
	if _, counts, ok := strings.Cut(log, " kept_over_restart="); ok {
		var kept, lost int
		fmt.Sscanf(counts, "%d lost_over_restart=%d", &kept, &lost)
		f.sum.kept += kept
		f.sum.lost += lost
	}
}

// settle has one process live until all who are here have the last message, and checks that they have all others. Then
// they leave. The process is the caller's to end.
func (f *field) settle(t *testing.T) *daemon.Life {
	t.Helper()
	l := f.calm(t)
	close(f.stop)
	wait.Within(t, "everybody has stopped", f.lasting.Wait)
	last, err := f.come(posts, f.came.Add(1), suites[0])
	if err != nil {
		t.Fatal(err)
	}
	f.ledger.note(last.name, 1, &message{text: sentinel}) // of no time, so that nobody misses it
	if err := last.post(sentinel); err != nil {
		t.Fatal(err)
	}
	here := f.all()
	for _, c := range here {
		if c.role == posts || c.isNew() {
			continue
		}
		select {
		case <-c.finished:
			if n := f.ledger.missing(c); n > 0 {
				f.find("%s: %d messages that were acknowledged have not come", c, n)
			}
		case <-c.ended:
		case <-time.After(wait.Patience):
			t.Fatalf("%s has neither the last message nor ended\n%s", c, l.Log)
		}
	}
	for _, c := range here {
		c.goes()
	}
	f.reading.Wait()
	return l
}

// abort ends everything, however wrong it is.
func (f *field) abort(t *testing.T) {
	t.Helper()
	f.calm(t)
	close(f.stop)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.lasting.Wait()
	}()
	for ended := false; !ended; {
		for _, c := range f.all() {
			c.nc.Close()
		}
		select {
		case <-stopped:
			ended = true
		case <-time.After(time.Millisecond):
		}
	}
	for _, c := range f.all() {
		c.nc.Close()
	}
	f.reading.Wait()
}

// calm starts a process that lives on.
func (f *field) calm(t *testing.T) *daemon.Life {
	t.Helper()
	f.expects(plan{kill: -1})
	l, err := f.start(f.certs[0], 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	wait.For(t, l.Ready, "the last process is ready")
	return l
}

func (f *field) all() []*client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.here))
}

// isNew reports whether a client may not be subscribed yet.
func (c *client) isNew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since.IsZero()
}

// seedOf is SEED in the environment, or any.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// Whenever a process dies, and whatever it was doing: no number is used for two records, and a connection is either
// gone or goes on with everything in order.
func TestNoNumberIsUsedTwice(t *testing.T) {
	f := newField(t, seedOf(t))
	rng := rand.New(rand.NewPCG(f.seed, 0))
	f.populate(5, listens)
	f.populate(2, stalls)
	f.populate(4, talks)
	f.populate(3, posts)
	for range 4 { // nobody is excused yet
		f.live(t, rng, anyTime(rng, plan{kill: -1}))
	}
	for range rounds {
		for _, p := range plans(rng) {
			if f.live(t, rng, p); t.Failed() {
				break
			}
		}
	}
	for _, step := range steps() {
		for tries := 0; f.sum.reached[step] == 0 && !t.Failed(); tries++ {
			if tries == 50 {
				t.Errorf("no life has ended %s", step)
			}
			f.live(t, rng, anyTime(rng, plan{step: step, pass: 1, kill: -1}))
		}
	}
	f.ends(t, plan{kill: -1}, f.settle(t))
	f.report(t)
	if text := f.findings.String(); text != "" {
		t.Error(text)
	}
}

// rounds is how many lives there are for each step: TORTURE in the environment, with a daemon as users get it, or one,
// with the race detector.
var rounds = max(1, number("TORTURE"))

func number(name string) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return n
}

// anyTime has a plan end at any time.
func anyTime(rng *rand.Rand, p plan) plan {
	p.term = time.Duration(50+rng.IntN(250)) * time.Millisecond
	return p
}

// plans is a life for each step, and others that end at any time, in any order.
func plans(rng *rand.Rand) []plan {
	var all []plan
	for _, s := range steps() {
		p := anyTime(rng, plan{step: s, pass: 1, kill: -1}) // some come once only
		if rng.IntN(2) == 0 {
			p.pass += rng.IntN(1 << rng.IntN(10))
		}
		all = append(all, p)
	}
	for range len(all) / 2 {
		p := anyTime(rng, plan{kill: -1})
		switch rng.IntN(4) {
		case 0:
		case 1: // in the middle of a hand-over
			p.kill = p.term + time.Duration(rng.IntN(30_000))*time.Microsecond
		default: // perhaps before it is ready
			p.kill = time.Duration(rng.IntN(400)) * time.Millisecond
			p.term = -1
		}
		all = append(all, p)
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// What each lock is there for: without it, the judge finds what must not be. So the judge sees, and nothing else
// prevents what the lock prevents.
func TestWithoutALockTheJudgeFindsIt(t *testing.T) {
	for _, c := range []struct {
		lock, step string
		most       int      // of the step's passes
		want       []string // one of these
	}{
		{"counts", "in the middle of the send", 200, []string{string(sealed), string(skipped), string(twice)}},
		{"counts,number first", "after the send", 200, []string{string(twice)}},
		{"number", "after the closing mark", 200, []string{string(twice)}},
		{"mark", "after the note of the number", 200, []string{string(skipped)}},
		{"key", "after the closing mark", 400, []string{string(skipped)}},
		{"number to read", "after the closing mark of reading", 60, []string{"the client is at fault"}},
		{"key to read", "after the closing mark of reading", 60, []string{"the client is at fault"}},
		{"owed", "", 1, []string{string(sealed), string(skipped)}},
		{"end", "", 1, []string{string(twice)}},
	} {
		t.Run("without "+c.lock, func(t *testing.T) {
			f := newField(t, seedOf(t))
			rng := rand.New(rand.NewPCG(f.seed, 0))
			f.populate(4, listens)
			f.populate(3, stalls)
			f.populate(3, talks)
			f.populate(3, posts)
			found := false
			for range 200 {
				p := anyTime(rng, plan{step: c.step, pass: 1 + rng.IntN(c.most), kill: -1, lock: c.lock})
				f.live(t, rng, p)
				found = slices.ContainsFunc(c.want, func(s string) bool { return f.findings.count(s) > 0 })
				if found || t.Failed() {
					break
				}
			}
			f.abort(t)
			f.report(t)
			if !found {
				t.Errorf("the judge has not found %q, but\n%s", c.want, f.findings)
			}
		})
	}
}

func (f *field) report(t *testing.T) {
	t.Helper()
	s := &f.sum
	t.Logf("%d lives, %d connections, %d records, %d changes of the server's keys; %d carried on, %d ended for safety; "+
		"%d numbers used twice", s.lives, f.came.Load(), s.records, s.changes, s.kept, s.lost,
		f.findings.count(string(twice)))
	if rounds == 1 {
		return
	}
	for _, suite := range suites {
		t.Logf("%9d records of %v", s.suites[suite], suite)
	}
	for _, step := range steps() {
		t.Logf("%9d lives ended %s", s.reached[step], step)
	}
}
