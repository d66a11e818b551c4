package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	ws "picloud/test/peer"
)

// A crowd is a set of subscribers that count what they get and do nothing else.
type crowd struct {
	got   chan struct{} // one for each subscriber that has had what was expected
	peers []*peer
}

// newCrowd subscribes n clients, each to the event that name gives.
func newCrowd(b testing.TB, sv *service, n int, name func(i int) string) *crowd {
	c := &crowd{got: make(chan struct{}, n)}
	for i := range n {
		p := sv.subscriber(b, "S")
		p.SetDeadline(time.Time{})
		p.ask(fmt.Sprintf(`{"action":"subscribe","event":%q,"id":1}`, name(i)))
		c.peers = append(c.peers, p)
	}
	return c
}

// expect has every subscriber wait for its next deliveries, until the crowd's connections end.
func (c *crowd) expect(b testing.TB, deliveries int) {
	for _, p := range c.peers {
		go func() {
			for {
				for range deliveries {
					if err := p.skip(); err != nil {
						if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "closed") {
							b.Error(err)
						}
						return
					}
				}
				c.got <- struct{}{}
			}
		}()
	}
}

// all waits until every subscriber has had its deliveries.
func (c *crowd) all() {
	for range c.peers {
		<-c.got
	}
}

// skip reads one frame without looking at it, and without allocating.
func (p *peer) skip() error {
	head, err := p.In.Peek(4)
	if err != nil {
		return err
	}
	n := 2 + int(head[1])
	if head[1] == 126 {
		n = 4 + int(binary.BigEndian.Uint16(head[2:]))
	}
	_, err = p.In.Discard(n)
	return err
}

// burst is frames of n messages of 128 bytes, each for the event that name gives.
func burst(n int, name func(i int) string) []byte {
	var all []byte
	for i := range n {
		text := fmt.Sprintf(`{"action":"publish","event":%q,"data":"`, name(i))
		text += strings.Repeat("x", 126-len(text)) + `"}`
		all = append(all, ws.Frame(ws.Fin|ws.Text, text)...)
	}
	return all
}

func sameEvent(int) string { return "temperature" }

// A delivery costs no memory, however many there are: what a message costs does not grow with its subscribers.
func TestDeliveryAllocatesNothing(t *testing.T) {
	const messages = 320
	mallocs := func(subscribers int) (n uint64) {
		sv := start(t)
		c := newCrowd(t, sv, subscribers, sameEvent)
		pub := sv.publisher(t, "P")
		c.expect(t, 32)
		input := burst(32, sameEvent)
		least := ^uint64(0)
		for range 5 { // the runtime allocates now and then, too
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range messages / 32 {
				pub.Raw(input)
				c.all()
			}
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		return least
	}
	const few, many = 1, 100
	one, all := mallocs(few), mallocs(many)
	if deliveries := uint64((many - few) * messages); all > one+deliveries/50 {
		t.Errorf("%d messages cost %d allocations with %d subscriber, %d with %d: more than one for 50 deliveries",
			messages, one, few, all, many)
	}
}

// An endless burst leaves nothing for the garbage collector: its frames reuse the memory of earlier ones.
func TestLongBurstTakesNoMoreMemoryThanAShortOne(t *testing.T) {
	for _, n := range []int{100, 4000, 8000} {
		var p publisher
		lay := make(map[*byte]bool)
		for range 1 << 20 / n {
			frame := p.arena.Text(make([]byte, n))
			lay[&frame[0]] = true
			p.sent(len(frame))
		}
		if places := 32 << 10 / n; len(lay) > places {
			t.Errorf("the frames of a megabyte of %d bytes each lay in %d places, want %d at most", n, len(lay), places)
		}
	}
}

// BenchmarkFanOut is one delivery of a message to many subscribers: bursts, and one message at a time. Both ends are in
// this process.
func BenchmarkFanOut(b *testing.B) {
	for _, window := range []int{1, 32} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			const subscribers = 500
			sv := start(b)
			c := newCrowd(b, sv, subscribers, sameEvent)
			pub := sv.publisher(b, "P")
			c.expect(b, window)
			input := burst(window, sameEvent)
			pub.SetDeadline(time.Time{})
			b.ReportAllocs()
			deliveries := 0
			for b.Loop() {
				pub.Raw(input)
				c.all()
				deliveries += window * subscribers
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(deliveries), "ns/delivery")
		})
	}
}

// BenchmarkOneToOne is one message to one of many subscribers, in bursts.
func BenchmarkOneToOne(b *testing.B) {
	const subscribers = 500
	name := func(i int) string { return fmt.Sprintf("event-%d", i) }
	sv := start(b)
	c := newCrowd(b, sv, subscribers, name)
	pub := sv.publisher(b, "P")
	c.expect(b, 1)
	input := burst(subscribers, name)
	pub.SetDeadline(time.Time{})
	b.ReportAllocs()
	for b.Loop() {
		pub.Raw(input)
		c.all()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/subscribers, "ns/delivery")
}

// BenchmarkPost is one POST /publish over a persistent connection, to one subscriber.
func BenchmarkPost(b *testing.B) {
	sv := start(b)
	c := newCrowd(b, sv, 1, sameEvent)
	c.expect(b, 1)
	p := dial(b, "tcp", sv.addr)
	p.SetDeadline(time.Time{})
	body := `{"event":"temperature","data":"` + strings.Repeat("x", 95) + `"}`
	request := fmt.Appendf(nil, "POST /publish?clientName=Porch HTTP/1.1\r\nHost: test\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(body), body)
	end := []byte("\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		p.Raw(request)
		c.all()
		for { // the answer, without allocating
			head, err := p.In.Peek(max(1, p.In.Buffered()))
			if err != nil {
				b.Fatal(err)
			}
			if i := bytes.Index(head, end); i >= 0 {
				if !bytes.HasPrefix(head, []byte("HTTP/1.1 201 ")) {
					b.Fatalf("answer %q", head)
				}
				p.In.Discard(i + len(end))
				break
			}
			if _, err := p.In.Peek(len(head) + 1); err != nil {
				b.Fatal(err)
			}
		}
	}
}
