package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"picloud/internal/handover"
	"picloud/internal/httpconn"
	"picloud/internal/tlsconn"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
)

// The kinds of records in the store; 'm' is the store's own. A version ignores a kind that it does not know; a changed
// meaning gets a new kind. A version ends a connection if none of the records that it knows says what the connection
// is.
const (
	recordClient        = 'c' // a WebSocket: a clientRecord
	recordSubscription  = 's' // its key is the event
	recordRest          = 'r' // made by a hand-over: a wsconn.Saved
	recordRequest       = 'h' // made by a hand-over: an HTTP connection, a requestRecord
	recordLongRequest   = 'H' // the same, with more of a request than older versions can take
	recordSealedClient  = 'C' // as recordClient, of a connection with TLS, which has a handover.Secret
	recordSealedRequest = 'S' // as recordRequest, likewise
	recordHandedOver    = 'o' // of connection 0: a hand-over has been completed
	recordKey           = 'k' // of connection 0: the key's hash, once all clients that used another are forgotten
)

// The routes of WebSockets, as they are recorded.
const (
	routeSubscribe = "subscribe"
	routePublish   = "publish"
	routeInfo      = "info"
)

type clientRecord struct {
	Route string    `json:"route"`
	Name  string    `json:"name,omitempty"`
	Addr  string    `json:"addr"`
	At    time.Time `json:"at"`
	Place int       `json:"place"` // always noPlace
}

// noPlace tells an older version, which kept the place of a client's mark in the client's record, that there is none:
// such a client is ended if that version crashes. That version would take a missing place for the first.
const noPlace = -1

type requestRecord struct {
	Local bool   `json:"local,omitempty"`
	Used  bool   `json:"used,omitempty"`
	In    []byte `json:"in,omitempty"`
	Held  []byte `json:"held,omitempty"` // these two of TLS: see tlsconn
	Owed  []byte `json:"owed,omitempty"`
}

// oldRequestBytes is how much of a request a version before recordLongRequest can take over.
const oldRequestBytes = 16 << 10

// What a store has room for, in bytes of its journal: first what is kept all the time, then what a hand-over adds.
const (
	subscriptionsBytes = 64 << 20 // of all subscriptions' records; past it new ones are refused
	clientBytes        = 1 << 10  // of one client's records at most: each of a name's 128 characters can take six bytes
	waitingBytes       = 64 << 20 // of all else that a hand-over carries: queues, unfinished messages and requests
	restBytes          = 384      // of one connection's record at a hand-over, without these, and of ending its mark
)

// encodedWaiting is what waitingBytes become in the records, in base64.
const encodedWaiting = (waitingBytes + 2) / 3 * 4

// StoreBytes is the size to give handover.New for a Server with these limits and that many HTTP connections.
func StoreBytes(limits wsconn.Limits, requests int) int {
	return subscriptionsBytes + limits.Connections*clientBytes + encodedWaiting +
		(limits.Connections+requests)*restBytes
}

// MaxConnections is how many connections a store can have room for, with any number of HTTP connections up to 65,536.
const MaxConnections = (handover.MaxJournal - subscriptionsBytes - encodedWaiting - 1<<16*restBytes) / (clientBytes +
	restBytes)

// A budget says how far the records of each kind may fill the store's journal: the kinds after it have the rest to
// themselves.
type budget struct{ subscriptions, clients, all int }

// newBudget divides a journal, which another version may have made smaller.
func newBudget(limit int, limits wsconn.Limits, requests int) budget {
	handOver := min(encodedWaiting+(limits.Connections+requests)*restBytes, limit/2)
	clients := min(limits.Connections*clientBytes, (limit-handOver)*4/5)
	return budget{subscriptions: limit - handOver - clients, clients: limit - handOver, all: limit}
}

// OpenStore is handover.Open for what a Server has left in the files. If there are more WebSockets or HTTP connections
// than this process may have, those that came last are ended.
func OpenStore(files []*os.File, sockets, requests int) (*handover.Store, []handover.Connection, []handover.Record,
	error) {
	return handover.Open(files, func(records []handover.Record) bool {
		for _, r := range records {
			switch r.Kind {
			case recordClient, recordSealedClient:
				sockets--
				return sockets >= 0
			case recordRequest, recordLongRequest, recordSealedRequest:
				requests--
				return requests >= 0
			}
		}
		return true // restoring it will end it
	})
}

// handoverTimeout is how long requests under way, and connections that are not kept, may delay a hand-over.
const handoverTimeout = 2 * time.Second

