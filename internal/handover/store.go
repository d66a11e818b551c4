// Package handover keeps connections across the end of the process: their descriptors, what is known of them, and where
// their streams stood.
//
// All of it lives in a few files that the service manager stores, and is whole whenever the process ends, however it
// ends. The package knows neither the manager nor what the records mean.
package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Store is what outlives the process. All its files have to be stored.
//
// Its methods are safe for concurrent use, except Retain and Close.
type Store struct {
	descriptors *descriptors
	journal     *journal
	marks       *marks
	secrets     *secrets // nil: none are kept
	secretive   bool     // new ones are

	// Of a Store that another process has left, until Retain.
	opened     map[uint64]*Kept // not nil
	unrecorded []*Kept          // those that have been given a mark
}

// New returns an empty Store for that many bytes of records, of which an eighth is reserved for deletions.
func New(journalBytes int) (*Store, error) {
	d, err := newDescriptors()
	if err != nil {
		return nil, err
	}
	j, err := newJournal(journalBytes)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	m, err := newMarks()
	if err != nil {
		return nil, errors.Join(err, d.Close(), j.Close())
	}
	return &Store{descriptors: d, journal: j, marks: m}, nil
}

// Owns reports whether a stored file of that name is one of a Store's. Any other is a later version's, or somebody
// else's.
func Owns(name string) bool {
	return slices.Contains([]string{singlesName, batchesName, journalName, marksName, secretsName}, name)
}

// Open takes over the Store whose files another process has left: the connections that have records and a descriptor,
// in the order in which the first record of each was made. Descriptors without records are shut down. Records of no
// connection are returned separately. admit tells from a connection's records whether there is room for it; it is
// called once for each, in that order. A connection without room is ended. Retain completes the takeover.
//
// An error returned with a Store says what is missing. After an error without one, the files are closed.
func Open(files []*os.File, admit func([]Record) bool) (s *Store, conns []Connection, general []Record, err error) {
	var rest []*os.File
	var journal, marks, secrets *os.File
	for _, f := range files {
		switch {
		case f.Name() == journalName && journal == nil:
			journal = f
		case f.Name() == marksName && marks == nil:
			marks = f
		case f.Name() == secretsName && secrets == nil:
			secrets = f
		default:
			rest = append(rest, f)
		}
	}
	fail := func(errs ...error) (*Store, []Connection, []Record, error) {
		for _, f := range files {
			f.Close()
		}
		return nil, nil, nil, errors.Join(errs...)
	}
	if journal == nil || marks == nil {
		return fail(fmt.Errorf("open the store: %w: %s or %s is missing", errDamaged, journalName, marksName))
	}
	j, records, jerr := openJournal(journal)
	if j == nil {
		return fail(jerr)
	}
	s = &Store{journal: j, opened: make(map[uint64]*Kept)}
	conns, general = s.sort(records)
	var taken []int
	surplus := 0
	conns = slices.DeleteFunc(conns, func(c Connection) bool {
		if !admit(c.Records) {
			delete(s.opened, c.Kept.id)
			s.journal.End(c.Kept.id) // an error has made the journal void, and Set will say so
			surplus++
			return true
		}
		taken = append(taken, int(c.Kept.place))
		return false
	})
	m, err := openMarks(marks, taken)
	if err != nil {
		j.Close()
		return fail(jerr, err)
	}
	d, fds, derr := openDescriptors(rest, func(id uint64) bool { return s.opened[id] != nil })
	if d == nil {
		j.Close()
		m.Close()
		return fail(jerr, derr)
	}
	s.descriptors, s.marks = d, m
	if surplus > 0 {
		derr = errors.Join(derr, fmt.Errorf("%d connections are ended: this process may have fewer", surplus))
	}
	conns = slices.DeleteFunc(conns, func(c Connection) bool {
		_, ok := fds[c.Kept.id]
		if !ok {
			delete(s.opened, c.Kept.id)
			c.Kept.End()
			c.Kept.Unmark()
		}
		return !ok
	})
	for i := range conns {
		conns[i].FD = fds[conns[i].Kept.id]
	}
	var serr error
	if secrets != nil { // what belongs to none of those that are left is cleared
		if s.secrets, serr = openSecrets(secrets, s.opened); serr != nil {
			secrets.Close()
		}
	}
	return s, conns, general, errors.Join(jerr, derr, serr)
}

