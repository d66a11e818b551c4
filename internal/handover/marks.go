package handover

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Mark is where a connection's owner notes, in memory that outlives the process, where its streams stood when nothing
// was unfinished. Traffic tells whether they still stand there: see Kept.Intact.
//
// For a connection whose bytes the kernel does not count a word is 1 while its stream is being worked on, or
// unfinished.
//
// Each word has one writer at a time and is read by the next process, once this one is dead: what a processor had done
// before it was stopped is in memory then, in order, without a barrier, which would cost a delivery as much as
// everything else about a mark.
type Mark struct {
	Read    uint32 // bytes read at the end of a message, modulo 2^32
	Written uint32 // bytes written when nothing was left to be written
}

// marks holds the marks of all connections, by place, in a memfd that is mapped and stored. There are no more than fit
// into it.
type marks struct {
	memory

	mu   sync.Mutex
	next int
	free []int
}

const (
	marksName    = "marks"
	marksVersion = 1
	marksHeader  = 64
	markSize     = int(unsafe.Sizeof(Mark{}))
	maxMarks     = 1 << 16
	marksBytes   = marksHeader + maxMarks*markSize // allocated at once, so that no write to a mark can fail
)

var marksMagic = [8]byte{'P', 'i', 'C', 'l', 'o', 'u', 'd', 'M'}

type marksHead struct {
	magic   [8]byte
	version uint32
}

// newMarks returns marks of which none is taken.
func newMarks() (*marks, error) {
	mem, err := newMemory(marksName, marksBytes, marksBytes)
	if err != nil {
		return nil, fmt.Errorf("make the marks: %w", err)
	}
	m := &marks{memory: mem}
	*m.head() = marksHead{marksMagic, marksVersion}
	return m, nil
}

func (m *marks) head() *marksHead { return (*marksHead)(unsafe.Pointer(&m.mem[0])) }

// openMarks takes over the marks that another process has left in f, of which those at places are taken. After an error
// f is still the caller's.
func openMarks(f *os.File, places []int) (*marks, error) {
	mem, err := openMemory(f, marksBytes, marksBytes)
	if err != nil {
		return nil, fmt.Errorf("open the marks: %w", err)
	}
	m := &marks{memory: mem}
	switch h := m.head(); {
	case h.magic != marksMagic:
		err = errDamaged
	case h.version != marksVersion:
		err = fmt.Errorf("%w: %d", errVersion, h.version)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the marks: %w", err), unix.Munmap(m.mem))
	}
	taken := make(map[int]bool)
	for _, place := range places {
		taken[place] = true
		m.next = max(m.next, min(place, maxMarks-1)+1)
	}
	for place := m.next - 1; place >= 0; place-- {
		if !taken[place] {
			m.free = append(m.free, place)
		}
	}
	return m, nil
}

// Take returns a place whose mark is free, or false.
func (m *marks) Take() (place int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.free); n > 0 {
		place = m.free[n-1]
		m.free = m.free[:n-1]
		return place, true
	}
	if m.next == maxMarks {
		return 0, false
	}
	m.next++
	return m.next - 1, true
}

// Give gives a place back.
func (m *marks) Give(place int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = append(m.free, place)
}

// At returns the mark at a place, or nil where there is none.
func (m *marks) At(place int) *Mark {
	if place < 0 || place >= maxMarks {
		return nil
	}
	return (*Mark)(unsafe.Pointer(&m.mem[marksHeader+place*markSize]))
}

// intact is Kept.Intact for the connection whose mark it is.
func (m *Mark) intact(fd int) (bool, error) {
	read, written, err := Traffic(fd)
	if errors.Is(err, ErrNoTraffic) {
		return m.Read == 0 && m.Written == 0 && isUnix(fd), nil
	}
	return err == nil && m.Read == uint32(read) && m.Written == uint32(written), err
}

func isUnix(fd int) bool {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && family == unix.AF_UNIX
}
