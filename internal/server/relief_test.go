package server

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"picloud/test/wait"
)

// What waits for all clients together is bounded: the longest queues go, and nobody else notices.
func TestLongestQueueGoes(t *testing.T) {
	const limit = 600 << 10
	sv := startTight(t, func(c *Config) { c.WaitingBytes = limit })
	stall := func(name, event string) *peer {
		p := sv.subscriber(t, name)
		p.ask(fmt.Sprintf(`{"action":"subscribe","event":%q,"id":1}`, event))
		return p
	}
	var long []*peer
	for i := range 4 {
		long = append(long, stall(fmt.Sprint("Long", i), "long"))
	}
	short := stall("Short", "short")
	reader := sv.subscriber(t, "Reader")
	reader.ask(`{"action":"subscribe","event":"both","id":1}`)
	pub := sv.publisher(t, "P")
	text := strings.Repeat("x", 7000)
	publish := func(event string) {
		pub.ask(fmt.Sprintf(`{"event":%q,"data":%q,"id":1}`, event, text))
		pub.ask(`{"event":"both","data":1,"id":1}`)
		if _, err := reader.message(); err != nil {
			t.Fatal(err)
		}
		if n := sv.waiting.Used(); n > limit {
			t.Fatalf("%d bytes wait when the publisher has its ack, %d may", n, limit)
		}
	}
	wait.Until(t, "something waits for the short one", func() bool {
		publish("short")
		return sv.waiting.Used() > 50<<10
	})
	for sv.slow.Load() == 0 {
		publish("long")
	}
	wait.Until(t, "it is told of each", func() bool { return len(sv.log.lines(t, "slow client closed")) == int(sv.slow.Load()) })
	for _, l := range sv.log.lines(t, "slow client closed") {
		if !strings.HasPrefix(l["client_name"], "Long") || !strings.Contains(l["reason"], "most of it waits for this client") {
			t.Errorf("logged %v", l)
		}
	}
	pub.ask(`{"event":"short","data":"last","id":1}`)
	for {
		text, err := short.message()
		if err != nil {
			t.Fatalf("the short queue: %v", err)
		}
		if strings.Contains(string(text), `"last"`) {
			break
		}
	}
	for _, l := range sv.log.lines(t, "slow client closed") {
		long[l["client_name"][len("Long")]-'0'].wantClose(1013)
	}
}

// Messages that never end count too: they are no way to fill the memory.
func TestUnfinishedMessagesAreBounded(t *testing.T) {
	const limit = 1 << 20
	sv := start(t, func(c *Config) { c.WaitingBytes = limit })
	half := []byte{0x81, 0xfe, 0xea, 0x60, 0, 0, 0, 0} // a text of 60,000 bytes
	half = append(half, make([]byte, 50_000)...)
	for i := range 60 {
		sv.subscriber(t, fmt.Sprint(i)).Raw(half)
	}
	wait.Until(t, "enough have been closed", func() bool { return sv.slow.Load() >= 60-limit/50_000 && !sv.waiting.Over() })
	sv.stillServes(t)
}

// A server that has little memory has room for few subscriptions, and says so to the client and in the log.
func TestSubscriptionsTogetherAreBounded(t *testing.T) {
	sv := start(t, func(c *Config) { c.SubscriptionBytes = 20_000 })
	refused := 0
	for i := range 10 {
		p := sv.subscriber(t, fmt.Sprint(i))
		for n := range 10 {
			p.send(fmt.Sprintf(`{"action":"subscribe","event":"%d/%d","id":%d}`, i, n, n))
			m, err := p.message()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(m), "no room for more subscriptions") {
				refused++
			}
		}
	}
	if n := sv.hub.Counts().Subscriptions; refused == 0 || n+refused != 100 || n < 30 {
		t.Errorf("%d subscriptions, %d refused", n, refused)
	}
	if n := len(sv.log.lines(t, "a subscription is refused: those of all clients together take what they may")); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// What the kernel holds counts where it is short of memory for TCP: those go for whom it holds most, without the key
// first, and nobody who takes what he gets.
func TestKernelsMemoryIsGivenBack(t *testing.T) {
	sv := start(t)
	reader, stalled := sv.subscriber(t, "Reader"), sv.subscriber(t, "Stalled")
	reader.ask(`{"action":"subscribe","event":"read","id":1}`)
	stalled.ask(`{"action":"subscribe","event":"e","id":1}`)
	pub := sv.publisher(t, "P")
	text := strings.Repeat("x", 60_000)
	wait.Until(t, "the subscriber has stalled", func() bool {
		pub.ask(fmt.Sprintf(`{"event":"e","data":%q,"id":1}`, text))
		return sv.waiting.Used() > 0
	})
	deaf := sv.dial(t, "tcp")
	deaf.Write([]byte(strings.Repeat("GET / HTTP/1.1\r\nHost: picloud\r\n\r\n", 1000)))
	holds := func(known bool) (most int) {
		for share := range sv.httpConns.Buffered(known) {
			most = max(most, share.Held)
		}
		return most
	}
	wait.Until(t, "the kernel holds something for the one without the key", func() bool { return holds(false) > 16<<10 })

	const limit = 10_000
	if sv.relieveTCP(limit+1, 1<<40); holds(false) == 0 {
		t.Error("somebody has gone although it is not the server's")
	}
	if sv.relieveTCP(limit+1, limit); holds(false) > 4096 {
		t.Errorf("%d bytes are held for one without the key", holds(false))
	}
	if n := sv.slow.Load(); n != 0 {
		t.Errorf("%d with the key have gone although that was enough", n)
	}
	if _, err := io.Copy(io.Discard, deaf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ends with %v", err)
	}

	sv.relieveTCP(1<<30, limit)
	wait.Until(t, "the slow one goes", func() bool { return sv.slow.Load() == 1 })
	for range sv.wsConns.Buffered() {
		t.Error("the kernel holds something for a WebSocket")
	}
	lines := sv.log.lines(t, "the kernel's memory for TCP runs short: the connections for which it holds most are closed")
	if len(lines) != 1 || lines[0]["limit"] != fmt.Sprint(limit) {
		t.Errorf("logged %v", lines)
	}
	pub.ask(`{"event":"read","data":1,"id":1}`)
	reader.delivery()
	sv.stillServes(t)
}

// It is looked after by itself.
func TestKernelsMemoryIsWatched(t *testing.T) {
	sv := start(t, func(c *Config) { c.TCPBytes = 1 }) // all that there is, is too much
	stalled, pub := sv.subscriber(t, "Stalled"), sv.publisher(t, "P")
	stalled.ask(`{"action":"subscribe","event":"e","id":1}`)
	text := strings.Repeat("x", 60_000)
	wait.Until(t, "the one that takes nothing has stalled, or is gone", func() bool {
		pub.ask(fmt.Sprintf(`{"event":"e","data":%q,"id":1}`, text))
		return sv.waiting.Used() > 0 || sv.slow.Load() > 0
	})
	wait.Until(t, "it is told", func() bool { return len(sv.log.lines(t, "slow client closed")) == 1 })
	if l := sv.log.lines(t, "slow client closed"); !strings.Contains(l[0]["reason"], "most of it waits") {
		t.Errorf("logged %v", l)
	}
	sv.stillServes(t)
}
