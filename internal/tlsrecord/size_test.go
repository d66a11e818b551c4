package tlsrecord

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"unsafe"
)

// steady prepares a Link in use, and a record for it that can be opened again and again.
func steady(t testing.TB, s *suite) (l *Link, record []byte) {
	l = fresh(s)
	p := peerOf(t, l)
	record = p.data(string(make([]byte, 128)))
	return l, record
}

func TestRecordsAllocateNothing(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l, record := steady(t, s)
		in, out := make([]byte, BufferBytes), make([]byte, 0, 1024)
		bufs := [][]byte{make([]byte, 64), make([]byte, 64)}
		if n := testing.AllocsPerRun(100, func() {
			if b, n, _, err := l.Seal(out, bufs); n != 128 || err != nil || len(b) < 128 {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Error("Seal allocates", n, "times")
		}
		if n := testing.AllocsPerRun(100, func() {
			l.in.number = 0
			k := l.Resume(in)
			if n, _, err := l.Open(in[:k+copy(in[k:], record)]); n != 128 || err != nil {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Error("Open allocates", n, "times")
		}
		// A record that comes in two.
		l.hold(make([]byte, 100))
		if n := testing.AllocsPerRun(100, func() {
			l.in.number = 0
			l.hold(record[:9])
			k := l.Resume(in)
			if n, _, err := l.Open(in[:k+copy(in[k:], append(record[9:], record[:9]...))]); n != 128 || err != nil {
				t.Fatal(n, err)
			}
		}); n > 1 {
			t.Error("half a record allocates", n, "times")
		}
	})
}

// A Link at rest is small: with thousands of idle clients it is what TLS costs.
func TestLinkAtRestIsSmall(t *testing.T) {
	size := unsafe.Sizeof(Link{})
	t.Logf("a Link is %d bytes", size)
	if size > 300 {
		t.Error("that is too large")
	}
	each(t, func(t *testing.T, s *suite) {
		const many = 1000
		links := make([]*Link, many)
		measure := func(f func(i int)) int {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.GC() // of the pools, too
			runtime.ReadMemStats(&before)
			for i := range links {
				f(i)
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			return int(math.Round((float64(after.HeapAlloc) - float64(before.HeapAlloc)) / many))
		}
		out := make([]byte, 0, 1024)
		text := [][]byte{make([]byte, 128)}
		rest := measure(func(i int) { links[i] = fresh(s) })
		used := measure(func(i int) {
			links[i].Seal(out, text)
			links[i].in.cipher(s)
		})
		dropped := measure(func(i int) {
			links[i].DropInCipher()
			links[i].DropOutCipher()
		})
		t.Logf("at rest %d bytes, in use %d more, with ciphers dropped %d", rest, used, rest+used+dropped)
		most := 320
		if s.chacha {
			most += 160 // which are kept
		}
		if rest+used+dropped > most {
			t.Errorf("at rest after use a Link is %d bytes", rest+used+dropped)
		}
		runtime.KeepAlive(links)
	})
}

func BenchmarkSeal(b *testing.B) {
	out := make([]byte, 0, BufferBytes)
	for _, size := range []int{128, MaxPlaintext} {
		bufs := [][]byte{make([]byte, size)}
		b.Run(fmt.Sprint("copy/", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				out = append(out[:0], bufs[0]...)
			}
		})
		for _, i := range []int{0, 1, 2, 3, 7} {
			s := &suites[i]
			b.Run(fmt.Sprint(s, "/", size), func(b *testing.B) {
				l := fresh(s)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					l.out.number &= 0xffff // or the key would wear out
					if _, n, _, err := l.Seal(out[:0], bufs); n != size || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkOpen opens the same record again and again, copied into a buffer as a read would.
func BenchmarkOpen(b *testing.B) {
	for _, i := range []int{0, 1, 2, 3, 7} {
		s := &suites[i]
		b.Run(s.String(), func(b *testing.B) {
			l, record := steady(b, s)
			in := make([]byte, BufferBytes)
			b.SetBytes(128)
			b.ReportAllocs()
			for b.Loop() {
				l.in.number = 0
				if n, _, err := l.Open(in[:copy(in, record)]); n != 128 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkSealAfterRest makes the cipher again each time.
func BenchmarkSealAfterRest(b *testing.B) {
	out := make([]byte, 0, BufferBytes)
	bufs := [][]byte{make([]byte, 128)}
	for _, i := range []int{0, 2, 3, 7} {
		s := &suites[i]
		b.Run(s.String(), func(b *testing.B) {
			l := fresh(s)
			b.ReportAllocs()
			for b.Loop() {
				l.out.number &= 0xffff
				l.DropOutCipher()
				l.Seal(out, bufs)
			}
		})
	}
}
