package wsconn

import (
	"picloud/internal/quota"
	"strings"
	"testing"
	"time"
)

// BenchmarkMessage measures what one message costs between the socket's buffer and the handler.
func BenchmarkMessage(b *testing.B) { benchmarkFrame(b, masked(text, strings.Repeat("x", 160))) }

// BenchmarkPong measures what each client's answer to a ping costs.
func BenchmarkPong(b *testing.B) { benchmarkFrame(b, masked(finBit|opPong, "")) }

func benchmarkFrame(b *testing.B, frame []byte) {
	s := New(Limits{Connections: 1, MessageBytes: 64 << 10, QueueBytes: 1 << 20, PingEvery: time.Hour,
		PeerTimeout: time.Hour}, newPoller(b), nil, quota.New(1<<30), nil, nil)
	c := &Conn{set: s, handler: nobody{}}
	in := make([]byte, len(frame))
	b.ReportAllocs()
	for b.Loop() {
		copy(in, frame)
		if err := c.handle(in); err != nil {
			b.Fatal(err)
		}
	}
}

type nobody struct{}

func (nobody) Receive(bool, []byte) {}
func (nobody) Rest()                {}
func (nobody) Closed(error)         {}
