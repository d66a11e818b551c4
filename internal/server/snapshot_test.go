package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/hub"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
	ws "picloud/test/peer"
)

// A household is clients with what they have subscribed to.
type household struct {
	what            string
	clients, events int    // each client's
	own             bool   // nobody else has subscribed to them
	client, event   string // their names, which follow a number of six digits
	data            string // published to each event
}

// settle fills the server's hub. It returns the names of the client and the event that are the latest.
func (h household) settle(t testing.TB, s *Server) (client, event string) {
	t.Helper()
	var batch hub.Batch
	for i := range h.clients {
		client = fmt.Sprintf("%06d%s", i, h.client)
		c := s.hub.Join(deaf{}, client, fmt.Sprintf("192.168.%d.%d:%d", i/250%250, i%250, 20000+i%40000), time.Now())
		for k := range h.events {
			if h.own {
				k += i * h.events
			}
			event = fmt.Sprintf("%06d%s", k, h.event)
			if _, err := s.hub.Subscribe(c, []byte(event), h.events); err != nil {
				t.Fatal(err)
			}
			if h.data != "" {
				s.hub.Publish(&batch, []byte(event), nil, hub.Note{At: time.Now(), From: client, Data: []byte(h.data)})
			}
		}
	}
	return client, event
}

// look has an info made, and checks what holds for each: its length, that its lists belong together and are sorted, and
// whether it says that something is missing.
func look(t testing.TB, s *Server) (info wire.Info, bytes int) {
	t.Helper()
	text := s.snapshot()
	if err := json.Unmarshal(text, &info); err != nil || len(text)+len("\n") > InfoBytes {
		t.Fatalf("%d bytes and a line end, at most %d are allowed; error %v", len(text), InfoBytes, err)
	}
	n, sv := s.hub.Counts(), info.Server
	if len(info.Subscriptions) != len(sv.EventTraffic) || len(info.AllConnections) != len(sv.ConnectionTraffic) {
		t.Fatalf("%d events with the traffic of %d, %d connections with the traffic of %d", len(info.Subscriptions),
			len(sv.EventTraffic), len(info.AllConnections), len(sv.ConnectionTraffic))
	}
	byTime := func(a, b wire.Connection) int { return a.ConnectedAt.Compare(b.ConnectedAt) }
	byName := func(a, b wire.Subscription) int { return strings.Compare(a.Name, b.Name) }
	sorted := slices.IsSortedFunc(info.Subscriptions, byName) && slices.IsSortedFunc(info.AllConnections, byTime)
	missing := len(info.Subscriptions) < n.Events || len(info.AllConnections) < n.Clients
	for i, sub := range info.Subscriptions {
		listed, all := len(sub.Connections), sv.EventTraffic[i].Subscribers
		if listed == 0 || listed > all {
			t.Fatalf("%d subscribers of %d are listed", listed, all)
		}
		missing = missing || listed < all
		sorted = sorted && slices.IsSortedFunc(sub.Connections, byTime)
	}
	if sv.Events != n.Events || sv.Subscriptions != n.Subscriptions || sv.Truncated != missing || !sorted {
		t.Errorf("got %d events, %d subscriptions, truncated %t, sorted %t, want %d, %d, %t, true", sv.Events,
			sv.Subscriptions, sv.Truncated, sorted, n.Events, n.Subscriptions, missing)
	}
	return info, len(text)
}

func TestInfoIsWholeUpToItsBounds(t *testing.T) {
	for _, tt := range []struct {
		household
		connections, events, each int // listed
	}{
		{household{what: "nobody"}, 0, 0, 0},
		{household{what: "events", clients: 1, events: InfoEvents}, 1, InfoEvents, 1},
		{household{what: "an event too many", clients: 1, events: InfoEvents + 1}, 1, InfoEvents, 1},
		{household{what: "subscribers", clients: InfoSubscribers, events: 20}, InfoSubscribers, 20, InfoSubscribers},
		{household{what: "a subscriber too many", clients: InfoSubscribers + 1, events: 20}, InfoSubscribers + 1, 20,
			InfoSubscribers},
		{household{what: "connections", clients: 6000, events: 0}, 6000, 0, 0},
		{household{what: "an event each", clients: 2000, events: 1, own: true}, 2000, InfoEvents, 1},
		{household{what: "subscribers of many events", clients: 30, events: 900}, 30, 900, 9},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s, _ := newServer(t)
			defer s.release()
			tt.client, tt.event = " Sensor", " event"
			tt.settle(t, s)
			info, _ := look(t, s)
			if len(info.AllConnections) != tt.connections || len(info.Subscriptions) != tt.events {
				t.Errorf("got %d connections and %d events, want %d and %d", len(info.AllConnections),
					len(info.Subscriptions), tt.connections, tt.events)
			}
			for _, sub := range info.Subscriptions {
				if len(sub.Connections) != tt.each {
					t.Fatalf("%d subscribers of %s are listed, want %d", len(sub.Connections), sub.Name, tt.each)
				}
			}
		})
	}
}

