package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Secret is what a connection with TLS needs to go on in another process: the key and the next record's number of
// each direction. It lies in memory that outlives the process, in one place, and is cleared there when the connection
// ends.
//
// Each direction has one writer at a time, and nothing here is changed at once. So what is here counts only where the
// connection's Mark says that the direction is not at work, or where a hand-over has said so.
type Secret struct {
	mem  []byte // secretSize
	slot int
}

// A Direction is one of a connection's two.
type Direction int

const (
	Reading Direction = iota
	Writing
)

// A secret's form. Numbers are little-endian, and a memfd never leaves the machine.
const (
	atOwner    = 0  // 8 bytes: the connection, 0: nobody's
	atNumbers  = 8  // 8 bytes for each direction
	atKeyBytes = 24 // 1 byte for each: the length of its key
	atKeys     = 32 // MaxKey bytes for each
	secretSize = 192

	// MaxKey is how long a key may be.
	MaxKey = 80
)

// SetKey replaces a direction's key, of MaxKey bytes at most.
func (s *Secret) SetKey(d Direction, key []byte) {
	b := s.mem[atKeys+int(d)*MaxKey:][:MaxKey]
	clear(b[copy(b, key):])
	s.mem[atKeyBytes+int(d)] = byte(len(key))
}

// Key returns a direction's key, which is the Secret's own memory.
func (s *Secret) Key(d Direction) []byte {
	n := min(int(s.mem[atKeyBytes+int(d)]), MaxKey)
	return s.mem[atKeys+int(d)*MaxKey:][:n:n]
}

// SetNumber notes the number of a direction's next record.
func (s *Secret) SetNumber(d Direction, n uint64) {
	binary.LittleEndian.PutUint64(s.mem[atNumbers+8*int(d):], n)
}

// Number returns it.
func (s *Secret) Number(d Direction) uint64 {
	return binary.LittleEndian.Uint64(s.mem[atNumbers+8*int(d):])
}

func (s *Secret) owner() uint64      { return binary.LittleEndian.Uint64(s.mem[atOwner:]) }
func (s *Secret) setOwner(id uint64) { binary.LittleEndian.PutUint64(s.mem[atOwner:], id) }

// secrets holds the Secrets of all connections that have one, in a memfd that is mapped and stored.
type secrets struct {
	memory

	mu        sync.Mutex
	allocated int // slots that have memory
	free      []int
}

const (
	secretsName    = "secrets"
	secretsVersion = 1
	secretsHeader  = 64
	maxSecrets     = 1 << 16
	secretsStep    = 256 // memory is allocated for so many at a time
	secretsBytes   = secretsHeader + maxSecrets*secretSize
)

var secretsMagic = [8]byte{'P', 'i', 'C', 'l', 'o', 'u', 'd', 'S'}

// newSecrets returns secrets of which there are none.
func newSecrets() (*secrets, error) {
	m, err := newMemory(secretsName, secretsBytes, secretsHeader)
	if err != nil {
		return nil, fmt.Errorf("make the secrets: %w", err)
	}
	s := &secrets{memory: m}
	copy(s.mem, secretsMagic[:])
	binary.LittleEndian.PutUint32(s.mem[8:], secretsVersion)
	return s, nil
}

// openSecrets takes over the secrets that another process has left in f, and returns those of the connections in
// owners. All others are cleared. After an error f is still the caller's.
func openSecrets(f *os.File, owners map[uint64]*Kept) (*secrets, error) {
	m, err := openMemory(f, secretsBytes, secretsBytes)
	if err != nil {
		return nil, fmt.Errorf("open the secrets: %w", err)
	}
	s := &secrets{memory: m}
	switch {
	case [8]byte(s.mem) != secretsMagic:
		err = errDamaged
	case binary.LittleEndian.Uint32(s.mem[8:]) != secretsVersion:
		err = fmt.Errorf("%w: %d", errVersion, binary.LittleEndian.Uint32(s.mem[8:]))
	}
	if err == nil {
		err = s.claim(owners)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the secrets: %w", err), unix.Munmap(s.mem))
	}
	return s, nil
}

// claim gives each of owners its secret. A connection that two claim has none.
func (s *secrets) claim(owners map[uint64]*Kept) error {
	// What has memory is found by looking for where the data ends: the rest reads as 0, and would get memory by that.
	n, err := unix.Seek(int(s.file.Fd()), secretsHeader, unix.SEEK_DATA)
	end := int64(secretsHeader)
	for err == nil {
		if end, err = unix.Seek(int(s.file.Fd()), n, unix.SEEK_HOLE); err == nil {
			n, err = unix.Seek(int(s.file.Fd()), end, unix.SEEK_DATA)
		}
	}
	if err != unix.ENXIO {
		return err
	}
	s.allocated = min(int(end-secretsHeader)/secretSize, maxSecrets)
	claimed := make(map[uint64]bool)
	for i := range s.allocated {
		secret := s.at(i)
		id := secret.owner()
		switch k := owners[id]; {
		case k == nil: // 0 is no connection
			s.give(secret)
		case claimed[id]:
			if k.secret != nil {
				s.give(k.secret)
				k.secret = nil
			}
			s.give(secret)
		default:
			claimed[id], k.secret = true, secret
		}
	}
	return nil
}

func (s *secrets) at(slot int) *Secret {
	from := secretsHeader + slot*secretSize
	return &Secret{s.mem[from : from+secretSize : from+secretSize], slot}
}

// take returns a secret for a connection, or nil where there is no memory for one more.
func (s *secrets) take(id uint64) *Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 && !s.grow() {
		return nil
	}
	last := len(s.free) - 1
	secret := s.at(s.free[last])
	s.free = s.free[:last]
	secret.setOwner(id)
	return secret
}

// grow gets memory for more: writing to memory that is not there would crash the process. mu must be held.
func (s *secrets) grow() bool {
	more := min(secretsStep, maxSecrets-s.allocated)
	if more == 0 {
		return false
	}
	if s.allocate(secretsHeader+s.allocated*secretSize, more*secretSize) != nil {
		return false
	}
	for i := range more {
		s.free = append(s.free, s.allocated+more-1-i)
	}
	s.allocated += more
	return true
}

// give clears a secret, which is nobody's any more.
func (s *secrets) give(secret *Secret) {
	clear(secret.mem)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, secret.slot)
}
