package handover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxJournal is how many bytes a Store can be made for at most: what 32 bits can map twice.
const MaxJournal = 1 << 29

// journal keeps small values where they outlive the process: in a memfd that is mapped and stored. A value belongs to a
// connection, and has a kind and a key, which the journal only compares.
//
// A change is appended, and counts once the word that tells the end is moved behind it: a single store, which is either
// made or not, whenever the process ends. The file has two areas. When the current one is mostly waste, what is of use
// is copied into the other, and one word makes that the current one.
//
// Its methods are safe for concurrent use. Those that make a change take well under a microsecond, unless memory must
// be allocated for it, or Run has not kept up.
type journal struct {
	memory
	head *header
	due  chan struct{} // 1: it is time to compact

	compacting sync.Mutex // taken before mu

	mu        sync.Mutex
	current   uint32
	end       int // of the current area; head has the same
	allocated int // of the current area: how much has memory
	base      int // of the current area: how much was of use when it became current
	dueAt     int
	limit     int
	many      int // when the current area has grown to this, Run is to report it
	closed    bool
}

// header is the beginning of the file. Its words are in the machine's own order: a memfd never leaves the machine.
type header struct {
	magic   [8]byte
	version uint32
	limit   uint32           // an area's size
	current atomic.Uint32    // 0 or 1
	end     [2]atomic.Uint32 // of each area
	void    atomic.Uint32    // not 0: what is here is no longer true
}

const (
	journalName    = "journal"
	journalVersion = 1
	headerSize     = 4096    // a page; on machines with larger ones, the first area shares it
	allocateStep   = 1 << 18 // memory is allocated in such steps
	compactMin     = 1 << 18 // less waste than this is left alone
)

var magic = [8]byte{'P', 'i', 'C', 'l', 'o', 'u', 'd', 'J'}

// A record is
//
//	uint32 CRC-32C of what follows
//	uint32 length of the whole record
//	uint64 connection
//	byte   what is done
//	byte   kind
//	uint16 length of the key
//	key, value
//
// in little-endian order. kind, length and key stand together: they are what a value is found by.
const (
	atLength   = 4
	atID       = 8
	atAction   = 16
	atKind     = 17
	atKey      = 20
	recordSize = atKey // without key and value
)

