// Package handover keeps connections over the end of the process: their descriptors, what is known of them, and where their streams
// stood.
//
// All that lives in a few files that the service manager stores, and is whole whenever the process ends, however it ends. The package
// knows neither the manager nor what the records mean.
package handover

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Store is what outlives the process: a Vault, a Journal and Marks together. All its files have to be stored.
type Store struct {
	*descriptors
	*journal
	*marks
}

// Connection is one that is kept, with its records.
type Connection struct {
	ID      uint64
	FD      int // the receiver's to close, and kept until Drop
	Records []Record
}

// New returns an empty Store, whose journal has room for so many bytes.
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
	return &Store{d, j, m}, nil
}

// Owns reports whether a stored file of that name is one of a Store's. Another is a later version's, or somebody else's.
func Owns(name string) bool {
	return slices.Contains([]string{singlesName, batchesName, journalName, marksName}, name)
}

// Open takes over the Store whose files another process has left: the connections that have records and a descriptor, in the
// order in which the first record of each was made. Descriptors without records are shut down. Records of connection 0, which is
// none, are returned apart. admit tells from a connection's records which mark is its own, -1 for none, and whether there is room for
// it; it is asked once for each, in that order. One without room is ended.
//
// An error with a Store says what is missing. After one without, the files are closed.
func Open(files []*os.File, admit func([]Record) (mark int, ok bool)) (s *Store, conns []Connection, general []Record, err error) {
	var rest []*os.File
	var journal, marks *os.File
	for _, f := range files {
		switch {
		case f.Name() == journalName && journal == nil:
			journal = f
		case f.Name() == marksName && marks == nil:
			marks = f
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
	places := make(map[uint64]int)
	for _, r := range records {
		if r.ID == 0 {
			general = append(general, r)
			continue
		}
		i, ok := places[r.ID]
		if !ok {
			i = len(conns)
			places[r.ID] = i
			conns = append(conns, Connection{ID: r.ID, FD: -1})
		}
		conns[i].Records = append(conns[i].Records, r)
	}
	var taken []int
	var surplus []uint64
	for _, c := range conns {
		place, ok := admit(c.Records)
		if !ok {
			delete(places, c.ID)
			surplus = append(surplus, c.ID)
			continue
		}
		taken = append(taken, place)
	}
	m, err := openMarks(marks, taken)
	if err != nil {
		j.Close()
		return fail(jerr, err)
	}
	d, fds, verr := openDescriptors(rest, func(id uint64) bool { _, ok := places[id]; return ok })
	if d == nil {
		j.Close()
		m.Close()
		return fail(jerr, verr)
	}
	s = &Store{d, j, m}
	if len(surplus) > 0 {
		verr = errors.Join(verr, fmt.Errorf("%d connections are ended: this process may have fewer", len(surplus)))
	}
	conns = slices.DeleteFunc(conns, func(c Connection) bool {
		_, ok := fds[c.ID]
		if !ok {
			s.End(c.ID) // an error has made the journal void, and Set will say so
		}
		return !ok
	})
	for i := range conns {
		conns[i].FD = fds[conns[i].ID]
	}
	return s, conns, general, errors.Join(jerr, verr)
}

// Discard ends a connection that cannot be carried on: it is shut down, its descriptor closed and its records deleted.
func (s *Store) Discard(c Connection) {
	unix.Shutdown(c.FD, unix.SHUT_RDWR)
	s.Drop(c.ID)
	s.End(c.ID)
	unix.Close(c.FD)
}

// Files returns what has to be stored, under the files' names. They stay the Store's.
func (s *Store) Files() []*os.File {
	return append(s.descriptors.Files(), s.journal.file, s.marks.file)
}

// Close closes the Store's files. What is in them lives on where they are stored.
func (s *Store) Close() error {
	return errors.Join(s.descriptors.Close(), s.journal.Close(), s.marks.Close())
}
