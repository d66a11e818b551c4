package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	ws "picloud/test/peer"
)

// A script is a server that sends what it is told to, whatever its client asks.
type script struct {
	t  *testing.T
	nc net.Conn
	br *bufio.Reader
}

// scripted returns a client of such a server.
func scripted(t *testing.T, p plan) (*client, *script) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	l := &load{plan: p, ctx: t.Context(), tally: tally{log: io.Discard}, nobody: newEvent("nobody")}
	c := newClient(l, &peer{name: "client", nc: here, br: bufio.NewReader(here)})
	go c.listen()
	return c, &script{t, there, bufio.NewReader(there)}
}

// takes reads n frames.
func (s *script) takes(n int) {
	s.t.Helper()
	for range n {
		var head [2]byte
		if _, err := io.ReadFull(s.br, head[:]); err != nil {
			s.t.Fatal(err)
		}
		length := int64(head[1] & 0x7F)
		if length == 126 {
			var b [2]byte
			io.ReadFull(s.br, b[:])
			length = int64(b[0])<<8 | int64(b[1])
		}
		if _, err := io.CopyN(io.Discard, s.br, 4+length); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *script) says(format string, args ...any) {
	s.frame(ws.Text, fmt.Appendf(nil, format, args...))
}

func (s *script) frame(op byte, payload []byte) {
	s.t.Helper()
	if _, err := s.nc.Write(append([]byte{ws.Fin | op, byte(len(payload))}, payload...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) acks(id int) { s.says(`{"action":"ack","id":%d}`, id) }

func (s *script) delivers(e *event, numbers ...int) {
	for _, n := range numbers {
		s.says(`{"action":"publish","event":%q,"data":[%d],"created_at":""}`, e.name, n)
	}
}

// Faults are what a client has counted.
type faults struct{ lost, doubled, disordered, deaf, kept, unacked, strange, full int }

func (c *client) faults() faults {
	t := &c.l.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	return faults{t.lost, t.doubled, t.disordered, t.deaf, t.kept, t.unacked, t.strange, t.full}
}

// Five messages are accepted between two acks, and one before the first.
func TestClientNoticesWhatASubscriptionMisses(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []int
		want faults
	}{
		{"all", []int{1, 2, 3, 4, 5}, faults{}},
		{"one more from before", []int{0, 1, 2, 3, 4, 5}, faults{}},
		{"one behind", []int{1, 2, 3, 4, 5, 6}, faults{}},
		{"the first is missing", []int{2, 3, 4, 5}, faults{lost: 1}},
		{"one is missing", []int{1, 2, 4, 5}, faults{lost: 1}},
		{"the last is missing", []int{1, 2, 3, 4}, faults{lost: 1}},
		{"the last three are missing", []int{1, 2}, faults{deaf: 1}},
		{"none", nil, faults{deaf: 1}},
		{"one comes twice", []int{1, 2, 2, 3, 4, 5}, faults{doubled: 1}},
		{"two have changed places", []int{1, 3, 2, 4, 5}, faults{disordered: 1}},
		{"the first have changed places", []int{2, 1, 3, 4, 5}, faults{disordered: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, s := scripted(t, plan{})
			e := newEvent("e")
			e.send(0)
			e.accept(0)
			go c.subscribe(e)
			s.takes(1)
			s.acks(0)
			c.answered(0)
			for n := 1; n <= 5; n++ {
				e.send(n)
				e.accept(n)
			}
			e.send(6)
			go c.unsubscribe(e)
			s.takes(1)
			s.delivers(e, tt.got...)
			s.acks(1)
			c.answered(0)
			if got := c.faults(); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			s.delivers(e, 7)
			go c.hearAll()
			s.takes(1)
			s.acks(2)
			<-c.ended
			tt.want.kept++
			if got := c.faults(); got != tt.want {
				t.Errorf("with one that comes when it has been given up: got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestClientNoticesAnAckThatIsMissing(t *testing.T) {
	c, s := scripted(t, plan{})
	e := newEvent("e")
	go c.publish(message{event: e}, message{event: e, n: 1}, message{event: e, n: 2})
	s.takes(3)
	s.acks(0)
	s.acks(2)
	c.answered(0)
	if got, want := c.faults(), (faults{unacked: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if within, behind := e.misses(&sequence{}, 0, 3); within+behind != 2 {
		t.Errorf("%d messages have to arrive, want the 2 that were acked", within+behind)
	}
}

// A refusal is a fault, unless the server may have no room.
func TestClientIsNotDeafForWhatItWasRefused(t *testing.T) {
	for _, fill := range []int{0, 1} {
		c, s := scripted(t, plan{fill: fill})
		e := newEvent("e")
		go c.subscribe(e)
		s.takes(1)
		s.says(`{"action":"error","error":"no room","id":0}`)
		c.answered(0)
		e.send(0)
		e.accept(0)
		go c.hearAll()
		s.takes(1)
		s.acks(1)
		<-c.ended
		if got, want := c.faults(), (faults{strange: 1 - fill, full: fill}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// How a connection ends, and which clients may end that way.
func TestOnlyWhoMayEndDoes(t *testing.T) {
	end := func(code int) []byte { return []byte{byte(code >> 8), byte(code)} }
	for _, tt := range []struct {
		name              string
		plan              plan
		busy, slow        bool
		code              int
		closed            int
		closedAsSlow, cut int
		told, untold      int
	}{
		{name: "a client that stays", busy: true, code: 1001, closed: 1},
		{name: "one that is busy when the server is killed", plan: plan{crash: true}, busy: true, cut: 1},
		{name: "one that is quiet then", plan: plan{crash: true}, closed: 1},
		{name: "one for which there is no room", plan: plan{ends: true}, code: 1012, cut: 1},
		{name: "one that is told", plan: plan{told: 1012}, code: 1012, told: 1},
		{name: "one that is told something else", plan: plan{told: 1012}, code: 1001, closed: 1},
		{name: "a slow reader", slow: true, code: 1013, closedAsSlow: 1},
		{name: "a slow reader that is not told", slow: true, untold: 1},
		{name: "a slow reader that is told something else", slow: true, code: 1001, closed: 1},
		{name: "a quick reader that is closed as slow", busy: true, code: 1013, closed: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, s := scripted(t, tt.plan)
			c.busy, c.slow = tt.busy, tt.slow
			if tt.code != 0 {
				s.frame(ws.Close, end(tt.code))
			}
			s.nc.Close()
			<-c.ended
			tally := &c.l.tally
			closed := 0
			for _, n := range tally.closed {
				closed += n
			}
			if closed != tt.closed || tally.slow != tt.closedAsSlow || tally.cut != tt.cut || tally.told != tt.told ||
				tally.dropped != tt.untold {
				t.Errorf("%d closed, %d closed as slow and %d untold, %d cut, %d told; want %d, %d and %d, %d, %d",
					closed, tally.slow, tally.dropped, tally.cut, tally.told,
					tt.closed, tt.closedAsSlow, tt.untold, tt.cut, tt.told)
			}
		})
	}
}

func TestSilentClientStaysConnected(t *testing.T) {
	c, s := scripted(t, plan{})
	c.hush()
	s.nc.SetWriteDeadline(time.Now().Add(time.Minute))
	done := make(chan error)
	go func() {
		_, err := s.nc.Write([]byte{0x81, 0})
		done <- err
	}()
	c.reset() // only now
	if err := <-done; err == nil {
		t.Error("it has read what came when it was silent")
	}
}