const (
	actionSet    = 1
	actionDelete = 2 // one value
	actionEnd    = 3 // all of a connection
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is a value that was set.
type Record struct {
	ID    uint64 // the connection
	Kind  byte   // any but 'm', which is the Store's own
	Key   string
	Value []byte
}

// newJournal returns an empty journal for that many bytes, of which an eighth is reserved for deletions. Memory is used
// for what is in it and its waste, twice while compacting; at most it is twice the limit.
func newJournal(limit int) (*journal, error) {
	if limit < headerSize || limit > MaxJournal {
		return nil, fmt.Errorf("make a journal of %d bytes: 4 KiB to 512 MiB are possible", limit)
	}
	limit = (limit + headerSize - 1) / headerSize * headerSize
	m, err := newMemory(journalName, headerSize+2*limit, headerSize)
	if err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	j := journalIn(m)
	j.head.version, j.head.limit, j.limit = journalVersion, uint32(limit), limit
	j.dueAt = compactMin
	j.head.magic = magic // last: without it the file is not a journal
	return j, nil
}

func journalIn(m memory) *journal {
	return &journal{memory: m, head: (*header)(unsafe.Pointer(&m.mem[0])), due: make(chan struct{}, 1)}
}

// openJournal takes over the journal that another process has left in f, and goes on with it. It returns the values
// that were set and neither deleted nor ended, in the order in which they were set. Their Values are pieces of one
// copy.
//
// An error returned with a journal, errDamaged, says that changes are missing from some point on: the records are those
// before it, and may be out of date. After an error without a journal f is still the caller's.
func openJournal(f *os.File) (*journal, []Record, error) {
	j, err := checkJournal(f)
	if err != nil {
		return nil, nil, fmt.Errorf("open the journal: %w", err)
	}
	used := slices.Clone(j.area(j.current)[:j.end]) // the records are made of it
	spans, whole := live(used)
	records := make([]Record, len(spans))
	for i, s := range spans {
		b := used[s.from:s.to:s.to]
		key := atKey + int(binary.LittleEndian.Uint16(b[atKind+1:]))
		records[i] = Record{binary.LittleEndian.Uint64(b[atID:]), b[atKind], string(b[atKey:key]), b[key:]}
		j.base += len(b)
	}
	j.dueAt = 2*j.base + compactMin
	if whole < j.end {
		err = fmt.Errorf("open the journal: %w: after %d of %d bytes, with %d values", errDamaged, whole, j.end,
			len(records))
	}
	j.end, j.allocated = whole, whole
	return j, records, err
}

// checkJournal checks what must be right before anything else is read.
func checkJournal(f *os.File) (*journal, error) {
	m, err := openMemory(f, headerSize, headerSize+2*MaxJournal)
	if err != nil {
		return nil, err
	}
	j := journalIn(m)
	h := j.head
	switch {
	case h.magic != magic:
		err = fmt.Errorf("%w: it is no journal", errDamaged)
	case h.version != journalVersion:
		err = fmt.Errorf("%w: %d", errVersion, h.version)
	case headerSize+2*int64(h.limit) != int64(len(j.mem)):
		err = fmt.Errorf("%w: it has %d bytes, and areas of %d", errDamaged, len(j.mem), h.limit)
	case h.void.Load() != 0:
		err = fmt.Errorf("%w: it could not be kept up to date", errDamaged)
	case h.current.Load() > 1 || h.end[h.current.Load()].Load() > h.limit:
		err = fmt.Errorf("%w: its end is outside", errDamaged)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(j.mem))
	}
	j.limit = int(h.limit)
	j.current = h.current.Load()
	j.end = int(h.end[j.current].Load())
	return j, nil
}

// span is where a record stands.
type span struct{ from, to int }

// live finds the records of an area that still count, and how far the area is whole.
func live(b []byte) (spans []span, whole int) {
	places := map[uint64]map[string]int{} // in spans, by connection, and by kind and key
	for whole < len(b) {
		rest := b[whole:]
		if len(rest) < recordSize {
			break
		}
		n := binary.LittleEndian.Uint32(rest[atLength:])
		if n < recordSize || n > uint32(len(rest)) {
			break
		}
		r := rest[:n]
		key := atKey + int(binary.LittleEndian.Uint16(r[atKind+1:]))
		action := r[atAction]
		if key > len(r) || action < actionSet || action > actionEnd ||
			crc32.Checksum(r[atLength:], castagnoli) != binary.LittleEndian.Uint32(r) {
			break
		}
		id := binary.LittleEndian.Uint64(r[atID:])
		values := places[id]
		if action == actionEnd {
			for _, i := range values {
				spans[i] = span{}
			}
			delete(places, id)
		} else {
			if i, ok := values[string(r[atKind:key])]; ok {
				spans[i] = span{}
			}
			if action == actionDelete {
				delete(values, string(r[atKind:key]))
			} else {
				if values == nil {
					values = map[string]int{}
					places[id] = values
				}
				values[string(r[atKind:key])] = len(spans)
				spans = append(spans, span{whole, whole + len(r)})
			}
		}
		whole += len(r)
	}
	return slices.DeleteFunc(spans, func(s span) bool { return s == span{} }), whole
}

// File returns the file that has to be stored, under its name. It still belongs to the journal.
func (j *journal) File() *os.File { return j.file }

// Close ends the use of the journal. What is in it lives on where the file is stored.
func (j *journal) Close() error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	return j.memory.Close()
}

// Limit is how many bytes the journal can hold.
func (j *journal) Limit() int { return j.limit }

// room is how many of them Set may fill: the rest is reserved for deletions.
func (j *journal) room() int { return j.limit - j.limit/8 }

// Size is how many bytes one value takes.
func Size(key string, value []byte) int { return recordSize + len(key) + len(value) }

