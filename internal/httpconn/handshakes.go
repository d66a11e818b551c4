package httpconn

import (
	"container/list"
	"crypto/tls"
	"net/netip"
	"sync"
	"time"
)

// handshakes bounds the handshakes of TLS that are under way. The others wait, each in the line of its network, and the
// networks take turns: whoever comes in a crowd waits behind that crowd, and nobody else does. A client that goes no
// further keeps nobody waiting for long, either.
type handshakes struct {
	most     int           // may be under way
	computes int           // of those may compute
	patience time.Duration // how long the only one of a network has at least while others wait

	mu        sync.Mutex
	underWay  list.List // of *handshake, the oldest first
	computing int
	ending    *handshake                  // of underWay, for one that waits
	lines     map[netip.Addr]*networkLine // of those networks that have any
	turns     list.List                   // of *networkLine with somebody in it
}

// A networkLine is those of one network.
type networkLine struct {
	network  netip.Addr
	waiting  list.List // of *handshake, the oldest first
	turn     *list.Element
	underWay int
}

// A handshake is that of one connection.
type handshake struct {
	conn   *Conn
	config *tls.Config
	due    time.Time // when it has to be made

	// Guarded by handshakes.mu.
	line      *networkLine // nil: it has not come, or is gone
	place     *list.Element
	underWay  bool
	computing bool
	begun     time.Time
	wire      interface{ SetDeadline(time.Time) error } // nil before there is one
}

func newHandshakes(most, computes int) *handshakes {
	return &handshakes{most: most, computes: computes, patience: time.Second, lines: make(map[netip.Addr]*networkLine)}
}

// enter notes that the client has said whom it is, and reports whether the handshake is under way now. If not, it
// begins when Conn.Run is called next. Calling it again tells whether that is so.
func (hs *handshakes) enter(h *handshake) (underWay bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.line == nil {
		network := h.conn.slot.network
		l := hs.lines[network]
		if l == nil {
			l = &networkLine{network: network}
			hs.lines[network] = l
		}
		h.line = l
		h.place = l.waiting.PushBack(h)
		if l.waiting.Len() == 1 {
			l.turn = hs.turns.PushBack(l)
		}
		hs.next(h)
	}
	return h.underWay
}

// goes notes how a handshake that is under way can be ended.
func (hs *handshakes) goes(h *handshake, wire interface{ SetDeadline(time.Time) error }) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.wire = wire
	wire.SetDeadline(h.due)
}

// waits notes that a handshake waits for its client. It may be called again.
func (hs *handshakes) waits(h *handshake) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.computing {
		h.computing = false
		hs.computing--
		hs.next(nil)
	}
}

// leave notes that a handshake has been made, or will not be. It may be called again.
func (hs *handshakes) leave(h *handshake) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	l := h.line
	if l == nil {
		return
	}
	h.line, h.wire = nil, nil
	if h.underWay {
		hs.underWay.Remove(h.place)
		l.underWay--
	} else {
		l.waiting.Remove(h.place)
		if l.waiting.Len() == 0 {
			hs.turns.Remove(l.turn)
		}
	}
	if l.underWay+l.waiting.Len() == 0 {
		delete(hs.lines, l.network)
	}
	if h.computing {
		h.computing = false
		hs.computing--
	}
	if hs.ending == h {
		hs.ending = nil
	}
	hs.next(nil)
}

// next begins as many as may, and wakes them, except the caller's own. mu must be held.
func (hs *handshakes) next(own *handshake) {
	for hs.turns.Len() > 0 && hs.computing < hs.computes {
		if hs.underWay.Len() >= hs.most {
			hs.makeRoom()
			return
		}
		l := hs.turns.Remove(hs.turns.Front()).(*networkLine)
		h := l.waiting.Remove(l.waiting.Front()).(*handshake)
		if l.waiting.Len() > 0 {
			l.turn = hs.turns.PushBack(l)
		}
		h.underWay, h.computing, h.begun = true, true, time.Now()
		h.place = hs.underWay.PushBack(h)
		l.underWay++
		hs.computing++
		if h != own {
			h.conn.set.crew.Wake(&h.conn.turn, h.conn)
		}
	}
}

// crowd is how many from one network are a crowd.
const crowd = 10

// makeRoom ends the oldest of the network that has most under way, once it has had its time: patience, less for one of
// several, a tenth for one of a crowd. A slow device has its own address; a crowd from one is most likely hostile, and
// others from there wait behind it. mu must be held.
func (hs *handshakes) makeRoom() {
	if hs.ending != nil {
		return
	}
	for e := hs.underWay.Front(); e != nil; e = e.Next() {
		if h := e.Value.(*handshake); hs.ending == nil || h.line.underWay > hs.ending.line.underWay {
			hs.ending = h
		}
	}
	h := hs.ending
	if until := h.begun.Add(hs.patience / time.Duration(min(h.line.underWay, crowd))); until.Before(h.due) {
		h.due = until
		if h.wire != nil {
			h.wire.SetDeadline(until)
		}
	}
}
