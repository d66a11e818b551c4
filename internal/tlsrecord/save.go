package tlsrecord

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// Saved is what a Link consists of. A Link at rest that owes nothing is its keys and two numbers.
type Saved struct {
	InKey, OutKey []byte // by AppendInKey and AppendOutKey: secret
	In, Out       uint64 // the next records' numbers
	Held          []byte `json:",omitempty"` // see appendHeld
	Owed          []byte `json:",omitempty"` // what has been sealed and not been sent
}

// KeyBytes is the most that a key takes in its form.
const KeyBytes = keyFixed + maxSecret + keySum

// The form of a direction's key. All numbers are big-endian:
//
//	1 byte   keyForm
//	1 byte   direction, 'i' or 'o'
//	2 bytes  cipher suite
//	8 bytes  half.first
//	4 bytes  half.updates
//	         half.secret, as long as the suite's secrets are
//	4 bytes  CRC-32C of all that
const (
	keyForm  = 1
	keyFixed = 16
	keySum   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendInKey appends the key of the reading side. It changes only where Open has said so. With an array of KeyBytes
// that is cleared afterwards no copy of the secret is left behind.
func (l *Link) AppendInKey(b []byte) []byte { return l.in.appendKey(b, l.suite, 'i') }

// AppendOutKey appends the key of the writing side. It changes only where Seal has said so.
func (l *Link) AppendOutKey(b []byte) []byte { return l.out.appendKey(b, l.suite, 'o') }

func (h *half) appendKey(b []byte, s *suite, direction byte) []byte {
	at := len(b)
	b = append(b, keyForm, direction)
	b = binary.BigEndian.AppendUint16(b, s.id)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = binary.BigEndian.AppendUint32(b, h.updates.Load())
	b = append(b, h.secret[:s.secret()]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

var errKey = errors.New("it is no key")

// parseKey reads what appendKey has written.
func (h *half) parseKey(b []byte, direction byte) (*suite, error) {
	if len(b) < keyFixed+keySum {
		return nil, errKey
	}
	if b[0] != keyForm {
		return nil, fmt.Errorf("its form is %d and not %d", b[0], keyForm)
	}
	end := len(b) - keySum
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return nil, errors.New("it is damaged")
	}
	if b[1] != direction {
		return nil, errors.New("it is the other direction's")
	}
	s := suiteOf(binary.BigEndian.Uint16(b[2:]))
	if s == nil {
		return nil, fmt.Errorf("its suite %#04x is not known here", binary.BigEndian.Uint16(b[2:]))
	}
	if end-keyFixed != s.secret() {
		return nil, errKey
	}
	h.first = binary.BigEndian.Uint64(b[4:])
	h.updates.Store(binary.BigEndian.Uint32(b[12:]))
	copy(h.secret[:], b[keyFixed:end])
	return s, nil
}

// Save returns the Link in a form that outlives the process, and ends it, since no number may be used in two places. It
// reports false for a Link of which a side has ended.
func (l *Link) Save() (Saved, bool) {
	if l.ended || l.closed {
		return Saved{}, false
	}
	l.ended, l.closed = true, true
	return Saved{
		InKey:  l.AppendInKey(make([]byte, 0, KeyBytes)),
		OutKey: l.AppendOutKey(make([]byte, 0, KeyBytes)),
		In:     l.In(),
		Out:    l.Out(),
		Held:   l.appendHeld(nil),
		Owed:   slices.Clone(l.owed),
	}, true
}

// Restore makes a Link of what Save has returned, or of what was noted of one: keys by AppendInKey and AppendOutKey,
// and numbers from when it was at rest and owed nothing. It copies what it needs. An error says what it refuses; what
// it cannot see is noticed by the peer, or by Open, and ends the connection.
func Restore(sv Saved) (*Link, error) {
	l := new(Link)
	err := l.restore(sv)
	if err != nil {
		l.Wipe()
		return nil, fmt.Errorf("restore a TLS connection: %w", err)
	}
	return l, nil
}

func (l *Link) restore(sv Saved) error {
	in, err := l.in.parseKey(sv.InKey, 'i')
	if err != nil {
		return fmt.Errorf("its reading key: %w", err)
	}
	out, err := l.out.parseKey(sv.OutKey, 'o')
	if err != nil {
		return fmt.Errorf("its writing key: %w", err)
	}
	if in != out {
		return errors.New("its keys are of two suites")
	}
	if sv.In < l.in.first || sv.Out < l.out.first {
		return fmt.Errorf("its numbers are %d and %d, before %d and %d, where their keys begin",
			sv.In, sv.Out, l.in.first, l.out.first)
	}
	l.suite, l.in.number, l.out.number = in, sv.In, sv.Out
	if err := l.parseHeld(sv.Held); err != nil {
		return fmt.Errorf("what it holds: %w", err)
	}
	l.owed = slices.Clone(sv.Owed)
	return nil
}

const heldForm = 1

// appendHeld appends what the reading side holds besides key and number, or nothing if that is nothing:
//
//	1 byte   heldForm
//	1 byte   Link.useless
//	1 byte   length of a piece of KeyUpdate
//	         that piece
//	         the beginning of a record, to the end
func (l *Link) appendHeld(b []byte) []byte {
	if l.AtRest() && l.useless == 0 {
		return b
	}
	b = append(b, heldForm, l.useless, l.messages)
	b = append(b, l.message[:l.messages]...)
	return append(b, l.held...)
}

// parseHeld reads what appendHeld has written. The suite is known.
func (l *Link) parseHeld(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if b[0] != heldForm {
		return fmt.Errorf("its form is %d and not %d", b[0], heldForm)
	}
	const fixed = 3
	if len(b) < fixed || b[1] > maxUseless || int(b[2]) > len(l.message) || len(b) < fixed+int(b[2]) {
		return errors.New("it is damaged")
	}
	message, record := b[fixed:fixed+b[2]], b[fixed+b[2]:]
	if len(message) > 0 && (message[0] != keyUpdate || !l.suite.tls13) {
		return errors.New("a message in it is none that a client may send")
	}
	if whole, err := l.whole(record); whole != nil || err != nil {
		return errors.New("the record in it is none that is unfinished")
	}
	l.useless, l.messages = b[1], b[2]
	copy(l.message[:], message)
	l.hold(record)
	return nil
}
