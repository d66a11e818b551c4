package server

import (
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	porch = netip.MustParseAddr("192.168.99.1")
	shed  = netip.MustParseAddr("192.168.99.2")

	// Of this machine's own network, and that network.
	hall  = netip.MustParseAddr("2001:db8:1:2::10")
	attic = netip.MustParseAddr("2001:db8:1:2::20")
	house = netip.MustParseAddr("2001:db8:1:2::")

	// From elsewhere, as it counts.
	abroad = netip.MustParseAddr("2001:db8:9:9::")
)

// A post is a guard whose log and whose clients' WebSockets are the test's.
type post struct {
	*guard
	log   *book
	open  map[netip.Addr]bool // with the peers of open WebSockets
	looks int                 // how many times it was looked up who they are
}

func newPost(burst int) *post {
	p := &post{log: new(book), open: make(map[netip.Addr]bool)}
	peers := iter.Seq[netip.Addr](func(yield func(netip.Addr) bool) {
		p.looks++
		for peer := range p.open {
			if !yield(peer) {
				return
			}
		}
	})
	p.guard = newGuard(testKey, burst, slog.New(slog.NewTextHandler(p.log, nil)), peers)
	return p
}

func wantVerdict(t *testing.T, p *post, key string, from netip.Addr, after time.Duration, status int) verdict {
	t.Helper()
	v := p.check(key, from, noon.Add(after))
	if v.status != status {
		t.Fatalf("%q from %v after %v: status %d %q, want %d", key, from, after, v.status, v.reason, status)
	}
	return v
}

// guess makes n guesses that are judged, each with another key.
func guess(t *testing.T, p *post, n int, from netip.Addr, after time.Duration) {
	t.Helper()
	for range n {
		wantVerdict(t, p, another(), from, after, http.StatusUnauthorized)
	}
}

var others int

// another returns a wrong key that nobody has sent yet.
func another() string {
	others++
	return fmt.Sprint(wrongKey, others)
}

// refused checks that whatever comes from an address is refused, and for how long.
func refused(t *testing.T, p *post, from netip.Addr, after, wait time.Duration) {
	t.Helper()
	for _, key := range []string{another(), testKey, ""} {
		v := wantVerdict(t, p, key, from, after, http.StatusTooManyRequests)
		if v.retryAfter.Round(time.Millisecond) != wait {
			t.Errorf("%q from %v: retry after %v, want %v", key, from, v.retryAfter, wait)
		}
		if p.admits(key, from, noon.Add(after)) {
			t.Errorf("%q from %v is refused and admitted", key, from)
		}
	}
}

func TestGuardTakesTheRightKeyOnly(t *testing.T) {
	p := newPost(1000)
	wantVerdict(t, p, testKey, porch, 0, 0)
	for _, key := range []string{"", " ", wrongKey, testKey + "\x00", testKey[1:], " " + testKey} {
		wantVerdict(t, p, key, porch, 0, http.StatusUnauthorized)
		if p.admits(key, porch, noon) {
			t.Errorf("%q is admitted", key)
		}
	}
	if !p.admits(testKey, porch, noon) {
		t.Error("the right key is not admitted")
	}
	noKey := newGuard("", 1000, slog.New(slog.DiscardHandler), p.guard.open)
	if v := noKey.check("", porch, noon); v.status != http.StatusUnauthorized {
		t.Errorf("without a key: status %d", v.status)
	}
}

func TestGuardGivesOneGuessAMinuteBack(t *testing.T) {
	p := newPost(3)
	guess(t, p, 3, porch, 0)
	refused(t, p, porch, 0, time.Minute)
	refused(t, p, porch, 45*time.Second, 15*time.Second)
	wantVerdict(t, p, testKey, shed, 0, 0) // another address

	guess(t, p, 1, porch, time.Minute)
	refused(t, p, porch, time.Minute, time.Minute)
	wantVerdict(t, p, testKey, porch, 2*time.Minute, 0) // and costs no guess
	wantVerdict(t, p, "", porch, 2*time.Minute, http.StatusUnauthorized)
	wantVerdict(t, p, testKey, porch, 2*time.Minute, 0)
	// Never more than the burst; the first is one of those for who knows the key.
	guess(t, p, 1+3, porch, 24*time.Hour)
	refused(t, p, porch, 24*time.Hour, time.Minute)
	if got := p.wrong.Load(); got != 8 {
		t.Errorf("%d wrong keys are counted, want 8", got)
	}
}

