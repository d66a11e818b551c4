package server

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"picloud/internal/hub"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
)

func (s *Server) subscribe(w http.ResponseWriter, r *http.Request)     { s.connect(w, r, false) }
func (s *Server) publishSocket(w http.ResponseWriter, r *http.Request) { s.connect(w, r, true) }

func (s *Server) connect(w http.ResponseWriter, r *http.Request, publishOnly bool) {
	if !s.admitted(w, r) {
		return
	}
	if name, ok := named(w, r); ok {
		s.welcome(w, r, name, publishOnly)
	}
}

// join is connect for a client that will be let in. For others it does nothing and answers nothing: net/http takes the
// request, and connect answers it.
func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	publishOnly := r.URL.Path == "/publish"
	if r.Method != http.MethodGet || !publishOnly && r.URL.Path != "/subscribe" {
		return
	}
	c := credentialsOf(r)
	if !isLocal(r) && !s.guard.admits(c.key(), origin(r), time.Now()) {
		return
	}
	if name := c.name(); wire.CheckName(name) == nil {
		s.welcome(w, r, name, publishOnly)
	}
}

// welcome turns a request into a client, or answers it.
func (s *Server) welcome(w http.ResponseWriter, r *http.Request, name string, publishOnly bool) {
	s.joining.RLock()
	defer s.joining.RUnlock()
	at := time.Now().UTC() // before the client is answered, so that the next client is later
	route := routeSubscribe
	if publishOnly {
		route = routePublish
	}
	s.upgrade(w, r, clientRecord{Route: route, Name: name, At: at}, func(c *wsconn.Conn) wsconn.Handler {
		s.log.Debug("client connected", "client_name", name, "address", c.Addr())
		return &session{server: s, conn: c, client: s.hub.Join(c, name, c.Addr(), at), publishOnly: publishOnly}
	})
}

// upgrade turns a request into a WebSocket, or answers it. meet is called once with the WebSocket, before anything is
// received, and returns its handler.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, who clientRecord,
	meet func(*wsconn.Conn) wsconn.Handler) (*wsconn.Conn, bool) {
	if !wsconn.IsUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		refuse(w, http.StatusUpgradeRequired, "this route speaks WebSocket")
		return nil, false
	}
	if s.isStopping() {
		unavailable(w, errStopping.Error())
		return nil, false
	}
	var unkept error
	c, err := s.wsConns.Upgrade(w, r, func(c *wsconn.Conn) wsconn.Handler {
		h := meet(c)
		who.Addr = c.Addr()
		unkept = keepClient(c.Kept(), s.budget.clients, who)
		return h
	})
	switch {
	case err == nil && unkept != nil:
		s.log.Warn("a client is refused: what is known of it cannot be kept for the next process", "address", c.Addr(),
			"error", unkept)
		c.Close(wire.ClosePolicy, "the server has no room to remember this connection")
		return nil, false
	case err == nil:
		return c, true
	case errors.Is(err, wsconn.ErrFull):
		s.warnFull()
		unavailable(w, "connection limit reached")
	default:
		s.log.Debug("handshake failed", "address", r.RemoteAddr, "error", err)
	}
	return nil, false
}

// warnFull warns that the connection limit is reached.
func (s *Server) warnFull() {
	if s.fullWarning.due() {
		s.log.Warn("connection limit reached, new clients are refused", "max_connections", s.cfg.Limits.Connections)
	}
}

// warnNoRoom warns that a client's subscription is refused.
func (s *Server) warnNoRoom(c *wsconn.Conn, why error) {
	if s.roomWarning.due() {
		s.log.Warn("a subscription is refused: those of all clients together take what they may", "address", c.Addr(),
			"error", why, "bytes", s.cfg.SubscriptionBytes)
	}
}

// A warning is given at most once a minute, however often there is a reason.
type warning struct{ last atomic.Pointer[time.Time] }

func (w *warning) due() bool {
	now, last := time.Now(), w.last.Load()
	return (last == nil || now.Sub(*last) >= time.Minute) && w.last.CompareAndSwap(last, &now)
}

