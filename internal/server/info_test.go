package server

// Where each line of docs/protocol.md's Info is tested; Metrics and health are in metrics_test.go.
//
//	GET /info over HTTP: one snapshot                                TestInfoHasTheSeedsShape
//	a WebSocket: at once, then every 5 seconds                       TestInfoComesAtOnceAndThenEveryInterval, TestInfoIntervalIsFiveSeconds
//	    inbound messages are ignored                                 TestInfoConnectionIgnoresWhatItIsSent
//	shapes, key by key; empty lists are []                           TestInfoHasTheSeedsShape
//	an event without subscribers is not listed                       TestInfoHasTheSeedsShape
//	"local"                                                          TestUnixSocketNeedsNoKey
//	all_connections: /subscribe and /publish, in order; no info      TestInfoListsConnectionsInOrderOfArrival
//	the server's figures                                             TestInfoCounts
//	event_traffic, connection_traffic                                TestInfoShowsTheTrafficOfEventsAndConnections
//	tls_version, tls_kept_over_restart                               TestInfoSaysOverWhichTLSEachConnectionCame, cmd/picloudd: TestInfoTellsOfTLS
//	bytes, order and fields of a whole info                          TestInfoByteForByte
//	what is left out, and truncated                                  TestInfoIsWholeUpToItsBounds, TestInfoIsShortWhateverClientsDo
//	who asks at the same time shares it                              TestWhoAsksMeanwhileSharesTheNextSnapshot, TestManyWhoAskTakeTheMemoryOfOne
//	what was acked is in it                                          TestInfoHasWhatWasAcked

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"picloud/internal/hub"
	"picloud/internal/wire"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

func TestInfoHasTheSeedsShape(t *testing.T) {
	sv := start(t)
	const empty = `{"subscriptions":[],"all_connections":[],`
	if a := sv.request(t, "GET", "/info", "", "X-API-Key", testKey); !strings.HasPrefix(a.body, empty) {
		t.Errorf("without clients info is %s, want it to begin with %s", a.body, empty)
	}

	before := time.Now()
	p, pub := sv.subscriber(t, "Porch"), sv.publisher(t, "Sensor")
	p.ask(`{"action":"subscribe","event":"test","id":1}`)
	p.ask(`{"action":"subscribe","event":"gone","id":1}`)
	p.ask(`{"action":"unsubscribe","event":"gone","id":1}`)
	pub.ask(`{"event":"nobody","id":1}`)

	a := sv.request(t, "GET", "/info", "", "X-API-Key", testKey)
	after := time.Now()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("status %d, Content-Type %q", a.status, a.header.Get("Content-Type"))
	}
	sockets := map[string]string{"GET /info": a.body}
	for _, path := range []string{"/info", "/socket/info"} {
		sockets[path] = sv.connect(t, path, "X-API-Key", testKey).text()
	}
	for from, text := range sockets {
		shape(t, from, text, `{"subscriptions":0,"all_connections":0,"created_at":0,"server":0}`)
		info := rawKeys(t, text)
		subscriptions, all := list(t, info["subscriptions"]), list(t, info["all_connections"])
		if len(subscriptions) != 1 || len(all) != 2 {
			t.Fatalf("%s: %s", from, text)
		}
		shape(t, from, subscriptions[0], `{"name":0,"connections":0}`)
		connections := list(t, rawKeys(t, subscriptions[0])["connections"])
		if len(connections) != 1 || connections[0] != all[0] || rawKeys(t, subscriptions[0])["name"] != `"test"` {
			t.Errorf("%s: %s", from, text)
		}
		for i, want := range []*peer{p, pub} {
			shape(t, from, all[i], `{"client_name":0,"ip_address":0,"connected_at":0}`)
			var c struct {
				ClientName  string `json:"client_name"`
				IPAddress   string `json:"ip_address"`
				ConnectedAt string `json:"connected_at"`
			}
			if err := json.Unmarshal([]byte(all[i]), &c); err != nil {
				t.Fatal(err)
			}
			at, err := parseTime(c.ConnectedAt)
			if c.ClientName != []string{"Porch", "Sensor"}[i] || c.IPAddress != want.LocalAddr().String() ||
				err != nil || at.Before(before) || at.After(after) {
				t.Errorf("%s: %s (%v)", from, all[i], err)
			}
		}
		var at string
		if err := json.Unmarshal([]byte(info["created_at"]), &at); err != nil {
			t.Error(err)
		}
		if at, err := parseTime(at); err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: created_at %v (%v)", from, at, err)
		}
		shape(t, from, info["server"], `{"version":0,"uptime_seconds":0,"connections":0,"max_connections":0,"events":0,"subscriptions":0,
			"published":0,"delivered":0,"slow_clients_closed":0,"wrong_keys":0,"connection_limit_reached":0,
			"kept_over_restart":0,"lost_over_restart":0,"port":0,"tls":false,"tls_kept_over_restart":false,"led":"","led_error":"",
			"max_message_bytes":0,"max_queue_bytes":0,"max_subscriptions":0,"resident_memory_bytes":0,"cpu_seconds":0,
			"truncated":false,"slow_clients_closed_latest":[],"event_traffic":[],"connection_traffic":[]}`)
		if got := rawKeys(t, info["server"])["version"]; got != `"v0-test"` {
			t.Errorf("%s: version %s", from, got)
		}
	}
}