func TestGuardDoesNotCountMissingKeys(t *testing.T) {
	p := newPost(3)
	for range 100 {
		wantVerdict(t, p, "", porch, 0, http.StatusUnauthorized)
	}
	wantVerdict(t, p, testKey, porch, 0, 0)
	if n := p.wrong.Load(); n != 0 || len(p.addresses) != 0 {
		t.Errorf("%d wrong keys, %d addresses, want none", n, len(p.addresses))
	}
}

func TestGuardTakesARepeatedKeyForNoGuess(t *testing.T) {
	p := newPost(maxTried + 2)
	keys := make([]string, maxTried)
	for i := range keys {
		keys[i] = another()
		wantVerdict(t, p, keys[i], porch, 0, http.StatusUnauthorized)
	}
	for range 10 {
		for _, key := range keys {
			wantVerdict(t, p, key, porch, 0, http.StatusUnauthorized)
		}
	}
	// Two guesses are left: a key that is not among the latest is a guess, whoever has sent it before.
	wantVerdict(t, p, keys[0], porch, 0, http.StatusUnauthorized) // again the latest
	guess(t, p, 1, porch, 0)                                      // in place of keys[1]
	wantVerdict(t, p, keys[0], porch, 0, http.StatusUnauthorized)
	wantVerdict(t, p, keys[1], porch, 0, http.StatusUnauthorized)
	// None is left: whatever comes is refused.
	wantVerdict(t, p, keys[1], porch, 0, http.StatusTooManyRequests)
	refused(t, p, porch, 0, time.Minute)
	wantVerdict(t, p, keys[1], shed, 0, http.StatusUnauthorized) // it has guessed it, too
	if n := len(p.addresses[shed].tried); n != 1 {
		t.Errorf("%d wrong keys of another address are remembered, want 1", n)
	}
}

// A device with an old key is let alone, and so are those beside it.
func TestGuardLetsTheRightKeyInBesideAnOldOne(t *testing.T) {
	p := newPost(1)
	for second := range 3600 {
		if second%5 == 0 {
			status := http.StatusUnauthorized
			if 0 < second && second < 60 { // the one guess there was is spent
				status = http.StatusTooManyRequests
			}
			wantVerdict(t, p, wrongKey, porch, time.Duration(second)*time.Second, status)
		}
		if second >= 60 {
			wantVerdict(t, p, testKey, porch, time.Duration(second)*time.Second, 0)
		}
	}
}

func TestGuardGivesMoreWhereAWebSocketIsOpen(t *testing.T) {
	for _, peer := range []string{"192.168.99.1", "::ffff:192.168.99.1", "2001:db8:1:2::10", "fe80::1%eth0",
		"2001:db8:9:9:1:2:3:4"} {
		p := newPost(30)
		p.open[netip.MustParseAddr(peer)] = true
		from := netip.MustParseAddr(peer).Unmap().WithZone("")
		if strings.HasPrefix(peer, "2001:db8:9:9:") {
			from = abroad
		}
		guess(t, p, 30+moreGuesses, from, 0)
		refused(t, p, from, 0, 6*time.Second)
		guess(t, p, 1, from, 6*time.Second)
		refused(t, p, from, 6*time.Second, 6*time.Second)
		guess(t, p, 9+1, from, time.Minute) // of the first ones, too
		refused(t, p, from, time.Minute, 6*time.Second)
		clear(p.open)
		refused(t, p, from, time.Minute+lookEvery, time.Minute-lookEvery)
	}
}

