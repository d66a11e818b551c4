package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func newTestStore(t testing.TB) *Store {
	t.Helper()
	s, err := New(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A next is the process that finds what another has left.
type next struct {
	*Store
	t     *testing.T
	conns []Connection
}

// after opens copies of the store's files. Its descriptors are closed when the test ends.
func after(t *testing.T, s *Store) *next {
	t.Helper()
	n := &next{t: t}
	var err error
	if n.Store, n.conns, _, err = Open(copies(t, s.Files()...), func([]Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range n.conns {
			unix.Close(c.FD)
		}
		n.Close()
	})
	return n
}

// of returns what n has found of the connection.
func (n *next) of(k *Kept) Connection {
	n.t.Helper()
	for _, c := range n.conns {
		if c.Kept.id == k.id {
			return c
		}
	}
	n.t.Fatalf("connection %d is not among the %d that are found", k.id, len(n.conns))
	return Connection{}
}

// retain keeps all.
func (n *next) retain() {
	n.t.Helper()
	if err := n.Retain(func(*Kept, byte) bool { return true }); err != nil {
		n.t.Fatal(err)
	}
}

// known keeps a TCP connection and records something of it.
func known(t *testing.T, s *Store) (k *Kept, client *net.TCPConn) {
	t.Helper()
	client, _, fd := accepted(t)
	k, err := s.Keep(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Set('c', "", []byte("somebody")); err != nil {
		t.Fatal(err)
	}
	return k, client
}

// claim records, as no Store would, that the mark at a place is k's.
func claim(t *testing.T, k *Kept, place int) {
	t.Helper()
	if err := k.store.journal.Set(k.id, kindMark, "",
		binary.LittleEndian.AppendUint32(nil, uint32(place))); err != nil {
		t.Fatal(err)
	}
}

func wantNoMark(t *testing.T, c Connection) {
	t.Helper()
	if intact, err := c.Kept.Intact(c.FD); intact || !errors.Is(err, errNoMark) {
		t.Errorf("intact: %t, %v; want that it has no mark", intact, err)
	}
}

func wantIntact(t *testing.T, c Connection, want bool) {
	t.Helper()
	if intact, err := c.Kept.Intact(c.FD); intact != want || err != nil {
		t.Errorf("intact: %t, %v; want %t", intact, err, want)
	}
}

func TestConnectionIsFoundWithItsRecordsAndItsOwnMark(t *testing.T) {
	s := newTestStore(t)
	whole, _ := known(t, s)
	half, _ := known(t, s)
	for _, k := range []*Kept{whole, half} {
		if err := k.Set('s', "event", nil); err != nil {
			t.Fatal(err)
		}
		*k.Mark() = Mark{}
	}
	half.Mark().Read = 7
	if err := s.Set('k', "", []byte("key")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds what the first has made its own
		n := after(t, s)
		if len(n.conns) != 2 || n.Len() != 2 {
			t.Fatalf("%d connections are found and %d kept, want 2", len(n.conns), n.Len())
		}
		for _, k := range []*Kept{whole, half} {
			c := n.of(k)
			if len(c.Records) != 2 || string(c.Records[0].Value) != "somebody" || c.Records[1].Key != "event" {
				t.Errorf("got records %+v", c.Records)
			}
			wantIntact(t, c, k == whole)
		}
		n.of(half).Kept.Mark().Written = 5
		if *half.Mark() != (Mark{7, 5}) {
			t.Errorf("its mark is %+v, and another's is written", *half.Mark())
		}
		if err := n.Compact(); err != nil {
			t.Fatal(err)
		}
		n.retain()
		s = n.Store
	}
}

// A connection without a mark is not taken for intact, whatever the one that it takes says. That one is its own once
// Retain has recorded it.
func TestConnectionWithoutAMarkIsGivenOne(t *testing.T) {
	s := newTestStore(t)
	bare, _ := known(t, s)
	marked, _ := known(t, s)
	*marked.Mark() = Mark{}
	n := after(t, s)
	c := n.of(bare)
	wantNoMark(t, c)
	if c.Kept.Mark() == n.of(marked).Kept.Mark() {
		t.Fatal("two connections have one mark")
	}
	*c.Kept.Mark() = Mark{}
	wantNoMark(t, c)
	wantNoMark(t, after(t, s).of(bare)) // as if this process had died before it recorded anything
	n.retain()
	last := after(t, n.Store)
	wantIntact(t, last.of(bare), true)
	wantIntact(t, last.of(marked), true)

	// When no mark is free, it has none.
	m := last.marks
	for ok := true; ok; {
		_, ok = m.Take()
	}
	more, _ := known(t, last.Store)
	if more.Mark() != nil {
		t.Error("there is a mark more than there are")
	}
}

// A connection whose mark is not certain has none: two claim the same one, or there is no such mark.
func TestMarkThatIsNotCertainIsNobodys(t *testing.T) {
	s := newTestStore(t)
	a, _ := known(t, s)
	b, _ := known(t, s)
	c, _ := known(t, s)
	d, _ := known(t, s)
	claim(t, a, 3)
	claim(t, b, 3)
	claim(t, c, maxMarks)
	if err := s.journal.Set(d.id, kindMark, "", []byte{1}); err != nil {
		t.Fatal(err)
	}
	gone := &Kept{store: s, id: 1, place: -1} // a connection of which there is nothing else
	claim(t, gone, 5)
	n := after(t, s)
	taken := map[*Mark]bool{}
	for _, k := range []*Kept{a, b, c, d} {
		c := n.of(k)
		wantNoMark(t, c)
		if k != b {
			taken[c.Kept.Mark()] = true
		}
	}
	if len(taken) != 3 || taken[nil] {
		t.Errorf("three connections have %d marks", len(taken))
	}
	n.retain()
	_, records, err := reopen(t, n.journal)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(records, func(r Record) bool { return r.ID == gone.id }) {
		t.Error("the mark of nobody is still recorded")
	}
	last := after(t, n.Store)
	for _, k := range []*Kept{a, c, d} {
		wantIntact(t, last.of(k), true)
	}
	wantNoMark(t, last.of(b))
}

func TestConnectionWithoutADescriptorIsForgotten(t *testing.T) {
	s := newTestStore(t)
	gone := &Kept{store: s, id: 1, place: -1}
	claim(t, gone, 5)
	if err := gone.Set('c', "", nil); err != nil {
		t.Fatal(err)
	}
	n := after(t, s)
	if _, records, err := reopen(t, n.journal); len(n.conns) != 0 || len(records) != 0 || err != nil {
		t.Errorf("%d connections and %d records are left, %v", len(n.conns), len(records), err)
	}
	if place, ok := n.marks.Take(); place != 5 || !ok {
		t.Errorf("place %d is free, want 5", place)
	}
}

// A mark that is given back is the next one's, and nothing says any more that it was another's.
func TestMarkIsGivenBack(t *testing.T) {
	for name, giveBack := range map[string]func(k *Kept){
		"unmarked": func(k *Kept) {
			if err := k.Unmark(); err != nil {
				t.Fatal(err)
			}
		},
		"ended": func(k *Kept) {
			if err := k.End(); err != nil {
				t.Fatal(err)
			}
			k.Drop()
		},
		"dropped": func(k *Kept) { k.Drop() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t)
			first, _ := known(t, s)
			mark := first.Mark()
			*mark = Mark{}
			giveBack(first)
			second, _ := known(t, s)
			if second.Mark() != mark {
				t.Error("it is not the next one's")
			}
			n := after(t, s)
			wantIntact(t, n.of(second), true)
			for _, c := range n.conns {
				if c.Kept.id == first.id {
					wantNoMark(t, c)
				}
			}
			if first.Mark() == mark {
				t.Error("two connections have one mark")
			}
		})
	}
}

// A mark whose owner cannot be recorded is not given, and one whose end cannot be recorded is not taken away.
func TestFullStoreGivesNoMark(t *testing.T) {
	s := newTestStore(t)
	k, _ := known(t, s)
	marked, _ := known(t, s)
	mark := marked.Mark()
	*mark = Mark{}
	for _, size := range []int{1000, 0} {
		for n := 0; s.Set('x', fmt.Sprint(size, n), make([]byte, size)) == nil; n++ {
		}
	}
	if k.Mark() != nil {
		t.Error("a mark is given that is not recorded")
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, s.Limit()-s.journal.end-recordSize)
	if err := s.SetWithin(s.Limit(), 'x', "", rest); err != nil {
		t.Fatal(err)
	}
	if err := marked.Unmark(); !errors.Is(err, errFull) {
		t.Errorf("got %v, want that it is full", err)
	}
	if marked.Mark() != mark {
		t.Error("it has another mark")
	}
	wantIntact(t, after(t, s).of(marked), true)
}

// What keep does not want is gone, of connections and of none, and a connection whose records are gone is ended by the
// next process.
func TestRetainDeletesWhatIsNotWanted(t *testing.T) {
	s := newTestStore(t)
	stays, _ := known(t, s)
	goes, client := known(t, s)
	for _, k := range []*Kept{stays, goes} {
		k.Mark()
		if err := k.Set('r', "", nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []byte{'o', 'k'} {
		if err := s.Set(kind, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	n := after(t, s)
	unwanted := n.of(goes).Kept
	if err := n.Retain(func(k *Kept, kind byte) bool {
		return k != unwanted && kind != 'r' &&
			kind != 'o'
	}); err != nil {
		t.Fatal(err)
	}
	found, conns, general, err := Open(copies(t, n.Files()...), func([]Record) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if len(conns) != 1 || conns[0].Kept.id != stays.id || len(conns[0].Records) != 1 || len(general) != 1 ||
		general[0].Kind != 'k' {
		t.Errorf("got connections %+v, and %+v", conns, general)
	}
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer reads %d bytes, %v; want the end", n, err)
	}
	for _, c := range conns {
		wantIntact(t, c, true)
		unix.Close(c.FD)
	}
}

// A connection for which there is no room is ended, all that was known of it is deleted, and its mark is free.
func TestConnectionThatIsNotAdmittedIsEnded(t *testing.T) {
	s := newTestStore(t)
	first, _ := known(t, s)
	second, client := known(t, s)
	first.Mark()
	second.Mark()
	room := 1
	n, conns, _, err := Open(copies(t, s.Files()...), func(records []Record) bool {
		if len(records) != 1 || !bytes.Equal(records[0].Value, []byte("somebody")) {
			t.Errorf("asked for %+v", records)
		}
		room--
		return room >= 0
	})
	if n == nil || err == nil || len(conns) != 1 || conns[0].Kept.id != first.id {
		t.Fatalf("got %v, %v; want one connection and that the other is ended", conns, err)
	}
	defer n.Close()
	defer unix.Close(conns[0].FD)
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer reads %d bytes, %v; want the end", n, err)
	}
	if place, ok := n.marks.Take(); place != int(second.place) || !ok {
		t.Errorf("place %d is free, want %d", place, second.place)
	}
}

func TestDiscardedConnectionIsGone(t *testing.T) {
	s := newTestStore(t)
	k, client := known(t, s)
	k.Mark()
	n := after(t, s)
	n.of(k).Discard()
	n.conns = nil
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer reads %d bytes, %v; want the end", n, err)
	}
	if left := after(t, n.Store); len(left.conns) != 0 || left.Len() != 0 {
		t.Errorf("%d connections are found and %d kept", len(left.conns), left.Len())
	}
}

func TestConnectionThatIsNotKeptMayBeUsed(t *testing.T) {
	var k *Kept
	if k.Mark() != nil {
		t.Error("it has a mark")
	}
	if intact, err := k.Intact(-1); intact || !errors.Is(err, errNoMark) {
		t.Errorf("intact: %t, %v; want that it has no mark", intact, err)
	}
	if err := errors.Join(k.Set('c', "", nil), k.SetWithin(0, 'c', "", nil), k.Delete('c', ""), k.Unmark(),
		k.End()); err != nil {
		t.Error(err)
	}
	k.Drop()
}

func TestStoresOwnKindIsRefused(t *testing.T) {
	s := newTestStore(t)
	k, _ := known(t, s)
	for name, set := range map[string]func() error{
		"a connection's": func() error { return k.Set(kindMark, "", nil) },
		"within":         func() error { return k.SetWithin(1<<16, kindMark, "", nil) },
		"of none":        func() error { return s.Set(kindMark, "", nil) },
	} {
		if set() == nil {
			t.Errorf("%s: it is set", name)
		}
	}
}

// A connection's mark takes as many bytes as callers count on.
func TestMarkTakesMarkBytes(t *testing.T) {
	s := newTestStore(t)
	k, _ := known(t, s)
	before := s.journal.end
	k.Mark()
	k.Mark()
	if n := s.journal.end - before; n != MarkBytes {
		t.Errorf("it takes %d bytes, want %d", n, MarkBytes)
	}
	before = s.journal.end
	if err := errors.Join(k.Unmark(), k.Unmark()); err != nil {
		t.Fatal(err)
	}
	if n := s.journal.end - before; n > MarkBytes {
		t.Errorf("to give it back takes %d bytes, want %d at most", n, MarkBytes)
	}
}
