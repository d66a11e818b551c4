package tlsconn

import (
	"picloud/internal/handover"
	"picloud/internal/tlsrecord"
)

// A Secret is where a Stream notes what another process needs to go on with it, a *handover.Secret. It counts only
// where the direction is not at work: see tlsrecord.
type Secret interface {
	SetKey(d handover.Direction, key []byte)
	Key(d handover.Direction) []byte
	SetNumber(d handover.Direction, n uint64)
	Number(d handover.Direction) uint64
}

// Keep has the Stream note in secret all that there is, and from now on what changes: a new key at once, the writing
// side's number before anything that was sealed is sent, the reading side's in Rests. Neither side may be at work.
func (s *Stream) Keep(secret Secret) {
	s.secret = secret
	s.noteInKey()
	s.secret.SetNumber(handover.Reading, s.In())
	s.noteOut(true)
}

// Rests notes where the reading side stands, and reports whether nothing is unfinished there.
func (s *Stream) Rests() bool {
	if s.secret != nil {
		s.secret.SetNumber(handover.Reading, s.In())
	}
	return s.AtRest()
}

// noteInKey notes a new key of the reading side.
func (s *Stream) noteInKey() {
	var b [tlsrecord.KeyBytes]byte
	s.secret.SetKey(handover.Reading, s.AppendInKey(b[:0]))
	clear(b[:])
}

// noteOut notes what has been sealed, and its key if that is new.
func (s *Stream) noteOut(rekeyed bool) {
	if rekeyed {
		var b [tlsrecord.KeyBytes]byte
		s.secret.SetKey(handover.Writing, s.AppendOutKey(b[:0]))
		clear(b[:])
	}
	s.secret.SetNumber(handover.Writing, s.Out())
}

// Leave ends a Stream, neither side of which is at work, and returns what another process needs besides the secret. It
// reports false if the Stream is not kept, or if a side has ended: there is nothing to go on with.
func (s *Stream) Leave() (held, owed []byte, ok bool) {
	if s.secret == nil {
		return nil, nil, false
	}
	left, ok := s.Save()
	if !ok {
		return nil, nil, false
	}
	s.secret.SetKey(handover.Reading, left.InKey)
	s.secret.SetKey(handover.Writing, left.OutKey)
	s.secret.SetNumber(handover.Reading, left.In)
	s.secret.SetNumber(handover.Writing, left.Out)
	clear(left.InKey)
	clear(left.OutKey)
	return left.Held, left.Owed, true
}

// Restore makes a Stream of what another process has left: the secret and what Leave has returned, which is nothing if
// that process was killed while neither side was at work. It is not kept: see Keep.
func Restore(secret Secret, held, owed []byte) (*Stream, error) {
	l, err := tlsrecord.Restore(tlsrecord.Saved{
		InKey: secret.Key(handover.Reading), OutKey: secret.Key(handover.Writing),
		In: secret.Number(handover.Reading), Out: secret.Number(handover.Writing),
		Held: held, Owed: owed,
	})
	if err != nil {
		return nil, err
	}
	return New(l), nil
}
