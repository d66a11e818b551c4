package httpconn

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"picloud/internal/poll"
)

// A watch is what a handshake's deadline is set on.
type watch struct{ due time.Time }

func (w *watch) SetDeadline(due time.Time) error {
	w.due = due
	return nil
}

// A queue is handshakes without connections.
type queue struct {
	*handshakes
	t    *testing.T
	set  *Set
	all  map[*handshake]int // those that have come and are not gone, by when they came
	came int
}

func newQueue(t *testing.T, most, computes int) *queue {
	var workers poll.Workers
	return &queue{newHandshakes(most, computes), t, &Set{crew: workers.NewCrew()}, make(map[*handshake]int), 0}
}

// comes has one come from a network.
func (q *queue) comes(network byte) *handshake {
	c := &Conn{set: q.set, slot: &slot{network: netip.AddrFrom4([4]byte{10, 0, 0, network})}}
	c.turn.Take() // so that nothing runs
	h := &handshake{conn: c, due: time.Now().Add(time.Hour)}
	q.came++
	q.all[h] = q.came
	if got := q.enter(h); got != h.underWay {
		q.t.Errorf("enter says %v of one that is under way: %v", got, h.underWay)
	}
	return h
}

func (q *queue) goes(h *handshake) {
	delete(q.all, h)
	q.leave(h)
	q.leave(h)
}

// check checks what always holds.
func (q *queue) check() {
	q.t.Helper()
	underWay, computing, waiting := 0, 0, 0
	for h := range q.all {
		switch {
		case !h.underWay:
			waiting++
		case h.computing:
			computing++
			fallthrough
		default:
			underWay++
		}
	}
	known := q.handshakes.underWay.Len()
	if underWay > q.most || computing > q.computes || underWay != known || computing != q.computing {
		q.t.Fatalf("%d are under way, known %d, %d compute, known %d", underWay, known, computing, q.computing)
	}
	if waiting > 0 && underWay < q.most && computing < q.computes {
		q.t.Fatalf("%d wait, although only %d are under way and %d compute", waiting, underWay, computing)
	}
	if (len(q.all) == 0) != (len(q.lines) == 0) || waiting == 0 && q.turns.Len() > 0 {
		q.t.Fatalf("%d are there, %d networks, %d of them in line", len(q.all), len(q.lines), q.turns.Len())
	}
	for h := range q.all { // whoever came before from the same network has begun before
		for other, when := range q.all {
			if h.line == other.line && h.underWay && !other.underWay && when < q.all[h] {
				q.t.Fatalf("one has overtaken another from its network")
			}
		}
	}
}

// Whatever comes, computes, waits and leaves in whatever order: the bounds hold, nobody waits without need, and nothing
// of those who are gone is left.
func TestHandshakesKeepTheirBounds(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			q := newQueue(t, 1+rnd.IntN(8), 1+rnd.IntN(3))
			for step := range 1500 {
				came := make([]*handshake, 0, len(q.all))
				for h := range q.all {
					came = append(came, h)
				}
				slices.SortFunc(came, func(a, b *handshake) int { return q.all[a] - q.all[b] })
				switch n := len(came); {
				case step >= 1000 && n == 0:
				case n == 0, step < 1000 && n < 40 && rnd.IntN(2) == 0:
					q.comes(byte(rnd.IntN(5)))
				case rnd.IntN(2) == 0:
					q.waits(came[rnd.IntN(n)])
				default:
					q.goes(came[rnd.IntN(n)])
				}
				q.check()
			}
			if len(q.all) > 0 || q.handshakes.underWay.Len() > 0 || q.computing > 0 || q.ending != nil {
				t.Errorf("at the end, %d are under way, %d compute, and %v is to end", q.handshakes.underWay.Len(),
					q.computing, q.ending)
			}
		})
	}
}

// A crowd from one network does not delay the first from another: it is next.
func TestNetworksTakeTurnsAtHandshakes(t *testing.T) {
	q := newQueue(t, 4, 4)
	var crowd []*handshake
	for range 100 {
		crowd = append(crowd, q.comes(1))
	}
	first, second := q.comes(2), q.comes(2)
	third := q.comes(3)
	for _, h := range crowd[:3] {
		q.goes(h)
	}
	if !first.underWay || !third.underWay || second.underWay {
		t.Errorf("of the others, %v, %v and %v are under way", first.underWay, second.underWay, third.underWay)
	}
}

// At the bound, the oldest of the network with most under way is ended when it has had its time, which is less for one
// of several, and no other one before it is gone.
func TestTheOldestOfTheLargestCrowdMakesRoom(t *testing.T) {
	q := newQueue(t, 4, 4)
	wires := make(map[*handshake]*watch)
	comes := func(network byte) *handshake {
		h := q.comes(network)
		wires[h] = new(watch)
		q.handshakes.goes(h, wires[h])
		q.waits(h)
		return h
	}
	single, oldest, younger := comes(1), comes(2), comes(2)
	comes(3)
	due := make(map[*handshake]time.Time)
	for h, w := range wires {
		due[h] = w.due
	}
	for range 10 {
		q.comes(4)
	}
	if got, want := wires[oldest].due, oldest.begun.Add(q.patience/2); got != want || due[oldest] == want {
		t.Errorf("the oldest has until %v, want %v", got, want)
	}
	for h, w := range wires {
		if h != oldest && w.due != due[h] {
			t.Errorf("another one has until %v, want %v", w.due, due[h])
		}
	}
	q.goes(oldest)
	if got, want := wires[single].due, single.begun.Add(q.patience); got != want {
		t.Errorf("the next one has until %v, want %v", got, want)
	}
	q.goes(younger)
	q.check()
}