func TestInfoIsShortWhateverClientsDo(t *testing.T) {
	var (
		wide    = strings.Repeat("\U0001f600", wire.MaxNameChars-6)
		quoted  = strings.Repeat(`"`, wire.MaxNameChars-6)
		control = strings.Repeat("\x01", wire.MaxEventBytes-6) // six bytes each in JSON
		data    = `"` + strings.Repeat(`\"`, 500) + `"`
	)
	for _, h := range []household{
		{what: "all subscribe to the same", clients: 100, events: 300, client: wide, event: control, data: data},
		{what: "long names", clients: 300, events: 10, own: true, client: wide, event: control, data: data},
		{what: "names with quotes", clients: 2000, events: 2, own: true, client: quoted, event: quoted, data: data},
		{what: "many connections", clients: 12_000, events: 1, own: true},
		{what: "a crowd", clients: 12_000, events: 1},
		{what: "many events", clients: 50, events: 300, own: true, client: wide, event: control},
	} {
		t.Run(h.what, func(t *testing.T) {
			s, _ := newServer(t)
			defer s.release()
			client, event := h.settle(t, s)
			if len(event) > wire.MaxEventBytes || wire.CheckName(client) != nil {
				t.Fatal("there are no such names")
			}
			for range 2 * mostSlowClients {
				s.slow.note(client, "192.168.1.1:65535", wsconn.ErrStalled)
			}
			info, bytes := look(t, s)
			if bytes < InfoBytes*3/4 {
				t.Errorf("it has %d bytes, and at most %d are allowed", bytes, InfoBytes)
			}
			if !info.Server.Truncated {
				t.Error("it does not say that something is missing")
			}
			latest := func(list []wire.Connection) string { return list[len(list)-1].ClientName }
			i := slices.IndexFunc(info.Subscriptions, func(s wire.Subscription) bool { return s.Name == event })
			if latest(info.AllConnections) != client || i < 0 || latest(info.Subscriptions[i].Connections) != client {
				t.Errorf("the latest client or event is missing: %.100q, %.100q", client, event)
			}
		})
	}
}

// infoBounds.Clients is no bound of its own.
func TestNoConnectionTakesLessThanCounted(t *testing.T) {
	least := wire.Connection{ClientName: "a", IPAddress: "local", ConnectedAt: time.Unix(0, 0).UTC()}
	if n := least.Size() + (wire.ConnectionTraffic{}).Size(); n < InfoBytes/infoBounds.Clients {
		t.Errorf("a connection can take %d bytes, so that %d fit in", n, InfoBytes/n)
	}
}

func TestWhoAsksMeanwhileSharesTheNextSnapshot(t *testing.T) {
	var shots snapshots
	made := 0
	making, goOn := make(chan bool), make(chan bool)
	var asking sync.WaitGroup
	asking.Go(func() {
		shots.since(time.Now(), func() []byte {
			made++
			making <- true
			<-goOn
			return []byte("first")
		})
	})
	<-making
	next := func() []byte {
		made++
		return []byte("next")
	}
	got := make([]*snapshot, 50)
	for i := range got {
		asked := time.Now()
		asking.Go(func() { got[i] = shots.since(asked, next) })
	}
	close(goOn)
	asking.Wait()
	for _, shot := range got {
		if shot != got[0] || string(shot.text) != "next" || string(shot.frame[2:]) != "next" {
			t.Fatalf("one got %q in %q, another %q, want all the same, which is next", shot.text, shot.frame, got[0].text)
		}
	}
	if made != 2 {
		t.Errorf("%d snapshots were made, want 2", made)
	}
	if shot := shots.since(got[0].begun.Add(-1), next); shot != got[0] {
		t.Error("one that is recent enough was made again")
	}
	if shot := shots.since(got[0].begun, next); shot == got[0] {
		t.Error("one that was begun at the time was taken for later")
	}
}

