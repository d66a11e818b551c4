package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/internal/handover"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

// The records of one connection take no more than StoreBytes assumes, and all together fit in, for every possible
// number of connections.
func TestStoreHasRoomForWhatTheLimitsAllow(t *testing.T) {
	longest := clientRecord{
		Route: routeSubscribe,
		// Six bytes each in JSON; four-byte characters are longer but stay as they are.
		Name:  strings.Repeat("<", wire.MaxNameChars),
		Addr:  "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%" + strings.Repeat("x", syscall.IFNAMSIZ) + "]:65535",
		At:    time.Date(2026, 12, 31, 23, 59, 59, 999999999, time.UTC),
		Place: noPlace,
	}
	if wire.CheckName(longest.Name) != nil {
		t.Fatal("there is no such name")
	}
	size := func(value any) int {
		p, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return handover.Size("", p)
	}
	if n := size(longest) + handover.MarkBytes; n > clientBytes {
		t.Errorf("a client's records can take %d bytes, counted are %d", n, clientBytes)
	}
	const frames, payload = 1 << 28, 1 << 28
	rest := wsconn.Saved{Addr: longest.Addr, Partial: []byte("12"), Frames: frames, Payload: payload,
		Queued: []byte("12"), Left: frames, Moved: &[2]uint32{1<<32 - 1, 1<<32 - 1}}
	if n := size(rest) + handover.MarkBytes; n > restBytes {
		t.Errorf("a connection's records at a hand-over can take %d bytes besides what waits, counted are %d", n,
			restBytes)
	}
	if n := size(requestRecord{Local: true, Used: true, In: []byte("1")}); n > restBytes {
		t.Errorf("a request's record can take %d bytes besides what has come of it, counted are %d", n, restBytes)
	}
	for _, connections := range []int{1, 100, 8192, 28_000, MaxConnections} {
		for _, requests := range []int{64, 4096} {
			limits := wsconn.Limits{Connections: connections}
			all := StoreBytes(limits, requests)
			if all > handover.MaxJournal {
				t.Errorf("%d connections: %d bytes, and there can be %d", connections, all, handover.MaxJournal)
			}
			b := newBudget(all, limits, requests)
			if b.subscriptions < subscriptionsBytes*15/16 || b.clients-b.subscriptions < connections*clientBytes*15/16 {
				t.Errorf("%d connections: %+v", connections, b)
			}
			if left, most := b.all-b.clients, encodedWaiting+(connections+requests)*restBytes; left < min(most, all/2) {
				t.Errorf("%d connections: a hand-over has %d bytes, and needs %d", connections, left, most)
			}
		}
	}
	old := newBudget(64<<20, wsconn.Limits{Connections: 8192}, 4096) // of an earlier version
	if old.subscriptions < 16<<20 || old.clients <= old.subscriptions || old.all <= old.clients {
		t.Errorf("of 64 MiB: %+v", old)
	}
}

// A subscription that cannot be recorded is refused; an acked one is there after a restart, however much the others
// have used up, and a restart ends nobody.
func TestSubscriptionWithoutRoomIsRefused(t *testing.T) {
	l := found(t)
	var clients []*peer
	var accepted []int
	refused := 0
	name := func(client, n int) string {
		s := fmt.Sprintf("c%d-%d-", client, n)
		return s + strings.Repeat("x", 250-len(s))
	}
	for len(clients) < 40 {
		p := l.subscriber(t, "Greedy")
		const each = 1024
		for n := range each {
			p.send(fmt.Sprintf(`{"action":"subscribe","event":%q,"id":%d}`, name(len(clients), n), n))
		}
		taken := 0
		for n := range each {
			text := p.text()
			if strings.HasPrefix(text, `{"action":"ack"`) {
				taken++
				continue
			}
			if !strings.Contains(text, errUnrecorded.Error()) || !strings.Contains(text, fmt.Sprintf(`"id":%d`, n)) {
				t.Fatalf("got %s", text)
			}
			refused++
		}
		clients, accepted = append(clients, p), append(accepted, taken)
		if refused > 3*each {
			break
		}
	}
	if refused == 0 {
		t.Fatalf("%d clients have all that they asked for", len(clients))
	}
	if n := len(l.log.lines(t, "a subscription is refused: those of all clients together take what they may")); n != 1 {
		t.Errorf("%d lines say so, want one in a minute", n)
	}
	newcomer := l.subscriber(t, "Newcomer") // still has its place
	newcomer.ask(`{"action":"unsubscribe","event":"nothing","id":1}`)
	for range 2 {
		l.restart()
		info := l.watch(t).info()
		if len(info.AllConnections) != len(clients)+1 {
			t.Fatalf("%d clients are left, want %d", len(info.AllConnections), len(clients)+1)
		}
		sum := 0
		for _, n := range accepted {
			sum += n
		}
		if info.Server.Subscriptions != sum {
			t.Errorf("%d subscriptions are left, %d were acked", info.Server.Subscriptions, sum)
		}
	}
	// A client that ends some has room again.
	clients[0].ask(`{"action":"unsubscribe:all","id":1}`)
	newcomer.ask(`{"action":"subscribe","event":"alarm","id":2}`)
	l.restart()
	l.post(t, `{"event":"alarm","data":"fire"}`)
	if d := newcomer.delivery(); d.data != `"fire"` {
		t.Errorf("got %s", d.data)
	}
}