// keepClient records a connection's client, as long as all records take no more than within bytes.
func keepClient(k *handover.Kept, within int, who clientRecord) error {
	who.Place = noPlace
	kind := byte(recordClient)
	if k.IsSecret() { // an older version must not take it for a plain one
		kind = recordSealedClient
	}
	return set(k, within, kind, who)
}

// keepSubscription records a subscription of a connection, if the connection is kept.
func (s *Server) keepSubscription(c *wsconn.Conn, event string) error {
	err := c.Kept().SetWithin(s.budget.subscriptions, recordSubscription, event, nil)
	if err != nil {
		s.warnNoRoom(c, err)
	}
	return err
}

// WarnFilling warns that what is kept of the clients fills three quarters of its room. See StoreFilling.
func (s *Server) WarnFilling(used int) {
	s.log.Warn("three quarters of the room for subscriptions are used; past it new ones are refused", "used", used,
		"bytes", s.budget.subscriptions,
		"remedy", "fewer subscriptions, or shorter names of events")
}

// StoreFilling is the number of bytes in use at which WarnFilling is to be called.
func (s *Server) StoreFilling() int { return s.budget.subscriptions / 4 * 3 }

// set sets a connection's record to value as JSON, as long as all records take no more than within bytes.
func set(k *handover.Kept, within int, kind byte, value any) error {
	if k == nil {
		return nil // and there is nothing to encode
	}
	p, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return k.SetWithin(within, kind, "", p)
}

// forget deletes a record of a connection, if the connection is kept.
func (s *Server) forget(c *wsconn.Conn, kind byte, key string) {
	s.forgotten(c.Kept().Delete(kind, key))
}

// forgotten notes the result of a deletion in the store.
func (s *Server) forgotten(err error) {
	if err != nil {
		s.log.Warn("connections will not outlive the process", "error", err)
	}
}

// handOver leaves all connections to the next process. It takes the place of stop.
func (s *Server) handOver(stopped func()) {
	ctx, cancel := context.WithTimeout(context.Background(), handoverTimeout)
	defer cancel()
	s.httpConns.Freeze(ctx)
	s.joining.Lock()   // every client that has been answered is now in wsConns, for Freeze
	s.joining.Unlock() //lint:ignore SA2001 passing is the point
	s.wsConns.Freeze(ctx, wire.CloseRestart, "server restarts")
	// A request that has not come back in time publishes nothing any more.
	s.gate.Lock()
	s.stopping = true
	s.gate.Unlock()
	s.http.Close()
	stopped()

	saved, lost := s.save()
	if s.cfg.HandedOver != nil {
		s.cfg.HandedOver()
	}
	s.wsConns.Abandon()
	s.httpConns.Abandon()
	s.log.Info("handed over", "connections", saved, "lost", lost)
}

// save records what a hand-over needs of all connections, which are at rest. Those that hold least come first: what all
// hold together is bounded, and a connection that does not fit is lost.
func (s *Server) save() (saved, lost int) {
	if err := s.cfg.Store.Compact(); err != nil { // what is no longer needed is in the way
		s.log.Warn("the store of the connections cannot be compacted", "error", err)
	}
	type item struct {
		holds  int // bytes
		record func() error
	}
	var items []item
	for _, c := range s.wsConns.All() {
		items = append(items, item{c.Holds(), func() error { return s.saveSocket(c) }})
	}
	for _, sv := range s.httpConns.Save() {
		items = append(items, item{len(sv.In), func() error { return s.saveRequest(sv) }})
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(a.holds, b.holds) })
	room := waitingBytes
	for _, it := range items {
		err := errNoRoom
		if it.holds <= room {
			err = it.record()
		}
		switch {
		case errors.Is(err, errEnding):
		case err != nil:
			lost++
			s.log.Debug("a connection cannot be handed over", "error", err)
		default:
			saved++
			room -= it.holds
		}
	}
	if err := s.cfg.Store.SetWithin(s.budget.all, recordHandedOver, "", nil); err != nil {
		s.log.Error("the connections are lost", "error", err)
	}
	return saved, lost
}

var (
	errNoRoom = errors.New("what waits for all clients is more than a hand-over carries")
	errUnkept = errors.New("it is not kept")
	errSecret = errors.New("its TLS keys are not kept")
	errEnding = errors.New("it is being closed")
)

func (s *Server) saveSocket(c *wsconn.Conn) error {
	sv, ok := c.Save()
	switch {
	case !ok:
		return errEnding
	case c.Kept() == nil:
		return errUnkept
	}
	// What is recorded now replaces the mark, to which not every version writes.
	if err := c.Kept().Unmark(); err != nil {
		return err
	}
	return set(c.Kept(), s.budget.all, recordRest, sv)
}