// What is written to those who share a snapshot is the same memory: they take no more of it if they do not read.
func TestManyWhoAskTakeTheMemoryOfOne(t *testing.T) {
	s, _ := newServer(t)
	defer s.release()
	household{clients: 100, events: 100, client: " client", event: " event"}.settle(t, s)
	shot := s.info.since(time.Now(), s.snapshot)
	shot.begun = shot.begun.Add(time.Hour) // recent enough for all
	answers := make([]written, 50)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() {
			r := httptest.NewRequest("GET", "/info", nil)
			r.Header.Set("X-API-Key", testKey)
			s.infoEither(&answers[i], r)
		})
	}
	asking.Wait()
	for _, a := range answers {
		if len(a.all) != 2 || !bytes.Equal(a.all[0], shot.text) || &a.all[0][0] != &shot.text[0] ||
			string(a.all[1]) != "\n" {
			t.Fatalf("%d pieces were written, want the snapshot itself and a line end", len(a.all))
		}
	}
	if &shot.frame[len(shot.frame)-1] != &shot.text[len(shot.text)-1] {
		t.Error("those who get a frame take more than those who get the text")
	}
}

// A written keeps what is written to it.
type written struct {
	header http.Header
	all    [][]byte
}

func (w *written) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *written) WriteHeader(int) {}

func (w *written) Write(p []byte) (int, error) {
	w.all = append(w.all, p)
	return len(p), nil
}

// Whoever has an ack and then asks finds what was acked, however many others ask at the same time.
func TestInfoHasWhatWasAcked(t *testing.T) {
	const clients, rounds = 8, 25
	sv := start(t)
	var asking sync.WaitGroup
	for i := range clients {
		p := sv.subscriber(t, fmt.Sprint("client ", i))
		asking.Go(func() {
			for k := range rounds {
				event := fmt.Sprintf("%d/%d", i, k)
				for _, action := range []string{"subscribe", "unsubscribe"} {
					if _, err := p.Write(ws.Frame(ws.Fin|ws.Text, `{"action":"`+action+`","event":"`+event+`","id":1}`)); err != nil {
						t.Error(err)
						return
					}
					if text, err := p.message(); err != nil || string(text) != `{"action":"ack","id":1}` {
						t.Errorf("%s: %s, %v", action, text, err)
						return
					}
					a, err := sv.send("GET", "/info", nil, "X-API-Key", testKey)
					if err != nil || a.status != http.StatusOK {
						t.Errorf("status %d, %v", a.status, err)
						return
					}
					if listed := strings.Contains(a.body, `{"name":"`+event+`"`); listed != (action == "subscribe") {
						t.Errorf("after the ack of %s the event is listed: %t", action, listed)
						return
					}
				}
			}
		})
	}
	asking.Wait()
}

func TestMetricsMakeNoSnapshot(t *testing.T) {
	sv := start(t)
	if a := sv.request(t, "GET", "/metrics", "", "X-API-Key", testKey); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	sv.info.mu.Lock()
	defer sv.info.mu.Unlock()
	if sv.info.last != nil {
		t.Error("it had a snapshot made")
	}
}

// What a dashboard costs: with as many clients as the default limit allows, each with an event of its own; with many
// events; and with many subscribers of each.
func BenchmarkSnapshot(b *testing.B) {
	for _, h := range []household{
		{what: "8192x1", clients: 8192, events: 1, own: true},
		{what: "100x1000", clients: 100, events: 1000, own: true},
		{what: "100x1024 shared", clients: 100, events: 1024},
	} {
		b.Run(h.what, func(b *testing.B) {
			s, _ := newServer(b)
			h.client, h.event, h.data = " Sensor", " event", `{"celsius":24.7,"humid":false}`
			h.settle(b, s)
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(len(s.snapshot())))
			}
			b.StopTimer()
			s.release()
		})
	}
}
