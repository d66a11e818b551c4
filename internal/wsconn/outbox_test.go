package wsconn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func queued(o *outbox) []byte { return slices.Concat(append([][]byte{o.first}, o.rest...)...) }

func TestFramesOfABurstMergeToOneSlice(t *testing.T) {
	var a, b Arena
	var o outbox
	var want []byte
	for range 100 {
		f := a.Text([]byte("of one publisher"))
		o.push(f, false)
		want = append(want, f...)
	}
	if bufs := o.head(make([][]byte, 0, 8)); len(bufs) != 1 || !bytes.Equal(bufs[0], want) {
		t.Errorf("a burst lies in %d slices of %d bytes, want 1 of %d", len(bufs), o.size, len(want))
	}
	o.took(len(want) - 5) // writing stops in the middle of a frame, and the burst goes on
	o.push(a.Text([]byte("more")), false)
	if bufs := o.head(make([][]byte, 0, 8)); len(bufs) != 1 {
		t.Errorf("what a burst adds to a half-written one lies in %d slices, want 1", len(bufs))
	}
	o.push(b.Text([]byte("of another publisher")), false)
	a.Text([]byte("for another client"))
	o.push(a.Text([]byte("behind that")), false)
	if bufs := o.head(make([][]byte, 0, 8)); len(bufs) != 3 {
		t.Errorf("frames that do not lie one behind the other are in %d slices, want 3", len(bufs))
	}
	if bufs := o.head(make([][]byte, 0, 2)); len(bufs) != 2 {
		t.Errorf("got %d slices where there is room for 2", len(bufs))
	}
}

// Two frames that lie back to back in an arena may each be queued twice, or in reverse order.
func TestOnlyTheNextFrameMerges(t *testing.T) {
	var a Arena
	first, second := a.Text([]byte("first")), a.Text([]byte("second"))
	var o outbox
	var want []byte
	for _, f := range [][]byte{second, first, first, second, second} {
		o.push(f, false)
		want = append(want, f...)
	}
	if got := queued(&o); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCutLeavesTheRestOfAHalfWrittenFrame(t *testing.T) {
	own := func(text string) []byte { return appendFrame(nil, opText, []byte(text)) }
	one := own("first")
	var a Arena
	for name, frame := range map[string]func(string) []byte{
		"apart": own, "in one run": func(text string) []byte { return a.Text([]byte(text)) },
	} {
		for _, tt := range []struct {
			took int
			want string
		}{
			{0, ""},
			{1, string(one[1:])},
			{len(one) - 1, "t"},
			{len(one), ""},
			{len(one) + 3, "econd"},
		} {
			var o outbox
			for _, text := range []string{"first", "second", "third"} {
				o.push(frame(text), false)
			}
			o.took(tt.took)
			o.cut()
			if got := queued(&o); string(got) != tt.want || o.size != len(got) {
				t.Errorf("%s, after %d bytes: got %q (size %d), want %q", name, tt.took, got, o.size, tt.want)
				continue
			}
			o.push(frame("goodbye"), false)
			o.took(len(tt.want))
			if got := queued(&o); !bytes.Equal(got, own("goodbye")) {
				t.Errorf("%s, after %d bytes: the next frame is %q", name, tt.took, got)
			}
			o.cut()
			if o.size != 0 || len(queued(&o)) != 0 {
				t.Errorf("%s, after %d bytes: a whole frame survives the cut", name, tt.took)
			}
		}
	}
}

func TestEmptyOutboxHoldsNoMemory(t *testing.T) {
	for _, n := range []int{1, 3, 100} {
		var o outbox
		for range n {
			o.push(appendFrame(nil, opText, []byte("x")), false)
		}
		o.took(o.size)
		if o.first != nil || len(o.rest) != 0 || cap(o.rest) > 4 || o.left != 0 {
			t.Errorf("what %d frames leave in an outbox that has emptied: %+v, room for %d", n, o, cap(o.rest))
		}
		for _, b := range o.rest[:cap(o.rest)] {
			if b != nil {
				t.Errorf("of %d written frames one is still referred to", n)
			}
		}
	}
}

// If the outbox says that it does not refer to a frame's memory, that may be overwritten at once.
func TestOutboxSaysWhetherItRefersToAFrame(t *testing.T) {
	var a Arena
	var o outbox
	var want []byte
	for n, tt := range []struct{ stalled, another, refers bool }{
		{false, false, true},
		{true, false, true},  // follows the one before: its arena is kept anyway
		{true, true, false},  // another's frame lies between
		{true, false, false}, // goes behind the copy
		{false, false, false},
		{false, true, true}, // there is no room left in the copy's chunk
		{true, true, false},
	} {
		if tt.another {
			a.Text([]byte("another's"))
		}
		frame := a.Text(bytes.Repeat([]byte{'0' + byte(n)}, 10+n*900))
		want = append(want, frame...)
		refers := o.push(frame, tt.stalled)
		if refers != tt.refers {
			t.Errorf("frame %d: refers to its memory: %t, want %t", n, refers, tt.refers)
		}
		if !refers {
			clear(frame)
		}
	}
	if got := slices.Concat(append([][]byte{o.first}, o.rest...)...); !bytes.Equal(got, want) {
		t.Error("what is to be sent has changed since it was queued")
	}
}

func TestStalledOutboxIsCopiedOnce(t *testing.T) {
	var a Arena
	var o outbox
	for range 10 {
		o.push(a.Text([]byte("lent")), false)
		a.Text([]byte("another's"))
	}
	lent := &o.first[0]
	o.own()
	own := &o.first[0]
	if own == lent {
		t.Error("a stalled outbox refers to an arena")
	}
	for range 10 {
		o.push(a.Text([]byte("copied")), true)
		o.own()
	}
	if &o.first[0] != own {
		t.Error("what was the outbox's own is copied again")
	}
	if n := 1 + len(o.rest); n != 11 {
		t.Errorf("small frames are gathered in %d slices, want 11", n)
	}
	o.push(a.Text(make([]byte, arenaLarge-10)), false)
	o.own()
	if &o.first[0] == own {
		t.Error("an outbox that has borrowed again is not copied")
	}
}

// FuzzOutbox compares two outboxes, which share their publishers' frames, with plain lists of frames.
func FuzzOutbox(f *testing.F) {
	f.Add([]byte{})
	random := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{30, 300, 600} {
		program := make([]byte, n)
		for i := range program {
			program[i] = byte(random.Uint32())
		}
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		program = program[:min(len(program), 600)] // the cost of a step grows with what is queued
		var arenas [3]Arena
		var boxes [2]outbox
		var models [2]model
		check := func(step int, what string) {
			for i := range boxes {
				if err := models[i].compare(&boxes[i]); err != nil {
					t.Fatalf("step %d, %s: outbox %d: %v", step, what, i, err)
				}
			}
		}
		stalled := [2]bool{}
		for step := 0; len(program) >= 3; step++ {
			op, x, y := program[0]%16, int(program[1]), int(program[2])
			program = program[3:]
			which := x % 2
			o, m := &boxes[which], &models[which]
			switch op {
			default: // a publish to one of them, or to both
				payload := bytes.Repeat([]byte{byte(step)}, frameSize(x, y))
				frame := arenas[x%len(arenas)].Text(payload)
				for i := range boxes {
					if y%3 == i {
						continue
					}
					boxes[i].push(frame, stalled[i])
					models[i].push(frame)
				}
				check(step, "push")
			case 10: // a control frame
				frame := appendFrame(nil, opPong, bytes.Repeat([]byte{'p'}, y%126))
				o.push(frame, stalled[which])
				m.push(frame)
				check(step, "push of a pong")
			case 11, 12: // the socket takes a part of what it is given
				given := 0
				if o.size == 0 {
					continue
				}
				for _, b := range o.head(make([][]byte, 0, 8)) {
					given += len(b)
				}
				n := given
				if op == 11 {
					n = (x<<8 + y) % (given + 1)
				}
				o.took(n)
				m.took(n)
				check(step, "took")
			case 13: // it takes no more
				o.own()
				stalled[which] = true
				check(step, "own")
			case 14:
				stalled[which] = false
			case 15: // what is stalled refers to no arena: scribble over them
				for i := range boxes {
					if !stalled[i] {
						boxes[i].own()
						stalled[i] = true
					}
				}
				for i := range arenas {
					b := arenas[i].buf[:cap(arenas[i].buf)]
					for j := range b {
						b[j] = 0xee
					}
					arenas[i] = Arena{}
				}
				check(step, "arenas overwritten")
			case 9:
				if y%4 == 0 {
					o.cut()
					m.cut()
					check(step, "cut")
				}
			}
		}
	})
}