// If more waits than the store has room for, the clients with the most waiting are ended, and all others stay.
func TestHandOverCarriesWhoHoldsLeast(t *testing.T) {
	l := found(t, func(c *Config) { c.Limits.QueueBytes = 16 << 20 })
	quiet, pub := l.subscriber(t, "Quiet"), l.publisher(t, "P")
	quiet.ask(`{"action":"subscribe","event":"quiet","id":1}`)
	blob := strings.Repeat("x", 60<<10)
	slow, sent := make([]*peer, 3), make([]int, 3)
	for i, mebibytes := range []int{8, 3, 2} { // the store has room for 16, and there they take a third more
		slow[i] = l.subscriber(t, "Slow")
		slow[i].ask(fmt.Sprintf(`{"action":"subscribe","event":"big%d","id":1}`, i))
		for ; l.holds(slow[i]) < mebibytes<<20; sent[i]++ {
			pub.ask(fmt.Sprintf(`{"event":"big%d","data":[%d,"%s"],"id":1}`, i, sent[i], blob))
		}
	}
	l.restart()
	for i, p := range slow[1:] {
		for n := range sent[1+i] {
			if d := p.delivery(); !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", n)) {
				t.Fatalf("slow reader %d got %.20s, want %d", 1+i, d.data, n)
			}
		}
	}
	l.post(t, `{"event":"quiet","data":1}`)
	if d := quiet.delivery(); d.data != "1" {
		t.Errorf("got %s", d.data)
	}
	slow[0].gone()
	l.watch(t).untilClients(4)
}

// holds returns how many bytes wait in the server for a client.
func (l *lineage) holds(p *peer) int {
	for _, c := range l.wsConns.All() {
		if c.Addr() == p.LocalAddr().String() {
			return c.Holds()
		}
	}
	l.t.Fatalf("%v is not connected", p.LocalAddr())
	return 0
}

// gone reads up to the end of the connection, with a close frame or without.
func (p *peer) gone() {
	p.T.Helper()
	for {
		if _, _, err := p.Next(); err != nil {
			if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
				p.T.Fatalf("the connection does not end: %v", err)
			}
			return
		}
	}
}

// moments are how far a process can get if it ends before it serves anybody.
var moments = []struct {
	name string
	live func(s *Server, inh inheritance)
}{
	{"before it has changed anything", func(*Server, inheritance) {}},
	{"before it has recorded its key", func(s *Server, inh inheritance) { s.commit(inh) }},
	{"before it serves", func(s *Server, inh inheritance) {
		s.commit(inh)
		s.keepKey(inh)
	}},
}

// dies is the life of a process that ends before it serves anybody, between two others.
func (l *lineage) dies(live func(*Server, inheritance)) {
	l.t.Helper()
	store, conns, general, err := OpenStore(l.kept(), 10_000, 10_000)
	if err != nil {
		l.t.Fatal(err)
	}
	s, _ := newServer(l.t, append(l.set[:len(l.set):len(l.set)], func(c *Config) { c.Store = store })...)
	live(s, s.inherit(conns, general))
	s.wsConns.Abandon() // as the kernel does
	for _, r := range s.requests {
		syscall.Close(r.FD)
	}
	if err := errors.Join(s.release(), store.Close()); err != nil {
		l.t.Error(err)
	}
}

// A changed key ends the clients that used the old one, however early the process that should have done so ends.
func TestNewKeyEndsOldClientsHoweverEarlyTheProcessEnds(t *testing.T) {
	for _, moment := range moments {
		t.Run(moment.name, func(t *testing.T) {
			const newKey = testKey + "-2"
			l := found(t)
			far, near := l.subscriber(t, "Far"), dial(t, "unix", l.path)
			near.upgrade("/subscribe?clientName=Near")
			for _, p := range []*peer{far, near} {
				p.ask(`{"action":"subscribe","event":"e","id":1}`)
			}
			l.set = append(l.set, func(c *Config) { c.Key = newKey })
			l.between = func() { l.dies(moment.live) }
			l.restart()
			far.gone()
			if a := l.request(t, "POST", "/publish?clientName=P", `{"event":"e","data":1}`, "X-API-Key",
				newKey); a.status != http.StatusCreated {
				t.Fatalf("status %d", a.status)
			}
			if d := near.delivery(); d.data != "1" {
				t.Errorf("got %s", d.data)
			}
			watcher{l.connect(t, "/socket/info", "X-API-Key", newKey)}.untilClients(1)
		})
	}
}

