package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	ws "picloud/test/peer"
)

// A client is one WebSocket that subscribes, publishes, and keeps account of what it hears and of what it is answered.
// Any goroutine may ask, one at a time; one reads.
type client struct {
	*peer
	l     *load
	busy  bool // it has traffic: when the server is killed it may be caught in the middle
	slow  bool // it may be closed
	heard func(e *event, n int)

	mu      sync.Mutex
	pages   map[string]*page
	asked   []*question // in the order in which they are to be answered
	ids     int
	leaving bool          // its end is its own doing
	wanted  int           // and has this code, if not anyEnd
	hushed  bool          // nothing is read any more, and it is connected
	changed chan struct{} // closed and replaced with each answer
	ended   chan struct{} // closed when no more is read
	why     error         // nil when all has been heard, to be read when ended is closed
}

// A page is what a client hears of one event.
type page struct {
	event *event
	heard sequence
	acked bool
	from  int // what is begun behind the ack is to be heard
	until int // what was accepted before the unsubscribing was sent is to be heard
	going bool
}

// A question is a message that waits for its answer.
type question struct {
	id     int
	kind   questionKind
	events []*event
	n      int // of a message
}

type questionKind int

const (
	subscribing questionKind = iota
	unsubscribing
	publishing
	lastOne // answered when everything has been heard
	probing // answered behind everything that was asked
)

// join opens a client, which ends with ctx.
func (l *load) join(ctx context.Context, way target, route, name string, receiveBytes int) (*client, error) {
	p, err := way.open(ctx, route, name, receiveBytes)
	if err != nil {
		return nil, err
	}
	return newClient(l, p), nil
}

func newClient(l *load, p *peer) *client {
	return &client{peer: p, l: l, busy: true, pages: make(map[string]*page), changed: make(chan struct{}),
		ended: make(chan struct{})}
}

// subscribe asks for events to which the client is not subscribed, in one write.
func (c *client) subscribe(events ...*event) error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		for _, e := range events {
			if p := c.pages[e.name]; p == nil {
				c.pages[e.name] = &page{event: e, until: -1}
			}
			add(subscribing, 0, fmt.Sprintf(`{"action":"subscribe","event":%q`, e.name), e)
		}
	})
}

// unsubscribe gives events up, in one write.
func (c *client) unsubscribe(events ...*event) error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		for _, e := range events {
			c.goFrom(e)
			add(unsubscribing, 0, fmt.Sprintf(`{"action":"unsubscribe","event":%q`, e.name), e)
		}
	})
}

// unsubscribeAll gives up everything; of the last one it is the end.
func (c *client) unsubscribeAll(kind questionKind) error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		var events []*event
		for _, p := range c.pages {
			c.goFrom(p.event)
			events = append(events, p.event)
		}
		add(kind, 0, `{"action":"unsubscribe:all"`, events...)
	})
}

// goFrom says that the client gives up an event: what is published behind this point need not reach it. mu must be
// held.
func (c *client) goFrom(e *event) {
	if p := c.pages[e.name]; p != nil && !p.going {
		p.going, p.until = true, e.behind()
	}
}

// publish sends messages, in one write.
func (c *client) publish(messages ...message) error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		for _, m := range messages {
			m.event.send(m.n)
			add(publishing, m.n, m.text(), m.event)
		}
	})
}

// A message is one of an event's, with so many bytes of ballast.
type message struct {
	event *event
	n     int
	bytes int
}

// text is the message but for its end, with the action that a connection of /subscribe demands.
func (m message) text() string {
	if m.bytes == 0 {
		return fmt.Sprintf(`{"action":"publish","event":%q,"data":[%d]`, m.event.name, m.n)
	}
	return fmt.Sprintf(`{"action":"publish","event":%q,"data":[%d,%q]`, m.event.name, m.n, strings.Repeat("x", m.bytes))
}