// shape checks that an object has exactly the keys of another.
func shape(t *testing.T, what, object, like string) {
	t.Helper()
	got, want := slices.Sorted(maps.Keys(rawKeys(t, object))), slices.Sorted(maps.Keys(rawKeys(t, like)))
	if !slices.Equal(got, want) {
		t.Errorf("%s: %s has the keys %v, want %v", what, object, got, want)
	}
}

func list(t *testing.T, array string) []string {
	t.Helper()
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(array), &raw); err != nil || raw == nil {
		t.Fatalf("%s is no array: %v", array, err)
	}
	var values []string
	for _, v := range raw {
		values = append(values, string(v))
	}
	return values
}

func TestInfoCounts(t *testing.T) {
	sv := start(t)
	a, b := sv.subscriber(t, "A"), sv.subscriber(t, "B")
	for _, p := range []*peer{a, b} {
		p.ask(`{"action":"subscribe","event":"x","id":1}`)
		p.ask(`{"action":"subscribe","event":"` + p.LocalAddr().String() + `","id":1}`)
	}
	a.send(`{"action":"publish","event":"x"}`)
	a.delivery()
	sv.post(t, `{"event":"nobody"}`)
	sv.post(t, `{"event":`)
	sv.request(t, "GET", "/info", "", "X-API-Key", wrongKey)
	sv.request(t, "GET", "/info", "")
	got := sv.watch(t).info().Server
	if got.ResidentMemoryBytes < 1<<20 || got.CPUSeconds <= 0 {
		t.Errorf("%d bytes resident and %v s of CPU time", got.ResidentMemoryBytes, got.CPUSeconds)
	}
	got.UptimeSeconds, got.ResidentMemoryBytes, got.CPUSeconds = 0, 0, 0
	got.SlowClientsClosedLatest, got.EventTraffic, got.ConnectionTraffic = nil, nil, nil
	want := wire.ServerInfo{
		Version: "v0-test", Connections: 3, MaxConnections: 8192, Events: 3, Subscriptions: 4, Published: 2,
		Delivered: 2, WrongKeys: 1,
		MaxMessageBytes: 64 << 10, MaxQueueBytes: 1 << 20, MaxSubscriptions: 1024,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestInfoListsConnectionsInOrderOfArrival(t *testing.T) {
	sv := start(t)
	w := sv.watch(t)
	sv.connect(t, "/info", "X-API-Key", testKey).text()
	var peers []*peer
	names := func(list []wire.Connection) (names []string) {
		for _, c := range list {
			names = append(names, c.ClientName)
		}
		return names
	}
	for i, name := range []string{"d", "b", "a", "c", "b"} {
		if i%2 == 0 {
			peers = append(peers, sv.subscriber(t, name))
		} else {
			peers = append(peers, sv.publisher(t, name))
		}
	}
	if got := names(w.untilClients(5).AllConnections); !slices.Equal(got, []string{"d", "b", "a", "c", "b"}) {
		t.Errorf("all_connections: %v", got)
	}
	peers[1].Close()
	w.untilClients(4)
	peers = append(peers, sv.subscriber(t, "e"))
	for _, i := range []int{5, 2, 0} { // subscribed in another order
		peers[i].ask(`{"action":"subscribe","event":"x","id":1}`)
	}
	info := w.until("three subscriptions", func(i wire.Info) bool { return i.Server.Subscriptions == 3 })
	if got := names(info.AllConnections); !slices.Equal(got, []string{"d", "a", "c", "b", "e"}) {
		t.Errorf("all_connections: %v", got)
	}
	if got := names(info.Subscriptions[0].Connections); !slices.Equal(got, []string{"d", "a", "e"}) {
		t.Errorf("connections of an event: %v", got)
	}
}

func TestInfoIntervalIsFiveSeconds(t *testing.T) {
	s, err := New(Config{Key: testKey}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.release()
	if s.infoEvery != 5*time.Second {
		t.Errorf("a new server shows info every %v, want 5s", s.infoEvery)
	}
}

func TestInfoComesAtOnceAndThenEveryInterval(t *testing.T) {
	for _, path := range []string{"/info", "/socket/info"} {
		s, log := newServer(t)
		s.infoEvery = time.Hour
		sv := serve(t, s, log)
		sv.connect(t, path, "X-API-Key", testKey).text() // at once: the test does not wait an hour

		s, log = newServer(t)
		s.infoEvery = 50 * time.Millisecond
		sv = serve(t, s, log)
		w := watcher{sv.connect(t, path, "X-API-Key", testKey)}
		last := w.info().CreatedAt
		for range 4 {
			at := w.info().CreatedAt
			if gap := at.Sub(last); gap < s.infoEvery*9/10 {
				t.Errorf("%s: the next snapshot was made after %v, want %v", path, gap, s.infoEvery)
			}
			last = at
		}
	}
}

func TestInfoConnectionIgnoresWhatItIsSent(t *testing.T) {
	sv := start(t)
	w := sv.watch(t)
	for _, message := range []string{`{"action":"subscribe","event":"e","id":1}`, `{"action":"publish","event":"e"}`,
		`[]`, ``} {
		w.send(message)
	}
	w.Raw(ws.Frame(ws.Fin|ws.Binary, []byte{0xff}))
	w.Raw(ws.Frame(ws.Fin|ws.Ping, "seen"))
	for seen := false; !seen; { // what came before the ping has been handled
		op, text, err := w.Next()
		switch {
		case err != nil:
			t.Fatal(err)
		case op == ws.Pong:
			seen = string(text) == "seen"
		case op != ws.Text || !strings.HasPrefix(string(text), `{"subscriptions":[],"all_connections":[],`):
			t.Fatalf("opcode %d: %s", op, text)
		}
	}
	if info := w.info(); info.Server.Published != 0 || info.Server.Subscriptions != 0 {
		t.Errorf("it took effect: %+v", info.Server)
	}
}

func TestInfoShowsTheTrafficOfEventsAndConnections(t *testing.T) {
	sv := start(t, func(c *Config) {
		c.About = func() About { return About{Port: 9000, TLS: true, LED: "GPIO17", LEDError: "no such line"} }
	})
	porch, attic := sv.subscriber(t, "Porch"), sv.subscriber(t, "Attic")
	for _, p := range []*peer{porch, attic} {
		p.ask(`{"action":"subscribe","event":"heat","id":1}`)
	}
	attic.ask(`{"action":"subscribe","event":"rain","id":1}`)
	porch.send(`{"action":"publish","event":"heat","data":{"c": 24.70}}`)
	porch.delivery()
	sv.post(t, `{"event":"heat","data":"`+strings.Repeat("ü", 1000)+`"}`)
	porch.delivery()
	porch.send(`{"action":"publish","event":""}`)
	porch.text() // refused
	porch.ask(`{"action":"publish","event":"nobody's","id":1}`)

	info := sv.watch(t).info()
	s := info.Server
	if s.Port != 9000 || !s.TLS || s.LED != "GPIO17" || s.LEDError != "no such line" {
		t.Errorf("about the server: %+v", s)
	}
	if len(s.EventTraffic) != 2 || len(s.ConnectionTraffic) != 2 {
		t.Fatalf("%d and %d entries, want 2 and 2, as in %+v", len(s.EventTraffic), len(s.ConnectionTraffic), info)
	}
	heat, rain := s.EventTraffic[0], s.EventTraffic[1]
	if heat.Published != 2 || heat.Delivered != 4 || heat.Last == nil {
		t.Fatalf("heat: %+v, want 2 published, 4 delivered and the last of them", heat)
	}
	wholes := (hub.PreviewBytes - 1) / len("ü")
	last := wire.LastMessage{CreatedAt: heat.Last.CreatedAt, ClientName: "Poster",
		Preview: `"` + strings.Repeat("ü", wholes), DataBytes: 2002}
	if *heat.Last != last || time.Since(last.CreatedAt) > wait.Patience {
		t.Errorf("last of heat: %+v, want %+v", *heat.Last, last)
	}
	if rain.Published != 0 || rain.Last != nil {
		t.Errorf("rain: %+v, want nothing", rain)
	}
	if got, want := s.ConnectionTraffic,
		[]wire.ConnectionTraffic{{Published: 2, Delivered: 2}, {Published: 0, Delivered: 2}}; got[0] != want[0] ||
		got[1] != want[1] {
		t.Errorf("traffic of Porch and Attic: %+v, want %+v", got, want)
	}
}

func TestInfoSaysOverWhichTLSEachConnectionCame(t *testing.T) {
	want := map[string]string{"tcp": "", "unix": "", "tls": "1.3"}
	onEachNetwork(t, func(t *testing.T, sv *service, dial func(*testing.T) *peer) {
		p := dial(t)
		p.Raw([]byte(ws.Handshake(joining, ws.Nonce, "X-API-Key", testKey)))
		if a := p.response("GET"); a.status != http.StatusSwitchingProtocols {
			t.Fatalf("status %d", a.status)
		}
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		var info wire.Info
		if err := json.Unmarshal(sv.snapshot(), &info); err != nil {
			t.Fatal(err)
		}
		_, network, _ := strings.Cut(t.Name(), "/")
		list := info.Server.ConnectionTraffic
		if len(list) != 1 || list[0].TLSVersion != want[network] {
			t.Errorf("got %+v, want one connection with TLS %q", list, want[network])
		}
	})
}

func TestPreviewEndsWithAWholeCharacter(t *testing.T) {
	at := time.Unix(1, 0)
	for _, tt := range []struct {
		kept  string
		bytes int
		want  string
	}{
		{`"ü"`, 4, `"ü"`},
		{"\"\xc3", 4, `"`},
		{"\"\xe2\x82", 5, `"`},
		{"\"€", 9, `"€`},
		{"\"\ufffd", 9, "\"\ufffd"},
		{"", 0, ""},
	} {
		got := lastMessage(hub.Last{Note: hub.Note{At: at, Data: []byte(tt.kept)}, Bytes: tt.bytes})
		if got.Preview != tt.want || got.DataBytes != tt.bytes {
			t.Errorf("%q of %d bytes: got %+v, want %q", tt.kept, tt.bytes, got, tt.want)
		}
	}
}

func TestLatestSlowClientsAreKeptAndAllAreCounted(t *testing.T) {
	var d slowClients
	for i := range mostSlowClients + 5 {
		d.note(fmt.Sprint("client ", i), "local", errors.New("slow"))
	}
	list := d.list()
	if d.Load() != mostSlowClients+5 || len(list) != mostSlowClients || list[0].ClientName != "client 24" ||
		list[19].ClientName != "client 5" {
		t.Errorf("%d counted, listed: %+v", d.Load(), list)
	}
}

func TestInfoMetricsAndLogTellWhoWasKeptOverARestart(t *testing.T) {
	l := found(t)
	for range 3 {
		l.subscriber(t, "A").ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	unknown := l.wsConns.All()[0].Kept()
	l.between = func() {
		if err := unknown.Delete(recordClient, ""); err != nil { // nothing says what it is
			t.Fatal(err)
		}
	}
	l.restart()
	lines := l.log.lines(t, "connections kept over restart")
	if len(lines) != 1 || lines[0]["kept_over_restart"] != "2" || lines[0]["lost_over_restart"] != "1" ||
		lines[0]["process_was_killed"] != "false" {
		t.Errorf("logged %v, want one line with 2 kept and 1 lost", lines)
	}
	samples, err := parseMetrics(l.request(t, "GET", "/metrics", "", "X-API-Key", testKey).body)
	if err != nil || samples["picloud_kept_over_restart"] != 2 || samples["picloud_lost_over_restart"] != 1 {
		t.Errorf("the metrics have %v and %v (%v), want 2 and 1", samples["picloud_kept_over_restart"],
			samples["picloud_lost_over_restart"], err)
	}
	if s := l.watch(t).info().Server; s.KeptOverRestart != 2 || s.LostOverRestart != 1 {
		t.Errorf("the info has %d and %d, want 2 and 1", s.KeptOverRestart, s.LostOverRestart)
	}
}

// A process that has handed over an info client shows it nothing more, and looks at nothing.
func TestInfoClientIsServedByOneProcess(t *testing.T) {
	l := found(t)
	w := l.watch(t)
	w.info()
	old := l.Server
	l.restart()
	handedOver := time.Now()
	w.until("ten intervals", func(i wire.Info) bool { return i.CreatedAt.Sub(handedOver) > 10*l.infoEvery })
	old.info.mu.Lock()
	defer old.info.mu.Unlock()
	if after := old.info.last.begun.Sub(handedOver); after > 0 {
		t.Errorf("the old process made a snapshot %v after the hand-over", after)
	}
}

// The text of the info, byte for byte: the first PiCloud's clients read its lists.
func TestInfoByteForByte(t *testing.T) {
	s, _ := newServer(t, func(c *Config) {
		c.About = func() About { return About{Port: 9000, TLS: true, LED: "GPIO17"} }
	})
	defer s.release()
	at := time.Date(2015, 11, 25, 3, 40, 13, 433493056, time.UTC)
	porch := s.hub.Join(deaf{}, "Porch \"ü\"", "192.168.99.1:62178", at)
	attic := s.hub.Join(deaf{}, "Attic", "local", at.Add(time.Second))
	s.hub.Join(deaf{}, "Cellar", "[fe80::1]:1", at.Add(time.Second))
	events := []struct {
		name string
		subs []*hub.Client
	}{{"rain\n", []*hub.Client{attic}}, {"heat", []*hub.Client{attic, porch}}}
	for _, ev := range events {
		for _, c := range ev.subs {
			if _, err := s.hub.Subscribe(c, []byte(ev.name), 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.hub.Publish(new(hub.Batch), []byte("heat"), nil, hub.Note{At: at.Add(time.Minute), From: "Roof", Data: []byte(`"7 F"`)})
	porch.Sent()
	s.slow.note("Slow", "192.168.99.2:1", errors.New("reads too slowly"))

	now := regexp.MustCompile(`("created_at":|"closed_at":|"resident_memory_bytes":|"cpu_seconds":)("2\d\d\d-[^"]*"|[\d.]+)`)
	got := now.ReplaceAllStringFunc(string(s.snapshot()), func(found string) string {
		if strings.Contains(found, "2015") {
			return found
		}
		name, _, _ := strings.Cut(found, ":")
		return name + ":now"
	})
	const (
		porchText = `{"client_name":"Porch \"ü\"","ip_address":"192.168.99.1:62178","connected_at":"2015-11-25T03:40:13.433493056Z"}`
		atticText = `{"client_name":"Attic","ip_address":"local","connected_at":"2015-11-25T03:40:14.433493056Z"}`
		want      = `{"subscriptions":[{"name":"heat","connections":[` + porchText + `,` + atticText + `]},` +
			`{"name":"rain\n","connections":[` + atticText + `]}],"all_connections":[` + porchText + `,` + atticText +
			`,{"client_name":"Cellar","ip_address":"[fe80::1]:1","connected_at":"2015-11-25T03:40:14.433493056Z"}],` +
			`"created_at":now,"server":{"version":"v0-test","uptime_seconds":0,"connections":0,"max_connections":8192,` +
			`"events":2,"subscriptions":3,"published":1,"delivered":2,"slow_clients_closed":1,"wrong_keys":0,` +
			`"connection_limit_reached":0,"kept_over_restart":0,"lost_over_restart":0,"port":9000,"tls":true,"tls_kept_over_restart":false,` +
			`"led":"GPIO17","led_error":"","max_message_bytes":65536,"max_queue_bytes":1048576,"max_subscriptions":1024,` +
			`"resident_memory_bytes":now,"cpu_seconds":now,"truncated":false,"slow_clients_closed_latest":[` +
			`{"client_name":"Slow","ip_address":"192.168.99.2:1","closed_at":now,"reason":"reads too slowly"}],` +
			`"event_traffic":[{"subscribers":2,"published":1,"delivered":2,"last":{"created_at":"2015-11-25T03:41:13.433493056Z",` +
			`"client_name":"Roof","preview":"\"7 F\"","data_bytes":5}},{"subscribers":1,"published":0,"delivered":0,"last":null}],` +
			`"connection_traffic":[{"published":1,"delivered":1,"tls_version":""},` +
			`{"published":0,"delivered":1,"tls_version":""},{"published":0,"delivered":0,"tls_version":""}]}}`
	)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

type deaf struct{}

func (deaf) Queue([]byte, uint64) bool { return false }
func (deaf) Flush() bool               { return true }
