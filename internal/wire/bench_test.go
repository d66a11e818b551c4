package wire

import (
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
