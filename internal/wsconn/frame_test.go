package wsconn

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

func TestHeaderFormsAtTheirBounds(t *testing.T) {
	for _, tt := range []struct {
		n      int
		header []byte // after the first byte
	}{
		{0, []byte{0}},
		{1, []byte{1}},
		{125, []byte{125}},
		{126, []byte{126, 0, 126}},
		{127, []byte{126, 0, 127}},
		{65535, []byte{126, 0xff, 0xff}},
		{65536, []byte{127, 0, 0, 0, 0, 0, 1, 0, 0}},
		{1 << 20, []byte{127, 0, 0, 0, 0, 0, 0x10, 0, 0}},
	} {
		payload := bytes.Repeat([]byte("x"), tt.n)
		want := slices.Concat([]byte{0x81}, tt.header, payload)
		var a Arena
		got := a.Text(payload)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got header % x, want % x", tt.n, got[:len(got)-tt.n], want[:len(want)-tt.n])
		}
		if n := frameLen(got); n != len(want) {
			t.Errorf("%d bytes: got frame length %d, want %d", tt.n, n, len(want))
		}
		if got := appendFrame([]byte("before"), opPong, payload); !bytes.Equal(got[7:], want[1:]) ||
			string(got[:7]) != "before\x8a" {
			t.Errorf("%d bytes: appended as % x…", tt.n, got[:min(len(got), 20)])
		}
	}
}

func TestArenaFramesLieOneBehindTheOther(t *testing.T) {
	var a Arena
	var all []byte
	first := a.Text([]byte("one"))
	all = append(all, first...)
	end := len(first)
	for _, text := range []string{"", "two", "three"} {
		f := a.Text([]byte(text))
		if &first[:end+1][end] != &f[0] {
			t.Errorf("%q does not lie behind the frame before it", text)
		}
		end += len(f)
		all = append(all, f...)
	}
	if !bytes.Equal(first[:end], all) {
		t.Errorf("the run reads % x, want % x", first[:end], all)
	}
}

// A large frame must not keep an arena alive, nor an arena a large frame.
func TestLargeFrameHasMemoryOfItsOwn(t *testing.T) {
	for _, n := range []int{arenaLarge - 10, arenaLarge - 9, arenaSize, 4 * arenaSize} {
		var a Arena
		small := a.Text([]byte("small"))
		used := len(a.buf)
		large := a.Text(make([]byte, n))
		if inArena := len(a.buf) != used; inArena != (n+10 <= arenaLarge) {
			t.Errorf("%d bytes: in the arena: %t", n, inArena)
		}
		after := a.Text([]byte("after"))
		if !bytes.Equal(small, appendFrame(nil, opText, []byte("small"))) ||
			!bytes.Equal(after, appendFrame(nil, opText, []byte("after"))) ||
			!bytes.Equal(large, appendFrame(nil, opText, make([]byte, n))) {
			t.Errorf("%d bytes: frames disturb each other", n)
		}
	}
}

func TestFullArenaIsLeftToItsFrames(t *testing.T) {
	var a Arena
	var frames [][]byte
	payload := make([]byte, 1000)
	for i := range uint32(200) {
		binary.BigEndian.PutUint32(payload, i)
		frames = append(frames, a.Text(payload))
	}
	for i, f := range frames {
		binary.BigEndian.PutUint32(payload, uint32(i))
		if !bytes.Equal(f, appendFrame(nil, opText, payload)) {
			t.Fatalf("frame %d has been overwritten", i)
		}
	}
}

// Only memory that nothing refers to is overwritten.
func TestArenaMemoryIsUsedAgain(t *testing.T) {
	var a Arena
	held := a.Text([]byte("held"))
	a.Flushed(false)
	first := a.Text([]byte("first"))
	a.Text(make([]byte, 100))
	a.Flushed(true)
	for range 2 * arenaSize / 1000 {
		again := a.Text(make([]byte, 1000))
		if &again[0] != &first[0] {
			t.Fatal("a frame does not lie where those lay that are free")
		}
		a.Flushed(true)
	}
	a.Text(make([]byte, arenaSize-2000)) // which gets memory of its own
	for len(a.buf)+1010 <= cap(a.buf) {
		a.Text(make([]byte, 1000))
	}
	a.Text(make([]byte, 1000)) // in a new arena
	a.Flushed(true)
	if len(a.buf) != 0 {
		t.Errorf("%d bytes of the second arena are kept from those of the first", len(a.buf))
	}
	if want := appendFrame(nil, opText, []byte("held")); !bytes.Equal(held, want) {
		t.Errorf("a frame that a queue refers to became % x, want % x", held, want)
	}
}