// frameSize makes most frames small and some of every size that is treated differently.
func frameSize(x, y int) int {
	switch x % 8 {
	case 0:
		if y%8 == 0 {
			return y * 20
		}
	case 1:
		if y%8 < 3 {
			return arenaLarge - 128 + y
		}
	case 2:
		if y%16 == 0 {
			return arenaSize + y
		}
	}
	return y / 2
}

// A model is an outbox according to its contract: a list of frames, the first perhaps half written.
type model struct {
	frames [][]byte
	half   bool // the first frame is half written
}

// push keeps a copy: a shared frame that changes would show.
func (m *model) push(frame []byte) { m.frames = append(m.frames, bytes.Clone(frame)) }

func (m *model) took(n int) {
	for n > 0 {
		k := min(n, len(m.frames[0]))
		m.frames[0] = m.frames[0][k:]
		n -= k
		m.half = true
		if len(m.frames[0]) == 0 {
			m.frames, m.half = m.frames[1:], false
		}
	}
}

func (m *model) cut() {
	if m.half {
		m.frames = m.frames[:1]
	} else {
		m.frames = nil
	}
}

func (m *model) compare(o *outbox) error {
	size := 0
	for _, f := range m.frames {
		size += len(f)
	}
	if o.size != size {
		return fmt.Errorf("size is %d, want %d", o.size, size)
	}
	frames, at := m.frames, 0 // what is still to come, and where in the first of it
	for i := -1; i < len(o.rest); i++ {
		b := o.first
		if i >= 0 {
			b = o.rest[i]
		}
		if len(b) == 0 && size > 0 {
			return fmt.Errorf("slice %d is empty, of %d bytes", i+1, size)
		}
		for len(b) > 0 {
			if len(frames) == 0 {
				return fmt.Errorf("it holds more than its size of %d", size)
			}
			k := min(len(b), len(frames[0])-at)
			if !bytes.Equal(b[:k], frames[0][at:at+k]) {
				return fmt.Errorf("frame %d is not what was queued", len(m.frames)-len(frames))
			}
			b, at = b[k:], at+k
			if at == len(frames[0]) {
				frames, at = frames[1:], 0
			} else if len(b) == 0 {
				return fmt.Errorf("frame %d lies in two slices", len(m.frames)-len(frames))
			}
		}
	}
	if len(frames) > 0 {
		return fmt.Errorf("frame %d is missing", len(m.frames)-len(frames))
	}
	if m.half && int(o.left) != len(m.frames[0]) || !m.half && o.left != 0 {
		return fmt.Errorf("%d bytes of a half-written frame", o.left)
	}
	return nil
}
