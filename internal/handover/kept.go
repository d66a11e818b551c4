package handover

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Kept is one connection that a Store keeps. A nil Kept is a connection that ends with the process: its methods do
// nothing.
//
// Set, SetWithin and Delete are safe for concurrent use; the others may be called by one goroutine at a time.
type Kept struct {
	store    *Store
	id       uint64
	place    int32 // of its mark, or -1
	recorded bool  // the journal says that the mark is this connection's
	secret   *Secret
}

// kindMark is the kind of the Store's own records: one for each connection with a mark, which tells its place.
//
// A mark is only worth what is noted in it. An older version notes nothing there, but leaves this record alone, since
// it does not know its kind. So no connection that such a version may serve has one: Unmark deletes it before anything
// is recorded from which the connection can be kept without its mark, and a mark that is taken for an opened connection
// is recorded by Retain, when nothing of that sort is left.
const kindMark = 'm'

// MarkBytes is how many bytes a connection's mark takes in the journal, and how many it takes at most to give it back.
const MarkBytes = recordSize + 4

// placeOf reads a record of kindMark.
func placeOf(r Record) (place int, ok bool) {
	if r.Key != "" || len(r.Value) != 4 {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(r.Value)
	return int(n), n < maxMarks
}

// Keep keeps a socket. An error leaves everything as it was: the socket does not outlive the process.
//
// The descriptor is used until Drop, or until the same socket is kept by another descriptor, a duplicate. A socket that
// is kept stays open after the caller's close, and in the caller's epoll sets: to end it, take it out of those, shut
// both its sides down, Drop it, then close it, in this order.
func (s *Store) Keep(fd int) (*Kept, error) {
	id, err := s.descriptors.Put(fd)
	if err != nil {
		return nil, err
	}
	return &Kept{store: s, id: id, place: -1}, nil
}

// Mark returns the connection's mark, and takes one if it has none yet, in which another connection may have left
// something. It returns nil when no mark is free, or when there is no room to record whose it is. For a connection that
// Open has returned, Retain records it.
func (k *Kept) Mark() *Mark {
	if k == nil {
		return nil
	}
	m := k.store.marks
	if k.place < 0 {
		place, ok := m.Take()
		if !ok {
			return nil
		}
		k.place = int32(place)
		if k.store.opened != nil {
			k.store.unrecorded = append(k.store.unrecorded, k)
		} else if err := k.record(); err != nil {
			k.Unmark()
			return nil
		}
	}
	return m.At(int(k.place))
}

// record lets the next process know whose the mark is.
func (k *Kept) record() error {
	var value [4]byte
	binary.LittleEndian.PutUint32(value[:], uint32(k.place))
	err := k.store.journal.Set(k.id, kindMark, "", value[:])
	k.recorded = err == nil
	return err
}

// Secret returns the connection's secret, and takes one if it has none yet. It returns nil when the Store keeps none,
// or when there is no memory for one more.
func (k *Kept) Secret() *Secret {
	if k == nil {
		return nil
	}
	if k.secret == nil && k.store.secretive {
		k.secret = k.store.secrets.take(k.id)
	}
	return k.secret
}

// IsSecret reports whether the connection has a secret.
func (k *Kept) IsSecret() bool { return k != nil && k.secret != nil }

// Unmark gives the mark back. If the process is killed after that, the connection is not taken for intact: only
// something else that is recorded of it can carry it on. After an error it still has its mark.
func (k *Kept) Unmark() error {
	if k == nil || k.place < 0 {
		return nil
	}
	if k.recorded {
		if err := k.store.journal.TryDelete(k.id, kindMark, ""); err != nil {
			return err
		}
		k.recorded = false
	}
	k.store.marks.Give(int(k.place))
	k.place = -1
	return nil
}

var errNoMark = errors.New("it has no mark")

// Intact reports whether a connection that Open has returned, and whose process has been killed, was not in the middle
// of anything: no message was half read, and nothing was left to be written. It is an error if the connection had no
// mark of its own. Intact must be called before anything is noted in the mark.
func (k *Kept) Intact(fd int) (bool, error) {
	if k == nil || !k.recorded {
		return false, errNoMark
	}
	return k.store.marks.At(int(k.place)).intact(fd)
}

// Set sets the connection's value of that kind and key. It copies value. After an error the old value is still there.
func (k *Kept) Set(kind byte, key string, value []byte) error {
	if k == nil {
		return nil
	}
	return k.store.set(k.store.journal.room(), k.id, kind, key, value)
}

// SetWithin is Set for a value that may only be set while all values of all connections together take no more than that
// many bytes of Limit: the rest is for others.
func (k *Kept) SetWithin(bytes int, kind byte, key string, value []byte) error {
	if k == nil {
		return nil
	}
	return k.store.set(bytes, k.id, kind, key, value)
}

// Delete deletes a value, which need not be there. After an error no process will open the Store.
func (k *Kept) Delete(kind byte, key string) error {
	if k == nil {
		return nil
	}
	return k.store.journal.Delete(k.id, kind, key)
}

// End deletes all values of the connection, so that the next process ends it if this one ends before Drop. After an
// error no process will open the Store.
func (k *Kept) End() error {
	if k == nil {
		return nil
	}
	k.recorded = false
	return k.store.journal.End(k.id)
}

// Drop stops keeping the socket, whose descriptor may be closed after that.
func (k *Kept) Drop() {
	if k == nil {
		return
	}
	k.Unmark() // should that fail, the mark is not given to another
	k.forget()
	k.store.descriptors.Drop(k.id)
}

// forget clears the connection's secret.
func (k *Kept) forget() {
	if k.secret != nil {
		k.store.secrets.give(k.secret)
		k.secret = nil
	}
}

// Connection is a connection that another process has left.
type Connection struct {
	Kept    *Kept
	FD      int // the receiver's to close, and used until Drop
	Records []Record
}

// Discard ends a connection that cannot be kept: it is shut down, its descriptor closed and its records deleted.
func (c Connection) Discard() {
	unix.Shutdown(c.FD, unix.SHUT_RDWR)
	c.Kept.End() // an error has made the journal void, and Set will say so
	c.Kept.Drop()
	unix.Close(c.FD)
}