// sort makes connections from an opened journal's records. A place that two connections claim is the mark of neither.
func (s *Store) sort(records []Record) (conns []Connection, general []Record) {
	indices := make(map[uint64]int)
	claims := make(map[int][]uint64) // by place
	for _, r := range records {
		switch {
		case r.Kind == kindMark:
			if place, ok := placeOf(r); ok {
				claims[place] = append(claims[place], r.ID)
			}
			continue
		case r.ID == 0:
			general = append(general, r)
			continue
		}
		i, ok := indices[r.ID]
		if !ok {
			i = len(conns)
			indices[r.ID] = i
			s.opened[r.ID] = &Kept{store: s, id: r.ID, place: -1}
			conns = append(conns, Connection{Kept: s.opened[r.ID], FD: -1})
		}
		conns[i].Records = append(conns[i].Records, r)
	}
	for place, ids := range claims {
		if k := s.opened[ids[0]]; k != nil && len(ids) == 1 {
			k.place, k.recorded = int32(place), true
		}
	}
	return conns, general
}

// Retain makes an opened Store this process's: it deletes all values but those that keep wants, all at once, so that
// whenever the process ends, either all of the others are there or none is; then it records whose the new marks are.
// keep is called with nil for what belongs to no connection. Until then the next process finds what this one has found,
// except for connections that have been ended. Retain is called once, while nothing else is done with the Store. After
// an error no process will open it.
func (s *Store) Retain(keep func(k *Kept, kind byte) bool) error {
	if s.opened == nil {
		return nil
	}
	err := s.journal.Retain(func(id uint64, kind byte) bool {
		k := s.opened[id]
		if kind == kindMark { // may also be all that there was of a connection, or another's
			return k != nil && k.recorded
		}
		return keep(k, kind)
	})
	for _, k := range s.unrecorded {
		if k.place >= 0 {
			k.record() // without room it is like a connection that has no mark
		}
	}
	s.opened, s.unrecorded = nil, nil
	return err
}

// Set sets the value of that kind and key that belongs to no connection. It copies value. After an error the old value
// is still there.
func (s *Store) Set(kind byte, key string, value []byte) error {
	return s.set(s.journal.room(), 0, kind, key, value)
}

// SetWithin is to Set what Kept's is to Kept's Set.
func (s *Store) SetWithin(bytes int, kind byte, key string, value []byte) error {
	return s.set(bytes, 0, kind, key, value)
}

func (s *Store) set(within int, id uint64, kind byte, key string, value []byte) error {
	if kind == kindMark {
		return fmt.Errorf("journal a value: the kind %q is the store's own", kind)
	}
	return s.journal.SetWithin(within, id, kind, key, value)
}

// Limit is how many bytes of records the Store can hold.
func (s *Store) Limit() int { return s.journal.Limit() }

// Len returns how many sockets are kept.
func (s *Store) Len() int { return s.descriptors.Len() }

// Compact frees what is no longer of use. Changes wait only while those that were made meanwhile are copied.
func (s *Store) Compact() error { return s.journal.Compact() }

// Run compacts the records whenever it is worth it, until ctx ends. onFailure is called when that fails, which does no
// harm until the room is used up. onFilling is called with the bytes in use when they have reached many, and again only
// after they have fallen below half of that.
func (s *Store) Run(ctx context.Context, onFailure func(error), many int, onFilling func(used int)) error {
	return s.journal.Run(ctx, onFailure, many, onFilling)
}

// KeepSecrets says whether connections may have secrets from now on; at first they may not. If that takes a file that
// is new, keep is to have it stored. After an error they may not.
func (s *Store) KeepSecrets(on bool, keep func(*os.File) error) error {
	s.secretive = on
	if !on || s.secrets != nil {
		return nil
	}
	made, err := newSecrets()
	if err == nil {
		if err = keep(made.file); err == nil {
			s.secrets = made
			return nil
		}
		err = errors.Join(err, made.Close())
	}
	s.secretive = false
	return err
}

// KeepsSecrets reports whether new connections may have secrets. It is not for use beside KeepSecrets.
func (s *Store) KeepsSecrets() bool { return s.secretive }

// Files returns the files that have to be stored, under their names. They still belong to the Store.
func (s *Store) Files() []*os.File {
	files := append(s.descriptors.Files(), s.journal.file, s.marks.file)
	if s.secrets != nil {
		files = append(files, s.secrets.file)
	}
	return files
}

// Close closes the Store's files. What is in them lives on where they are stored.
func (s *Store) Close() error {
	err := errors.Join(s.descriptors.Close(), s.journal.Close(), s.marks.Close())
	if s.secrets != nil {
		err = errors.Join(err, s.secrets.Close())
	}
	return err
}
