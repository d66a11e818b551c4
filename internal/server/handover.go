package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"picloud/internal/conn"
	"picloud/internal/front"
	"picloud/internal/handover"
	"picloud/internal/wire"
)

// The kinds of records in the store. A version that does not know one ignores it; a change of one's meaning is a new kind.
const (
	recordClient       = 'c' // a WebSocket: a clientRecord
	recordSubscription = 's' // its key is the event
	recordRest         = 'r' // made by a hand-over: a conn.Saved
	recordRequest      = 'h' // made by a hand-over: an HTTP connection, a requestRecord
	recordHandedOver   = 'o' // of connection 0: a hand-over has come to its end
	recordKey          = 'k' // of connection 0: the key's sum
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
	Place int       `json:"place"` // conn.Kept's
}

// OpenStore is handover.Open for what a Server has left in the files.
func OpenStore(files []*os.File) (*handover.Store, []handover.Connection, []handover.Record, error) {
	return handover.Open(files, func(records []handover.Record) int {
		for _, r := range records {
			var c clientRecord
			if r.Kind == recordClient && json.Unmarshal(r.Value, &c) == nil {
				return c.Place
			}
		}
		return -1
	})
}

type requestRecord struct {
	Local bool   `json:"local,omitempty"`
	In    []byte `json:"in,omitempty"`
}

// handoverTimeout is how long requests under way and secure connections may delay a hand-over.
const handoverTimeout = 2 * time.Second

// record sets a record of a connection, if it is kept. One that cannot be recorded is not carried on.
func (s *Server) record(c *conn.Conn, kind byte, key string, value any) {
	if c.Kept().ID == 0 {
		return
	}
	if err := s.set(c.Kept().ID, kind, key, value); err != nil {
		s.log.Debug("a connection will not outlive the process", "address", c.Addr(), "error", err)
	}
}

func (s *Server) set(id uint64, kind byte, key string, value any) error {
	var p []byte
	if value != nil {
		var err error
		if p, err = json.Marshal(value); err != nil {
			return err
		}
	}
	return s.cfg.Store.Set(id, kind, key, p)
}

// forget deletes a record of a connection, if it is kept.
func (s *Server) forget(c *conn.Conn, kind byte, key string) {
	if c.Kept().ID != 0 {
		s.forgotten(s.cfg.Store.Delete(c.Kept().ID, kind, key))
	}
}

// forgotten notes the result of a deletion in the store.
func (s *Server) forgotten(err error) {
	if err != nil {
		s.log.Warn("connections will not outlive the process", "error", err)
	}
}

// handOver leaves all connections to the next process. It takes the place of stop.
func (s *Server) handOver(endPoll func()) {
	ctx, cancel := context.WithTimeout(context.Background(), handoverTimeout)
	defer cancel()
	s.front.Freeze(ctx)
	s.joining.Lock()   // whoever has been answered is among conns, for whom Freeze is
	s.joining.Unlock() //lint:ignore SA2001 to pass is the point
	s.conns.Freeze(ctx, wire.CloseRestart, "server restarts")
	// From here on nobody publishes but who is in a TLS request.
	s.gate.Lock()
	s.stopping = true
	s.gate.Unlock()
	s.http.Close()
	endPoll()

	saved, lost := 0, 0
	count := func(err error) {
		if err == nil {
			saved++
			return
		}
		lost++
		s.log.Debug("a connection cannot be handed over", "error", err)
	}
	for _, c := range s.conns.All() {
		if sv, ok := c.Save(); ok && c.Kept().ID != 0 {
			count(s.set(c.Kept().ID, recordRest, "", sv))
		} else if ok {
			lost++
		}
	}
	for _, sv := range s.front.Save() {
		id, err := s.cfg.Store.Put(sv.FD)
		if err == nil {
			err = s.set(id, recordRequest, "", requestRecord{sv.Local, sv.In})
		}
		count(err)
	}
	if err := s.set(0, recordHandedOver, "", nil); err != nil {
		s.log.Error("the connections are lost", "error", err)
	}
	s.conns.Abandon()
	s.front.Abandon()
	s.log.Info("handed over", "connections", saved, "lost", lost)
}

