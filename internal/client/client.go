// Package client is a connection to a PiCloud server that comes back by itself.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"picloud/internal/wire"
)

const (
	backoffFloor   = 100 * time.Millisecond
	backoffCeiling = 30 * time.Second
	stableAfter    = 5 * time.Second // a connection that lasts this long resets the backoff
)

// Options says where the server is and who is calling.
type Options struct {
	URL  string // http://, https://, ws:// or wss:// with host[:port]; host[:port], port 9000; unix:/path
	Key  string // may be empty for a Unix socket
	Name string // the client name; empty for user@host

	// TLS, when not nil, is what the configuration of https connections is made from.
	TLS *tls.Config

	// LookUp, when not nil, finds the addresses of a host whose name ends in .local, which Go's own resolver cannot. It
	// may be called from several goroutines.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)

	// OnMessage, when not nil, gets each message of the subscribed events, one at a time and in order, and none once
	// Run's context has ended. Nothing is read while it runs: the server closes a client that is too slow, and a call
	// made from within it that waits for the server never returns.
	OnMessage func(wire.Delivery)

	// OnState, when not nil, is told of each change, in order. It must return quickly.
	OnState func(State)
}

// State is the state of the connection.
type State struct {
	Connected bool          // and subscribed again to everything it was subscribed to before
	Err       error         // why it is not connected
	Wait      time.Duration // until the next attempt
}

// Client is a program's connection to a server. Its methods may be called from any goroutine.
//
// Post, Info, SignInCode and Metrics are requests of their own, and Dial opens a connection of its own. Subscribe and
// Send use the connection that Run keeps, and wait for it if it is not there yet.
type Client struct {
	options Options
	address address
	http    http.Client
	header  http.Header
	dialer  func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	changed chan struct{}   // closed and replaced when session or ended change
	session *session        // nil while there is no connection
	events  map[string]bool // to subscribe to again after a reconnect
	ended   error           // not nil once Run has returned
	found   []netip.Addr    // by LookUp
	foundAt time.Time
}

