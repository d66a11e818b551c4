package led

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"picloud/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

// A tape is an LED that remembers how long it was lit and dark, as "+50 -2950": milliseconds.
type tape struct {
	t     *testing.T
	lit   bool
	since time.Time
	steps []string
	fail  atomic.Pointer[error]
}

// errUnplugged is the error of an LED that has failed.
var errUnplugged = errors.New("unplugged")

func newTape(t *testing.T) *tape { return &tape{t: t, since: time.Now()} }

func (l *tape) Set(lit bool) error {
	if lit != l.lit {
		l.steps = append(l.steps, l.last())
		l.lit, l.since = lit, time.Now()
	}
	if err := l.fail.Load(); err != nil {
		return *err
	}
	return nil
}

func (l *tape) last() string {
	sign := "-"
	if l.lit {
		sign = "+"
	}
	return fmt.Sprint(sign, time.Since(l.since).Milliseconds())
}

// A show is a Run in a synctest bubble, with what it shows.
type show struct {
	*tape
	clients   atomic.Int64
	incidents atomic.Uint64
	asked     atomic.Int64 // how many times the state was
	end       context.CancelFunc
	ended     chan error
}

// play runs Run in a bubble. Time passes while f sleeps.
func play(t *testing.T, clients int, f func(s *show)) {
	synctest.Test(t, func(t *testing.T) {
		s := &show{tape: newTape(t), ended: make(chan error, 1)}
		s.clients.Store(int64(clients))
		ctx, cancel := context.WithCancel(t.Context())
		s.end = cancel
		go func() {
			s.ended <- Run(ctx, s.tape, func() State {
				s.asked.Add(1)
				return State{int(s.clients.Load()), s.incidents.Load()}
			})
		}()
		synctest.Wait()
		f(s)
		s.stop()
	})
}

func (s *show) after(d time.Duration) {
	time.Sleep(d) // the bubble's time
	synctest.Wait()
}

// stop ends Run; the LED has to be off at once.
func (s *show) stop() {
	s.t.Helper()
	s.end()
	began := time.Now()
	if err := <-s.ended; err != nil {
		s.t.Errorf("Run: %v", err)
	}
	if s.lit || time.Since(began) != 0 {
		s.t.Errorf("%v after its end the LED is lit: %t", time.Since(began), s.lit)
	}
}

// shows checks what has been seen so far, without the first step, which is dark for no time.
func (s *show) shows(want string) {
	s.t.Helper()
	if got := strings.Join(append(slices.Clone(s.steps[1:]), s.last()), " "); got != want {
		s.t.Errorf("the LED shows\n\t%s\nwant\n\t%s", got, want)
	}
}

const (
	flickers = "+50 -50 +50 -50 +50 -50 +50 -50 +50 -250"
	one      = "+150 -1200"
	two      = "+150 -250 +150 -1200"
	five     = "+150 -250 +150 -250 +150 -250 +150 -250 +150 -1200"
	many     = "+2900 -100"
	nobody   = "+50 -2950"
)

func TestEachNumberOfClientsHasItsPattern(t *testing.T) {
	for clients, want := range map[int]string{
		-1:        nobody,
		0:         nobody,
		1:         one,
		2:         two,
		3:         "+150 -250 +150 -250 +150 -1200",
		4:         "+150 -250 +150 -250 +150 -250 +150 -1200",
		5:         five,
		6:         many,
		7:         many,
		100:       many,
		1_000_000: many,
	} {
		play(t, clients, func(s *show) {
			var period time.Duration
			for _, st := range count(clients) {
				period += st.time
			}
			if period > 3*time.Second {
				t.Errorf("%d clients take %v to show, more than 3 s", clients, period)
			}
			s.after(3*period - time.Millisecond)
			last := strings.LastIndexByte(want, '-')
			cut := fmt.Sprint(want[:last+1], atoi(t, want[last+1:])-1)
			s.shows(want + " " + want + " " + cut)
		})
	}
}

