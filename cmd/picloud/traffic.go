package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"
)

const dialers = 16 // connections being made at a time

// traffic is the messages of one publisher, numbered from 0, which it sends to its events in turn.
type traffic struct {
	load
	events      []string
	subscribers []*subscriber // the i-th is subscribed to event i modulo len(events)
	publisher   *client.Bare

	start time.Time
	sent  atomic.Int64
	paced bool           // by rate; otherwise by window
	left  []atomic.Int64 // how many have yet to get the message, by number modulo window
	room  chan struct{}  // capacity 1: a message has reached all its subscribers
}

// subscriber counts what reaches it. Its fields belong to its goroutine until that has ended.
type subscriber struct {
	conn    *client.Bare
	next    int64          // the number that is due
	missing map[int64]bool // numbers that were skipped
	got     int64          // different messages
	doubled int64
	late    int64 // arrived after one with a higher number
	took    []time.Duration
}

// open connects n subscribers, subscribes them to the events in turn, and returns how long each took. After an error,
// the caller still has to close those that are open.
func open(ctx context.Context, c *client.Client, n int, events []string, opened *atomic.Int64) ([]*subscriber,
	[]time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	subscribers, took := make([]*subscriber, n), make([]time.Duration, n)
	var next atomic.Int64
	var dialing sync.WaitGroup
	for range min(dialers, n) {
		dialing.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				start := time.Now()
				conn, err := c.Dial(ctx)
				if err == nil {
					subscribers[i] = &subscriber{conn: conn, next: int64(i % len(events))}
					unwatch := context.AfterFunc(ctx, conn.Abort)
					err = subscribe(conn, events[i%len(events)])
					unwatch()
				}
				if err != nil {
					stop(err)
					return
				}
				took[i] = time.Since(start)
				opened.Add(1)
			}
		})
	}
	dialing.Wait()
	return subscribers, took, context.Cause(ctx)
}

func subscribe(conn *client.Bare, event string) error {
	if err := conn.Write([]byte(`{"action":"subscribe","event":"` + event + `","id":1}`)); err != nil {
		return err
	}
	p, err := conn.Read()
	if err != nil {
		return err
	}
	var answer wire.Delivery
	if err := json.Unmarshal(p, &answer); err != nil || answer.Action != "ack" {
		return fmt.Errorf("subscribe to %q: the server answers %.200q", event, p)
	}
	return nil
}

// hangUp closes all of them in an orderly way, at the same time.
func hangUp(subscribers []*subscriber) {
	var closing sync.WaitGroup
	for _, s := range subscribers {
		if s != nil {
			closing.Go(s.conn.Close)
		}
	}
	closing.Wait()
}

// flow publishes until enough was sent or ctx ends, and returns once every subscriber has what was published, or what
// came after it. lost is how many messages are missing then.
func (t *traffic) flow(ctx context.Context) (lost int64, err error) {
	t.room = make(chan struct{}, 1)
	t.left = make([]atomic.Int64, t.window)
	t.start = time.Now()
	publishing, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var listening, answering sync.WaitGroup
	for _, s := range t.subscribers {
		listening.Go(func() {
			if err := t.listen(s); err != nil {
				stop(fmt.Errorf("a subscriber's connection: %w", err))
			}
		})
	}
	var ended bool        // the server ended the connection before we did
	answering.Go(func() { // no answers were asked for, so what comes is a refusal or the end
		p, err := t.publisher.Read()
		if err == nil {
			err = fmt.Errorf("the server answers %.200q", p)
		}
		if publishing.Err() == nil {
			ended = true
			stop(fmt.Errorf("the publisher's connection: %w", err))
			t.abandon() // nobody knows what has reached the server
		}
	})

	broken := t.publish(publishing)
	for event := range t.events {
		if broken == nil {
			broken = t.publisher.Write(t.message(nil, event, end, 0))
		}
	}
	if broken != nil {
		answering.Wait() // it knows why
		t.abandon()
	}
	waiting := time.AfterFunc(patience, t.abandon)
	listening.Wait()
	waiting.Stop()
	if ctx.Err() == nil {
		err = context.Cause(publishing)
	}
	stop(nil)
	t.publisher.Abort()
	answering.Wait()
	if broken == nil && !ended {
		for i, s := range t.subscribers {
			lost += t.due(i) - s.got
		}
	}
	return lost, err
}

