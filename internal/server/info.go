package server

import (
	"cmp"
	"crypto/tls"
	"math"
	"net/http"
	"slices"
	"strings"
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

// tick shows the current state, unless the client is still busy with an older one. It is the last when the server
// stops: a client that is handed over is the next process's.
func (is *infoSession) tick() {
	if is.server.isStopping() {
		return
	}
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

// What an info has at most, whatever clients do.
const (
	InfoBytes       = 1 << 20 // of text
	InfoEvents      = 1000
	InfoSubscribers = 100 // of one event
)

// infoBounds has no bound of clients but InfoBytes: each takes more than 100.
var infoBounds = hub.Bounds{Events: InfoEvents, Clients: InfoBytes / 100, Subscribers: InfoSubscribers}

// snapshot returns the current state as JSON, with a line end at most InfoBytes long.
func (s *Server) snapshot() []byte {
	events, clients, all := s.hub.Snapshot(infoBounds)
	info := wire.Info{CreatedAt: time.Now().UTC(), Server: s.state()}
	info.Server.SlowClientsClosedLatest = s.slow.list()
	size := len(wire.AppendInfo(nil, &info)) + len("\n")
	listed, whole := fill(&info, events, clients, InfoBytes-size)
	info.Server.Truncated = !all || !whole
	return wire.AppendInfo(make([]byte, 0, size+listed), &info)
}

// fill puts the events, the latest of which comes first, and the clients into info: as many as fit into room. It
// returns how many bytes they take, and whether everything is in. First come events with one subscriber each, in at
// most half of the room, then clients, the last to connect first, then the other events. What is left is for one more
// subscriber of each event, as often as all those fit.
func fill(info *wire.Info, events []hub.EventInfo, clients []*hub.Client, room int) (size int, whole bool) {
	type entry struct {
		wire.Subscription
		traffic wire.EventTraffic
		clients []*hub.Client
	}
	entries := make([]entry, 0, len(events))
	addEvents := func(room int) {
		for _, ev := range events[len(entries):] {
			e := entry{wire.Subscription{Name: ev.Name}, wire.EventTraffic{Subscribers: ev.Subscribers,
				Published: ev.Published, Delivered: ev.Delivered, Last: lastMessage(ev.Last)}, ev.Clients}
			n := e.Size() + e.traffic.Size() + connection(e.clients[len(e.clients)-1]).Size()
			if size+n > room {
				return
			}
			size += n
			entries = append(entries, e)
		}
	}
	addEvents(room / 2)

	server := &info.Server
	for _, client := range slices.Backward(clients) {
		c, t := connection(client), wire.ConnectionTraffic{TLSVersion: tlsVersion(client)}
		t.Published, t.Delivered = client.Traffic()
		n := c.Size() + t.Size()
		if size+n > room {
			break
		}
		size += n
		info.AllConnections = append(info.AllConnections, c)
		server.ConnectionTraffic = append(server.ConnectionTraffic, t)
	}
	addEvents(room)
	slices.Reverse(info.AllConnections)
	slices.Reverse(server.ConnectionTraffic)

	each := 1 // subscribers of an event are listed
	for ; each < InfoSubscribers; each++ {
		n := 0
		for _, e := range entries {
			if others := len(e.clients) - each; others > 0 {
				n += connection(e.clients[others-1]).Size()
			}
		}
		if size+n > room {
			break
		}
		size += n
	}

	whole = len(entries) == len(events) && len(info.AllConnections) == len(clients)
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.Name, b.Name) })
	for _, e := range entries {
		listed := e.clients[max(0, len(e.clients)-each):]
		e.Connections = make([]wire.Connection, len(listed))
		for i, c := range listed {
			e.Connections[i] = connection(c)
		}
		whole = whole && len(e.Connections) == e.traffic.Subscribers
		info.Subscriptions = append(info.Subscriptions, e.Subscription)
		server.EventTraffic = append(server.EventTraffic, e.traffic)
	}
	return size, whole
}

func connection(c *hub.Client) wire.Connection {
	return wire.Connection{ClientName: c.Name, IPAddress: c.Addr, ConnectedAt: c.ConnectedAt}
}

// tlsVersion is the version of TLS that a client speaks; empty without TLS.
func tlsVersion(c *hub.Client) string {
	over, ok := c.Sink().(*wsconn.Conn)
	if !ok || over.TLS() == 0 {
		return ""
	}
	return strings.TrimPrefix(tls.VersionName(over.TLS()), "TLS ")
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
		TLSKeptOverRestart:     s.cfg.Store != nil && s.cfg.Store.KeepsSecrets(),
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