func (s *Server) saveRequest(sv httpconn.Saved) error {
	kept, err := s.cfg.Store.Keep(sv.FD)
	if err != nil {
		return err
	}
	kind, r := byte(recordRequest), requestRecord{Local: sv.Local, Used: sv.Used, In: sv.In}
	switch {
	case sv.TLS != nil:
		secret := kept.Secret()
		if secret == nil {
			kept.Drop()
			return errSecret
		}
		sv.TLS.Keep(secret)
		var ok bool
		if r.Held, r.Owed, ok = sv.TLS.Leave(); !ok {
			kept.Drop()
			return errEnding
		}
		kind = recordSealedRequest
	case len(sv.In) > oldRequestBytes:
		kind = recordLongRequest
	}
	return set(kept, s.budget.all, kind, r)
}

// Restore takes over the connections that another process has left, together with their store. It is called before Run;
// when it returns, every client has its subscriptions again and none has been served.
//
// Up to one moment nothing that matters changes in the store, so that if this process ends, the next one finds what
// this one has found; after it what the hand-over had recorded is gone, all at once, and so are the clients that used
// another key.
func (s *Server) Restore(conns []handover.Connection, general []handover.Record) {
	if s.cfg.Store == nil {
		return
	}
	inh := s.inherit(conns, general)
	s.commit(inh)
	s.keepKey(inh)
	if len(conns) > 0 {
		s.log.Info("connections kept over restart", "kept_over_restart", s.keptOverRestart, "lost_over_restart",
			s.lostOverRestart, "process_was_killed", !inh.handedOver)
	}
}

// An inheritance is what another process has left.
type inheritance struct {
	left       []leftBehind
	handedOver bool                    // it has completed a hand-over
	key        []byte                  // the hash of its key, or nil
	forgotten  map[*handover.Kept]bool // connections that no later process is to find
}

// inherit restores the connections that can be restored and ends the others. Apart from that and from what restore
// does, it changes nothing in the store.
func (s *Server) inherit(conns []handover.Connection, general []handover.Record) inheritance {
	inh := inheritance{forgotten: make(map[*handover.Kept]bool)}
	for _, r := range general {
		switch r.Kind {
		case recordHandedOver:
			inh.handedOver = true
		case recordKey:
			inh.key = r.Value
		}
	}
	otherKey := inh.key != nil && !bytes.Equal(inh.key, s.guard.key[:])
	for _, c := range conns {
		l, err := read(c)
		if err != nil {
			s.discard(c, err)
			continue
		}
		// A client that used another key than today's is closed: whoever changes a key wants somebody out.
		switch {
		case l.request != nil:
		case otherKey && l.client.Addr != wsconn.Local:
			l.leaves = "the key has changed"
		case l.Kept.IsSecret() && !s.cfg.CarryTLS:
			l.leaves = "server restarts"
		}
		inh.left = append(inh.left, l)
	}
	// The order in which they are listed: for those of one process, the order in which they came.
	slices.SortStableFunc(inh.left, func(a, b leftBehind) int { return a.client.At.Compare(b.client.At) })
	for _, l := range inh.left {
		if err := s.restore(l, inh.handedOver); err != nil {
			s.discard(l.Connection, err)
			continue
		}
		s.keptOverRestart++
		if l.leaves != "" || l.request != nil { // httpconn does not keep connections
			inh.forgotten[l.Kept] = true
		}
	}
	return inh
}

// commit makes this process the owner of the connections: the next one finds them as this one leaves them.
func (s *Server) commit(inh inheritance) {
	s.forgotten(s.cfg.Store.Retain(func(k *handover.Kept, kind byte) bool {
		return kind != recordRest && kind != recordHandedOver && !inh.forgotten[k]
	}))
	for _, l := range inh.left {
		if l.request != nil {
			l.Kept.Drop()
		}
	}
}

// keepKey records the key. It comes last: as long as another key is recorded, the clients that used that one are not
// kept.
func (s *Server) keepKey(inh inheritance) {
	if !bytes.Equal(inh.key, s.guard.key[:]) {
		s.forgotten(s.cfg.Store.Set(recordKey, "", s.guard.key[:]))
	}
}

// discard ends a connection that another process has left.
func (s *Server) discard(c handover.Connection, why error) {
	s.lostOverRestart++
	s.log.Debug("a connection cannot be kept over the restart", "error", why)
	c.Discard()
}

