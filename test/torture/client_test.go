package torture

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"picloud/test/peer"
)

// A role is what a client does all the time, besides changing keys and leaving.
type role int

const (
	listens role = iota
	stalls       // as listens, and takes nothing for a while now and then
	talks        // as listens, and publishes, with several messages under way
	posts        // over HTTP, on one connection
)

// sentinel is the message behind all others.
const sentinel = "the last"

// A client is one connection.
type client struct {
	*field
	*link
	role
	name     string
	in       *bufio.Reader
	excused  bool      // a life in which it lived was to be killed
	kills    int64     // that there had been when it came
	since    time.Time // what is published from now on, it has to get; zero: it is not subscribed
	acks     chan struct{}
	ended    chan struct{} // closed when nothing more is read
	finished chan struct{} // closed by the sentinel

	said int // messages published

	mu      sync.Mutex
	leaving bool
	acked   int
	got     map[string]bool
	last    map[string]int // by publisher
}

// come connects a client. An error may have any reason: the handshake was broken off, or the upgrade was.
func (f *field) come(r role, n int64, s *suite) (*client, error) {
	rng := rand.New(rand.NewPCG(f.seed, uint64(n)))
	c := &client{field: f, role: r, name: fmt.Sprint("c", n), kills: f.kills.Load(), excused: f.killing.Load(),
		acks: make(chan struct{}, 64), ended: make(chan struct{}), finished: make(chan struct{}),
		got: map[string]bool{}, last: map[string]int{}}
	var err error
	room := 256 << 10
	if r == stalls {
		room = 4 << 10
	}
	if c.link, err = dial(f.Addr, s, room, rng); err != nil {
		return nil, err
	}
	c.in = bufio.NewReader(c.link)
	f.known(c)
	if r != posts {
		if err := c.upgrade(); err != nil {
			c.nc.Close()
			f.unknown(c)
			if !broken(err) {
				f.find("%s: upgrade: %v", c, err)
			}
			return nil, err
		}
	}
	f.reading.Go(c.read)
	return c, nil
}

func (c *client) String() string {
	return fmt.Sprintf("%s, role %d, %v", c.name, c.role, c.judge.keys[0].suite)
}

// broken reports whether an error is that the connection has ended.
func broken(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &op) && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *client) upgrade() error {
	text := peer.Handshake("/subscribe?clientName="+c.name, peer.Nonce, "X-API-Key", apiKey)
	if err := c.write([]byte(text)); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s", res.Status)
	}
	return c.say(peer.Text, `{"action":"subscribe","event":"e","id":0}`)
}

func (c *client) say(op byte, text string) error { return c.write(peer.Frame(peer.Fin|op, text)) }

// read reads until the connection ends.
func (c *client) read() {
	defer close(c.ended)
	defer c.nc.Close()
	rng := rand.New(rand.NewPCG(c.seed, ^uint64(0)))
	var err error
	for err == nil {
		if c.role == posts {
			err = c.readAnswer()
		} else {
			err = c.readFrame()
		}
		if c.role == stalls && rng.IntN(60) == 0 {
			<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
	}
	c.gone(c, err)
}

func (c *client) readAnswer() error {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("status %s", res.Status)
	}
	return c.ack(c.acked + 1)
}

// errClosed is that the server has closed a WebSocket with a code that is allowed.
var errClosed = errors.New("closed by the server")

func (c *client) readFrame() error {
	op, p, err := peer.ReadFrame(c.in, nil)
	switch {
	case err != nil:
		return err
	case op == peer.Ping, op == peer.Pong:
		return nil
	case op == peer.Close && len(p) >= 2:
		code := int(p[0])<<8 | int(p[1])
		c.mu.Lock()
		leaving := c.leaving
		c.mu.Unlock()
		if leaving || code == 1013 && c.role == stalls {
			return errClosed
		}
		return fmt.Errorf("closed with %d %q", code, p[2:])
	case op != peer.Text:
		return fmt.Errorf("a frame of type %d", op)
	}
	var m struct {
		Action string
		Data   string
		ID     *int
		Error  string
	}
	if err := json.Unmarshal(p, &m); err != nil {
		return fmt.Errorf("%w in %.60q", err, p)
	}
	switch {
	case m.Action == "ack" && m.ID != nil && *m.ID == 0 && c.since.IsZero():
		c.mu.Lock()
		c.since = time.Now()
		c.mu.Unlock()
		return nil
	case m.Action == "ack" && m.ID != nil:
		return c.ack(*m.ID)
	case m.Action == "publish":
		return c.hear(m.Data)
	}
	return fmt.Errorf("got %.60q", p)
}