func atoi(t *testing.T, s string) (n int) {
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestChangeWaitsForThePatternsEnd(t *testing.T) {
	play(t, 2, func(s *show) {
		s.after(200 * time.Millisecond) // between the two blinks
		s.clients.Store(1)
		s.after(1600 * time.Millisecond)
		s.clients.Store(9) // after the one blink has begun
		s.after(1350 * time.Millisecond)
		s.clients.Store(0)
		s.after(3100 * time.Millisecond)
		s.shows(two + " " + one + " " + many + " +50 -100")
	})
}

func TestChangeShowsWithinThreeSeconds(t *testing.T) {
	for from := range 8 {
		for to := range 8 {
			for _, at := range []time.Duration{1, 49 * time.Millisecond, 151 * time.Millisecond,
				1349 * time.Millisecond, 2949 * time.Millisecond} {
				play(t, from, func(s *show) {
					s.after(at)
					s.clients.Store(int64(to))
					asked := s.asked.Load()
					s.after(3 * time.Second)
					if s.asked.Load() == asked {
						t.Errorf("from %d to %d clients after %v: not seen within 3 s", from, to, at)
					}
				})
			}
		}
	}
}

func TestIncidentFlickersOnceThenTheCountGoesOn(t *testing.T) {
	play(t, 1, func(s *show) {
		s.after(time.Second)
		s.incidents.Store(3) // three at once are one
		s.after(3 * time.Second)
		s.shows("+150 -1400 " + flickers + " " + one + " +150 -250")
	})
	play(t, 7, func(s *show) {
		s.after(time.Second)
		s.incidents.Add(1)
		s.after(5 * time.Second)
		s.shows("+2900 -300 " + flickers + " +2100")
	})
}

func TestStormOfIncidentsLeavesTheCountVisible(t *testing.T) {
	play(t, 2, func(s *show) {
		for range 7000 {
			s.incidents.Add(1)
			s.after(time.Millisecond)
		}
		got := strings.Join(s.steps, " ")
		want := "+150 -250 +150 -1400 " + flickers
		if n := strings.Count(got, want); n < 2 {
			t.Errorf("the count is seen between flickers %d times in 7 s: %s", n, got)
		}
	})
}

func TestIncidentsBeforeTheStartAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTape(t)
		ctx, cancel := context.WithTimeout(t.Context(), 1300*time.Millisecond)
		defer cancel()
		if err := Run(ctx, l, func() State { return State{Clients: 1, Incidents: 42} }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(l.steps, " "); got != "-0 +150" {
			t.Errorf("the LED shows %s", got)
		}
	})
}

func TestStormOfChangesWakesNobody(t *testing.T) {
	play(t, 0, func(s *show) {
		for i := range 60_000 { // 10,000 a second
			s.clients.Store(int64(i % 9))
			s.after(100 * time.Microsecond)
		}
		// The state is asked for only when a pattern begins, and a pattern takes at least a second.
		if s.asked.Load() > 7 {
			t.Errorf("the state was asked %d times in 6 s", s.asked.Load())
		}
		if len(s.steps) > 6*6 {
			t.Errorf("the LED changed %d times in 6 s", len(s.steps))
		}
	})
}

func TestLEDIsDarkFromTheMomentOfTheEnd(t *testing.T) {
	for _, at := range []time.Duration{0, 49 * time.Millisecond, 50 * time.Millisecond, time.Second,
		2899 * time.Millisecond} {
		for _, clients := range []int{0, 1, 5, 6} {
			play(t, clients, func(s *show) { s.after(at) }) // stop checks it
		}
	}
}

func TestRunEndsWithTheErrorOfTheLED(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTape(t)
		l.fail.Store(&errUnplugged)
		if err := Run(t.Context(), l, func() State { return State{} }); !errors.Is(err, errUnplugged) {
			t.Errorf("Run: %v", err)
		}
	})
	play(t, 1, func(s *show) {
		s.after(time.Second)
		s.fail.Store(&errUnplugged)
		s.after(time.Second)
		if err := <-s.ended; !errors.Is(err, errUnplugged) {
			t.Errorf("Run: %v", err)
		}
		s.ended <- nil
		s.fail.Store(nil)
	})
}

func TestPatternsForPeopleAreThoseOfRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []string
		for _, p := range Patterns() {
			l := newTape(t)
			if err := p.Show(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			l.steps = append(l.steps, l.last())
			all = append(all, strings.TrimPrefix(strings.Join(l.steps, " "), "-0 "))
			if p.Name == "" || l.lit {
				t.Errorf("%q leaves the LED lit: %t", p.Name, l.lit)
			}
		}
		want := []string{nobody + " " + nobody, one + " " + one, two + " " + two}
		if !slices.Equal(all[:3], want) {
			t.Errorf("got %q, want %q", all[:3], want)
		}
		if want := "-200 " + flickers; all[7] != want {
			t.Errorf("got %q, want %q", all[7], want)
		}
	})
}

func TestShowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTape(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := Patterns()[0].Show(ctx, l); !errors.Is(err, context.DeadlineExceeded) || l.lit {
			t.Errorf("Show: %v; lit: %t", err, l.lit)
		}
	})
}
