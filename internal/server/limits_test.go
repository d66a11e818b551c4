package server

// Where each line of docs/protocol.md's Limits is tested.
//
//	message                                                          TestMessageLimit
//	connections                                                      TestConnectionLimit
//	subscriptions                                                    TestSubscriptionLimit, TestSubscribingTo100000Events
//	queue                                                            TestSlowReaderIsClosed
//	time to send request headers                                     TestHalfSentHeadersAreCutOff
//	wrong keys                                                       TestWrongKeysFromOneAddress, TestGuard…,
//	                                                                     TestPageThatGuessesDoesNotLockItsReaderOut,
//	                                                                     TestAddressesOfTheHouseCountOneByOne
//	ping                                                             TestPingsAreSent, TestPeerWhoseKernelIsSilentIsGone
//	permessage-deflate is off                                        TestPermessageDeflateIsOff
//
// Close codes
//
//	1001                                                             TestStopDeliversWhatIsQueuedThenSays1001
//	broken frame 1002, not UTF-8 1007, over the limit 1009           TestBrokenFramesEndTheConnection
//	1008: no room to remember the connection                         TestClientThatCannotBeRememberedIsRefused
//	1012: the key has changed                                        TestNewKeyEndsWhoCameInWithTheOldOne
//	    over TLS, too few open files                                 cmd/picloudd: TestSecureClientsThatAreNotCarriedAreToldToComeBack,
//	                                                                     TestClientsThatCannotBeKeptAreTold
//	1013                                                             TestSlowReaderIsClosed

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/internal/wire"
	ws "picloud/test/peer"
)

func TestMessageLimit(t *testing.T) {
	for _, limit := range []int{1 << 10, 64 << 10} {
		sv := start(t, func(c *Config) { c.Limits.MessageBytes = limit })
		sub := sv.subscriber(t, "S")
		sub.ask(`{"action":"subscribe","event":"e","id":1}`)
		sized := func(n int) string {
			const frame = `{"action":"publish","event":"e","data":""}`
			return `{"action":"publish","event":"e","data":"` + strings.Repeat("x", n-len(frame)) + `"}`
		}
		fits, over := sized(limit), sized(limit+1)

		if a := sv.post(t, fits); a.status != http.StatusCreated {
			t.Errorf("POST of %d bytes: status %d %q", limit, a.status, a.body)
		}
		sub.delivery()
		sv.post(t, over).refuses(t, http.StatusRequestEntityTooLarge, "limit")
		a, err := sv.send("POST", "/publish?clientName=a", struct{ *strings.Reader }{strings.NewReader(over)},
			"X-API-Key", testKey) // chunked
		if err != nil {
			t.Fatal(err)
		}
		a.refuses(t, http.StatusRequestEntityTooLarge, "limit")
		a, err = sv.send("POST", "/publish?clientName=a", struct{ *strings.Reader }{strings.NewReader(fits)},
			"X-API-Key", testKey)
		if err != nil || a.status != http.StatusCreated {
			t.Errorf("chunked POST of %d bytes: status %d %q (%v)", limit, a.status, a.body, err)
		}
		sub.delivery()

		for _, path := range []string{"/subscribe", "/publish"} {
			connect := func() *peer { return sv.connect(t, path+"?clientName=a", "X-API-Key", testKey) }
			p := connect()
			p.send(fits)
			sub.delivery()
			p.send(over)
			p.wantClose(1009)
			p = connect()
			p.Raw(ws.Frame(ws.Text, fits))
			p.Raw(ws.Frame(ws.Fin|ws.More, ""))
			sub.delivery()
			p.Raw(ws.Frame(ws.Text, fits))
			p.Raw(ws.Frame(ws.Fin|ws.More, " "))
			p.wantClose(1009)
			p = connect() // the length alone is enough
			p.Raw(ws.Header(ws.Fin|ws.Binary, limit+1))
			p.wantClose(1009)
		}
		sub.ask(`{"action":"unsubscribe:all","id":"end"}`)
	}
}

