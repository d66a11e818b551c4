package hub

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"
)

var everything = Bounds{Events: math.MaxInt, Clients: math.MaxInt, Subscribers: math.MaxInt}

func TestSnapshotListsInOrder(t *testing.T) {
	h := New(1 << 30)
	if events, clients, all := h.Snapshot(everything); events == nil || clients == nil || !all ||
		len(events)+len(clients) != 0 {
		t.Errorf("of an empty hub: got %#v, %#v, all %t, want empty lists", events, clients, all)
	}
	var all []*Client
	for _, name := range []string{"zoe", "adam", "mia", "bob"} {
		c, _ := join(h, name)
		all = append(all, c)
	}
	// In an order that is neither that of arrival nor that of the names.
	for _, i := range []int{2, 0, 3} {
		subscribe(t, h, all[i], "rain")
	}
	subscribe(t, h, all[3], "heat")
	subscribe(t, h, all[0], "heat")
	subscribe(t, h, all[1], "wind")
	h.Unsubscribe(all[1], []byte("wind"))
	h.Leave(all[2])

	checkSnapshot(t, h, everything, true, "zoe adam bob", "heat 2: zoe bob", "rain 2: zoe bob")
	_, clients, _ := h.Snapshot(everything)
	if c := clients[0]; c.Addr != "192.0.2.1:zoe" || !c.ConnectedAt.Equal(time.Unix(0, 0)) {
		t.Errorf("client is listed as %+v", c)
	}
}

// checkSnapshot compares a snapshot, events as name, number of subscribers and those that are listed.
func checkSnapshot(t *testing.T, h *Hub, most Bounds, all bool, clients string, events ...string) {
	t.Helper()
	gotEvents, gotClients, gotAll := h.Snapshot(most)
	var got []string
	for _, e := range gotEvents {
		got = append(got, fmt.Sprintf("%s %d: %s", e.Name, e.Subscribers, names(e.Clients)))
	}
	if names(gotClients) != clients || !slices.Equal(got, events) || gotAll != all {
		t.Errorf("at most %+v: got clients %s, events %q, all %t, want %s, %q, %t", most, names(gotClients), got, gotAll,
			clients, events, all)
	}
}

func names(clients []*Client) string {
	var names []string
	for _, c := range clients {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func TestSnapshotKeepsTheLatest(t *testing.T) {
	h := New(1 << 30)
	back := h.Rejoin(silent{}, "back", "", time.Unix(40, 0)) // by a clock that was wrong
	late := h.Join(silent{}, "late", "", time.Unix(30, 0))
	first := h.Join(silent{}, "first", "", time.Unix(10, 0))
	second := h.Join(silent{}, "second", "", time.Unix(20, 0))
	for _, c := range []*Client{second, late, back, first} {
		subscribe(t, h, c, "new")
	}
	message := func(event string, at time.Time) { h.Publish(new(Batch), []byte(event), nil, Note{At: at}) }
	now := time.Now()
	for i, event := range []string{"loud", "quiet", "old"} {
		subscribe(t, h, first, event)
		message(event, now.Add(-time.Duration(i+1)*time.Hour))
	}
	message("loud", now.Add(time.Hour))

	bounds := func(events, clients, subscribers int) Bounds {
		return Bounds{Events: events, Clients: clients, Subscribers: subscribers}
	}
	const (
		clients = "back first second late"
		loud    = "loud 1: first"
		quiet   = "quiet 1: first"
		old     = "old 1: first"
	)
	checkSnapshot(t, h, everything, true, clients, loud, "new 4: "+clients, quiet, old)
	checkSnapshot(t, h, bounds(4, 4, 4), true, clients, loud, "new 4: "+clients, quiet, old)
	checkSnapshot(t, h, bounds(3, 4, 3), false, clients, loud, "new 4: first second late", quiet)
	checkSnapshot(t, h, bounds(4, 3, 2), false, "first second late", loud, "new 4: second late", quiet, old)
	checkSnapshot(t, h, bounds(2, 2, 1), false, "second late", loud, "new 4: late")
	checkSnapshot(t, h, bounds(1, 1, 1), false, "late", loud)
	message("quiet", now.Add(2*time.Hour))
	checkSnapshot(t, h, bounds(2, 1, 1), false, "late", quiet, loud)
	h.Leave(late)
	h.UnsubscribeAll(first)
	subscribe(t, h, first, "quiet") // whose messages are forgotten
	checkSnapshot(t, h, bounds(2, 3, 1), true, "back first second", quiet, "new 2: second")
}

func TestTopIsWhatSortingWouldKeep(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 0))
	for range 2000 {
		most := 1 + random.IntN(20)
		top := top[int]{most: most, compare: cmp.Compare[int]}
		var all []int
		for range random.IntN(60) {
			v := random.IntN(50)
			all = append(all, v)
			top.add(v)
		}
		slices.Sort(all)
		if got, want := top.sorted(), all[max(0, len(all)-most):]; !slices.Equal(got, want) ||
			top.over != (len(all) > most) {
			t.Fatalf("of %v: got %v, more %t, want the last %d", all, got, top.over, most)
		}
	}
}