// Restore carries on the connections that another process has left, with the store that has them. It is called before Run; it
// is done when every client has its subscriptions again and none has been served.
func (s *Server) Restore(conns []handover.Connection, general []handover.Record) {
	if s.cfg.Store == nil {
		return
	}
	handedOver, otherKey := false, false
	for _, r := range general {
		switch r.Kind {
		case recordHandedOver:
			handedOver = true
			s.forgotten(s.cfg.Store.Delete(0, r.Kind, r.Key))
		case recordKey:
			otherKey = !bytes.Equal(r.Value, s.guard.key[:])
		}
	}
	if err := s.cfg.Store.Set(0, recordKey, "", s.guard.key[:]); err != nil {
		s.log.Warn("connections will not outlive the process", "error", err)
	}
	var left []leftBehind
	discard := func(c handover.Connection, err error) {
		s.notCarriedOn++
		s.log.Debug("a connection cannot be carried on", "error", err)
		s.cfg.Store.Discard(c)
	}
	for _, c := range conns {
		l, err := read(c)
		if err != nil {
			discard(c, err)
			continue
		}
		left = append(left, l)
	}
	// As they are listed: those of one process in the order in which they came.
	slices.SortStableFunc(left, func(a, b leftBehind) int { return a.client.At.Compare(b.client.At) })
	for _, l := range left {
		if err := s.restore(l, handedOver, otherKey); err != nil {
			discard(l.Connection, err)
			continue
		}
		s.carriedOn++
	}
	if len(conns) > 0 {
		s.log.Info("carried on", "connections", s.carriedOn, "ended", s.notCarriedOn, "process_was_killed", !handedOver)
	}
}

// leftBehind is what another process has left of a connection.
type leftBehind struct {
	handover.Connection
	client  clientRecord // of a WebSocket
	events  []string
	rest    *conn.Saved    // nil: its process has not handed over
	request *requestRecord // of an HTTP connection
}

// read finds out what a connection's records say.
func read(c handover.Connection) (leftBehind, error) {
	l := leftBehind{Connection: c}
	known := false
	for _, r := range c.Records {
		var err error
		switch r.Kind {
		case recordClient:
			known = true
			err = json.Unmarshal(r.Value, &l.client)
		case recordRequest:
			known = true
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
	if !known {
		return l, errors.New("nothing tells who it is")
	}
	return l, nil
}

// restore makes one connection again, which does nothing until begin. Who has come in with another key than today's goes
// then: whoever changes a key wants somebody out.
func (s *Server) restore(l leftBehind, handedOver, otherKey bool) error {
	if l.request != nil {
		s.requests = append(s.requests, front.Saved{FD: l.FD, Local: l.request.Local, In: l.request.In})
		s.cfg.Store.Drop(l.ID) // front does not keep connections
		s.forgotten(s.cfg.Store.End(l.ID))
		return nil
	}
	client, rest := l.client, l.rest
	switch {
	case rest == nil && handedOver:
		return errors.New("it could not be handed over")
	case rest == nil:
		if err := s.survived(l.FD, client.Place); err != nil {
			return err
		}
		rest = new(conn.Saved)
	}
	rest.Addr = client.Addr
	cn, err := s.conns.Restore(l.FD, conn.Kept{ID: l.ID, Place: client.Place}, *rest)
	if err != nil {
		return err
	}
	s.forgotten(s.cfg.Store.Delete(l.ID, recordRest, ""))
	if otherKey && client.Addr != conn.Local {
		s.begin = append(s.begin, func() {
			cn.Start(leaving{s, cn, client.Name})
			cn.Close(wire.CloseRestart, "the key has changed")
		})
		return nil
	}
	if client.Route == routeInfo {
		s.begin = append(s.begin, func() { s.beginInfo(cn) })
		return nil
	}
	ss := &session{server: s, conn: cn, publishOnly: client.Route == routePublish}
	ss.client = s.hub.Rejoin(cn, client.Name, client.Addr, client.At)
	for _, event := range l.events {
		s.hub.Subscribe(ss.client, []byte(event), len(l.events)) // no limit is in the way
	}
	s.begin = append(s.begin, func() { cn.Start(ss) })
	return nil
}

// leaving is the handler of a connection that is told to go.
type leaving struct {
	server *Server
	conn   *conn.Conn
	name   string
}

func (l leaving) Receive(bool, []byte) {}
func (l leaving) Rest()                {}
func (l leaving) Closed(why error)     { l.server.closed(l.conn, l.name, why) }

// survived says why a connection cannot go on whose process was killed.
func (s *Server) survived(fd, place int) error {
	mark := s.cfg.Store.At(place)
	if mark == nil {
		return errors.New("its process was killed, and it has no mark")
	}
	intact, err := mark.Intact(fd)
	if err == nil && !intact {
		err = errors.New("its process was killed in the middle of a message or of a frame")
	}
	return err
}

// beginRestored lets the connections that Restore has made go on. They are served before newcomers are.
func (s *Server) beginRestored() {
	for _, begin := range s.begin {
		begin()
	}
	for _, r := range s.requests {
		if err := s.front.Restore(r); err != nil {
			s.log.Debug("an HTTP connection cannot be carried on", "error", err)
		}
	}
	s.begin, s.requests = nil, nil
}
