package handover

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func newTestJournal(t testing.TB, limit int) *journal {
	t.Helper()
	j, err := newJournal(limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// reopen opens a copy of the journal's file, as the next process would.
func reopen(t testing.TB, j *journal) (*journal, []Record, error) {
	t.Helper()
	f := copies(t, j.File())[0]
	next, records, err := openJournal(f)
	if next == nil {
		f.Close()
	} else {
		t.Cleanup(func() { next.Close() })
	}
	return next, records, err
}

// values is what a journal should have: by connection, kind and key.
type values map[string]string

func valueOf(id uint64, kind byte, key string) string { return fmt.Sprintf("%d %d %q", id, kind, key) }

func (v values) set(id uint64, kind byte, key, value string) { v[valueOf(id, kind, key)] = value }
func (v values) delete(id uint64, kind byte, key string)     { delete(v, valueOf(id, kind, key)) }
func (v values) end(id uint64) {
	prefix := strconv.FormatUint(id, 10) + " "
	maps.DeleteFunc(v, func(name, _ string) bool { return strings.HasPrefix(name, prefix) })
}

// valuesOf fails when one value is there twice.
func valuesOf(t testing.TB, records []Record) values {
	t.Helper()
	v := values{}
	for _, r := range records {
		v.set(r.ID, r.Kind, r.Key, string(r.Value))
	}
	if len(v) != len(records) {
		t.Errorf("of %d records some are the same value", len(records))
	}
	return v
}

func wantValues(t testing.TB, j *journal, want values) {
	t.Helper()
	_, records, err := reopen(t, j)
	if err != nil {
		t.Fatal(err)
	}
	if got := valuesOf(t, records); !maps.Equal(got, want) {
		t.Fatalf("got %d values, which are not those %d that were set", len(got), len(want))
	}
}

// aChange is one change of any kind.
type aChange struct {
	action byte
	id     uint64
	kind   byte
	key    string
	value  []byte
}

func newChange(a, b int) aChange {
	c := aChange{actionSet, uint64(a % 7), byte(a % 3), strconv.Itoa(b % 11),
		[]byte(strings.Repeat("v", a%50) + strconv.Itoa(b))}
	switch {
	case b%13 == 0:
		c.action = actionEnd
	case b%3 == 0:
		c.action = actionDelete
	}
	return c
}

// retain is an action that is not a record: all values of a kind are deleted at once.
const retain = 0xff

func (c aChange) in(j *journal) error {
	switch c.action {
	case retain:
		return j.Retain(func(_ uint64, kind byte) bool { return kind != c.kind })
	case actionEnd:
		return j.End(c.id)
	case actionDelete:
		return j.Delete(c.id, c.kind, c.key)
	}
	return j.Set(c.id, c.kind, c.key, c.value)
}

func (c aChange) of(v values) {
	switch c.action {
	case retain:
		mark := fmt.Sprintf(" %d ", c.kind)
		maps.DeleteFunc(v, func(name, _ string) bool { return strings.Contains(name, mark) })
	case actionEnd:
		v.end(c.id)
	case actionDelete:
		v.delete(c.id, c.kind, c.key)
	default:
		v.set(c.id, c.kind, c.key, string(c.value))
	}
}

// change makes a change, chosen by a and b, in both.
func change(j *journal, v values, a, b int) error {
	c := newChange(a, b)
	c.of(v)
	return c.in(j)
}

func TestNextProcessFindsWhatWasSet(t *testing.T) {
	j := newTestJournal(t, 1<<20)
	if _, records, err := reopen(t, j); len(records) != 0 || err != nil {
		t.Errorf("got %v, %v from an empty journal", records, err)
	}
	for _, err := range []error{
		j.Set(1, 'c', "", []byte("sensor")),
		j.Set(2, 'c', "", []byte("lamp")),
		j.Set(1, 's', "temp", nil),
		j.Set(1, 's', "door", nil),
		j.Delete(1, 's', "temp"),
		j.Delete(1, 's', "never"),
		j.Set(1, 'q', "", []byte("old")),
		j.End(2),
		j.Set(1, 'q', "", []byte("new")),
		j.Set(1<<63, 'c', strings.Repeat("k", 65535), bytes.Repeat([]byte("v"), 100_000)),
		j.End(3),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, records, err := reopen(t, j)
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{
		{1, 'c', "", []byte("sensor")},
		{1, 's', "door", nil},
		{1, 'q', "", []byte("new")},
		{1 << 63, 'c', strings.Repeat("k", 65535), bytes.Repeat([]byte("v"), 100_000)},
	}
	same := func(a, b Record) bool {
		return a.ID == b.ID && a.Kind == b.Kind && a.Key == b.Key && bytes.Equal(a.Value, b.Value)
	}
	if !slices.EqualFunc(records, want, same) {
		t.Errorf("got %.200v, want %.200v", records, want)
	}
	if err := j.Set(1, 's', strings.Repeat("k", 65536), nil); err == nil {
		t.Error("a key that is too long was set")
	}
	if err := j.Delete(1, 's', strings.Repeat("k", 65536)); err != nil {
		t.Errorf("delete what cannot be there: %v", err)
	}
}

func TestJournalGoesOnOverProcesses(t *testing.T) {
	j, want := newTestJournal(t, 1<<16), values{}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		for range 1000 {
			if err := change(j, want, rng.Int(), rng.Int()); err != nil {
				t.Fatal(err)
			}
		}
		next, records, err := reopen(t, j)
		if err != nil {
			t.Fatal(err)
		}
		if got := valuesOf(t, records); !maps.Equal(got, want) {
			t.Fatalf("round %d: got %d values, which are not those %d that were set", round, len(got), len(want))
		}
		j.Close()
		j = next
	}
}

// Many times the limit is written, with Run and then without.
func TestWasteIsCompactedAway(t *testing.T) {
	j, want := newTestJournal(t, 1<<20), values{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := j.Run(ctx, func(err error) { t.Error(err) }, 1<<20, func(int) {}); err != nil {
			t.Error(err)
		}
	})
	const other = 100 // a connection that the other changes do not touch
	for key := range 100 {
		want.set(other, 'k', strconv.Itoa(key), "stays")
		if err := j.Set(other, 'k', strconv.Itoa(key), []byte("stays")); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for n := range 300_000 {
		if n == 150_000 {
			cancel()
			running.Wait()
		}
		if err := change(j, want, rng.Int(), rng.Int()); err != nil {
			t.Fatal(err)
		}
	}
	wantValues(t, j, want)
	if err := j.Compact(); err != nil {
		t.Fatal(err)
	}
	wantValues(t, j, want)
	var stat unix.Stat_t
	if err := unix.Fstat(int(j.File().Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	if got, most := stat.Blocks*512, int64(3*allocateStep); got > most {
		t.Errorf("%d bytes of memory are used for %d of records; want at most %d", got, j.end, most)
	}
	cancel()
}

// What is changed while the journal is compacted is not lost between the areas.
func TestChangesWhileCompacting(t *testing.T) {
	j := newTestJournal(t, 1<<24)
	var writers, compacter sync.WaitGroup
	stop := make(chan struct{})
	compacter.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := j.Compact(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	want := make([]values, 4)
	for w := range want {
		want[w] = values{}
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(w)))
			for range 20_000 {
				if err := change(j, want[w], rng.Int()/7*7+w,
					rng.Int()); err != nil { // a writer has connections of its own
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	compacter.Wait()
	sum := values{}
	for _, v := range want {
		maps.Copy(sum, v)
	}
	wantValues(t, j, sum)
}

func TestFullJournalRefusesAndStillDeletes(t *testing.T) {
	j, want := newTestJournal(t, 1<<16), values{}
	n := 0
	for _, size := range []int{100, 0} { // room that is too small for the first fits the second
		for ; ; n++ {
			err := j.Set(uint64(n), 1, "", make([]byte, size))
			if errors.Is(err, errFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			want.set(uint64(n), 1, "", string(make([]byte, size)))
		}
	}
	wantValues(t, j, want)
	for range 10 { // more deletions than fit into what is reserved
		for id := range n {
			if err := j.Delete(uint64(id), 2, "not there"); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantValues(t, j, want)
	if err := j.End(0); err != nil {
		t.Fatal(err)
	}
	if err := j.Set(0, 1, "", nil); !errors.Is(err, errFull) && err != nil {
		t.Error(err)
	}
	for id := range n {
		if err := j.End(uint64(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Set(0, 1, "room", nil); err != nil {
		t.Errorf("with everything deleted: %v", err)
	}
}

// What is beyond a value's bound is for others.
func TestSetWithin(t *testing.T) {
	j := newTestJournal(t, 1<<16)
	const few, more = 1 << 14, 1 << 15
	sets := func(bytes int) (n int) {
		for ; ; n++ {
			if err := j.SetWithin(bytes, uint64(bytes+n), 1, "", make([]byte, 80)); err != nil {
				if !errors.Is(err, errFull) {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	if got := sets(few); got != few/100 {
		t.Errorf("%d values of 100 bytes within %d", got, few)
	}
	if got := sets(more); got != more/100-few/100 {
		t.Errorf("%d more within %d", got, more)
	}
	if got := sets(few); got != 0 {
		t.Errorf("%d more within %d again", got, few)
	}
	if got := sets(1 << 20); got != j.Limit()/100-more/100 {
		t.Errorf("%d more within more than there is", got)
	}
	for n := range few / 100 { // deleted room can be used again, however little it is
		if err := j.End(uint64(few + n)); err != nil {
			t.Fatal(err)
		}
	}
	if got := sets(1 << 20); got < few/100 {
		t.Errorf("%d more after %d were deleted", got, few/100)
	}
}

func TestRetainAllOrNothing(t *testing.T) {
	j, want := newTestJournal(t, 1<<20), values{}
	rng := rand.New(rand.NewPCG(8, 9))
	for n := range 20_000 {
		if err := change(j, want, rng.Int(), rng.Int()); err != nil {
			t.Fatal(err)
		}
		if n%1000 == 0 {
			c := aChange{action: retain, kind: byte(rng.IntN(4))}
			if err := c.in(j); err != nil {
				t.Fatal(err)
			}
			c.of(want)
			wantValues(t, j, want)
		}
	}
	j.area(j.current)[0]++
	if err := j.Retain(func(uint64, byte) bool { return true }); !errors.Is(err, errDamaged) {
		t.Errorf("of a damaged journal: %v", err)
	}
	if next, _, err := reopen(t, j); next != nil || !errors.Is(err, errDamaged) {
		t.Errorf("got %v, %v; want that it is refused", next, err)
	}
}

// Run reports that the journal is filling, once.
func TestRunTellsThatTheJournalFills(t *testing.T) {
	j := newTestJournal(t, 16<<20)
	const many = 4 << 20
	told := make(chan int, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { j.Run(ctx, func(err error) { t.Error(err) }, many, func(used int) { told <- used }) })
	next := uint64(0)
	set := func(bytes int) {
		for range bytes / 1024 {
			next++
			if err := j.Set(next, 1, "", make([]byte, 1024-recordSize)); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(many - compactMin)
	if n := len(told); n != 0 {
		t.Errorf("told %d times below that", n)
	}
	set(many / 2)
	if used := <-told; used < many || used > many+many/2 {
		t.Errorf("told at %d bytes, want %d", used, many)
	}
	set(many)
	cancel()
	running.Wait()
	if n := len(told); n != 0 {
		t.Errorf("told %d times more", n)
	}
}

// A change that could not be written makes all the rest untrue.
func TestJournalThatMissesADeleteIsVoid(t *testing.T) {
	j := newTestJournal(t, 1<<16)
	if err := j.Set(1, 1, "k", nil); err != nil {
		t.Fatal(err)
	}
	// Compacting must fail, and there is no room without it.
	j.area(0)[0]++
	j.limit = j.end
	if err := j.End(1); err == nil {
		t.Fatal("the end of a connection was written where there is no room")
	}
	if next, _, err := reopen(t, j); next != nil || !errors.Is(err, errDamaged) {
		t.Errorf("got %v, %v; want that it is refused", next, err)
	}
}

func TestClosedJournal(t *testing.T) {
	j := newTestJournal(t, 1<<16)
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	for _, err := range []error{j.Set(1, 1, "", nil), j.Delete(1, 1, ""), j.End(1), j.Compact()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v, want %v", err, os.ErrClosed)
		}
	}
}

func TestJournalThatIsNone(t *testing.T) {
	for _, limit := range []int{-1, 0, headerSize - 1, MaxJournal + 1} {
		if j, err := newJournal(limit); err == nil {
			j.Close()
			t.Errorf("a journal of %d bytes was made", limit)
		}
	}
	memfd := func(size int64, seals int) *os.File {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "test")
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		return f
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, f := range map[string]*os.File{
		"a device":      null,
		"not sealed":    memfd(headerSize+2*1<<16, 0),
		"empty":         memfd(0, memorySeals),
		"no header":     memfd(headerSize-1, memorySeals),
		"only a header": memfd(headerSize, memorySeals),
		"zeros":         memfd(headerSize+2*1<<16, memorySeals),
		"huge":          memfd(headerSize+4*MaxJournal, memorySeals),
	} {
		if j, records, err := openJournal(f); j != nil || records != nil || !errors.Is(err, errDamaged) {
			t.Errorf("%s: got %v, %v, %v; want %v", name, j, records, err, errDamaged)
		}
	}
	for name, tt := range map[string]struct {
		damage func(*header)
		want   error
	}{
		"from the future":      {func(h *header) { h.version++ }, errVersion},
		"other areas":          {func(h *header) { h.limit *= 2 }, errDamaged},
		"a third area":         {func(h *header) { h.current.Store(2) }, errDamaged},
		"an end that is not":   {func(h *header) { h.end[0].Store(1<<16 + 1) }, errDamaged},
		"an end far away":      {func(h *header) { h.end[0].Store(1<<32 - 1) }, errDamaged},
		"void":                 {func(h *header) { h.void.Store(1) }, errDamaged},
		"somebody else's file": {func(h *header) { h.magic[7]++ }, errDamaged},
	} {
		j := newTestJournal(t, 1<<16)
		tt.damage(j.head)
		if next, records, err := reopen(t, j); next != nil || records != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, %v, %v; want %v", name, next, records, err, tt.want)
		}
	}
}

// damaged checks that opening j yields the result of the first changes of the history, however many, that a loss is
// reported, and that the journal goes on from there. history[n] is the result of n changes.
func damaged(t *testing.T, j *journal, history []values) {
	t.Helper()
	next, records, err := reopen(t, j)
	if next == nil {
		if err == nil || records != nil {
			t.Errorf("got %d records, %v without a journal", len(records), err)
		}
		return
	}
	got := valuesOf(t, records)
	if !slices.ContainsFunc(history, func(v values) bool { return maps.Equal(v, got) }) {
		t.Errorf("got %v, which never was", got)
	}
	if err == nil && next.end == j.end && !maps.Equal(got, history[len(history)-1]) {
		t.Errorf("got %v without an error, want %v", got, history[len(history)-1])
	}
	got.set(1000, 1, "new", "value")
	if err := next.Set(1000, 1, "new", []byte("value")); err != nil {
		t.Error(err)
	}
	wantValues(t, next, got)
	if err := next.Compact(); err != nil {
		t.Error(err)
	}
	wantValues(t, next, got)
}

// historyOf makes a change for each two bytes.
func historyOf(t *testing.T, j *journal, changes []byte) []values {
	t.Helper()
	v := values{}
	history := []values{maps.Clone(v)}
	for c := range slices.Chunk(changes, 2) {
		if err := change(j, v, int(c[0]), int(c[len(c)-1])); err != nil {
			t.Fatal(err)
		}
		history = append(history, maps.Clone(v))
	}
	return history
}

func TestDamagedTail(t *testing.T) {
	changes := make([]byte, 60)
	for i := range changes {
		changes[i] = byte(i * 37)
	}
	whole := newTestJournal(t, headerSize)
	historyOf(t, whole, changes)
	end := whole.end
	for cut := range end { // the end is not where a record ends, or what stands there was never written
		j := newTestJournal(t, headerSize)
		history := historyOf(t, j, changes)
		clear(j.area(0)[cut:])
		damaged(t, j, history)
		j = newTestJournal(t, headerSize)
		history = historyOf(t, j, changes)
		j.head.end[0].Store(uint32(cut))
		damaged(t, j, history)
	}
}

// FuzzDamagedJournal flips bits of a journal, its header too.
func FuzzDamagedJournal(f *testing.F) {
	f.Add([]byte("some changes"), uint32(headerSize+5), byte(1))
	f.Add([]byte("some changes"), uint32(8), byte(3))
	f.Add([]byte("some changes"), uint32(20), byte(0x10))
	f.Add([]byte(""), uint32(headerSize), byte(0xff))
	f.Fuzz(func(t *testing.T, changes []byte, at uint32, flip byte) {
		j := newTestJournal(t, headerSize)
		history := historyOf(t, j, changes[:min(len(changes), 60)])
		j.mem[int(at)%len(j.mem)] ^= flip
		damaged(t, j, history)
	})
}

// FuzzOpenJournal opens what anybody may have written, and checks that the journal can go on from there.
func FuzzOpenJournal(f *testing.F) {
	j := newTestJournal(f, headerSize)
	if err := errors.Join(j.Set(1, 'c', "", []byte("sensor")), j.Set(1, 's', "temp", nil), j.Delete(1, 's', "temp"),
		j.End(2)); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(j.area(0)[:j.end]), uint32(j.end))
	f.Add([]byte{}, uint32(0))
	f.Add([]byte("no record"), uint32(9))
	f.Fuzz(func(t *testing.T, area []byte, end uint32) {
		j := newTestJournal(t, headerSize)
		copy(j.area(0), area)
		j.head.end[0].Store(end)
		next, records, err := reopen(t, j)
		if next == nil {
			if end <= headerSize || !errors.Is(err, errDamaged) {
				t.Errorf("refused: %v", err)
			}
			return
		}
		size := 0
		for _, r := range records {
			size += recordSize + len(r.Key) + len(r.Value)
		}
		if int64(size) > int64(end) {
			t.Errorf("%d bytes of records were read from %d", size, end)
		}
		if err := next.Compact(); err != nil {
			t.Error(err)
		}
		wantValues(t, next, valuesOf(t, records))
	})
}

func BenchmarkJournal(b *testing.B) {
	const clients = 8000
	fill := func(b *testing.B) *journal {
		j := newTestJournal(b, 1<<26)
		for id := range uint64(clients) {
			err := cmp.Or(j.Set(id, 'c', "", make([]byte, 100)), j.Set(id, 's', "sensors/temperature", nil),
				j.Set(id, 's', "lamp", nil))
			if err != nil {
				b.Fatal(err)
			}
		}
		return j
	}
	b.Run("subscribe", func(b *testing.B) {
		j := fill(b)
		for n := 0; b.Loop(); n++ {
			if err := j.Set(uint64(n%clients), 's', "sensors/temperature", nil); err != nil {
				b.Fatal(err)
			}
			if n%500_000 == 0 { // Run's work
				b.StopTimer()
				if err := j.Compact(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		}
	})
	b.Run("open 8000", func(b *testing.B) {
		j := fill(b)
		for b.Loop() {
			next, records, err := reopen(b, j)
			if err != nil || len(records) != 3*clients {
				b.Fatal(len(records), err)
			}
			next.Close()
		}
	})
	b.Run("compact 8000", func(b *testing.B) {
		j := fill(b)
		for b.Loop() {
			if err := j.Compact(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("state of 8000", func(b *testing.B) { // what a restart writes: 200 bytes for each
		state := make([]byte, 200)
		for b.Loop() {
			b.StopTimer()
			j := fill(b)
			b.StartTimer()
			for id := range uint64(clients) {
				if err := j.Set(id, 'q', "", state); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			j.Close()
			b.StartTimer()
		}
	})
}