func TestSnapshotLetsOthersGoFirst(t *testing.T) {
	m := make(map[int]bool)
	for i := range 10_000 {
		m[i] = true
	}
	var mu sync.RWMutex
	seen, before := 0, make(chan int, 1)
	scan(mu.RLocker(), m, func(int, bool) {
		if seen++; seen > 1 {
			return
		}
		go func() {
			mu.Lock()
			before <- seen
			mu.Unlock()
		}()
		wait.Until(t, "somebody waits for the lock", func() bool {
			free := mu.TryRLock()
			if free {
				mu.RUnlock()
			}
			return !free
		})
	})
	if n := <-before; seen != len(m) || n > len(m)/2 {
		t.Errorf("%d entries of %d were seen, %d before somebody else got the lock", seen, len(m), n)
	}
}

// What is there all the while is listed, once, however many others come and go.
func TestSnapshotMissesNobody(t *testing.T) {
	const stay = 3000
	h := New(1 << 30)
	want := make(map[string]int)
	for i := range stay {
		name := fmt.Sprint("stays ", i)
		c, _ := join(h, name)
		subscribe(t, h, c, name)
		want[name] = 1
	}
	stop := make(chan struct{})
	var guests sync.WaitGroup
	for g := range 2 {
		guests.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				var all []*Client
				for k := range 2000 { // the maps grow
					name := fmt.Sprintf("guest %d %d %d", g, i, k)
					c, _ := join(h, name)
					h.Subscribe(c, []byte(name), 1)
					all = append(all, c)
				}
				for _, c := range all {
					h.Leave(c)
				}
			}
		})
	}
	for range 20 {
		events, clients, _ := h.Snapshot(everything)
		gotEvents, gotClients := make(map[string]int), make(map[string]int)
		for _, e := range events {
			if strings.HasPrefix(e.Name, "stays") {
				gotEvents[e.Name]++
			}
		}
		for _, c := range clients {
			if strings.HasPrefix(c.Name, "stays") {
				gotClients[c.Name]++
			}
		}
		if !maps.Equal(gotEvents, want) || !maps.Equal(gotClients, want) {
			t.Errorf("%d events and %d clients of those that stay are listed, or some twice, want %d", len(gotEvents),
				len(gotClients), stay)
		}
	}
	close(stop)
	guests.Wait()
}

// crowd joins clients that subscribe to events of their own.
func crowd(t testing.TB, clients, events int) *Hub {
	h := New(1 << 30)
	for i := range clients {
		c := h.Join(silent{}, "porch", "192.0.2.1:1", time.Now())
		for k := range events {
			if _, err := h.Subscribe(c, fmt.Appendf(nil, "event %d %d", i, k), events); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

var few = Bounds{Events: 1000, Clients: 10_000, Subscribers: 100}

func TestSnapshotTakesNoMoreMemoryThanItsBounds(t *testing.T) {
	taken := func(h *Hub) uint64 {
		least := uint64(math.MaxUint64)
		for range 5 { // the runtime allocates now and then, too
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			h.Snapshot(few)
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return least
	}
	small, large := taken(crowd(t, 100, 10)), taken(crowd(t, 100, 500))
	if small == 0 || large > 2*small {
		t.Errorf("a snapshot takes %d bytes with 1,000 events and %d with 50,000", small, large)
	}
}

// BenchmarkSnapshot is a snapshot of many events, of which few are listed, and how long it keeps a newcomer waiting.
func BenchmarkSnapshot(b *testing.B) {
	for _, clients := range []int{100, 1000} {
		b.Run(fmt.Sprintf("events=%d", 1000*clients), func(b *testing.B) {
			h := crowd(b, clients, 1000)
			c := h.Join(silent{}, "porch", "", time.Now())
			var longest time.Duration
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
					}
					begin := time.Now()
					h.Subscribe(c, []byte("newcomer"), 1)
					longest = max(longest, time.Since(begin))
					h.UnsubscribeAll(c)
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				h.Snapshot(few)
			}
			close(stop)
			<-stopped
			b.ReportMetric(float64(longest.Microseconds()), "longest-us")
		})
	}
}
