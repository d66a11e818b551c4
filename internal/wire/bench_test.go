package wire

import (
	"fmt"
	"strings"
	"testing"
)

var benchMessages = []struct{ name, text string }{
	{"128 bytes of text", `{"action":"publish","event":"temperature","data":"` + strings.Repeat("x", 128-52) + `"}`},
	{"1 KiB of text", `{"action":"publish","event":"temperature","data":"` + strings.Repeat("x", 1024-52) + `"}`},
	{"object", `{"action":"publish","event":"temperature","data":{"celsius":21.5,"humidity":40,"room":"kitchen"}}`},
	{"subscribe with id", `{"action":"subscribe","event":"temperature","id":17}`},
	{"escaped text", `{"action":"publish","event":"temperature","data":"{\"celsius\":21.5,\"humidity\":40}"}`},
}

func BenchmarkDecode(b *testing.B) {
	for _, bm := range benchMessages {
		b.Run(bm.name, func(b *testing.B) {
			p := []byte(bm.text)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeGeneral(b *testing.B) {
	p := []byte(benchMessages[0].text)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeGeneral(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendDelivery(b *testing.B) {
	for _, bm := range benchMessages[:3] {
		b.Run(bm.name, func(b *testing.B) {
			m, err := Decode([]byte(bm.text))
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendDelivery(dst[:0], m.Event, m.Data, at, porch)
			}
		})
	}
}

// As many clients as the default limit allows, each with an event of its own.
func BenchmarkAppendInfo(b *testing.B) {
	const clients = 8192
	var i Info
	for n := range clients {
		c := Connection{ClientName: fmt.Sprintf("Sensor %d", n),
			IPAddress: fmt.Sprintf("192.168.1.%d:%d", n%256, 20000+n), ConnectedAt: at}
		last := &LastMessage{CreatedAt: at, ClientName: "Porch", Preview: `{"celsius":24.7,"humid":false}`,
			DataBytes: 30}
		i.AllConnections = append(i.AllConnections, c)
		i.Subscriptions = append(i.Subscriptions, Subscription{fmt.Sprintf("event/%d", n), []Connection{c}})
		i.Server.EventTraffic = append(i.Server.EventTraffic, EventTraffic{1, 12, 12, last})
		i.Server.ConnectionTraffic = append(i.Server.ConnectionTraffic, ConnectionTraffic{0, 12, "1.3"})
	}
	dst := AppendInfo(nil, &i)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendInfo(dst[:0], &i)
		b.SetBytes(int64(len(dst)))
	}
}
