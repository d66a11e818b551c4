package main

import (
	"math/rand/v2"
	"slices"
	"time"

	ws "picloud/test/peer"
)

// A leaver is a client that connects, subscribes, leaves in one way or another, and comes back.
type leaver struct {
	name   string
	way    target
	rand   *rand.Rand
	silent []*client // connected, but no longer reading
}

// ways of leaving
type leaving int

const (
	byReset leaving = iota
	byHalfClose
	byCloseFrame
	bySilence
	waysToLeave
)

const (
	silentOnes = 3 // per leaver, at the same time
	stayLong   = 1500 * time.Millisecond
	gapLong    = 100 * time.Millisecond
)

// comeAndLeave is the life of a leaver.
func (l *load) comeAndLeave(v *leaver) {
	defer l.calls.leave()
	defer v.forget(0)
	var c *client
	for {
		if c == nil {
			if c = l.arrive(v); c == nil {
				return
			}
			if c.why != nil { // closed by what was done to the server
				c = nil
				l.rest()
				continue
			}
		}
		switch l.linger(v, c) {
		case toLeave:
			l.depart(v, c, leaving(v.rand.IntN(int(waysToLeave))))
			c = nil
		case toRest:
			v.forget(0)
			l.calls.rest(l.ctx, l.stop)
		case toEnd:
			if l.ctx.Err() == nil && c.answered(0) {
				c.hearAll()
			}
			return
		case toComeBack:
			c = nil
		}
	}
}

// arrive connects the next client, or returns nil when there is to be none. If it has already ended, why is set.
func (l *load) arrive(v *leaver) *client {
	for !l.stopped() {
		c, err := l.join(l.passing, v.way, "subscribe", v.name, 0)
		switch {
		case err == nil:
			l.departing.Go(c.listen)
			if c.begin(l.some(v.rand)...) != nil {
				<-c.ended
			}
			return c
		case l.ends: // the publishers need what room there is
			return nil
		case l.shut, l.mayEnd(true) && !refusedNow(err):
			l.rest()
		default:
			l.refuse(v.name, err)
			return nil
		}
	}
	return nil
}

// some returns a few of the events that always have messages.
func (l *load) some(r *rand.Rand) []*event {
	of := make([]*event, 0, 3)
	for range 1 + r.IntN(3) {
		e := l.sources[r.IntN(len(l.sources))]
		if r.IntN(2) == 0 {
			e = l.pulse
		}
		if !slices.Contains(of, e) {
			of = append(of, e)
		}
	}
	return of
}

type whatNext int

const (
	toLeave whatNext = iota
	toRest
	toEnd
	toComeBack
)

// linger stays for a random time, or until nothing has been served for a random time, as during a restart.
func (l *load) linger(v *leaver, c *client) whatNext {
	var over <-chan time.Time
	gap := time.Hour
	if v.rand.IntN(3) == 0 {
		over = time.After(time.Duration(v.rand.Int64N(int64(stayLong))))
	} else {
		gap = time.Duration(v.rand.Int64N(int64(gapLong)))
	}
	for {
		served := l.pulse.next()
		select {
		case <-over:
			return toLeave
		case <-served:
		case <-time.After(gap):
			return toLeave
		case <-c.ended:
			return toComeBack
		case <-l.calls.called():
			return toRest
		case <-l.stop:
			return toEnd
		case <-l.ctx.Done():
			return toEnd
		}
	}
}

// depart makes a client leave.
func (l *load) depart(v *leaver, c *client, how leaving) {
	l.left[how].Add(1)
	switch how {
	case byReset:
		c.leave(anyEnd)
		c.reset()
	case byHalfClose:
		c.leave(anyEnd)
		c.closeWrite() // reading goes on until the server closes it
	case byCloseFrame:
		c.leave(normal)
		c.write(ws.Frame(ws.Fin|ws.Close, []byte{normal >> 8, normal & 0xFF}))
	case bySilence:
		c.hush()
		v.silent = append(v.silent, c)
		v.forget(silentOnes)
	}
}

// forget resets the oldest silent clients, all but that many.
func (v *leaver) forget(but int) {
	for len(v.silent) > but {
		v.silent[0].reset()
		v.silent = v.silent[1:]
	}
}

// A fickle client subscribes and unsubscribes all the time.
type fickle struct {
	name string
	way  target
	rand *rand.Rand
}

// waver is the life of a fickle client.
func (l *load) waver(f *fickle) {
	for !l.stopped() {
		c, err := l.join(l.ctx, f.way, "subscribe", f.name, 0)
		switch {
		case err == nil:
		case l.ends:
			return
		case l.mayEnd(true) && !refusedNow(err):
			l.rest()
			continue
		default:
			l.refuse(f.name, err)
			return
		}
		l.reading.Go(c.listen)
		l.waverOver(f, c)
		if !l.mayEnd(true) {
			return
		}
	}
}

func (l *load) waverOver(f *fickle, c *client) {
	on := make(map[*event]bool)
	for !l.stopped() {
		if !l.change(f.rand, c, on) || !c.answered(0) {
			return
		}
		if f.rand.IntN(4) == 0 { // time to hear, not only to ask
			l.sleep(time.Duration(f.rand.Int64N(int64(40 * l.pause))))
		}
	}
	if c.answered(0) {
		c.hearAll()
	}
}

// change subscribes to some events and unsubscribes from others.
func (l *load) change(r *rand.Rand, c *client, on map[*event]bool) bool {
	if r.IntN(12) == 0 {
		clear(on)
		return c.unsubscribeAll(unsubscribing) == nil
	}
	var come, go_ []*event
	for _, e := range l.some(r) {
		if on[e] {
			go_ = append(go_, e)
		} else {
			come = append(come, e)
		}
		on[e] = !on[e]
	}
	if len(come) > 0 && c.subscribe(come...) != nil {
		return false
	}
	return len(go_) == 0 || c.unsubscribe(go_...) == nil
}

func (w leaving) String() string {
	return [...]string{"reset", "half close", "close frame", "silence"}[w]
}