// A session handles what one client of /subscribe or /publish says, and answers it.
type session struct {
	server      *Server
	conn        *wsconn.Conn
	client      *hub.Client
	publishOnly bool
	publisher   *publisher // borrowed while there is input
}

// Receive implements wsconn.Handler.
func (ss *session) Receive(binary bool, p []byte) {
	if ss.publisher == nil {
		ss.publisher = ss.server.publishers.Get().(*publisher)
		ss.publisher.own = ss.conn
	}
	m, err := wire.Decode(p)
	if err == nil {
		err = ss.do(&m)
	}
	pub := ss.publisher
	switch {
	case errors.Is(err, errStopping): // nothing is wrong with the message: the 1001 that follows says it
	case err != nil:
		pub.answer(ss.conn, wire.AppendError(pub.text[:0], err.Error(), m.Event, m.ID))
	case m.ID != nil:
		pub.answer(ss.conn, wire.AppendAck(pub.text[:0], m.ID))
	}
}

var (
	errOnlyPublishes = errors.New("this connection only publishes: connect to /subscribe for the other actions")
	errUnrecorded    = errors.New("the server has no room for more subscriptions: end others, or use fewer or shorter names")
)

// do carries out a message. The error is for the client.
func (ss *session) do(m *wire.Message) error {
	if ss.publishOnly && m.Action == wire.None {
		m.Action = wire.Publish
	}
	h := ss.server.hub
	switch {
	case m.Action == wire.Publish:
		if err := ss.server.publish(ss.publisher, m, ss.client.Name); err != nil {
			return err
		}
		ss.client.Sent()
	case ss.publishOnly:
		return errOnlyPublishes
	case m.Action == wire.Subscribe:
		added, err := h.Subscribe(ss.client, m.Event, ss.server.cfg.Subscriptions)
		switch {
		case err == hub.ErrNoRoom:
			ss.server.warnNoRoom(ss.conn, err)
			return errUnrecorded
		case err != nil || !added:
			return err
		}
		if err := ss.server.keepSubscription(ss.conn, string(m.Event)); err != nil {
			h.Unsubscribe(ss.client, m.Event)
			return errUnrecorded
		}
	case m.Action == wire.Unsubscribe:
		if h.Unsubscribe(ss.client, m.Event) {
			ss.server.forget(ss.conn, recordSubscription, string(m.Event))
		}
	case m.Action == wire.UnsubscribeAll:
		events := ss.client.Events()
		h.UnsubscribeAll(ss.client)
		for _, event := range events {
			ss.server.forget(ss.conn, recordSubscription, event)
		}
	case m.Action == wire.None:
		return wire.ErrActionMissing
	default:
		return wire.ErrActionUnknown
	}
	return nil
}

// Rest implements wsconn.Handler.
func (ss *session) Rest() {
	if ss.publisher != nil {
		ss.publisher.flush()
		ss.publisher.own = nil
		ss.server.publishers.Put(ss.publisher)
		ss.publisher = nil
	}
}

// Closed implements wsconn.Handler.
func (ss *session) Closed(why error) {
	ss.server.hub.Leave(ss.client)
	ss.server.closed(ss.conn, ss.client.Name, why)
}

// closed records the end of a connection. What an operator wants to know about is a slow client that was closed.
func (s *Server) closed(c *wsconn.Conn, name string, why error) {
	addr := c.Addr()
	s.forgotten(c.Kept().End())
	var panicked *wsconn.Panic
	switch {
	case errors.As(why, &panicked):
		s.log.Error("a message made the server panic, its connection is closed", "client_name", name, "address", addr,
			"panic", panicked.What, "stack", string(panicked.Stack))
	case errors.Is(why, wsconn.ErrTooSlow), errors.Is(why, wsconn.ErrStalled), errors.Is(why, wsconn.ErrLongest):
		s.slow.note(name, addr, why)
		s.log.Warn("slow client closed", "client_name", name, "address", addr, "reason", why)
	case errors.Is(why, wsconn.ErrGoodbye), errors.Is(why, wsconn.ErrClosed), errors.Is(why, io.EOF):
		s.log.Debug("client disconnected", "client_name", name, "address", addr)
	default:
		s.log.Debug("client lost", "client_name", name, "address", addr, "reason", why)
	}
}