// Set sets a connection's value of that kind and key. It copies value. After an error, such as errFull, the old value
// is still there.
func (j *journal) Set(id uint64, kind byte, key string, value []byte) error {
	return j.SetWithin(j.room(), id, kind, key, value)
}

// SetWithin is Set for a value that may only be set while all values together take no more than that many bytes of
// Limit: the rest is for others. Deletions always have room as long as some of the limit is left to them.
func (j *journal) SetWithin(bytes int, id uint64, kind byte, key string, value []byte) error {
	if len(key) > math.MaxUint16 || len(value) > MaxJournal {
		return fmt.Errorf("journal a value: a key of %d bytes and a value of %d are too long", len(key), len(value))
	}
	if err := j.change(min(bytes, j.limit), actionSet, id, kind, key, value); err != nil {
		return fmt.Errorf("journal a value of connection %d: %w", id, err)
	}
	return nil
}

// Delete deletes a value, which need not be there. After an error the journal is void: no process will open it.
func (j *journal) Delete(id uint64, kind byte, key string) error {
	return j.remove(actionDelete, id, kind, key)
}

// End deletes all values of a connection. After an error the journal is void: no process will open it.
func (j *journal) End(id uint64) error { return j.remove(actionEnd, id, 0, "") }

// TryDelete is Delete, except that after an error the value is still there.
func (j *journal) TryDelete(id uint64, kind byte, key string) error {
	if err := j.change(j.limit, actionDelete, id, kind, key, nil); err != nil {
		return fmt.Errorf("journal the end of a value of connection %d: %w", id, err)
	}
	return nil
}

func (j *journal) remove(action byte, id uint64, kind byte, key string) error {
	if len(key) > math.MaxUint16 {
		return nil // nobody can have set it
	}
	if err := j.change(j.limit, action, id, kind, key, nil); err != nil {
		j.abandon()
		return fmt.Errorf("journal the end of a value of connection %d: %w", id, err)
	}
	return nil
}

// abandon makes the journal void: what it says is no longer true.
func (j *journal) abandon() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.head.void.Store(1)
	}
}

// change appends a record, if the area then holds no more than within bytes. When there is no room it compacts, which
// Run should have done before.
func (j *journal) change(within int, action byte, id uint64, kind byte, key string, value []byte) error {
	err := j.append(within, action, id, kind, key, value)
	if !errors.Is(err, errFull) {
		return err
	}
	j.mu.Lock()
	waste := j.end - j.base
	j.mu.Unlock()
	if action == actionSet && waste < within/16 {
		return err // compacting for so little each time would take up all the time
	}
	if err := j.Compact(); err != nil {
		return err
	}
	return j.append(within, action, id, kind, key, value)
}

func (j *journal) append(within int, action byte, id uint64, kind byte, key string, value []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return os.ErrClosed
	}
	n := Size(key, value)
	if n > within-j.end {
		return fmt.Errorf("%w: %d of %d bytes are used", errFull, j.end, within)
	}
	if j.end+n > j.allocated {
		allocated, err := j.allocate(j.current, j.allocated, j.end+n)
		if err != nil {
			return err
		}
		j.allocated = allocated
	}
	b := j.area(j.current)[j.end : j.end+n]
	binary.LittleEndian.PutUint32(b[atLength:], uint32(n))
	binary.LittleEndian.PutUint64(b[atID:], id)
	b[atAction], b[atKind] = action, kind
	binary.LittleEndian.PutUint16(b[atKind+1:], uint16(len(key)))
	copy(b[atKey:], key)
	copy(b[atKey+len(key):], value)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[atLength:], castagnoli))
	j.end += n
	j.head.end[j.current].Store(uint32(j.end)) // from here on it counts
	if j.end >= j.dueAt {
		j.dueAt = j.end + compactMin
		select {
		case j.due <- struct{}{}:
		default:
		}
	}
	return nil
}