// ack notes that a message was published. They are acknowledged in order.
func (c *client) ack(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n != c.acked+1 {
		return fmt.Errorf("the answer to message %d comes after the one to %d", n, c.acked)
	}
	c.acked = n
	c.ledger.acked(c.name, n)
	c.acks <- struct{}{}
	return nil
}

// hear checks that each publisher's messages come one after the other.
func (c *client) hear(text string) error {
	if text == sentinel {
		close(c.finished)
		return nil
	}
	id, ok := c.ledger.knows(text)
	if !ok {
		return fmt.Errorf("nobody has published %.60q", text)
	}
	publisher, number := cut(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.last[publisher]; ok && number != last+1 {
		return fmt.Errorf("after message %d of %s comes %d", last, publisher, number)
	}
	c.last[publisher] = number
	c.got[id] = true
	return nil
}

// live does what the role says until the client leaves, has been ended, or all are to stop. Then it waits for what is
// still to be acknowledged.
func (c *client) live() {
	until := time.After(time.Duration(50+c.rng.IntN(3000)) * time.Millisecond)
	if c.rng.IntN(3) == 0 {
		until = nil // it stays
	}
	under := 0 // way
	for {
		wait := time.After(time.Duration(c.rng.IntN(20)) * time.Millisecond)
		select {
		case <-c.acks:
			under--
			continue
		case <-wait:
		case <-c.ended:
			return
		case <-until:
			c.goes()
			return
		case <-c.stop:
			for ; under > 0; under-- {
				select {
				case <-c.acks:
				case <-c.ended:
					return
				}
			}
			return
		}
		var err error
		switch n := c.rng.IntN(20); {
		case n == 0:
			err = c.update(c.rng.IntN(2) == 0)
		case n == 1 && c.role != posts:
			err = c.say(peer.Ping, "")
		case c.role == talks && under < 4, c.role == posts && under < 2:
			under++
			err = c.publish()
		}
		if err != nil { // who reads knows why
			<-c.ended
			return
		}
	}
}

func (c *client) publish() error {
	c.said++
	text := c.ledger.publishes(c.name, c.said, c.rng)
	if c.role == posts {
		return c.post(text)
	}
	return c.say(peer.Text, fmt.Sprintf(`{"action":"publish","event":"e","data":"%s","id":%d}`, text, c.said))
}

func (c *client) post(text string) error {
	body := fmt.Sprintf(`{"event":"e","data":"%s"}`, text)
	return c.write(fmt.Appendf(nil, "POST /publish?clientName=%s HTTP/1.1\r\nHost: pi\r\nX-API-Key: %s\r\n"+
		"Content-Length: %d\r\n\r\n%s", c.name, apiKey, len(body), body))
}

// goes has the client leave, in any way, and returns when the connection has ended.
func (c *client) goes() {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	w := way(c.rng.IntN(int(ways) + 1))
	if w == ways {
		if c.role != posts {
			c.say(peer.Close, "\x03\xe8")
		}
		w = withNotify
	}
	c.leave(w)
	<-c.ended
}

// A ledger has all that was published.
type ledger struct {
	mu  sync.Mutex
	all map[string]*message // by publisher and number
}

type message struct {
	text  string
	begun time.Time
	acked bool
}

func cut(id string) (publisher string, number int) {
	publisher, n, _ := strings.Cut(id, "-")
	fmt.Sscan(n, &number)
	return publisher, number
}

// publishes returns a message's text.
func (l *ledger) publishes(publisher string, n int, rng *rand.Rand) string {
	id := fmt.Sprintf("%s-%d", publisher, n)
	size := 1 << rng.IntN(10)
	if rng.IntN(40) == 0 {
		size = 1 << 15
	}
	text := id + "-" + strings.Repeat(string(rune('a'+rng.IntN(26))), rng.IntN(size))
	l.note(publisher, n, &message{text: text, begun: time.Now()})
	return text
}

func (l *ledger) note(publisher string, n int, m *message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[fmt.Sprintf("%s-%d", publisher, n)] = m
}

func (l *ledger) acked(publisher string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[fmt.Sprintf("%s-%d", publisher, n)].acked = true
}

// knows returns the id of a text that was published.
func (l *ledger) knows(text string) (id string, ok bool) {
	if i := strings.LastIndexByte(text, '-'); i > 0 {
		id = text[:i]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.all[id]
	return id, ok && m.text == text
}

// missing returns how many messages that a subscriber has to have it has not.
func (l *ledger) missing(c *client) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, m := range l.all {
		if m.acked && m.begun.After(c.since) && !c.got[id] {
			n++
		}
	}
	return n
}