func TestGuardGivesMoreToWhoHasShownTheRightKeySince(t *testing.T) {
	p := newPost(3)
	guess(t, p, 1, porch, 0) // and it is known from now on
	for range moreGuesses {
		wantVerdict(t, p, testKey, porch, 0, 0)
		guess(t, p, 1, porch, 0)
	}
	// Those are spent, and two of the first are left.
	wantVerdict(t, p, testKey, porch, 0, 0)
	guess(t, p, 1, porch, 0)
	if !p.admits(testKey, porch, noon) { // is showing it, too
		t.Error("the right key is not admitted")
	}
	guess(t, p, 1, porch, 6*time.Second)
	guess(t, p, 1, porch, 6*time.Second)
	refused(t, p, porch, 6*time.Second, 54*time.Second)

	// A key that is no guess does not matter.
	guess(t, p, 3, shed, 0)
	last := another()
	wantVerdict(t, p, last, shed, time.Minute, http.StatusUnauthorized)
	wantVerdict(t, p, testKey, shed, 2*time.Minute, 0)
	wantVerdict(t, p, last, shed, 2*time.Minute, http.StatusUnauthorized)
	guess(t, p, 2, shed, 2*time.Minute)
	refused(t, p, shed, 2*time.Minute, time.Minute)
}

func TestGuardLooksForWebSocketsOnlyWhenItMust(t *testing.T) {
	p := newPost(30)
	looks := func(want int, when string) {
		t.Helper()
		if p.looks != want {
			t.Errorf("%s: it was looked up %d times who is connected, want %d", when, p.looks, want)
		}
	}
	guess(t, p, 30, porch, 0)
	wantVerdict(t, p, testKey, shed, 0, 0)
	looks(0, "with guesses left")
	for i := range 100 {
		refused(t, p, porch, time.Duration(i)*9*time.Millisecond, time.Minute-time.Duration(i)*9*time.Millisecond)
	}
	looks(1, "within a second")
	refused(t, p, porch, lookEvery, time.Minute-lookEvery)
	looks(2, "a second later")

	p.open[porch] = true
	refused(t, p, porch, lookEvery+time.Millisecond, time.Minute-lookEvery-time.Millisecond)
	guess(t, p, 100, porch, 2*lookEvery)
	for range 50 {
		wantVerdict(t, p, testKey, porch, 2*lookEvery, 0)
		guess(t, p, 1, porch, 2*lookEvery)
	}
	looks(3, "with guesses for who is connected")

	// Who has just been let in is looked up at once.
	p.open[shed] = true
	guess(t, p, 30, shed, 2*lookEvery)
	wantVerdict(t, p, testKey, shed, 2*lookEvery, 0)
	looks(4, "for an address that was not known at the last time")
}

func TestGuardCountsTheHouseOneByOneAndTogether(t *testing.T) {
	p := newPost(30)
	guess(t, p, 30, hall, 0)
	refused(t, p, hall, 0, time.Minute)
	wantVerdict(t, p, testKey, attic, 0, 0)
	p.open[netip.MustParseAddr("2001:db8:1:2::30")] = true
	rotating := netip.MustParseAddr("2001:db8:1:2::1:0")
	for range moreGuesses - 30 {
		rotating = rotating.Next()
		guess(t, p, 1, rotating, 0)
	}
	for range 100 {
		rotating = rotating.Next()
		refused(t, p, rotating, 0, 6*time.Second)
	}
	if p.looks > 3 {
		t.Errorf("it was looked up %d times who is connected", p.looks)
	}
	// Not refused are those where somebody knows the key, and other networks.
	wantVerdict(t, p, testKey, attic, 0, 0)
	wantVerdict(t, p, testKey, netip.MustParseAddr("2001:db8:1:2::30"), 0, 0)
	guess(t, p, 100, netip.MustParseAddr("2001:db8:1:2::30"), 0)
	wantVerdict(t, p, testKey, netip.MustParseAddr("fe80::1"), 0, 0)
	wantVerdict(t, p, testKey, porch, 0, 0)
	wantVerdict(t, p, testKey, abroad, 0, 0)

	guess(t, p, 1, rotating, 6*time.Second)
	refused(t, p, rotating.Next(), 6*time.Second, 6*time.Second)
	wantVerdict(t, p, testKey, rotating.Next(), 12*time.Second, 0)

	// A network from elsewhere counts as one address.
	guess(t, p, 30, abroad, 0)
	refused(t, p, abroad, 0, time.Minute)

	// With more guesses for an address there are as many for its network.
	p = newPost(1000)
	guess(t, p, 1000, hall, 0)
	refused(t, p, hall, 0, time.Minute)
}