// leftBehind is what another process has left of a connection.
type leftBehind struct {
	handover.Connection
	client  clientRecord // of a WebSocket
	events  []string
	rest    *wsconn.Saved  // nil: its process has not handed over
	request *requestRecord // of an HTTP connection
	leaves  string         // why it is to be closed; empty: it is not
}

// read decodes a connection's records.
func read(c handover.Connection) (leftBehind, error) {
	l := leftBehind{Connection: c}
	known, sealed := false, false
	for _, r := range c.Records {
		var err error
		switch r.Kind {
		case recordClient, recordSealedClient:
			known, sealed = true, r.Kind == recordSealedClient
			err = json.Unmarshal(r.Value, &l.client)
		case recordRequest, recordLongRequest, recordSealedRequest:
			known, sealed = true, r.Kind == recordSealedRequest
			err = json.Unmarshal(r.Value, &l.request)
		case recordRest:
			err = json.Unmarshal(r.Value, &l.rest)
		case recordSubscription:
			l.events = append(l.events, r.Key)
		}
		if err != nil {
			return l, fmt.Errorf("record %q: %w", r.Kind, err)
		}
	}
	switch {
	case !known:
		return l, errors.New("nothing tells who it is")
	case sealed != c.Kept.IsSecret():
		return l, errSecret
	}
	return l, nil
}

// restore restores one connection, which reads nothing until beginRestored. In the store it changes only the place in
// the record of a client that an older version has left.
func (s *Server) restore(l leftBehind, handedOver bool) error {
	if l.request != nil {
		sv := httpconn.Saved{FD: l.FD, Local: l.request.Local, Used: l.request.Used, In: l.request.In}
		if l.Kept.IsSecret() {
			var err error
			if sv.TLS, err = tlsconn.Restore(l.Kept.Secret(), l.request.Held, l.request.Owed); err != nil {
				return err
			}
		}
		s.requests = append(s.requests, sv)
		return nil
	}
	client, rest := l.client, l.rest
	switch {
	case rest == nil && handedOver:
		return errors.New("it could not be handed over")
	case rest == nil:
		if err := survived(l.Connection); err != nil {
			return err
		}
		rest = new(wsconn.Saved)
	}
	rest.Addr = client.Addr
	if client.Place != noPlace {
		// The older version would look there if it came back after a crash of this one. Until commit, what was handed
		// over counts.
		if err := keepClient(l.Kept, s.budget.all, client); err != nil {
			return err
		}
	}
	var begin func()
	cn, err := s.wsConns.Restore(l.FD, l.Kept, *rest, func(c *wsconn.Conn) wsconn.Handler {
		switch {
		case l.leaves != "":
			begin = func() { c.Close(wire.CloseRestart, l.leaves) }
			return leaving{s, c, client.Name}
		case client.Route == routeInfo:
			is := &infoSession{server: s, conn: c}
			begin = is.begin
			return is
		}
		ss := &session{server: s, conn: c, publishOnly: client.Route == routePublish}
		ss.client = s.hub.Rejoin(c, client.Name, client.Addr, client.At)
		for _, event := range l.events {
			s.hub.Resubscribe(ss.client, []byte(event))
		}
		return ss
	})
	if err != nil {
		return err
	}
	s.begin = append(s.begin, func() {
		cn.Start()
		if begin != nil {
			begin()
		}
	})
	return nil
}

// leaving is the handler of a connection that is to be closed.
type leaving struct {
	server *Server
	conn   *wsconn.Conn
	name   string
}

func (l leaving) Receive(bool, []byte) {}
func (l leaving) Rest()                {}
func (l leaving) Closed(why error)     { l.server.closed(l.conn, l.name, why) }

// survived returns why a connection whose process was killed cannot go on, or nil if it can.
func survived(c handover.Connection) error {
	intact, err := c.Kept.Intact(c.FD)
	if err != nil {
		return fmt.Errorf("its process was killed: %w", err)
	}
	if !intact {
		return errors.New("its process was killed in the middle of a message or of a frame")
	}
	return nil
}

// beginRestored starts the connections that Restore has made. They are served before newcomers.
func (s *Server) beginRestored() {
	for _, begin := range s.begin {
		begin()
	}
	// Those that are in the middle of a request first: there may not be places for all.
	slices.SortStableFunc(s.requests, func(a, b httpconn.Saved) int { return cmp.Compare(len(b.In), len(a.In)) })
	for _, r := range s.requests {
		if err := s.httpConns.Restore(r); err != nil {
			s.log.Debug("an HTTP connection cannot be kept over the restart", "error", err)
		}
	}
	s.begin, s.requests = nil, nil
}
