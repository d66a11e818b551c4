package torture

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// A verdict is what is wrong with a record.
type verdict string

const (
	right   verdict = ""
	twice   verdict = "its number was used for another record"
	again   verdict = "it has come before"
	skipped verdict = "it is not the one that follows"
	sealed  verdict = "it opens under no number"
)

// A judge opens every record that the server sends on one connection, in order.
type judge struct {
	keys   []*key // the last is the one in use
	number uint64 // of the next record under that
	seen   map[used][32]byte

	records int // that were right
}

// keyUpdate is the message with which the server changes its key, RFC 8446 §4.6.3.
const keyUpdate = "\x18\x00\x00\x01\x00"

// used is what may be used once.
type used struct {
	key   int
	nonce [12]byte
}

func newJudge(k *key, number uint64) *judge {
	return &judge{keys: []*key{k}, number: number, seen: map[used][32]byte{}}
}

// take judges a record.
func (j *judge) take(record []byte) (kind byte, plain []byte, v verdict) {
	at := len(j.keys) - 1
	sum := sha256.Sum256(record)
	kind, plain, ok := j.keys[at].open(j.number, record)
	if !ok {
		return 0, nil, j.search(record, sum)
	}
	if v := j.repeats(at, j.number, record, sum); v != right {
		return 0, nil, v
	}
	j.number++
	j.records++
	if kind == handshake && string(plain) == keyUpdate && j.keys[at].tls13 {
		j.keys = append(j.keys, j.keys[at].next())
		j.number = 0
	}
	return kind, plain, right
}

// repeats notes that a number has been used.
func (j *judge) repeats(at int, n uint64, record []byte, sum [32]byte) verdict {
	u := used{at, [12]byte(j.keys[at].nonce(n, record[5:]))}
	was, ok := j.seen[u]
	switch {
	case ok && was != sum:
		return twice
	case ok:
		return again
	}
	j.seen[u] = sum
	return right
}

// search finds out what a record is that is not the one to come.
func (j *judge) search(record []byte, sum [32]byte) verdict {
	keys := j.keys
	if last := keys[len(keys)-1]; last.tls13 {
		keys = append(keys[:len(keys):len(keys)], last.next())
	}
	for at := len(keys) - 1; at >= 0; at-- {
		// In TLS 1.2 a record says its nonce itself, whether it opens or not.
		if k := keys[at]; k.explicit > 0 && len(record) >= 5+k.explicit {
			if v := j.repeats(at, 0, record, sum); v != right {
				return v
			}
		}
		for n := range j.number + 1000 {
			if _, _, ok := keys[at].open(n, record); !ok {
				continue
			}
			if at < len(j.keys) && keys[at].explicit == 0 {
				if v := j.repeats(at, n, record, sum); v != right {
					return v
				}
			}
			return skipped
		}
	}
	return sealed
}

// Findings are what was found wrong, by kind.
type findings struct {
	mu   sync.Mutex
	all  []string
	some chan struct{} // closed by the first
}

func newFindings() *findings { return &findings{some: make(chan struct{})} }

func (f *findings) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == 0 {
		close(f.some)
	}
	f.all = append(f.all, fmt.Sprintf(format, args...))
}

func (f *findings) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.all, "\n")
}

// count is how many findings say that.
func (f *findings) count(what string) int { return strings.Count(f.String(), what) }

// The judge finds what it is there to find, and nothing else.
func TestJudgeKnowsEveryFault(t *testing.T) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			size := s.key + 12 - s.explicit
			if s.tls13 {
				size = s.hash().Size()
			}
			k := newKey(s, make([]byte, size))
			first, second := k.seal(0, data, []byte("first")), k.seal(1, data, []byte("second"))
			third := k.seal(2, data, []byte("third"))
			for name, tt := range map[string]struct {
				records [][]byte
				want    verdict
			}{
				"in order":              {[][]byte{first, second, third}, right},
				"a number twice":        {[][]byte{first, second, k.seal(0, data, []byte("other"))}, twice},
				"the last number twice": {[][]byte{first, second, k.seal(1, data, []byte("other!"))}, twice},
				"a record again":        {[][]byte{first, second, first}, again},
				"one left out":          {[][]byte{first, third}, skipped},
				"a broken record":       {[][]byte{first, breaks(second)}, sealed},
			} {
				j := newJudge(k, 0)
				for i, r := range tt.records {
					_, _, v := j.take(r)
					if want := tt.want; i == len(tt.records)-1 && v != want || i < len(tt.records)-1 && v != right {
						t.Errorf("%s, record %d: %q, want %q", name, i, v, want)
					}
				}
			}
			if s.tls13 {
				update := k.seal(1, handshake, []byte{24, 0, 0, 1, 0})
				for name, tt := range map[string]struct {
					record []byte
					want   verdict
				}{
					"the next key":        {k.next().seal(0, data, []byte("x")), right},
					"the old key":         {k.seal(2, data, []byte("x")), skipped},
					"the old key, number": {k.seal(0, data, []byte("x")), twice},
					"a key too many":      {k.next().next().seal(0, data, []byte("x")), skipped},
				} {
					j := newJudge(k, 0)
					j.take(first)
					if _, _, v := j.take(update); v != right {
						t.Errorf("KeyUpdate: %q", v)
					}
					if _, _, v := j.take(tt.record); v != tt.want {
						t.Errorf("%s: %q, want %q", name, v, tt.want)
					}
				}
			} else if s.explicit > 0 {
				forged := k.seal(1, data, []byte("x"))
				binary.BigEndian.PutUint64(forged[5:], 0)
				j := newJudge(k, 0)
				j.take(first)
				if _, _, v := j.take(forged); v != twice {
					t.Errorf("a nonce that a record says twice: %q", v)
				}
			}
		})
	}
}

// breaks returns a record with another last byte.
func breaks(record []byte) []byte {
	b := append([]byte(nil), record...)
	b[len(b)-1] ^= 1
	return b
}