// ask sends what compose adds, each with an id, in one write.
func (c *client) ask(compose func(add func(kind questionKind, n int, text string, events ...*event))) error {
	var b []byte
	c.mu.Lock()
	compose(func(kind questionKind, n int, text string, events ...*event) {
		b = append(b, ws.Frame(ws.Fin|ws.Text, fmt.Appendf(nil, `%s,"id":%d}`, text, c.ids))...)
		c.asked = append(c.asked, &question{c.ids, kind, events, n})
		c.ids++
	})
	c.mu.Unlock()
	return c.write(b)
}

// answered waits until so many questions at most have no answer yet, and says whether it is so: the connection may have
// ended. When for a while there is no answer it asks once more, since whoever is answered that has no answer to the
// question before.
func (c *client) answered(most int) bool {
	probes := time.NewTicker(patience)
	defer probes.Stop()
	for {
		c.mu.Lock()
		left, changed := len(c.asked), c.changed
		c.mu.Unlock()
		if left <= most {
			return true
		}
		select {
		case <-changed:
		case <-c.ended:
			return false
		case <-probes.C:
			c.probe()
		}
	}
}

// probe asks for an answer, and nothing else.
func (c *client) probe() error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		add(probing, 0, `{"action":"publish","event":"nobody","data":0`)
	})
}

// listen reads until the client has heard everything, or its connection ends.
func (c *client) listen() {
	defer close(c.ended)
	for {
		_, payload, err := c.read()
		if err != nil {
			c.why = err
			c.close(err)
			return
		}
		if c.take(payload) {
			c.nc.Close()
			return
		}
	}
}

// take is told what has come, and says whether it was the last.
func (c *client) take(payload []byte) (done bool) {
	if name, data, ok := delivery(string(payload)); ok {
		n, err := strconv.Atoi(data)
		if err != nil {
			c.l.tally.count(&c.l.tally.strange, 1, "%s: got %.100s", c.name, payload)
			return false
		}
		c.hear(name, n)
		return false
	}
	id, refused, ok := answer(payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.asked, func(q *question) bool { return q.id == id })
	if !ok || i < 0 {
		if c.l.want(c.secure) == 0 {
			c.l.tally.count(&c.l.tally.strange, 1, "%s: got %.100s", c.name, payload)
		}
		return false
	}
	for _, q := range c.asked[:i] {
		done = done || q.kind == lastOne
		c.l.tally.count(&c.l.tally.unacked, 1, "%s: got the answer to %d and none to %d", c.name, id, q.id)
		c.settle(q, false)
	}
	q := c.asked[i]
	c.asked = c.asked[i+1:]
	switch {
	case !refused, q.kind == probing, q.kind == lastOne:
		c.settle(q, true)
	default:
		c.refusedWith(q, payload)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return done || q.kind == lastOne
}

// answer reads an ack or an error.
func answer(payload []byte) (id int, refused, ok bool) {
	refused = bytes.HasPrefix(payload, []byte(`{"action":"error","error":`))
	at := bytes.LastIndex(payload, []byte(`"id":`))
	if at < 0 || !refused && !bytes.HasPrefix(payload, []byte(`{"action":"ack",`)) {
		return 0, refused, false
	}
	id, err := strconv.Atoi(strings.TrimSuffix(string(payload[at+len(`"id":`):]), "}"))
	return id, refused, err == nil
}

// hear is told each message that comes.
func (c *client) hear(name string, n int) {
	c.mu.Lock()
	p := c.pages[name]
	if p == nil {
		c.mu.Unlock()
		c.l.tally.count(&c.l.tally.kept, 1, "%s: got message %d of %s, which it has given up", c.name, n, name)
		return
	}
	p.heard.got(n)
	c.mu.Unlock()
	if c.heard != nil {
		c.heard(p.event, n)
	}
}

// settle takes note of an answer, or that there is none. mu must be held.
func (c *client) settle(q *question, acked bool) {
	for _, e := range q.events {
		p := c.pages[e.name]
		switch {
		case q.kind == publishing && acked:
			e.accept(q.n)
		case p == nil:
		case q.kind == subscribing && !p.acked:
			p.acked, p.from = acked, e.begun()
		case q.kind == unsubscribing || q.kind == lastOne:
			c.finish(p, true)
		}
	}
}

// finish closes the account of an event. mu must be held.
func (c *client) finish(p *page, toTheEnd bool) {
	delete(c.pages, p.event.name)
	switch {
	case !p.acked: // nothing was promised
		p.from, p.until = p.event.begun(), -1
	case p.until < 0:
		p.until = p.event.behind()
	}
	c.l.tally.page(c.name, p.event, &p.heard, p.from, p.until, toTheEnd)
}

// refusedWith takes note of an error. mu must be held.
func (c *client) refusedWith(q *question, payload []byte) {
	switch {
	case c.l.want(c.secure) != 0: // who is told is refused before
	case q.kind == subscribing && c.l.fill > 0:
		c.l.tally.expected(&c.l.tally.full)
	default:
		c.l.tally.count(&c.l.tally.strange, 1, "%s: got %.100s", c.name, payload)
	}
	if q.kind == subscribing {
		for _, e := range q.events {
			delete(c.pages, e.name)
		}
	}
}

// close takes note of the connection's end.
func (c *client) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving {
		c.closePages(false)
		c.left(err)
		return
	}
	c.nc.Close()
	want := c.l.want(c.secure)
	if want != goingAway { // behind which all comes that was accepted, as is seen when all answers are there
		c.closePages(false)
	}
	unacked := 0
	for _, q := range c.asked {
		if q.kind == publishing {
			unacked++
		}
	}
	if unacked > 0 && want == 0 && !c.l.mayEnd(c.busy) && !c.l.over() {
		c.l.tally.count(&c.l.tally.unacked, unacked, "%s: %d messages without an ack", c.name, unacked)
	}
	if e, ok := err.(*closeError); ok && c.slow && !c.l.over() {
		switch e.code {
		case tryAgainLater:
			c.l.tally.expected(&c.l.tally.slow)
			return
		case abnormal: // it was being closed, and the server was gone before it had taken its close frame
			c.l.tally.expected(&c.l.tally.dropped)
			return
		}
	}
	c.l.ended(c.peer, err, c.busy)
}

