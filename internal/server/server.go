// Package server is PiCloud over HTTP: its routes, who may use them, and what a connected client may say.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"picloud/internal/dashboard"
	"picloud/internal/handover"
	"picloud/internal/httpconn"
	"picloud/internal/hub"
	"picloud/internal/poll"
	"picloud/internal/quota"
	"picloud/internal/wire"
	"picloud/internal/wsconn"

	"github.com/julienschmidt/httprouter"
)

// Config is what a Server is made from. All fields but those behind About must be set.
type Config struct {
	Key               string // never empty
	Version           string
	Limits            wsconn.Limits
	Subscriptions     int           // of one connection
	SubscriptionBytes int           // of all connections
	WaitingBytes      int           // of what waits in all connections for slow clients, or for its rest
	TCPBytes          int           // of the kernel's memory, for all TCP connections of the machine
	HeaderTimeout     time.Duration // for a request's headers
	WrongKeys         int           // from one address, then one a minute
	Requests          int           // HTTP connections at the same time, before they become WebSockets; at least 2
	Reload            func() error  // what POST /reload on the local socket does

	About func() About // called for each info; may be nil

	// CarryTLS says whether connections with TLS are carried into the next process, too.
	CarryTLS bool

	// Store keeps connections for the next process; it may be nil. Ending is called once, when Run is to end; nil means
	// Stop.
	Store  *handover.Store
	Ending func() Ending
	// HandedOver is called when the Store has everything, before this process lets go of what it has itself; it may be
	// nil.
	HandedOver func()
}

// An Ending is how a Server ends.
type Ending int

const (
	Stop     Ending = iota // every WebSocket is closed with 1001
	Restart                // every WebSocket is closed with 1012
	HandOver               // the connections are left to the next process; without a Store the same as Restart
)

// InfoEvery is how often an info connection gets a snapshot.
const InfoEvery = 5 * time.Second

// headBytes is how long a request's line and headers may be.
const headBytes = 16 << 10

// How long things may take: a request's body, after its headers; an answer; a stop.
const (
	bodyTimeout   = 20 * time.Second
	answerTimeout = time.Minute
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second
)

// requestGrace is how long a stopping server still serves the requests of connections that it has accepted, and
// refuseGrace how much longer it answers them that it is stopping.
const (
	requestGrace = 250 * time.Millisecond
	refuseGrace  = time.Second
)

// A Server is made by New and served by Run.
type Server struct {
	cfg       Config
	log       *slog.Logger
	hub       *hub.Hub
	poll      *poll.Poller // wakes all sockets
	wsConns   *wsconn.Set
	waiting   *quota.Quota // of bytes, in wsConns and httpConns, for who has shown the key
	guard     *guard
	codes     codes         // that sign browsers in
	httpConns *httpconn.Set // the connections, until they are WebSockets
	http      *http.Server  // answers requests that httpConns lends it
	info      snapshots
	began     time.Time

	infoEvery    time.Duration // InfoEvery, except in tests
	requestGrace time.Duration // requestGrace, except in tests

	publishers sync.Pool // of *publisher

	// gate is held for reading while a message is queued: once stopping is set under it, all that was accepted is
	// queued.
	gate     sync.RWMutex
	stopping bool

	// joining is held for reading from the handshake of a WebSocket until it is in wsConns: in between nobody else has
	// it.
	joining sync.RWMutex

	// What Restore has made and Run begins with, and how many connections were kept and lost.
	begin    []func()
	requests []httpconn.Saved

	keptOverRestart, lostOverRestart int

	slow        slowClients
	fullWarning warning // connections
	roomWarning warning // subscriptions
	mqttWarning warning // clients that speak MQTT
	tcpWarning  warning // the kernel's memory
	budget      budget  // of the store
	created     atomic.Pointer[created]
}

