package server

import (
	"fmt"
	"strings"
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