// closePages closes the accounts of all events. mu must be held.
func (c *client) closePages(toTheEnd bool) {
	for _, p := range c.pages {
		c.finish(p, toTheEnd)
	}
}

// conclude closes the accounts of a client that has been told that it is over.
func (c *client) conclude() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closePages(true)
}

// anyEnd is the code of a client that leaves and does not look back.
const anyEnd = 0

// leave says that the end is the client's own doing from now on, which the server is to answer with this code; nothing
// behind what has come is owed to it.
func (c *client) leave(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.wanted = true, code
}

// hush has the client read nothing any more, and stay connected.
func (c *client) hush() {
	c.leave(anyEnd)
	c.mu.Lock()
	c.hushed = true
	c.mu.Unlock()
	c.nc.SetReadDeadline(time.Now())
	<-c.ended
}

// left takes note of the end of a client that has left. mu must be held.
func (c *client) left(err error) {
	if c.hushed {
		return
	}
	c.nc.Close()
	e, ok := err.(*closeError)
	switch {
	case c.l.ctx.Err() != nil && !c.l.finished.Load():
		c.l.tally.count(&c.l.tally.kept, 1, "%s: it has left, and its connection does not end", c.name)
	case c.l.over(), c.l.mayEnd(true), c.wanted == anyEnd, ok && e.code == c.wanted:
	default:
		c.l.tally.count(&c.l.tally.strange, 1, "%s: it has left with %d and got %v", c.name, c.wanted, err)
	}
}

// delivery reads what the server makes of a message of this program's: data is the first element of its list.
func delivery(text string) (event, data string, ok bool) {
	text, ok = strings.CutPrefix(text, `{"action":"publish","event":"`)
	event, text, found := strings.Cut(text, `","data":[`)
	end := strings.IndexAny(text, ",]")
	if !ok || !found || end < 0 {
		return "", "", false
	}
	return event, text[:end], true
}
