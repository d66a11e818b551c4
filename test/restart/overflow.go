package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// What a slow reader is sent, before and during a step.
const (
	floodBytes = 32 << 10
	floodLeast = 30  // messages that fit into a queue of 1 MiB, which has the kernel's buffers besides
	floodMost  = 400 // messages that do not
	floodShort = 6   // how many messages a reader is from its limit when a step begins
	floodMore  = 16  // messages sent during the step
)

// A brink is a slow reader that is near its limit when a step begins, and past it when the step has ended.
type brink struct {
	name    string
	way     target
	event   *event
	rand    *rand.Rand
	fits    int // messages that it can be sent without being closed
	reader  *client
	flood   *client
	flowing sync.WaitGroup
	n       int
}

// measure finds out how many messages a reader can be sent.
func (l *load) measure(b *brink) error {
	if err := l.approach(b, 0); err != nil {
		return err
	}
	for b.fits = 0; ; b.fits++ {
		if err := l.send(b, 1); err != nil {
			return err
		}
		if b.fits < floodLeast {
			continue
		}
		there, err := l.connected(b.name)
		if err != nil {
			return err
		}
		if there == 0 {
			return l.retreat(b)
		}
		if b.fits > floodMost {
			return fmt.Errorf("%s: %d messages of %d bytes wait for it and it is not closed", b.name, b.fits,
				floodBytes)
		}
	}
}

// approach connects a reader and leaves that many messages waiting for it.
func (l *load) approach(b *brink, messages int) error {
	var err error
	if b.reader, err = l.join(l.ctx, b.way, "subscribe", b.name, smallBuffer); err != nil {
		return err
	}
	b.reader.slow, b.reader.mute = true,
		true // a server that has closed would answer its pongs with a reset
	if err := b.reader.subscribe(b.event); err != nil {
		return err
	}
	if err := b.reader.readAnswered(); err != nil {
		return err
	}
	if b.flood, err = l.join(l.ctx, b.way, "publish", b.event.name, 0); err != nil {
		return err
	}
	l.reading.Go(b.flood.listen)
	return l.send(b, messages)
}

// send sends messages and returns when all are acked.
func (l *load) send(b *brink, messages int) error {
	for range messages {
		if err := b.flood.publish(message{b.event, b.n, floodBytes}); err != nil {
			return err
		}
		b.n++
	}
	if !b.flood.answered(0) {
		return b.flood.why
	}
	return nil
}

// overflow sends more than fits, in most steps once nothing has been served for a while, and makes the reader read when
// that is acked.
func (l *load) overflow(b *brink) {
	gap, longest := time.Duration(b.rand.Int64N(int64(gapLong))), time.Hour
	if b.rand.IntN(4) == 0 {
		longest = time.Duration(b.rand.Int64N(int64(stayLong)))
	}
	b.flowing.Go(func() {
		l.unserved(gap, longest)
		err := l.send(b, floodMore)
		if err == nil {
			err = l.retreat(b)
		}
		if err != nil {
			l.tally.count(&l.tally.strange, 1, "%s: %v", b.name, err)
		}
	})
}

// unserved returns when nothing has been served for gap, after longest, or when the step is over.
func (l *load) unserved(gap, longest time.Duration) {
	end := time.After(longest)
	for {
		served := l.pulse.next()
		select {
		case <-served:
		case <-time.After(gap):
			return
		case <-end:
			return
		case <-l.step:
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// retreat makes the reader read what there is, up to the end if it was closed, and closes both connections.
func (l *load) retreat(b *brink) error {
	b.reader.widen()
	l.reading.Go(b.reader.listen) // at once: a server that is closing it waits for 5 s
	b.flood.hearAll()
	there, err := l.connected(b.name)
	if err != nil {
		return err
	}
	if there > 0 { // otherwise the server would answer what it writes with a reset
		b.reader.unsubscribeAll(lastOne) // an error shows when it reads
	}
	<-b.reader.ended
	return nil
}
