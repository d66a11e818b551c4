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

// A client is one WebSocket that subscribes and publishes, and keeps account of the messages and answers it receives.
// Any goroutine may ask, one at a time; one goroutine reads.
type client struct {
	*peer
	l     *load
	busy  bool // it has traffic: the server may be killed in the middle of it
	slow  bool // it may be closed
	heard func(e *event, n int)

	mu      sync.Mutex
	pages   map[string]*page
	asked   []*question // in the order in which they are to be answered
	ids     int
	leaving bool          // it ends the connection itself
	wanted  int           // the close code that it then expects, or anyEnd
	hushed  bool          // still connected, but no longer reads
	changed chan struct{} // closed and replaced with each answer
	ended   chan struct{} // closed when reading has ended
	why     error         // nil when everything has been heard; valid once ended is closed
}

// A page is a client's account of one event.
type page struct {
	event *event
	heard sequence
	acked bool
	from  int // messages begun after the ack must be heard
	until int // messages accepted before the unsubscribe was sent must be heard
	going bool
}

// A question is a message that waits for its answer.
type question struct {
	id     int
	kind   questionKind
	events []*event
	n      int // the message's number
}

type questionKind int

const (
	subscribing questionKind = iota
	unsubscribing
	publishing
	lastOne // answered when everything has been heard
	probing // answered after everything that was asked before
)

// join connects a client, which ends with ctx.
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

// unsubscribe unsubscribes from events, in one write.
func (c *client) unsubscribe(events ...*event) error {
	return c.ask(func(add func(questionKind, int, string, ...*event)) {
		for _, e := range events {
			c.goFrom(e)
			add(unsubscribing, 0, fmt.Sprintf(`{"action":"unsubscribe","event":%q`, e.name), e)
		}
	})
}

// unsubscribeAll unsubscribes from everything; as the lastOne, its answer ends the reading.
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

// goFrom notes that the client unsubscribes from an event: what is published from now on need not reach it. mu must be
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

// A message is message n of an event, with bytes of padding.
type message struct {
	event *event
	n     int
	bytes int
}

// text is the message without its end, with the action, which a connection of /subscribe requires.
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

// answered waits until at most that many questions are unanswered. It returns false when the connection ends first. If
// no answer comes for a while it asks another question, since the answer to that shows that the earlier ones have none.
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

// probe asks for an answer and does nothing else.
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

// take handles what has been read, and reports whether it was the last.
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

// hear records a message that has come.
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

// settle records an answer, or that there is none. mu must be held.
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

// refusedWith records an error. mu must be held.
func (c *client) refusedWith(q *question, payload []byte) {
	switch {
	case c.l.want(c.secure) != 0: // a client that is to be closed is refused first
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

// close records the connection's end.
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
	if want != goingAway { // with goingAway all that was accepted still arrives, and is checked once all answers are in
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
		case abnormal: // it was being closed, and the server was gone before it received the close frame
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

// conclude closes the accounts of a client that has been closed as announced.
func (c *client) conclude() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closePages(true)
}

// anyEnd is the code of a client that leaves without waiting for an answer.
const anyEnd = 0

// leave notes that from now on the client itself ends the connection, which the server is to answer with this code; it
// need not receive anything more.
func (c *client) leave(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.wanted = true, code
}

// hush makes the client stop reading but stay connected.
func (c *client) hush() {
	c.leave(anyEnd)
	c.mu.Lock()
	c.hushed = true
	c.mu.Unlock()
	c.nc.SetReadDeadline(time.Now())
	<-c.ended
}

// left records the connection's end after the client has left. mu must be held.
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

// delivery parses a delivery of one of this program's messages: data is the first element of its list.
func delivery(text string) (event, data string, ok bool) {
	text, ok = strings.CutPrefix(text, `{"action":"publish","event":"`)
	event, text, found := strings.Cut(text, `","data":[`)
	end := strings.IndexAny(text, ",]")
	if !ok || !found || end < 0 {
		return "", "", false
	}
	return event, text[:end], true
}