func (j *journal) area(n uint32) []byte {
	from := headerSize + int(n)*j.limit
	return j.mem[from : from+j.limit : from+j.limit]
}

// allocate makes sure that the area has memory between two offsets and some beyond, and returns how far. Writing to
// memory that is not there would crash the process.
func (j *journal) allocate(area uint32, from, to int) (int, error) {
	to = min((to/allocateStep+1)*allocateStep, j.limit)
	if to <= from {
		return from, nil
	}
	if err := j.memory.allocate(headerSize+int(area)*j.limit+from, to-from); err != nil {
		return 0, err
	}
	return to, nil
}

// Run compacts the journal whenever it is worth it, until ctx ends. onFailure is called when that fails, which does no
// harm until the journal is full. onFilling is called with the bytes in use when they have reached many, and again only
// after they have fallen below half of that.
func (j *journal) Run(ctx context.Context, onFailure func(error), many int, onFilling func(used int)) error {
	j.mu.Lock()
	j.many = many
	j.mu.Unlock()
	told := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-j.due:
			if err := j.Compact(); err != nil {
				onFailure(err)
				continue
			}
			j.mu.Lock()
			used := j.base
			j.mu.Unlock()
			switch {
			case used >= many && !told:
				told = true
				onFilling(used)
			case used < many/2:
				told = false
			}
		}
	}
}

// Compact frees what is no longer of use. Changes wait only while those that were made meanwhile are copied.
func (j *journal) Compact() error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	if err := j.compact(nil); err != nil {
		return fmt.Errorf("compact the journal: %w", err)
	}
	return nil
}

// Retain deletes all values but those that keep wants, all at once: whenever the process ends, either all of the others
// are there or none is. Nothing may be changed meanwhile. After an error the journal is void: no process will open it.
func (j *journal) Retain(keep func(id uint64, kind byte) bool) error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	if err := j.compact(keep); err != nil {
		j.abandon()
		return fmt.Errorf("delete values from the journal: %w", err)
	}
	return nil
}

func (j *journal) compact(keep func(id uint64, kind byte) bool) error {
	j.mu.Lock()
	closed, from, seen := j.closed, j.current, j.end
	j.mu.Unlock()
	if closed {
		return os.ErrClosed
	}
	// What is before the end is no longer written to, and nothing else makes another area current.
	old, to := j.area(from), 1-from
	spans, whole := live(old[:seen])
	if whole < seen {
		return fmt.Errorf("%w: after %d of %d bytes", errDamaged, whole, seen)
	}
	if keep != nil {
		spans = slices.DeleteFunc(spans, func(s span) bool {
			return !keep(binary.LittleEndian.Uint64(old[s.from+atID:]), old[s.from+atKind])
		})
	}
	use := 0
	for _, s := range spans {
		use += s.to - s.from
	}
	allocated, err := j.allocate(to, 0, use)
	if err != nil {
		return err
	}
	fresh := j.area(to)
	at := 0
	for _, s := range spans {
		at += copy(fresh[at:], old[s.from:s.to])
	}
	if err := j.switchTo(to, use, allocated, seen); err != nil {
		return err
	}
	// Gives the memory back; if that fails, the next compaction overwrites it.
	unix.Fallocate(int(j.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(headerSize+int(from)*j.limit), int64(j.limit))
	return nil
}

// switchTo makes the other area, with used bytes in it, the current one; what the old one has behind seen is appended.
func (j *journal) switchTo(to uint32, used, allocated, seen int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	end := used + j.end - seen
	if end > allocated {
		var err error
		if allocated, err = j.allocate(to, allocated, end); err != nil {
			return err
		}
	}
	copy(j.area(to)[used:end], j.area(j.current)[seen:j.end])
	j.head.end[to].Store(uint32(end))
	j.head.current.Store(to)
	j.current, j.end, j.allocated, j.base = to, end, allocated, used
	j.dueAt = 2*used + compactMin
	if used < j.many {
		j.dueAt = min(j.dueAt, max(j.many, used+used/8+compactMin)) // to report it
	}
	return nil
}
