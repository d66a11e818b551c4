package main

import (
	"math/rand/v2"
	"time"
)

// Idlers are posters that stay silent for long on connections that they keep. The longest pause is this many times the
// shortest: 110 s and 5 s.
const (
	idlers   = 4
	shortest = 22
)

// An idler pauses for a random time, or always for the longest.
type idler struct {
	caller
	event  *event
	rand   *rand.Rand
	always bool
	n      int
}

// sitIdle is the life of an idler. While called to rest it has no connection.
func (l *load) sitIdle(i *idler) {
	defer l.calls.leave()
	defer i.event.end()
	defer i.close()
	for l.idlePost(i) {
		pause := l.idleFor
		if least := l.idleFor / shortest; !i.always {
			pause = least + time.Duration(i.rand.Int64N(int64(l.idleFor-least)))
		}
		select {
		case <-time.After(pause):
		case <-l.calls.called():
			// It must have been silent for that long since the last step, too.
			l.sleep(time.Until(l.stepped.Add(l.idleFor)))
			if !l.idlePost(i) {
				return
			}
			i.close()
			l.calls.rest(l.ctx, l.stop)
		case <-l.stop:
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// idlePost posts, and reports whether the idler is to go on.
func (l *load) idlePost(i *idler) bool {
	if l.stopped() {
		return false
	}
	if err := i.open(l.passing); err != nil {
		l.refuse(i.event.name, err)
		return false
	}
	err := i.post(i.event, i.n, true)
	switch {
	case err == nil:
		i.event.accept(i.n)
	case l.passing.Err() != nil:
		return false
	default:
		l.tally.count(&l.tally.failed, 1, "%s, on a connection that was kept: %v", i.event.name, err)
	}
	i.n++
	return true
}
