package main

import (
	"fmt"
	"time"
)

// before is done before each step; without halves, no long post is half sent during it.
func (l *load) before(halves bool) {
	for _, pc := range l.inPieces {
		if err := pc.step(); err != nil {
			l.tally.count(&l.tally.strange, 1, "%s: %v", pc.peer.name, err)
		}
	}
	for _, e := range l.full {
		for range bulk {
			l.bulk.publish(message{e, e.begun(), bulkBytes}) // an error shows when reading ends
		}
		if !l.bulk.answered(0) {
			l.full = nil
			break
		}
	}
	l.step = make(chan struct{})
	for _, b := range l.brinks {
		if err := l.approach(b, max(0, b.fits-floodShort)); err != nil {
			l.tally.count(&l.tally.strange, 1, "%s: %v", b.name, err)
			continue
		}
		l.overflow(b)
	}
	if l.unhurt() { // last, since a request must be complete within its time limit
		l.beginHalves(l.plain || !halves)
	}
}

// after is done after each step.
func (l *load) after() {
	close(l.step)
	l.stepped = time.Now()
	l.endHalves()
	for _, g := range l.laggards {
		g.takeTurn()
	}
	for _, b := range l.brinks {
		b.flowing.Wait()
	}
	if l.ends {
		l.makeRoom()
	}
	if !l.toldAll() {
		l.between()
	}
}

// makeRoom makes a quarter of the clients that only listen leave: there may be no room for a publisher that was closed.
func (l *load) makeRoom() {
	n := 0
	for _, c := range l.clients {
		if c.busy || c.over() {
			continue
		}
		if n++; n%4 == 0 {
			c.leave(anyEnd)
			c.nc.Close()
		}
	}
}

// over reports whether reading has ended.
func (c *client) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// between waits until each source has made progress or is over.
func (l *load) between() {
	var counts []int
	for _, e := range l.sources {
		counts = append(counts, e.count())
	}
	for i, e := range l.sources {
		e.await(counts[i] + progress)
		if l.ctx.Err() != nil && e.count() < counts[i]+progress {
			l.tally.count(&l.tally.strange, 1, "%s: no answer behind message %d", e.name, e.behind()-1)
		}
	}
}

// finish ends the traffic, makes sure that every client has received everything, and closes the connections.
func (l *load) finish() error {
	if l.toldAll() {
		l.sending.Wait()
		l.reading.Wait()
		l.endPass() // the machine that would answer may be gone
	} else {
		for _, e := range l.posted {
			e.await((l.posts + l.posters - 1) / l.posters)
		}
		l.calls.calm(l.ctx)
	}
	close(l.stop)
	l.sending.Wait()
	l.coming.Wait()
	for _, g := range l.laggards {
		close(g.turn)
	}
	for _, pc := range l.inPieces {
		if err := pc.finish(); err != nil {
			l.tally.count(&l.tally.unacked, 1, "%s: %v", pc.peer.name, err)
		}
	}
	if !l.toldAll() {
		if err := l.last(); err != nil {
			l.tally.count(&l.tally.strange, 1, "the last messages: %v", err)
		}
	}
	l.reading.Wait()
	l.departing.Wait()
	for _, c := range l.clients {
		c.conclude()
	}
	if l.told == 0 {
		if err := l.gone(); err != nil {
			l.tally.count(&l.tally.strange, 1, "who is connected: %v", err)
		}
	}
	err := l.ctx.Err()
	l.end()
	if err == nil && l.tally.told != l.wanted {
		err = fmt.Errorf("%d of %d clients were told %d", l.tally.told, l.wanted, l.told)
	}
	return err
}

// last publishes the only message to clients that had nothing to read, and makes all clients hear everything.
func (l *load) last() error {
	way := l.tcp
	if way.secure {
		way = l.unix
	}
	p, err := l.join(l.ctx, way, "publish", "last", 0)
	if err != nil {
		return err
	}
	l.reading.Go(p.listen)
	if err := p.publish(message{event: l.quiet}); err != nil {
		return err
	}
	if err := l.tryFillers(p, l.rand); err != nil {
		return err
	}
	if !p.answered(0) {
		return p.why
	}
	p.hearAll()
	for _, c := range l.clients {
		l.reading.Go(c.hearAll)
	}
	if l.bulk != nil {
		l.bulk.hearAll()
	}
	return nil
}