// New checks the options. It does not connect.
func New(options Options) (*Client, error) {
	a, err := parseAddress(options.URL)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(options.Key, unicode.IsControl) {
		return nil, errors.New("the key has a control character in it, perhaps the newline of the file that it came from")
	}
	if options.Name == "" {
		options.Name = defaultName()
	}
	if err := wire.CheckName(options.Name); err != nil {
		return nil, fmt.Errorf("client name %q: %w", options.Name, err)
	}
	c := &Client{
		options: options,
		address: a,
		header:  http.Header{},
		dialer:  new(net.Dialer).DialContext,
		changed: make(chan struct{}),
		events:  make(map[string]bool),
	}
	if options.Key != "" {
		c.header.Set("X-API-Key", options.Key)
	}
	c.header.Set("X-API-Client-Name", options.Name)
	c.http = http.Client{
		Transport: &http.Transport{DialContext: c.dial, IdleConnTimeout: silence},
		// Another host must not get the key.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func defaultName() string {
	name := "picloud"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	if wire.CheckName(name) != nil {
		return "picloud"
	}
	return name
}

// Run keeps the connection until ctx ends, then returns nil. It is called once.
//
// When the connection breaks, or is closed with 1001, 1012 or 1013, it connects again after a random wait, whose limit
// doubles from 0.1 s to 30 s, and subscribes again; messages published in between are missed. It returns an error when
// trying again would not help: a wrong key, a breach of the protocol, or a first attempt that finds no server. If the
// server asks for a wait (Retry-After), that is added.
func (c *Client) Run(ctx context.Context) error {
	err := c.run(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = err
	if err == nil {
		c.ended = ErrStopped
	}
	c.wake()
	return err
}

func (c *Client) run(ctx context.Context) error {
	first := true
	limit := backoffFloor
	for {
		s, err := c.open(ctx)
		if err == nil {
			first = false
			start := time.Now()
			err = c.keep(ctx, s)
			if time.Since(start) >= stableAfter {
				limit = backoffFloor
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if permanent(err, first) {
			return err
		}
		wait := jitter(&limit)
		if e, ok := errors.AsType[*StatusError](err); ok {
			wait += e.RetryAfter
		}
		c.tell(State{Err: err, Wait: wait})
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// keep uses s until it ends and returns why it did.
func (c *Client) keep(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		s.link.Close()
	}()
	context.AfterFunc(ctx, s.closeSoon) // one of the two may be stuck
	running.Go(func() { s.read(ctx, c.options.OnMessage) })
	running.Go(func() { s.write(ctx) })

	if err := c.subscribeAgain(s); err != nil {
		return err
	}
	c.setSession(s)
	c.tell(State{Connected: true})
	<-s.gone
	c.setSession(nil)
	return s.err
}

func (c *Client) subscribeAgain(s *session) error {
	c.mu.Lock()
	events := make([]string, 0, len(c.events))
	for event := range c.events {
		events = append(events, event)
	}
	c.mu.Unlock()

	ctx := context.Background() // every wait ends with the session
	receipts := make([]*Receipt, 0, len(events))
	for _, event := range events {
		p, id := s.number(wire.Subscribe, event, nil)
		r, err := s.send(ctx, id, p)
		if err != nil {
			return s.err
		}
		receipts = append(receipts, r)
	}
	for i, r := range receipts {
		if err := r.wait(ctx); errors.Is(err, errGone) {
			return s.err
		} else if err != nil {
			return hopeless{fmt.Errorf("subscribe to %q again: %w", events[i], err)}
		}
	}
	return nil
}

func (c *Client) tell(s State) {
	if c.options.OnState != nil {
		c.options.OnState(s)
	}
}

func (c *Client) setSession(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	c.wake()
}

// wake wakes whoever waits for a change. mu must be held.
func (c *Client) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// connected waits for a connection.
func (c *Client) connected(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, ended, changed := c.session, c.ended, c.changed
		c.mu.Unlock()
		switch {
		case ended != nil:
			return nil, ended
		case s != nil:
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// do sends once, on the current connection or the next one.
func (c *Client) do(ctx context.Context, action wire.Action, event string, data json.RawMessage) (*session, *Receipt,
	error) {
	if !utf8.ValidString(event) {
		return nil, nil, fmt.Errorf("%s %q: the event is not UTF-8", action, event)
	}
	for {
		s, err := c.connected(ctx)
		if err != nil {
			return nil, nil, err
		}
		p, id := s.number(action, event, data)
		if limit := c.limitOf(ctx, s, p); limit < len(p) {
			return nil, nil, fmt.Errorf("%w (%d bytes)", ErrTooBig, limit)
		}
		r, err := s.send(ctx, id, p)
		if errors.Is(err, errGone) {
			// The session is about to be replaced; what was not sent can wait for the next one.
			select {
			case <-c.replaced(s):
				continue
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			}
		}
		return s, r, err
	}
}

// limitOf returns the longest message that s takes, as far as that matters to p. The server is asked once for each
// connection, and only when p might be too long. If it does not say, there is no limit: it will judge.
func (c *Client) limitOf(ctx context.Context, s *session, p []byte) int {
	const least = 1024 // MAX_MESSAGE_BYTES is no less
	if len(p) <= least {
		return least
	}
	s.mu.Lock()
	limit := s.limit
	s.mu.Unlock()
	if limit == 0 {
		limit = cmp.Or(c.maxMessageBytes(ctx), math.MaxInt)
		s.mu.Lock()
		s.limit = limit
		s.mu.Unlock()
	}
	return limit
}

// replaced returns a channel that is closed once s may no longer be the client's session; it is closed already if s is
// not.
func (c *Client) replaced(s *session) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		return c.changed
	}
	done := make(chan struct{})
	close(done)
	return done
}

// Subscribe returns once the server has made the subscription; from then on OnMessage gets the event's messages. If the
// server refuses, the error is a *wire.Error.
func (c *Client) Subscribe(ctx context.Context, event string) error {
	for {
		s, r, err := c.do(ctx, wire.Subscribe, event, nil)
		if err != nil {
			return err
		}
		err = r.wait(ctx)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("subscribe to %q: %w", event, err)
		}
		c.mu.Lock()
		c.events[event] = true
		same := c.session == s
		c.mu.Unlock()
		if same {
			return nil
		}
		// The next connection may have been set up before this event was known.
	}
}

// Send publishes data, one JSON value, and returns as soon as the message is queued, so that many can be in flight: the
// receipt waits for the server's answer. What one goroutine sends is published in that order. An error means that the
// message was not sent; after ErrTooBig others can be.
func (c *Client) Send(ctx context.Context, event string, data json.RawMessage) (*Receipt, error) {
	if err := checkData(data); err != nil {
		return nil, fmt.Errorf("publish %q: %w", event, err)
	}
	_, r, err := c.do(ctx, wire.Publish, event, data)
	return r, err
}

func checkData(data json.RawMessage) error {
	if !utf8.Valid(data) {
		return errors.New("the data is not UTF-8")
	}
	if !json.Valid(data) {
		return errors.New("the data is not one JSON value")
	}
	return nil
}

// jitter returns a random wait within limit, and doubles the limit for the next one.
func jitter(limit *time.Duration) time.Duration {
	wait := rand.N(*limit)
	*limit = min(2**limit, backoffCeiling)
	return wait
}

// sleep returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