func TestGuardSaysWhoElseIsRefused(t *testing.T) {
	p := newPost(3)
	said := func(want ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(p.log.String()) {
			attrs, err := parseLine(line)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, attrs["level"]+" "+attrs["address"]+" "+attrs["msg"])
		}
		for i, what := range want {
			want[i] = "WARN " + what
		}
		if !slices.Equal(got, want) {
			t.Errorf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		p.log.text.Reset()
	}
	guess(t, p, 3, porch, 0)
	said()
	refused(t, p, porch, 0, time.Minute)
	refused(t, p, porch, 0, time.Minute)
	said("192.168.99.1 " + addressRefused)
	refused(t, p, porch, 30*time.Second, 30*time.Second)
	said()
	guess(t, p, 1, porch, time.Minute)
	refused(t, p, porch, time.Minute, time.Minute)
	said("192.168.99.1 " + addressRefused)

	p.open[porch] = true
	guess(t, p, moreGuesses, porch, 100*time.Second)
	said()
	refused(t, p, porch, 100*time.Second, 6*time.Second)
	said() // the last line was less than a minute ago
	guess(t, p, 1+3, porch, 2*time.Minute)
	refused(t, p, porch, 2*time.Minute, 4*time.Second)
	said("192.168.99.1 " + sharedRefused)

	guess(t, p, 3, abroad, 0)
	refused(t, p, abroad, 0, time.Minute)
	said("2001:db8:9:9::/64 " + addressRefused)

	from := hall
	for range moreGuesses {
		from = from.Next()
		guess(t, p, 1, from, 0)
	}
	refused(t, p, hall, 0, 6*time.Second)
	refused(t, p, attic, 0, 6*time.Second)
	said("2001:db8:1:2::/64 " + networkRefused)
	guess(t, p, 1, hall, 6*time.Second)
	refused(t, p, attic, 6*time.Second, 6*time.Second)
	said()
	guess(t, p, 3, attic, time.Minute)
	refused(t, p, attic, time.Minute, time.Minute)
	said("2001:db8:1:2::20 " + addressRefused)
}

// Whoever is forgotten has spent the fewest guesses: it is not the one who guesses.
func TestGuardRemembersABoundedNumber(t *testing.T) {
	p := newPost(30)
	guess(t, p, 30, porch, 0)
	p.open[shed] = true
	guess(t, p, 30+moreGuesses, shed, 0)
	guess(t, p, 30, hall, 0)
	for i := range uint32(maxAddresses + 200) {
		guess(t, p, 1+int(i%70/69), netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24+i))), 0)
		var own [16]byte
		copy(own[:], house.AsSlice())
		binary.BigEndian.PutUint32(own[4:], i)
		own[15] = 1
		guess(t, p, 1, netip.AddrFrom16(own), 0)
	}
	if n, m := len(p.addresses), len(p.networks); n > maxAddresses || m > maxNetworks {
		t.Errorf("%d addresses and %d networks are remembered, want at most %d and %d", n, m, maxAddresses, maxNetworks)
	}
	refused(t, p, porch, 0, time.Minute)
	refused(t, p, shed, 0, 6*time.Second)
	refused(t, p, hall, 0, time.Minute)
	wantVerdict(t, p, testKey, attic, 0, 0) // lets nobody be forgotten
	if p.addresses[attic] != nil || len(p.addresses) != maxAddresses {
		t.Errorf("%d addresses are remembered, and %v is: %t", len(p.addresses), attic, p.addresses[attic] != nil)
	}
	if n := p.networks[house]; n == nil || n.spent(noon) != 30 {
		t.Errorf("of the network with most guesses spent %+v is remembered", n)
	}
}

// An account is of what has come from one address, and what has become of it.
type account struct {
	latest []string    // wrong keys
	times  []time.Time // of the guesses
	alone  []time.Time // of those without anybody there who knows the key
	shown  bool        // the right key, since the last guess
	left   time.Time   // when it last closed a WebSocket
}

// most reports the most of times that lie in one stretch, over what comes back in it.
func most(times []time.Time, every time.Duration) float64 {
	over, least := 0.0, math.Inf(1)
	for i, at := range times {
		back := float64(at.Sub(noon)) / float64(every)
		least = min(least, float64(i)-back)
		over = max(over, float64(i+1)-back-least)
	}
	return over
}

