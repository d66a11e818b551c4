package server

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"picloud/internal/hub"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
)

// infoEither serves /info: a WebSocket to clients that ask for one, one snapshot to others.
func (s *Server) infoEither(w http.ResponseWriter, r *http.Request) {
	if wsconn.IsUpgrade(r) {
		s.infoSocket(w, r)
		return
	}
	if !s.admitted(w, r) {
		return
	}
	shot := s.info.since(time.Now(), s.snapshot)
	unstored(w.Header(), "application/json")
	w.Write(shot.text)
	w.Write([]byte("\n"))
}

func (s *Server) infoSocket(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) {
		return
	}
	s.joining.RLock()
	defer s.joining.RUnlock()
	var is *infoSession
	_, ok := s.upgrade(w, r, clientRecord{Route: routeInfo, At: time.Now().UTC()}, func(c *wsconn.Conn) wsconn.Handler {
		is = &infoSession{server: s, conn: c}
		return is
	})
	if ok {
		is.begin()
	}
}

// begin shows the state to the client, now and at intervals.
func (is *infoSession) begin() {
	is.show(time.Now())
	is.mu.Lock()
	defer is.mu.Unlock()
	if !is.closed {
		is.timer = time.AfterFunc(is.server.infoEvery, is.tick)
	}
}

// An infoSession shows snapshots to one client.
type infoSession struct {
	server *Server
	conn   *wsconn.Conn

	mu     sync.Mutex
	timer  *time.Timer
	closed bool
}

// show sends the client a snapshot that is not older than oldest.
func (is *infoSession) show(oldest time.Time) {
	is.conn.Queue(is.server.info.since(oldest, is.server.snapshot).frame, 0)
	is.conn.Flush()
}

// tick shows the current state, unless the client is still busy with an older one.
func (is *infoSession) tick() {
	if is.conn.Idle() {
		is.show(time.Now().Add(-is.server.infoEvery / 10)) // one for those whose turns are close together
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if !is.closed {
		is.timer.Reset(is.server.infoEvery)
	}
}

// Receive implements wsconn.Handler: what an info client says is ignored.
func (is *infoSession) Receive(bool, []byte) {}

// Rest implements wsconn.Handler.
func (is *infoSession) Rest() {}

// Closed implements wsconn.Handler.
func (is *infoSession) Closed(why error) {
	is.mu.Lock()
	is.closed = true
	if is.timer != nil {
		is.timer.Stop()
	}
	is.mu.Unlock()
	is.server.closed(is.conn, "", why)
}

// snapshots has one snapshot made for all who ask at a time.
type snapshots struct {
	mu   sync.Mutex // held while one is made
	last *snapshot
}

// A snapshot is an encoded info. It is shared, and never changed.
type snapshot struct {
	begun time.Time // before anything was looked at
	text  []byte
	frame []byte // with the text in it
}

// since returns a snapshot whose making began after that time. Those who ask while one is made wait, and share the next
// one: what has been done before they asked is in it.
func (s *snapshots) since(oldest time.Time, make func() []byte) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || !s.last.begun.After(oldest) {
		begun := time.Now()
		text := make()
		var a wsconn.Arena
		frame := a.Text(text)
		s.last = &snapshot{begun, frame[len(frame)-len(text):], frame}
	}
	return s.last
}

// infoBounds are what an info lists: everything.
var infoBounds = hub.Bounds{Events: math.MaxInt, Clients: math.MaxInt, Subscribers: math.MaxInt}

