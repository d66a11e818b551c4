package main

import (
	"fmt"
	"strings"

	ws "picloud/test/peer"
)

// Pieces is a client that is always in the middle of one message: inside a frame, of which it sends one byte in each
// step, or between fragments.
type pieces struct {
	peer  *peer
	event *event
	rest  []byte // of the frame; nil: it sends fragments
	parts []string
	pongs int
	in    chan string // what is received, except pings
}

func newPieces(l *load, p *peer, e *event, inFrame bool) *pieces {
	pc := &pieces{peer: p, event: e, in: make(chan string, 1)}
	message := fmt.Sprintf(`{"event":%q,"data":[0],"id":0}`, e.name)
	if inFrame {
		pc.rest = ws.Frame(ws.Fin|ws.Text, message)
	} else {
		pc.parts = strings.Split(message, "")
	}
	go func() {
		defer close(pc.in)
		for {
			_, payload, err := p.read()
			if err != nil {
				p.nc.Close()
				l.ended(p, err, true)
				return
			}
			pc.in <- string(payload)
		}
	}()
	return pc
}

// step sends the next byte or fragment, and a ping after a fragment.
func (pc *pieces) step() error {
	switch {
	case len(pc.rest) > 1:
		err := pc.peer.write(pc.rest[:1])
		pc.rest = pc.rest[1:]
		return err
	case len(pc.parts) > 1:
		first := byte(ws.More)
		if pc.pongs == 0 {
			first = ws.Text
		}
		ping := fmt.Sprint(pc.pongs)
		pc.pongs++
		err := pc.peer.write(append(ws.Frame(first, pc.parts[0]), ws.Frame(ws.Fin|ws.Ping, ping)...))
		pc.parts = pc.parts[1:]
		if err == nil {
			err = pc.expect(ping)
		}
		return err
	}
	return nil
}

func (pc *pieces) expect(want string) error {
	if got, ok := <-pc.in; !ok || got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// finish sends what is left.
func (pc *pieces) finish() error {
	b := pc.rest
	if b == nil {
		b = ws.Frame(ws.Fin|ws.More, strings.Join(pc.parts, ""))
	}
	pc.event.send(0)
	if err := pc.peer.write(b); err != nil {
		return err
	}
	if err := pc.expect(`{"action":"ack","id":0}`); err != nil {
		return err
	}
	pc.event.accept(0)
	return nil
}