// Many addresses send right, wrong, repeated and missing keys while time passes and WebSockets come and go.
func TestGuardInAnyOrder(t *testing.T) {
	statuses := make(map[int]int)
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			burst := []int{1, 3, 30}[random.IntN(3)]
			p := newPost(burst)
			addresses := []netip.Addr{porch, shed, abroad, hall, attic}
			for range random.IntN(20) {
				addresses = append(addresses, addresses[len(addresses)-1].Next())
			}
			accounts := make(map[netip.Addr]*account)
			for _, from := range addresses {
				accounts[from] = new(account)
			}
			var together []time.Time                           // alone, from the house
			pace := time.Duration(1) << (20 + random.IntN(14)) // a millisecond to 16 seconds
			favorite := addresses[random.IntN(len(addresses))]
			now := noon
			for range 10_000 {
				now = now.Add(time.Duration(random.Int64N(int64(pace))))
				from := favorite
				if random.IntN(3) > 0 {
					from = addresses[random.IntN(len(addresses))]
				}
				ac := accounts[from]
				switch random.IntN(200) {
				case 0:
					if !p.open[from] {
						if p.check(testKey, from, now).status == 0 {
							ac.shown, p.open[from] = true, true
						}
					} else {
						delete(p.open, from)
						ac.left = now
					}
					continue
				case 1:
					now = now.Add(time.Duration(random.Int64N(int64(time.Hour))))
				}
				key, kind := another(), random.IntN(10)
				switch {
				case kind < 3:
					key = testKey
				case kind < 5 && len(ac.latest) > 0:
					key = ac.latest[random.IntN(len(ac.latest))]
				case kind == 5:
					key = ""
				}
				a, n := p.addresses[from], p.networks[subnetOf(from)]
				trusted := ac.shown || p.open[from]
				more := a == nil || a.more.wait(now) == 0
				before := left(a, n, now)
				v := p.check(key, from, now)
				statuses[v.status]++
				refused := v.status == http.StatusTooManyRequests
				if trusted && more && refused {
					t.Fatalf("%v is refused with guesses left, and somebody there knows the key", from)
				}
				if refused || key == "" || key == testKey {
					if (v.status == 0) != (key == testKey && !refused) {
						t.Fatalf("%q from %v: status %d", key, from, v.status)
					}
					ac.shown = ac.shown || v.status == 0
					continue
				}
				if v.status != http.StatusUnauthorized {
					t.Fatalf("%q from %v: status %d", key, from, v.status)
				}
				if i := slices.Index(ac.latest, key); i >= 0 {
					ac.latest = append(slices.Delete(ac.latest, i, i+1), key)
					if after := left(a, n, now); after != before {
						t.Fatalf("a repeated key from %v: %v guesses were left, and then %v", from, before, after)
					}
					continue
				}
				ac.shown = false
				ac.latest = append(ac.latest, key)
				ac.latest = ac.latest[max(0, len(ac.latest)-maxTried):]
				ac.times = append(ac.times, now)
				if !trusted && now.Sub(ac.left) >= lookEvery {
					ac.alone = append(ac.alone, now)
					if subnetOf(from) == house {
						together = append(together, now)
					}
				}
			}
			for from, ac := range accounts {
				if n := most(ac.times, time.Minute/(1+10)); n > float64(burst+moreGuesses)+1e-6 {
					t.Errorf("%v was let guess %v times at once", from, n)
				}
				if n := most(ac.alone, time.Minute); n > float64(burst)+1e-6 {
					t.Errorf("%v was let guess %v times at once, without anybody there who knows the key", from, n)
				}
			}
			if n := most(together, moreEvery); n > moreGuesses+1e-6 {
				t.Errorf("the house was let guess %v times at once", n)
			}
			sum := 0
			for from, a := range p.addresses {
				if sum += cap(a.tried); cap(a.tried) > maxTried {
					t.Errorf("there is room for %d wrong keys of %v", cap(a.tried), from)
				}
			}
			if sum > maxTriedInAll {
				t.Errorf("there is room for %d wrong keys", sum)
			}
		})
	}
	if len(statuses) != 3 {
		t.Errorf("the answers were %v: this test does not see what it is for", statuses)
	}
}

// left is how many guesses an address and its network have.
func left(a *suspect, n *subnet, now time.Time) (left float64) {
	if a != nil {
		left = -a.spent(now)
	}
	if n != nil {
		left -= n.spent(now)
	}
	return left
}