// abandon ends every wait for a delivery.
func (t *traffic) abandon() {
	for _, s := range t.subscribers {
		s.conn.Abort()
	}
}

// publish returns when enough was sent, when ctx ends, when nothing moves any more, or with what broke the connection.
func (t *traffic) publish(ctx context.Context) error {
	if t.messages == 0 {
		limited, cancel := context.WithTimeout(ctx, t.duration)
		defer cancel()
		ctx = limited
	}
	copies := int64(len(t.subscribers) / len(t.events))
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var p []byte
	for k := int64(0); t.messages == 0 || k < int64(t.messages); k++ {
		var at time.Duration
		if t.paced {
			// If the server was not reading, a message is late from the time when it was due.
			at = time.Duration(k) * time.Second / time.Duration(t.rate)
			if wait := at - time.Since(t.start); wait > 0 {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-ctx.Done():
					return nil
				}
				at = time.Since(t.start)
			}
		} else {
			left := &t.left[k%int64(t.window)]
			for left.Load() > 0 {
				timer.Reset(patience)
				select {
				case <-t.room:
				case <-timer.C:
					return nil
				case <-ctx.Done():
					return nil
				}
			}
			left.Store(copies)
		}
		if ctx.Err() != nil {
			return nil
		}
		t.sent.Store(k + 1)
		p = t.message(p[:0], int(k%int64(len(t.events))), k, at)
		if err := t.publisher.Write(p); err != nil {
			return err
		}
	}
	return nil
}

const end = -1 // instead of a number: no message comes after this one

// message appends a publish. Its data is the number, the time of sending, and padding up to the size.
func (t *traffic) message(p []byte, event int, number int64, at time.Duration) []byte {
	p = append(p, `{"action":"publish","event":"`...)
	p = append(p, t.events[event]...)
	p = append(p, `","data":"`...)
	start := len(p)
	p = strconv.AppendInt(p, number, 10)
	p = append(p, ' ')
	p = strconv.AppendInt(p, int64(at), 10)
	p = append(p, ' ')
	for len(p) < start+t.size {
		p = append(p, 'x')
	}
	return append(p, `"}`...)
}

// parseMessage reads what message wrote, as PiCloud's server passes it on.
func parseMessage(p []byte) (number int64, at time.Duration, ok bool) {
	_, data, found := bytes.Cut(p, []byte(`"data":"`))
	first, rest, _ := bytes.Cut(data, []byte(" "))
	second, _, _ := bytes.Cut(rest, []byte(" "))
	number, err := strconv.ParseInt(string(first), 10, 64)
	nanoseconds, err2 := strconv.ParseInt(string(second), 10, 64)
	return number, time.Duration(nanoseconds), found && err == nil && err2 == nil
}

// listen reads until the end of the traffic.
func (t *traffic) listen(s *subscriber) error {
	for {
		p, err := s.conn.Read()
		if err != nil {
			return err
		}
		k, at, ok := parseMessage(p)
		switch {
		case ok && k == end:
			return nil
		case !ok || k < 0 || k >= t.sent.Load():
			return fmt.Errorf("the server sends what nobody published: %.200q", p)
		case t.take(s, k) && t.paced:
			s.took = append(s.took, time.Since(t.start)-at)
		}
	}
}

// take counts message k and says whether it is new.
func (t *traffic) take(s *subscriber, k int64) bool {
	switch {
	case k >= s.next:
		for ; s.next < k; s.next += int64(len(t.events)) {
			if s.missing == nil {
				s.missing = make(map[int64]bool)
			}
			s.missing[s.next] = true
			t.arrived(s.next) // or the publisher would wait for it
		}
		s.next += int64(len(t.events))
		t.arrived(k)
	case s.missing[k]:
		delete(s.missing, k)
		s.late++
	default:
		s.doubled++
		return false
	}
	s.got++
	return true
}

// arrived makes room for another message when k has reached all.
func (t *traffic) arrived(k int64) {
	if t.paced || t.left[k%int64(t.window)].Add(-1) > 0 {
		return
	}
	select {
	case t.room <- struct{}{}:
	default:
	}
}

// due is how many messages were for the i-th subscriber.
func (t *traffic) due(i int) int64 {
	events := int64(len(t.events))
	return (t.sent.Load() - int64(i)%events + events - 1) / events
}