// A process that ends before it has changed anything costs nothing, however many follow each other; one that ends
// before it serves costs what a crash costs.
func TestProcessThatEndsEarlyLosesNothing(t *testing.T) {
	for i, moment := range moments {
		t.Run(moment.name, func(t *testing.T) {
			l := found(t, func(c *Config) { c.Limits.QueueBytes = 16 << 20 })
			sub, slow, pub := l.subscriber(t, "Sub"), l.subscriber(t, "Slow"), l.publisher(t, "P")
			for _, p := range []*peer{sub, slow} {
				p.ask(`{"action":"subscribe","event":"e","id":1}`)
			}
			blob := strings.Repeat("x", 50<<10)
			sent := 0
			for ; l.holds(slow) < 1<<20; sent++ {
				pub.ask(fmt.Sprintf(`{"event":"e","data":[%d,"%s"],"id":1}`, sent, blob))
				sub.delivery()
			}
			message := fmt.Sprintf(`{"event":"e","data":[%d,"in pieces"],"id":7}`, sent)
			half := ws.Frame(ws.Fin|ws.Text, message)
			pub.Raw(half[:9])
			// Otherwise the kernel still has it, and nothing is lost.
			wait.Until(t, "what was sent is read", func() bool { return l.holds(pub) == 9 })
			body := fmt.Sprintf(`{"event":"e","data":[%d,"%s"]}`, sent+1, blob)
			post := fmt.Sprintf("POST /publish?clientName=P HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(body), body)
			poster := dial(t, "tcp", l.addr)
			poster.Raw([]byte(post[:len(post)-9]))
			l.between = func() {
				for range 3 {
					l.dies(moment.live)
				}
			}
			l.restart()
			if i > 0 { // as after any crash: clients between two messages live on, the others are ended
				for _, p := range []*peer{slow, pub, poster} {
					p.gone()
				}
				l.post(t, `{"event":"e","data":1}`)
				if d := sub.delivery(); d.data != "1" {
					t.Errorf("got %s", d.data)
				}
				return
			}
			pub.Raw(half[9:])
			pub.acked(message)
			poster.Raw([]byte(post[len(post)-9:]))
			if a := poster.response("POST"); a.status != http.StatusCreated {
				t.Errorf("status %d %q, want 201", a.status, a.body)
			}
			for n := range sent + 2 {
				if d := slow.delivery(); !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", n)) {
					t.Fatalf("got %.20s, want %d", d.data, n)
				}
			}
		})
	}
}

// A kind of client that this version does not know is ended, alone.
func TestUnknownKindOfClientIsEndedAlone(t *testing.T) {
	l := found(t)
	later, well := l.subscriber(t, "Later"), l.subscriber(t, "Well")
	for _, p := range []*peer{later, well} {
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	kept := l.keptAs(later)
	l.between = func() {
		kept.Delete(recordClient, "")
		kept.Set('L', "", []byte("a client of a later version"))
	}
	l.restart()
	later.ended()
	l.post(t, `{"event":"e","data":1}`)
	if d := well.delivery(); d.data != "1" {
		t.Errorf("got %s", d.data)
	}
	l.between = nil
	l.restart()
	l.stillServes(t)
}

// There may be fewer files than connections: a client that does not fit is ended, so that it notices, and the others go
// on.
func TestConnectionsBeyondTheLimitAreEnded(t *testing.T) {
	l := found(t)
	var clients []*peer
	for range 300 {
		p := l.subscriber(t, "S")
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		clients = append(clients, p)
	}
	files := l.kept()
	l.handOver()
	l.log.check(t)
	l.store.Close()
	store, conns, general, err := OpenStore(files, 200, 100)
	if store == nil || err == nil || !strings.Contains(err.Error(), "100 connections are ended") {
		t.Fatalf("OpenStore: %v, want that 100 are ended", err)
	}
	l.store = store
	l.serve(conns, general)
	l.post(t, `{"event":"e","data":1}`)
	for i, p := range clients {
		if i >= 200 {
			p.ended()
		} else if d := p.delivery(); d.data != "1" {
			t.Errorf("client %d got %s", i, d.data)
		}
	}
}