// snapshot returns the current state as JSON.
func (s *Server) snapshot() []byte {
	events, clients, _ := s.hub.Snapshot(infoBounds)
	slices.SortFunc(events, func(a, b hub.EventInfo) int { return cmp.Compare(a.Name, b.Name) })
	info := wire.Info{
		Subscriptions:  make([]wire.Subscription, len(events)),
		AllConnections: connections(clients),
		CreatedAt:      time.Now().UTC(),
		Server:         s.state(),
	}
	info.Server.SlowClientsClosedLatest = s.slow.list()
	info.Server.EventTraffic = make([]wire.EventTraffic, len(events))
	for i, ev := range events {
		info.Subscriptions[i] = wire.Subscription{Name: ev.Name, Connections: connections(ev.Clients)}
		info.Server.EventTraffic[i] = wire.EventTraffic{Published: ev.Published, Delivered: ev.Delivered,
			Last: lastMessage(ev.Last)}
	}
	info.Server.ConnectionTraffic = make([]wire.ConnectionTraffic, len(clients))
	for i, c := range clients {
		t := &info.Server.ConnectionTraffic[i]
		t.Published, t.Delivered = c.Traffic()
	}
	return wire.AppendInfo(nil, &info)
}

func connections(clients []*hub.Client) []wire.Connection {
	list := make([]wire.Connection, len(clients))
	for i, c := range clients {
		list[i] = wire.Connection{ClientName: c.Name, IPAddress: c.Addr, ConnectedAt: c.ConnectedAt}
	}
	return list
}

func lastMessage(l hub.Last) *wire.LastMessage {
	if l.At.IsZero() {
		return nil
	}
	data := l.Data
	for len(data) < l.Bytes && len(data) > 0 { // it was cut, maybe within a character
		if r, n := utf8.DecodeLastRune(data); r != utf8.RuneError || n != 1 {
			break
		}
		data = data[:len(data)-1]
	}
	return &wire.LastMessage{CreatedAt: l.At.UTC(), ClientName: l.From, Preview: string(data), DataBytes: l.Bytes}
}

// About is what an info says about the server that a Server cannot know by itself.
type About struct {
	Port     int // 0 when it listens on no TCP port
	TLS      bool
	LED      string // where the status LED is; empty: there is none
	LEDError string // why it does not work

	LogLinesDropped uint64 // those that the log did not take
}

func (s *Server) about() About {
	if s.cfg.About == nil {
		return About{}
	}
	return s.cfg.About()
}

// state returns a snapshot's ServerInfo without its lists.
func (s *Server) state() wire.ServerInfo {
	n := s.hub.Counts()
	about := s.about()
	resident, _ := residentBytes() // 0 where the system does not tell
	return wire.ServerInfo{
		Version:                s.cfg.Version,
		UptimeSeconds:          int64(time.Since(s.began).Seconds()),
		Connections:            s.wsConns.Len(),
		MaxConnections:         s.cfg.Limits.Connections,
		Events:                 n.Events,
		Subscriptions:          n.Subscriptions,
		Published:              n.Published,
		Delivered:              n.Delivered,
		SlowClientsClosed:      s.slow.Load(),
		WrongKeys:              s.guard.wrong.Load(),
		ConnectionLimitReached: s.wsConns.Filled(),
		KeptOverRestart:        s.keptOverRestart,
		LostOverRestart:        s.lostOverRestart,
		Port:                   about.Port,
		TLS:                    about.TLS,
		LED:                    about.LED,
		LEDError:               about.LEDError,
		MaxMessageBytes:        s.cfg.Limits.MessageBytes,
		MaxQueueBytes:          s.cfg.Limits.QueueBytes,
		MaxSubscriptions:       s.cfg.Subscriptions,
		ResidentMemoryBytes:    resident,
		CPUSeconds:             math.Round(cpuSeconds()*1000) / 1000,
	}
}

// slowClients counts the slow clients that were closed, and remembers the latest of them.
type slowClients struct {
	atomic.Uint64

	mu     sync.Mutex
	latest []wire.SlowClient // the newest last
}

// mostSlowClients is how many are remembered.
const mostSlowClients = 20

func (c *slowClients) note(name, addr string, why error) {
	c.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.latest) == mostSlowClients {
		c.latest = slices.Delete(c.latest, 0, 1)
	}
	c.latest = append(c.latest, wire.SlowClient{ClientName: name, IPAddress: addr, ClosedAt: time.Now().UTC(),
		Reason: why.Error()})
}

// list returns them, the newest first.
func (c *slowClients) list() []wire.SlowClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := slices.Clone(c.latest)
	slices.Reverse(list)
	return list
}