func TestConnectionLimit(t *testing.T) {
	sv := start(t, func(c *Config) { c.Limits.Connections = 3 })
	w := sv.watch(t) // counts too
	a := sv.subscriber(t, "A")
	sv.publisher(t, "B")
	for range 3 {
		for _, path := range []string{"/subscribe", "/publish", "/info", "/socket/info"} {
			refused := sv.call(t, "GET", path, true, "clientName=C", "", "X-API-Key", testKey)
			refused.refuses(t, http.StatusServiceUnavailable, "connection limit")
			if s, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || s < 1 {
				t.Errorf("Retry-After %q, want seconds", refused.header.Get("Retry-After"))
			}
		}
	}
	if got := sv.log.lines(t, "connection limit reached, new clients are refused"); len(got) != 1 ||
		got[0]["max_connections"] != "3" {
		t.Errorf("logged %v, want it once", got)
	}
	// HTTP goes on, and so do the connected clients.
	if got := sv.post(t, `{"event":"e"}`); got.status != http.StatusCreated {
		t.Errorf("POST: status %d %q", got.status, got.body)
	}
	a.ask(`{"action":"subscribe","event":"e","id":1}`)
	// A place that is given up can be taken.
	a.Close()
	w.until("a free place", func(i wire.Info) bool { return i.Server.Connections == 2 })
	sv.subscriber(t, "D").ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestSubscriptionLimit(t *testing.T) {
	sv := start(t, func(c *Config) { c.Subscriptions = 2 })
	p, other := sv.subscriber(t, "A"), sv.subscriber(t, "B")
	p.ask(`{"action":"subscribe","event":"1","id":1}`)
	p.ask(`{"action":"subscribe","event":"2","id":2}`)
	p.send(`{"action":"subscribe","event":"3","id":3}`)
	p.failed("too many subscriptions", "3")
	p.send(`{"action":"subscribe","event":"3"}`)
	p.failed("too many subscriptions", "")
	p.ask(`{"action":"subscribe","event":"1","id":4}`) // it already has that one
	other.ask(`{"action":"subscribe","event":"3","id":1}`)
	p.ask(`{"action":"unsubscribe","event":"1","id":5}`)
	p.ask(`{"action":"subscribe","event":"3","id":6}`)
	p.send(`{"action":"publish","event":"3"}`)
	p.delivery()
	other.delivery()
}

func TestPingsAreSent(t *testing.T) {
	sv := start(t, func(c *Config) { c.Limits.PingEvery = 50 * time.Millisecond })
	p := sv.subscriber(t, "A")
	for range 3 { // no pong is required
		op, body, err := p.Next()
		if err != nil || op != ws.Ping {
			t.Fatalf("got opcode %d %q (%v), want a ping", op, body, err)
		}
	}
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestPermessageDeflateIsOff(t *testing.T) {
	sv := start(t)
	p := sv.dial(t, "tcp")
	a := p.upgrade("/subscribe?clientName=a", "X-API-Key", testKey, "Sec-WebSocket-Extensions",
		"permessage-deflate; client_max_window_bits")
	if a.status != http.StatusSwitchingProtocols || a.header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("status %d, extensions %q, want 101 and none", a.status, a.header.Get("Sec-WebSocket-Extensions"))
	}
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	p.Raw(ws.Frame(ws.Fin|ws.Rsv1|ws.Text, []byte{0xaa, 0x56, 0x4a}))
	p.wantClose(1002)
}

// A client of which nothing can be kept for the next process is refused, and once there is room again the next one is
// served.
func TestClientThatCannotBeRememberedIsRefused(t *testing.T) {
	l := found(t)
	room := l.budget.clients
	rooms := func(n int) {
		l.gate.Lock() // which every handshake takes
		defer l.gate.Unlock()
		l.budget.clients = n
	}
	rooms(0)
	l.subscriber(t, "Stranger").wantClose(wire.ClosePolicy)
	if got := l.log.lines(t, "a client is refused: what is known of it cannot be kept for the next process"); len(got) != 1 || got[0]["error"] == "" {
		t.Errorf("logged %v, want it once, with the error", got)
	}
	rooms(room)
	l.stillServes(t)
}