// New makes a Server. It logs to log: no keys, no payloads.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if cfg.Key == "" {
		return nil, errors.New("a server needs a key")
	}
	waiting := min(cfg.WaitingBytes, waitingBytes)
	s := &Server{
		cfg:   cfg,
		log:   log,
		hub:   hub.New(cfg.SubscriptionBytes),
		began: time.Now(),

		waiting: quota.New(waiting - waiting/KeylessShare),

		infoEvery:    InfoEvery,
		requestGrace: requestGrace,
	}
	s.guard = newGuard(cfg.Key, cfg.WrongKeys, log, s.peers)
	if cfg.Store != nil {
		s.budget = newBudget(cfg.Store.Limit(), cfg.Limits, cfg.Requests)
	}
	s.publishers.New = func() any { return new(publisher) }
	var err error
	if s.poll, err = poll.New(); err != nil {
		return nil, err
	}
	s.wsConns = wsconn.New(cfg.Limits, s.poll, cfg.Store, s.waiting,
		func(w http.ResponseWriter, status int, reason error) {
			refuse(w, status, reason.Error())
		},
		func(text []byte) string { return wire.NotUTF8(text).Reason })
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: cfg.HeaderTimeout,
		ReadTimeout:       cfg.HeaderTimeout + bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.httpConns = httpconn.New(httpconn.Config{
		Poller:       s.poll,
		HTTP:         s.http,
		Short:        s.publishPlain,
		Join:         s.join,
		Bounds:       bounds(cfg.Requests),
		Waiting:      s.waiting,
		KeylessBytes: waiting / KeylessShare,
		Crowded:      s.crowded,
		Panicked: func(what any, stack []byte) {
			s.log.Error("a request made the server panic, its connection is closed", "panic", what, "stack",
				string(stack))
		},
		MQTT: s.warnMQTT,
		Unshaken: func(from net.Addr, why error) {
			s.log.Debug("a TLS connection could not be made", "address", from.String(), "error", why)
		},
		HeadTimeout: cfg.HeaderTimeout,
		BodyTimeout: bodyTimeout,
		IdleTimeout: idleTimeout,
		SendTimeout: answerTimeout,
		HeadBytes:   headBytes,
		UnsentBytes: cfg.Limits.UnsentBytes,
		RecallBytes: headBytes + 2*cfg.Limits.MessageBytes, // a chunked body can be longer than its message
	})
	s.http.ConnState, s.http.ConnContext = s.httpConns.Note, s.httpConns.ConnContext
	return s, nil
}

// Secure is a listener whose connections speak TLS.
type Secure struct {
	net.Listener
	Config *tls.Config // see tlsrecord.Handshake
}

// Run serves on the listeners, of TCP, of Unix sockets, or Secure ones of TCP, until ctx ends; then it stops in order:
// it takes no more connections, delivers what is queued and closes every WebSocket, within 5 seconds; or it leaves the
// connections to the next process, within 2. It closes the listeners. The error is nil after that, or what made it stop
// serving. It is called once.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	serving, endServing := context.WithCancel(context.Background())
	var parts, accepting sync.WaitGroup
	failed := make(chan error, len(listeners)+1)
	parts.Go(func() {
		if err := s.poll.Run(serving); err != nil {
			failed <- err
		}
	})
	parts.Go(func() { s.waiting.Run(serving, s.wsConns.Waiting(), s.httpConns.Waiting()) })
	parts.Go(func() { s.watchTCP(serving) })
	parts.Go(func() { s.wsConns.Run(serving) })
	parts.Go(func() { s.httpConns.Run(serving) })
	s.beginRestored()
	accept, endAccept := context.WithCancel(context.Background())
	for _, l := range listeners {
		accepting.Go(func() {
			var config *tls.Config
			if secure, ok := l.(Secure); ok {
				l, config = secure.Listener, secure.Config
			}
			err := s.httpConns.Serve(accept, l.(httpconn.Listener), config)
			if accept.Err() == nil {
				failed <- fmt.Errorf("serve on %s: %w", l.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	ending := Stop
	if err == nil && s.cfg.Ending != nil {
		ending = s.cfg.Ending()
	}
	endAccept()
	for _, l := range listeners {
		l.Close()
	}
	s.httpConns.Unbind()
	accepting.Wait()
	stopped := func() {
		endServing()
		parts.Wait()
	}
	switch {
	case ending == HandOver && s.cfg.Store != nil:
		s.handOver(stopped)
	case ending == Stop:
		s.stop(wire.CloseGoingAway, "server stops")
		stopped()
	default:
		s.stop(wire.CloseRestart, "server restarts")
		stopped()
	}
	return errors.Join(err, s.release())
}

// release frees what New has made. It is called when none of it is in use any more.
func (s *Server) release() error {
	s.wsConns.Release()
	s.httpConns.Release()
	return s.poll.Release()
}

// stop ends the accepted connections. It does not use http.Server.Shutdown, which closes a connection without an answer
// if its request arrives meanwhile.
func (s *Server) stop(code int, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.http.SetKeepAlivesEnabled(false) // closes idle connections, and others after their answer
	s.httpConns.Drain()
	none := s.httpConns.None()
	select {
	case <-none:
	case <-time.After(s.requestGrace):
	}

	s.gate.Lock()
	s.stopping = true
	s.gate.Unlock()
	var requests sync.WaitGroup
	requests.Go(func() {
		// What is left here is a request still arriving, which will be refused, or an answer still being sent.
		select {
		case <-none:
		case <-time.After(refuseGrace):
			s.http.Close()
			s.httpConns.Close()
		}
	})
	s.wsConns.Close(ctx, code, reason)
	requests.Wait()
}

// bounds divides a number of HTTP connections.
func bounds(n int) httpconn.Bounds {
	local := max(n/16, 1)
	return httpconn.Bounds{TCP: max(n-local, 1), Network: max((n-local)/4, 1), Local: local}
}

// crowded says that HTTP connections are closed, or have to wait, because there are as many as there may be.
func (s *Server) crowded(c httpconn.Crowding) {
	from := wsconn.Local
	if c.From.IsValid() {
		from = name(c.From)
	}
	switch c.Kind {
	case httpconn.NetworkFull:
		s.log.Warn("an address has as many connections without the key as it may have: its oldest are closed",
			"address", from, "connections", c.Bound)
	case httpconn.Full:
		s.log.Warn("all HTTP connections are taken: the oldest that has not shown the key is closed for each new one",
			"connections", c.Bound, "most_from", from, "theirs", c.Holds)
	case httpconn.Waiting:
		s.log.Warn("all HTTP connections are busy: new ones wait", "connections", c.Bound)
	}
}

// warnMQTT warns of a client that speaks MQTT, and got no answer.
func (s *Server) warnMQTT(from net.Addr) {
	if !s.mqttWarning.due() {
		return
	}
	address := from.String()
	if isUnix(from) {
		address = wsconn.Local
	}
	s.log.Warn("an MQTT client tried to connect: PiCloud does not speak MQTT", "address", address,
		"remedy", "have it use a WebSocket or POST /publish, see docs/protocol.md")
}

func (s *Server) routes() http.Handler {
	r := httprouter.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandlerFunc(http.MethodGet, "/subscribe", s.subscribe)
	r.HandlerFunc(http.MethodGet, "/publish", s.publishSocket)
	r.HandlerFunc(http.MethodPost, "/publish", s.publishPost)
	r.HandlerFunc(http.MethodGet, "/socket/info", s.infoSocket)
	r.HandlerFunc(http.MethodGet, "/info", s.infoEither)
	r.HandlerFunc(http.MethodGet, "/metrics", s.metrics)
	r.HandlerFunc(http.MethodPost, "/reload", s.reload)
	r.HandlerFunc(http.MethodPost, "/sign-in", s.signIn)
	r.HandlerFunc(http.MethodPost, "/sign-in/codes", s.signInCode)
	page, paths := dashboard.Handler(), dashboard.Paths()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r.HandlerFunc(method, "/healthz", s.healthz)
		for _, path := range paths {
			r.Handler(method, path, page)
		}
	}
	r.NotFound = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "no such route")
	})
	r.MethodNotAllowed = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { // Allow is set
		refuse(w, http.StatusMethodNotAllowed, "method not allowed on this route")
	})
	r.GlobalOPTIONS = http.HandlerFunc(preflight)
	r.PanicHandler = func(w http.ResponseWriter, req *http.Request, what any) {
		s.log.Error("a request made the server panic", "path", req.URL.Path, "panic", what, "stack",
			string(debug.Stack()))
		refuse(w, http.StatusInternalServerError, "internal error")
	}
	return allowAnyOrigin(r)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.isStopping() {
		unavailable(w, errStopping.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"status":"ok"}` + "\n"))
}

// reload is for the local socket only: to others there is no such route.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if !isLocal(r) {
		refuse(w, http.StatusNotFound, "no such route")
		return
	}
	if err := s.cfg.Reload(); err != nil {
		refuse(w, http.StatusConflict, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// Status returns one line about what is going on: "3 clients, 2 events".
func (s *Server) Status() string {
	n := s.hub.Counts()
	return count(n.Clients, "client") + ", " + count(n.Events, "event")
}

// Load returns how many clients are connected, and how many times since the start a slow one was closed or the
// connection limit was reached.
func (s *Server) Load() (clients int, incidents uint64) {
	return s.hub.Counts().Clients, s.slow.Load() + s.wsConns.Filled()
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Probe returns nil when the hub and the connections respond; when they do not it returns an error, or does not return.
// Calls must not overlap.
func (s *Server) Probe(ctx context.Context) error {
	s.hub.Probe()
	s.wsConns.Probe()
	return s.poll.Probe(ctx)
}

func (s *Server) isStopping() bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	return s.stopping
}

// refuse answers with an error's status and JSON body.
func refuse(w http.ResponseWriter, status int, reason string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	body := wire.AppendString([]byte(`{"error":`), reason)
	w.Write(append(body, '}', '\n'))
}

// unstored sets the headers of an answer that is for the owner of the key, and only true now: nobody is to keep it, or
// to take it for something else.
func unstored(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// unavailable is refuse for a temporary condition.
func unavailable(w http.ResponseWriter, reason string) {
	w.Header().Set("Retry-After", "5")
	refuse(w, http.StatusServiceUnavailable, reason)
}

// allowAnyOrigin lets pages from elsewhere use the server: they need the key, which no browser sends by itself.
func allowAnyOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
		}
		next.ServeHTTP(w, r)
	})
}

// ownHeaders are the headers that the server looks at, and Content-Type, which pages send with JSON.
const ownHeaders = "X-API-Key, X-API-Client-Name, Authorization, Content-Type"

// askedBytes is how long a list of headers that a browser asks for may be.
const askedBytes = 1 << 10

// allowHeaders lists the headers that a page from elsewhere may send: also those that are asked for, since libraries
// add headers of their own. An asked list that is too long, or has something that is no name, is left out.
func allowHeaders(asked []string) string {
	names := strings.Split(ownHeaders, ", ")
	own := len(names)
	list := strings.Join(asked, ",")
	if len(list) > askedBytes {
		return ownHeaders
	}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.Trim(name, " \t")
		switch {
		case name == "" || slices.ContainsFunc(names[:own], func(s string) bool { return strings.EqualFold(s, name) }):
		case strings.ContainsFunc(name, notInName):
			return ownHeaders
		default:
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// notInName reports whether no header's name has r. RFC 9110 §5.1 allows more than anybody uses.
func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// preflight answers a browser that asks what a page from elsewhere may send.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", h.Get("Allow"))
	h.Set("Access-Control-Allow-Headers", allowHeaders(r.Header["Access-Control-Request-Headers"]))
	h.Set("Access-Control-Max-Age", "86400")
	if r.Header.Get("Access-Control-Request-Private-Network") != "" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
}
