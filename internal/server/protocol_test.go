package server

// Where each line of the protocol is held. A line of several clauses stands with several tests.
//
// Routes
//
//	GET /subscribe: the client's main connection                     TestSubscribeConnectionSubscribesPublishesAndReceives
//	GET /publish: each message is a publish, action may be missing   TestPublishConnectionOnlyPublishes
//	POST /publish: 201 and an empty body                             TestPostPublishes
//	GET /socket/info, GET /info: at once, then every 5 seconds       TestInfoComesAtOnceAndThenEveryInterval, TestInfoIntervalIsFiveSeconds
//	    inbound messages are ignored                                 TestInfoConnectionIgnoresWhatItIsSent
//	GET /info over HTTP: one snapshot                                TestInfoHasTheSeedsShape
//	GET /healthz, GET / and its files: anyone                        TestOpenRoutesNeedNoKey
//	GET /metrics: Prometheus text format                             TestMetricsArePrometheusText
//	who: key, key + client name                                      TestKeyIsRequired, TestClientNameIsRequired
//	The key: header, query, Bearer                                   TestKeyIsRequired
//	The client name: header or query; 1 to 128 characters, no
//	    control characters                                           TestClientNameIsRequired
//	Checked in this order: key, client name, body                    TestChecksComeInOrder
//	Over the local Unix socket no key is needed                      TestUnixSocketNeedsNoKey
//
// Statuses
//
//	201: every connection subscribed at that moment has it queued    TestPublishedMeansQueuedForEverySubscriber
//	400                                                              TestBadBodiesAreRefused, TestClientNameIsRequired
//	401                                                              TestKeyIsRequired
//	404, 405 + Allow                                                 TestUnknownRoutesAndMethods
//	413                                                              TestMessageLimit, TestHugeBodiesAreRefusedEarly
//	426 + Upgrade                                                    TestWebSocketRoutesAskForAnUpgrade
//	429 + Retry-After                                                TestWrongKeysFromOneAddress, TestGuard…
//	503 + Retry-After: connection limit                              TestConnectionLimit
//	503 + Retry-After: stopping                                      TestStoppingServerIsUnavailable
//	Every error has a JSON body                                      answer.refuses, in all of these
//
// Messages
//
//	one JSON object a frame, text or binary                          TestBinaryFramesAreMessagesToo
//	subscribe, unsubscribe, unsubscribe:all, publish                 TestSubscribeConnectionSubscribesPublishesAndReceives
//	to every subscriber, the publisher's connection included         TestSubscribeConnectionSubscribesPublishesAndReceives
//	event: 1 to 255 bytes, byte for byte, nothing is special         TestEventsAreMatchedByteForByte
//	data: any JSON value, unchanged; missing is ""                   TestDataIsPassedOnUnchanged
//	created_at: the server's clock, UTC, RFC 3339 with Z             TestPostPublishes, parseDelivery
//	client_name: who published                                       TestPostPublishes, TestClientNameIsDelivered
//	id on any of the four; ack once it has taken effect              TestIDsAreAcknowledged, TestAckMeansEffect
//	wrong message: error, the connection stays                       TestWrongMessagesAreAnswered
//	broken frame 1002, over the limit 1009, not UTF-8 1007           TestBrokenFramesEndTheConnection
//	not UTF-8 is refused wherever it comes in                        TestInvalidUTF8IsRefusedEverywhere
//	order, once each                                                 TestOrderOfOnePublisher
//	subscribing twice is subscribing once                            TestSubscribingTwiceIsSubscribingOnce
//
// Close codes
//
//	1001                                                             TestStopDeliversWhatIsQueuedThenSays1001
//	1012: is not sent yet, see the server that restarts
//	1013                                                             TestSlowReaderIsClosed
//	1008: no limit of the table ends in it
//
// Info
//
//	shapes, key by key; empty lists are []                           TestInfoHasTheSeedsShape
//	an event without subscribers is not listed                       TestInfoHasTheSeedsShape
//	"local"                                                          TestUnixSocketNeedsNoKey
//	all_connections: /subscribe and /publish, in order; no info      TestInfoListsConnectionsInOrderOfArrival
//
// Limits
//
//	message                                                          TestMessageLimit
//	connections                                                      TestConnectionLimit
//	subscriptions                                                    TestSubscriptionLimit, TestSubscribingTo100000Events
//	queue                                                            TestSlowReaderIsClosed
//	time to send request headers                                     TestHalfSentHeadersAreCutOff
//	wrong keys                                                       TestWrongKeysFromOneAddress, TestGuard…
//	ping                                                             TestPingsAreSent, TestPeerWhoseKernelIsSilentIsGone
//	permessage-deflate is off                                        TestPermessageDeflateIsOff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/dashboard"
	"picloud/internal/wire"
)

// guarded is every route that needs a key: its request with all but the key, and its status with it.
var guarded = []struct {
	method, path string
	socket, name bool
	status       int
}{
	{"GET", "/subscribe", true, true, 101},
	{"GET", "/publish", true, true, 101},
	{"POST", "/publish", false, true, 201},
	{"GET", "/socket/info", true, false, 101},
	{"GET", "/info", true, false, 101},
	{"GET", "/info", false, false, 200},
	{"GET", "/metrics", false, false, 200},
}

// call makes a request for one of the guarded routes: query without ?, header as name, value.
func (sv *service) call(t *testing.T, method, path string, socket bool, query, body string, header ...string) answer {
	t.Helper()
	if query != "" {
		path += "?" + query
	}
	if !socket {
		return sv.request(t, method, path, body, header...)
	}
	p := sv.dial(t, "tcp")
	defer p.Close()
	return p.upgrade(path, header...)
}

func TestKeyIsRequired(t *testing.T) {
	sv := start(t, func(c *Config) { c.WrongKeys = 1000 })
	in := []struct {
		name   string
		query  string
		header []string
		right  bool
	}{
		{"header", "", []string{"X-API-Key", testKey}, true},
		{"header in lower case", "", []string{"x-api-key", testKey}, true},
		{"query", "apiKey=" + testKey, nil, true},
		{"bearer", "", []string{"Authorization", "Bearer " + testKey}, true},
		{"bearer in lower case", "", []string{"Authorization", "bearer " + testKey}, true},
		{"none", "", nil, false},
		{"empty header", "", []string{"X-API-Key", ""}, false},
		{"empty query", "apiKey=", nil, false},
		{"empty bearer", "", []string{"Authorization", "Bearer "}, false},
		{"wrong header", "", []string{"X-API-Key", wrongKey}, false},
		{"wrong query", "apiKey=" + wrongKey, nil, false},
		{"wrong bearer", "", []string{"Authorization", "Bearer " + wrongKey}, false},
		{"other scheme", "", []string{"Authorization", "Basic " + testKey}, false},
		{"query in other case", "APIKEY=" + testKey, nil, false},
		{"longer", "", []string{"X-API-Key", testKey + "x"}, false},
		{"shorter", "", []string{"X-API-Key", testKey[:len(testKey)-1]}, false},
		{"other case", "", []string{"X-API-Key", strings.ToUpper(testKey)}, false},
	}
	for _, route := range guarded {
		for _, in := range in {
			t.Run(fmt.Sprintf("%s %s socket=%t/%s", route.method, route.path, route.socket, in.name), func(t *testing.T) {
				header := in.header
				if route.name {
					header = append(slices.Clone(header), "X-API-Client-Name", "Porch")
				}
				a := sv.call(t, route.method, route.path, route.socket, in.query, `{"event":"e"}`, header...)
				if in.right {
					if a.status != route.status {
						t.Errorf("status %d %q, want %d", a.status, a.body, route.status)
					}
					return
				}
				a.refuses(t, http.StatusUnauthorized, "key")
				if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
					t.Errorf("WWW-Authenticate %q, want Bearer", got)
				}
			})
		}
	}
}

func TestServerWithoutKeyIsNotMade(t *testing.T) {
	if _, err := New(Config{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("New takes an empty key")
	}
}

func TestOpenRoutesNeedNoKey(t *testing.T) {
	sv := start(t)
	for _, path := range append(dashboard.Paths(), "/healthz") {
		get := sv.request(t, "GET", path, "")
		if get.status != http.StatusOK || get.body == "" {
			t.Errorf("GET %s: status %d, %d bytes, want 200 and some", path, get.status, len(get.body))
		}
		head := sv.request(t, "HEAD", path, "")
		if head.status != http.StatusOK || head.body != "" || head.header.Get("Content-Type") != get.header.Get("Content-Type") {
			t.Errorf("HEAD %s: status %d %v, %d bytes, want 200, the type of GET and none", path, head.status, head.header, len(head.body))
		}
	}
	if a := sv.request(t, "GET", "/", ""); !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("GET / is %q, want text/html", a.header.Get("Content-Type"))
	}
}

func TestClientNameIsRequired(t *testing.T) {
	sv := start(t)
	long := strings.Repeat("é", 128)
	tests := []struct {
		name, query string
		header      string
		refused     string // the reason; empty: it is taken
	}{
		{"header", "", "Porch", ""},
		{"query", "clientName=Porch", "", ""},
		{"one character", "clientName=P", "", ""},
		{"128 characters", "clientName=" + url.QueryEscape(long), "", ""},
		{"128 characters in the header", "", long, ""},
		{"space and quotes", "clientName=" + url.QueryEscape(`a "b" <c>`), "", ""},
		{"missing", "", "", "client name is required"},
		{"empty", "clientName=", "", "client name is required"},
		{"in other case", "clientname=Porch", "", "client name is required"},
		{"129 characters", "clientName=" + url.QueryEscape(long+"é"), "", "at most 128"},
		{"129 characters in the header", "", long + "é", "at most 128"},
		{"newline", "clientName=a%0Ab", "", "control characters"},
		{"carriage return", "clientName=a%0Db", "", "control characters"},
		{"tab", "clientName=a%09b", "", "control characters"},
		{"NUL", "clientName=%00", "", "control characters"},
		{"terminal escape", "clientName=%1B%5B31mred", "", "control characters"},
		{"8-bit terminal escape", "clientName=%C2%9B31mred", "", "control characters"},
		{"DEL", "clientName=%7F", "", "control characters"},
		{"not UTF-8", "clientName=%FF%FE", "", "UTF-8"},
		{"not UTF-8 in the header", "", "\xff\xfe", "UTF-8"},
	}
	for _, route := range guarded {
		if !route.name {
			continue
		}
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s %s socket=%t/%s", route.method, route.path, route.socket, tt.name), func(t *testing.T) {
				header := []string{"X-API-Key", testKey}
				if tt.header != "" {
					header = append(header, "X-API-Client-Name", tt.header)
				}
				a := sv.call(t, route.method, route.path, route.socket, tt.query, `{"event":"e"}`, header...)
				if tt.refused != "" {
					a.refuses(t, http.StatusBadRequest, tt.refused)
				} else if a.status != route.status {
					t.Errorf("status %d %q, want %d", a.status, a.body, route.status)
				}
			})
		}
	}
}

func TestClientNameIsDelivered(t *testing.T) {
	sv := start(t)
	sub := sv.subscriber(t, "Listener")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	for _, name := range []string{"Porch", `a "b" \ <c>&`, "Käfer 🐞", "\u2028\u202e", strings.Repeat("é", 128)} {
		pub := sv.publisher(t, name)
		pub.send(`{"event":"e"}`)
		if d := sub.delivery(); d.name != name {
			t.Errorf("client_name %q, want %q", d.name, name)
		}
		pub.Close()
	}
	if a := sv.request(t, "POST", "/publish?clientName=query", `{"event":"e"}`, "X-API-Key", testKey, "X-API-Client-Name", "header"); a.status != 201 {
		t.Fatalf("status %d %q", a.status, a.body)
	}
	if d := sub.delivery(); d.name != "header" {
		t.Errorf("client_name %q, want the header's", d.name)
	}
}

func TestChecksComeInOrder(t *testing.T) {
	sv := start(t)
	big := strings.Repeat(" ", 64<<10) + "{}"
	withKey := []string{"X-API-Key", testKey}
	for _, body := range []string{"", "7", big} {
		sv.request(t, "POST", "/publish", body).refuses(t, http.StatusUnauthorized, "key")
		sv.request(t, "POST", "/publish?clientName=%00", body).refuses(t, http.StatusUnauthorized, "key")
		sv.request(t, "POST", "/publish", body, withKey...).refuses(t, http.StatusBadRequest, "client name")
		sv.request(t, "POST", "/publish?clientName=%00", body, withKey...).refuses(t, http.StatusBadRequest, "client name")
	}
	sv.request(t, "POST", "/publish?clientName=a", big, withKey...).refuses(t, http.StatusRequestEntityTooLarge, "limit")
	for _, path := range []string{"/subscribe", "/publish"} {
		sv.call(t, "GET", path, true, "", "").refuses(t, http.StatusUnauthorized, "key")
		sv.call(t, "GET", path, true, "", "", withKey...).refuses(t, http.StatusBadRequest, "client name")
		sv.request(t, "GET", path, "").refuses(t, http.StatusUnauthorized, "key")
		sv.request(t, "GET", path, "", withKey...).refuses(t, http.StatusBadRequest, "client name")
	}
	sv.request(t, "GET", "/socket/info", "").refuses(t, http.StatusUnauthorized, "key")
}

func TestUnixSocketNeedsNoKey(t *testing.T) {
	sv := start(t)
	local := func(target string) *peer {
		p := sv.dial(t, "unix")
		if a := p.upgrade(target); a.status != http.StatusSwitchingProtocols {
			t.Fatalf("%s: status %d %q", target, a.status, a.body)
		}
		return p
	}
	sub := local("/subscribe?clientName=Cron")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	local("/publish?clientName=Shell").ask(`{"event":"e","data":1,"id":1}`)
	if d := sub.delivery(); d.name != "Shell" || d.data != "1" {
		t.Errorf("got %+v", d)
	}

	p := sv.dial(t, "unix")
	p.raw([]byte("POST /publish?clientName=Post HTTP/1.1\r\nHost: local\r\nContent-Length: 13\r\n\r\n" + `{"event":"e"}`))
	if a := p.response("POST"); a.status != http.StatusCreated {
		t.Errorf("POST: status %d %q", a.status, a.body)
	}
	if d := sub.delivery(); d.name != "Post" {
		t.Errorf("got %+v", d)
	}
	p.raw([]byte("POST /publish HTTP/1.1\r\nHost: local\r\nContent-Length: 13\r\n\r\n" + `{"event":"e"}`))
	p.response("POST").refuses(t, http.StatusBadRequest, "client name")
	p.raw([]byte("GET /info HTTP/1.1\r\nHost: local\r\nX-API-Key: " + wrongKey + "\r\n\r\n"))
	a := p.response("GET")
	var info wire.Info
	if err := json.Unmarshal([]byte(a.body), &info); err != nil || len(info.AllConnections) != 2 {
		t.Fatalf("GET /info: status %d %q", a.status, a.body)
	}
	for _, c := range append(info.AllConnections, info.Subscriptions[0].Connections...) {
		if c.IPAddress != "local" {
			t.Errorf("%s has the ip_address %q, want local", c.ClientName, c.IPAddress)
		}
	}

	// An address that may not try any more does so over TCP only.
	for range sv.cfg.WrongKeys {
		sv.request(t, "GET", "/info", "", "X-API-Key", wrongKey)
	}
	sv.request(t, "GET", "/info", "", "X-API-Key", testKey).refuses(t, http.StatusTooManyRequests, "wrong keys")
	local("/subscribe?clientName=Late").ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestPostPublishes(t *testing.T) {
	sv := start(t)
	sub := sv.subscriber(t, "Listener")
	sub.ask(`{"action":"subscribe","event":"temperature","id":1}`)
	before := time.Now()
	a := sv.post(t, `{"event":"temperature","data":"76.5 F"}`)
	if a.status != http.StatusCreated || a.body != "" || a.header.Get("Content-Length") != "0" {
		t.Errorf("status %d %q, Content-Length %q, want 201 and an empty body", a.status, a.body, a.header.Get("Content-Length"))
	}
	d := sub.delivery()
	after := time.Now()
	if d.event != "temperature" || d.data != `"76.5 F"` || d.name != "Poster" {
		t.Errorf("got %+v", d)
	}
	if d.at.Before(before) || d.at.After(after) {
		t.Errorf("created_at %v is not between %v and %v", d.at, before, after)
	}
	if a := sv.post(t, `{"event":"nobody listens","data":1}`); a.status != http.StatusCreated {
		t.Errorf("without subscribers: status %d %q, want 201", a.status, a.body)
	}
	if a := sv.post(t, `{"action":"publish","event":"temperature","data":2,"id":"ignored"}`); a.status != http.StatusCreated || a.body != "" {
		t.Errorf("with action and id: status %d %q, want 201", a.status, a.body)
	}
	if d := sub.delivery(); d.data != "2" {
		t.Errorf("got %+v", d)
	}
}

func TestBadBodiesAreRefused(t *testing.T) {
	sv := start(t)
	sub := sv.subscriber(t, "Listener")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	for _, tt := range []struct{ name, body, reason string }{
		{"none", "", "one JSON object"},
		{"spaces", "  \n", "one JSON object"},
		{"array", "[]", "one JSON object"},
		{"array of the object", `[{"event":"e"}]`, "one JSON object"},
		{"null", "null", "one JSON object"},
		{"number", "7", "one JSON object"},
		{"string", `"e"`, "one JSON object"},
		{"no JSON", "event=e&data=1", "one JSON object"},
		{"half an object", `{"event":"e"`, "one JSON object"},
		{"trailing brace", `{"event":"e"}}`, "one JSON object"},
		{"two objects", `{"event":"e"}{"event":"e"}`, "one JSON object"},
		{"trailing text", `{"event":"e"} x`, "one JSON object"},
		{"trailing NUL", "{\"event\":\"e\"}\x00", "one JSON object"},
		{"comment", `{"event":"e"/**/}`, "one JSON object"},
		{"single quotes", `{'event':'e'}`, "one JSON object"},
		{"byte order mark", "\ufeff" + `{"event":"e"}`, "one JSON object"},
		{"bare NaN", `{"event":"e","data":NaN}`, "one JSON object"},
		{"raw newline in a string", "{\"event\":\"e\",\"data\":\"a\nb\"}", "one JSON object"},
		{"empty object", `{}`, "event is required"},
		{"event missing", `{"data":"1"}`, "event is required"},
		{"event empty", `{"event":""}`, "event must not be empty"},
		{"event null", `{"event":null}`, "event must be a string"},
		{"event number", `{"event":7}`, "event must be a string"},
		{"event array", `{"event":["e"]}`, "event must be a string"},
		{"event object", `{"event":{}}`, "event must be a string"},
		{"event of 256 bytes", `{"event":"` + strings.Repeat("e", 256) + `"}`, "at most 255 bytes"},
		{"event of 128 characters, 256 bytes", `{"event":"` + strings.Repeat("é", 128) + `"}`, "at most 255 bytes"},
		{"event of 256 escaped bytes", `{"event":"` + strings.Repeat(`\u0065`, 256) + `"}`, "at most 255 bytes"},
		{"event with half a surrogate pair", `{"event":"\ud800"}`, "surrogate"},
		{"event with the other half", `{"event":"\udc00e"}`, "surrogate"},
		{"event twice", `{"event":"e","event":"e"}`, "event appears twice"},
		{"event twice, once escaped", `{"event":"e","\u0065vent":"f"}`, "event appears twice"},
		{"data twice", `{"event":"e","data":1,"data":2}`, "data appears twice"},
		{"another action", `{"action":"subscribe","event":"e"}`, "action must be publish"},
		{"another action without event", `{"action":"unsubscribe:all"}`, "action must be publish"},
		{"unknown action", `{"action":"shout","event":"e"}`, "unknown action"},
		{"not UTF-8", "{\"event\":\"e\",\"data\":\"\xff\"}", "UTF-8"},
		{"event not UTF-8", "{\"event\":\"\xc3\x28\"}", "UTF-8"},
		{"overlong UTF-8", "{\"event\":\"e\",\"data\":\"\xc0\xaf\"}", "UTF-8"},
		{"a surrogate in UTF-8", "{\"event\":\"e\",\"data\":\"\xed\xa0\x80\"}", "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sv.post(t, tt.body).refuses(t, http.StatusBadRequest, tt.reason)
		})
	}
	// None of them was published.
	sv.post(t, `{"event":"e","data":"good"}`)
	if d := sub.delivery(); d.data != `"good"` {
		t.Errorf("a refused body was delivered: %+v", d)
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	sv := start(t)
	for _, path := range []string{"/nothing", "/subscribe/", "/Publish", "/info/x", "//", "/socket", "/../metrics", "/%2e%2e/info"} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			sv.request(t, method, path, "", "X-API-Key", testKey).refuses(t, http.StatusNotFound, "route")
		}
	}
	for _, tt := range []struct{ method, path, allow string }{
		{"POST", "/subscribe", "GET"},
		{"PUT", "/publish", "GET POST"},
		{"DELETE", "/publish", "GET POST"},
		{"POST", "/socket/info", "GET"},
		{"POST", "/info", "GET"},
		{"POST", "/metrics", "GET"},
		{"POST", "/healthz", "GET HEAD"},
		{"PATCH", "/", "GET HEAD"},
		{"TRACE", "/info", "GET"},
		{"BREW", "/info", "GET"},
	} {
		a := sv.request(t, tt.method, tt.path, "", "X-API-Key", testKey)
		a.refuses(t, http.StatusMethodNotAllowed, "method")
		if got := strings.ReplaceAll(a.header.Get("Allow"), ",", ""); strings.ReplaceAll(got, " OPTIONS", "") != tt.allow {
			t.Errorf("%s %s: Allow %q, want %s", tt.method, tt.path, a.header.Get("Allow"), tt.allow)
		}
	}
	a := sv.request(t, "HEAD", "/info", "", "X-API-Key", testKey)
	if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") == "" {
		t.Errorf("HEAD /info: status %d, Allow %q, want 405", a.status, a.header.Get("Allow"))
	}
}

func TestWebSocketRoutesAskForAnUpgrade(t *testing.T) {
	sv := start(t)
	for _, path := range []string{"/subscribe?clientName=a", "/publish?clientName=a", "/socket/info"} {
		a := sv.request(t, "GET", path, "", "X-API-Key", testKey)
		a.refuses(t, http.StatusUpgradeRequired, "WebSocket")
		if got := a.header.Get("Upgrade"); got != "websocket" {
			t.Errorf("%s: Upgrade %q, want websocket", path, got)
		}
	}
	for _, header := range [][2]string{
		{"Sec-WebSocket-Key", ""},
		{"Sec-WebSocket-Key", "short"},
		{"Sec-WebSocket-Version", ""},
		{"Sec-WebSocket-Version", "8"},
	} {
		a := sv.dial(t, "tcp").upgrade("/subscribe?clientName=a", "X-API-Key", testKey, header[0], header[1])
		a.refuses(t, http.StatusBadRequest, "websocket")
	}
	sv.stillServes(t)
}

func TestBrowsersMayAskFromAnyOrigin(t *testing.T) {
	sv := start(t)
	const origin = "http://shed.local:8080"
	for path, methods := range map[string][]string{"/publish": {"GET", "POST"}, "/info": {"GET"}, "/metrics": {"GET"}, "/healthz": {"GET", "HEAD"}} {
		a := sv.request(t, "OPTIONS", path, "", "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-api-key, x-api-client-name, content-type")
		if a.status != http.StatusNoContent || a.body != "" || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("preflight for %s: status %d %q %v", path, a.status, a.body, a.header)
		}
		for _, m := range methods {
			if !slices.Contains(strings.Split(a.header.Get("Access-Control-Allow-Methods"), ", "), m) {
				t.Errorf("preflight for %s: methods %q, want %s among them", path, a.header.Get("Access-Control-Allow-Methods"), m)
			}
		}
		allowed := strings.Split(strings.ToLower(a.header.Get("Access-Control-Allow-Headers")), ", ")
		for _, h := range []string{"x-api-key", "x-api-client-name", "authorization", "content-type"} {
			if !slices.Contains(allowed, h) {
				t.Errorf("preflight for %s: headers %v, want %s among them", path, allowed, h)
			}
		}
	}
	// A page reads answers and refusals.
	for _, header := range [][]string{{"Origin", origin}, {"Origin", origin, "X-API-Key", testKey}} {
		a := sv.request(t, "POST", "/publish?clientName=page", `{"event":"e"}`, header...)
		if a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("status %d has Access-Control-Allow-Origin %q, want *", a.status, a.header.Get("Access-Control-Allow-Origin"))
		}
	}
	if a := sv.request(t, "GET", "/healthz", ""); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("who names no origin is told about origins")
	}
	sv.connect(t, "/subscribe?clientName=page&apiKey="+testKey, "Origin", origin).ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestSubscribeConnectionSubscribesPublishesAndReceives(t *testing.T) {
	sv := start(t)
	a, b := sv.subscriber(t, "A"), sv.subscriber(t, "B")
	for _, p := range []*peer{a, b} {
		p.ask(`{"action":"subscribe","event":"x","id":1}`)
		p.ask(`{"action":"subscribe","event":"y","id":2}`)
	}
	want := func(p *peer, event, data, name string) {
		t.Helper()
		if d := p.delivery(); d.event != event || d.data != data || d.name != name {
			t.Errorf("got %+v, want %s of %s from %s", d, data, event, name)
		}
	}
	a.send(`{"action":"publish","event":"x","data":1}`)
	want(a, "x", "1", "A") // the publisher too
	want(b, "x", "1", "A")

	b.ask(`{"action":"unsubscribe","event":"x","id":3}`)
	a.send(`{"action":"publish","event":"x","data":2}`)
	a.send(`{"action":"publish","event":"y","data":3}`)
	want(a, "x", "2", "A")
	want(a, "y", "3", "A")
	want(b, "y", "3", "A")

	a.ask(`{"action":"unsubscribe:all","id":4}`)
	b.send(`{"action":"publish","event":"x","data":4}`)
	b.send(`{"action":"publish","event":"y","data":5}`)
	want(b, "y", "5", "B")
	a.ask(`{"action":"subscribe","event":"y","id":5}`)
	b.send(`{"action":"publish","event":"y","data":6}`)
	want(a, "y", "6", "B")
	want(b, "y", "6", "B")

	// What was never subscribed to can be unsubscribed from.
	a.ask(`{"action":"unsubscribe","event":"never","id":6}`)
	a.ask(`{"action":"unsubscribe:all","id":7}`)
	a.ask(`{"action":"unsubscribe:all","id":8}`)
	a.ask(`{"action":"unsubscribe:all","event":"not needed, not looked at","id":9}`)
}

func TestPublishConnectionOnlyPublishes(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "Listener"), sv.publisher(t, "Sensor")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	pub.send(`{"event":"e","data":1}`)
	pub.send(`{"action":"publish","event":"e","data":2}`)
	pub.ask(`{"event":"e","data":3,"id":3}`)
	for i := 1; i <= 3; i++ {
		if d := sub.delivery(); d.data != strconv.Itoa(i) || d.name != "Sensor" {
			t.Errorf("got %+v, want %d", d, i)
		}
	}
	for _, action := range []string{"subscribe", "unsubscribe", "unsubscribe:all"} {
		pub.send(`{"action":"` + action + `","event":"e","id":"x"}`)
		pub.failed("only publishes", `"x"`)
	}
	pub.ask(`{"event":"e","data":4,"id":4}`) // and it got nothing of its own in between
	if d := sub.delivery(); d.data != "4" {
		t.Errorf("got %+v, want 4", d)
	}
	sub.send(`{"event":"e","data":5,"id":5}`)
	sub.failed("action is required", "5")
}

func TestEventsAreMatchedByteForByte(t *testing.T) {
	sv := start(t)
	pub := sv.publisher(t, "P")
	events := []string{
		"e", "E", " e", "e ", "e\n", "e\x00", "\x1b[31m", "*", "#", "+", "a/b", "a/+", "a.*", ">", "..", "%", `"`, `\`, "<&>",
		"\u00e9", "e\u0301", "\u2028", "🐞", "\ufffd", "null", strings.Repeat("x", 255), strings.Repeat("x", 254), strings.Repeat("é", 127),
	}
	sub := sv.subscriber(t, "S")
	quote := func(s string) string { return string(wire.AppendString(nil, s)) }
	for i, ev := range events {
		if i%2 == 0 { // the others must not arrive
			sub.ask(`{"action":"subscribe","event":` + quote(ev) + `,"id":1}`)
		}
	}
	for _, ev := range events {
		pub.ask(`{"event":` + quote(ev) + `,"id":1}`)
	}
	for i := 0; i < len(events); i += 2 {
		if d := sub.delivery(); d.event != events[i] {
			t.Errorf("got the event %q, want %q", d.event, events[i])
		}
	}
	sub.ask(`{"action":"unsubscribe:all","id":"end"}`)

	// An escape is another way to write the same bytes.
	sub.ask(`{"action":"subscribe","event":"é🐞/","id":1}`)
	pub.send(`{"event":"\u00e9\ud83d\udc1e\/"}`)
	if d := sub.delivery(); d.event != "é🐞/" {
		t.Errorf("got the event %q", d.event)
	}
}

func TestDataIsPassedOnUnchanged(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	for _, data := range []string{
		`"76.5 F"`, `""`, `null`, `true`, `false`, `0`, `-0`, `1.0`, `1e400`, `123456789012345678901234567890`, `0.1000`,
		`{}`, `[]`, `[[[[]]]]`, `{"b":1,"a":2,"b":3}`, `[ 1 ,	2 ]`, `{ "a" : { "b" : [ null ] } }`,
		`"\u00e9\/\u003c<>&\"\\\b"`, `"é🐞"`, `"\ud83d\udc1e"`, `"\ud800"`, `"\u2028"`, "\"\u2028\x7f\"", `"} , \" {"`,
	} {
		want := compact(t, data)
		for _, publish := range []func(){
			func() { pub.send(`{"event":"e","data":` + data + `}`) },
			func() { pub.send(" { \"data\" :\t" + data + "\r\n, \"event\" : \"e\" } ") },
			func() { sub.send(`{"action":"publish","event":"e","data":` + data + `}`) },
			func() { sv.post(t, `{"event":"e","data":`+data+`}`) },
		} {
			publish()
			if d := sub.delivery(); compact(t, d.data) != want {
				t.Errorf("data %s came out as %s", data, d.data)
			}
		}
	}
	pub.send(`{"event":"e"}`)
	if d := sub.delivery(); d.data != `""` {
		t.Errorf(`missing data came out as %s, want ""`, d.data)
	}
	sv.post(t, `{"event":"e"}`)
	if d := sub.delivery(); d.data != `""` {
		t.Errorf(`missing data came out as %s, want ""`, d.data)
	}
}

// compact leaves out white space that means nothing, and nothing else.
func compact(t testing.TB, value string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(value)); err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return b.String()
}

func TestBinaryFramesAreMessagesToo(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	subscribe := `{"action":"subscribe","event":"e","id":1}`
	sub.raw(frame(fin|opBinary, []byte(subscribe)))
	sub.acked(subscribe)
	pub.raw(frame(fin|opBinary, []byte(`{"event":"e","data":"é"}`)))
	if d := sub.delivery(); d.data != `"é"` { // as text: delivery takes no other frame
		t.Errorf("got %+v", d)
	}
	pub.raw(frame(fin|opBinary, []byte("{\"event\":\"e\",\"data\":\"\xff\",\"id\":1}")))
	pub.failed("UTF-8", "")
	pub.ask(`{"event":"e","id":2}`)
}

func TestIDsAreAcknowledged(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	good := []string{
		`1`, `0`, `-1`, `1.50`, `1e3`, `"a"`, `""`, `"é"`, `"\u00e9\n"`, `"<&>"`,
		`"` + strings.Repeat("i", 64) + `"`, strings.Repeat("1", 64),
	}
	for _, id := range good { // p.ask compares the bytes
		sub.ask(`{"action":"subscribe","event":"e","id":` + id + `}`)
		sub.ask(`{"action":"unsubscribe","event":"e","id":` + id + `}`)
		sub.ask(`{"action":"unsubscribe:all","id":` + id + `}`)
		sub.ask(`{"action":"publish","event":"e","id":` + id + `}`)
		pub.ask(`{"event":"e","id":` + id + `}`)
		sub.send(`{"action":"subscribe","id":` + id + `}`)
		sub.failed("event is required", id)
	}
	for id, reason := range map[string]string{
		`null`: "string or a number", `true`: "string or a number", `{}`: "string or a number", `[1]`: "string or a number",
		`"` + strings.Repeat("i", 65) + `"`: "at most 64 bytes", strings.Repeat("1", 65): "at most 64 bytes",
		`"\ud800"`: "surrogate",
	} {
		sub.send(`{"action":"subscribe","event":"e","id":` + id + `}`)
		sub.failed(reason, "")
	}
	sub.send(`{"action":"subscribe","event":"e"}`) // without an id nothing is answered
	sub.ask(`{"action":"unsubscribe:all","id":"end"}`)
}

func TestAckMeansEffect(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	for i := range 200 {
		sub.ask(`{"action":"subscribe","event":"e","id":1}`)
		pub.ask(fmt.Sprintf(`{"event":"e","data":%d,"id":1}`, i))
		// The publish has been acknowledged, so it is in the queue in front of what is answered now.
		unsubscribe := `{"action":"unsubscribe","event":"e","id":2}`
		sub.send(unsubscribe)
		if d := sub.delivery(); d.data != strconv.Itoa(i) {
			t.Fatalf("got %+v, want %d", d, i)
		}
		sub.acked(unsubscribe)
		pub.ask(`{"event":"e","data":"after the unsubscribe's ack","id":1}`)
	}
	sub.ask(`{"action":"unsubscribe:all","id":"end"}`)
}

func TestPublishedMeansQueuedForEverySubscriber(t *testing.T) {
	sv := start(t)
	var subs []*peer
	for i := range 20 {
		p := sv.subscriber(t, fmt.Sprint(i))
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		subs = append(subs, p)
	}
	for i := range 20 {
		if a := sv.post(t, fmt.Sprintf(`{"event":"e","data":%d}`, i)); a.status != http.StatusCreated {
			t.Fatalf("status %d %q", a.status, a.body)
		}
		for _, p := range subs {
			ask := `{"action":"unsubscribe","event":"never","id":2}`
			p.send(ask)
			if d := p.delivery(); d.data != strconv.Itoa(i) { // in front of the ack
				t.Fatalf("got %+v, want %d", d, i)
			}
			p.acked(ask)
		}
	}
}

func TestWrongMessagesAreAnswered(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	for _, tt := range []struct{ message, reason, id string }{
		{``, "one JSON object", ""},
		{`[]`, "one JSON object", ""},
		{`null`, "one JSON object", ""},
		{`7`, "one JSON object", ""},
		{`hello`, "one JSON object", ""},
		{`{`, "one JSON object", ""},
		{`{"action":"publish","event":"e","id":1} {}`, "one JSON object", ""},
		{`{"action":"publish","event":"e","id":1,}`, "one JSON object", ""},
		{`{}`, "required", ""},
		{`{"id":1}`, "required", "1"},
		{`{"action":"publish","id":1}`, "event is required", "1"},
		{`{"action":"subscribe","event":"","id":"a"}`, "event must not be empty", `"a"`},
		{`{"action":"subscribe","event":7,"id":"a"}`, "event must be a string", `"a"`},
		{`{"action":"unsubscribe","event":null}`, "event must be a string", ""},
		{`{"action":"subscribe","event":"` + strings.Repeat("e", 256) + `","id":1}`, "at most 255 bytes", "1"},
		{`{"action":"subscribe","event":"\udead","id":1}`, "surrogate", "1"},
		{`{"action":"Subscribe","event":"e","id":1}`, "unknown action", "1"},
		{`{"action":"shout","event":"e","id":1}`, "unknown action", "1"},
		{`{"action":"","event":"e","id":1}`, "unknown action", "1"},
		{`{"action":7,"event":"e","id":1}`, "action must be a string", "1"},
		{`{"action":null,"event":"e","id":1}`, "action must be a string", "1"},
		{`{"action":"publish","action":"publish","event":"e","id":1}`, "action appears twice", "1"},
		{`{"action":"publish","event":"e","event":"f","id":1}`, "event appears twice", "1"},
		{`{"action":"publish","event":"e","data":1,"data":1,"id":1}`, "data appears twice", "1"},
		{`{"action":"publish","event":"e","id":1,"id":2}`, "id appears twice", ""},
		{`{"action":"publish","event":"e","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, "one JSON object", ""},
	} {
		for _, p := range []*peer{sub, pub} {
			p.send(tt.message)
			p.failed(tt.reason, tt.id)
		}
	}
	pub.ask(`{"event":"e","data":"good","id":1}`)
	if d := sub.delivery(); d.data != `"good"` {
		t.Errorf("a refused message was delivered: %+v", d)
	}
}

func TestInvalidUTF8IsRefusedEverywhere(t *testing.T) {
	sv := start(t)
	for _, bad := range []string{"\xff", "\xc3\x28", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"} {
		body := `{"action":"publish","event":"e","data":"` + bad + `","id":1}`
		sv.post(t, body).refuses(t, http.StatusBadRequest, "UTF-8")

		p := sv.subscriber(t, "binary")
		p.raw(frame(fin|opBinary, []byte(body)))
		p.failed("UTF-8", "")
		p.ask(`{"action":"subscribe","event":"e","id":1}`)

		p = sv.subscriber(t, "text")
		p.raw(frame(fin|opText, []byte(body)))
		p.wantClose(1007)

		withKey := []string{"X-API-Key", testKey}
		inHeader := append([]string{"X-API-Client-Name", "a" + bad}, withKey...)
		inQuery := "clientName=" + url.QueryEscape("a"+bad)
		sv.request(t, "POST", "/publish", `{"event":"e"}`, inHeader...).refuses(t, http.StatusBadRequest, "UTF-8")
		sv.request(t, "POST", "/publish?"+inQuery, `{"event":"e"}`, withKey...).refuses(t, http.StatusBadRequest, "UTF-8")
		for _, path := range []string{"/subscribe", "/publish"} {
			sv.call(t, "GET", path, true, "", "", inHeader...).refuses(t, http.StatusBadRequest, "UTF-8")
			sv.call(t, "GET", path, true, inQuery, "", withKey...).refuses(t, http.StatusBadRequest, "UTF-8")
		}
	}
	// A character may be split between fragments.
	p := sv.subscriber(t, "split")
	message := []byte(`{"action":"subscribe","event":"🐞","id":1}`)
	i := bytes.IndexByte(message, 0xf0) + 2
	p.raw(frame(opText, message[:i]))
	p.raw(frame(fin|opMore, message[i:]))
	p.acked(string(message))
}

func TestOrderOfOnePublisher(t *testing.T) {
	sv := start(t)
	const publishers, messages = 3, 1500
	var subs []*peer
	for i := range 3 {
		p := sv.subscriber(t, fmt.Sprint("S", i))
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		subs = append(subs, p)
	}
	var running sync.WaitGroup
	for i := range publishers {
		p := sv.publisher(t, fmt.Sprint(i))
		running.Go(func() {
			var burst []byte
			for n := range messages {
				burst = append(burst, frame(fin|opText, fmt.Appendf(nil, `{"event":"e","data":%d}`, n))...)
				if n%50 == 0 || n == messages-1 {
					if _, err := p.Write(burst); err != nil {
						t.Error(err)
						return
					}
					burst = burst[:0]
				}
			}
		})
	}
	for _, p := range subs {
		running.Go(func() {
			next := make(map[string]int)
			for range publishers * messages {
				text, err := p.message()
				if err != nil {
					t.Error(err)
					return
				}
				d, err := parseDelivery(text)
				if err != nil || d.data != strconv.Itoa(next[d.name]) {
					t.Errorf("from %s got %s, want %d (%v)", d.name, d.data, next[d.name], err)
					return
				}
				next[d.name]++
			}
		})
	}
	running.Wait()
	for _, p := range subs {
		p.ask(`{"action":"unsubscribe:all","id":"end"}`) // nothing is left
	}
}

func TestSubscribingTwiceIsSubscribingOnce(t *testing.T) {
	sv := start(t)
	p := sv.subscriber(t, "S")
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	p.ask(`{"action":"subscribe","event":"e","id":2}`)
	p.ask(`{"action":"subscribe","event":"\u0065","id":3}`)
	publish := `{"action":"publish","event":"e","data":1,"id":4}`
	p.send(publish)
	p.delivery()
	p.acked(publish)
	info := sv.watch(t).info()
	if len(info.Subscriptions) != 1 || len(info.Subscriptions[0].Connections) != 1 || info.Server.Subscriptions != 1 {
		t.Errorf("info shows %+v", info.Subscriptions)
	}
	p.ask(`{"action":"unsubscribe","event":"e","id":5}`)
	p.ask(`{"action":"publish","event":"e","data":2,"id":6}`)
}

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
			if c.ClientName != []string{"Porch", "Sensor"}[i] || c.IPAddress != want.LocalAddr().String() || err != nil || at.Before(before) || at.After(after) {
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
			"published":0,"delivered":0,"slow_clients_closed":0,"wrong_keys":0,"connection_limit_reached":0,"kept_over_restart":0,"lost_over_restart":0,"port":0,"tls":false,"led":"","led_error":"",
			"max_message_bytes":0,"max_queue_bytes":0,"max_subscriptions":0,"resident_memory_bytes":0,"cpu_seconds":0,
			"slow_clients_closed_latest":[],"event_traffic":[],"connection_traffic":[]}`)
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
		Version: "v0-test", Connections: 3, MaxConnections: 8192, Events: 3, Subscriptions: 4, Published: 2, Delivered: 2, WrongKeys: 1,
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
		sv.connect(t, path, "X-API-Key", testKey).text() // at once: an hour is more than the patience

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
	for _, message := range []string{`{"action":"subscribe","event":"e","id":1}`, `{"action":"publish","event":"e"}`, `[]`, ``} {
		w.send(message)
	}
	w.raw(frame(fin|opBinary, []byte{0xff}))
	w.raw(frame(fin|opPing, []byte("seen")))
	for seen := false; !seen; { // what came before the ping has been handled
		op, text, err := w.read()
		switch {
		case err != nil:
			t.Fatal(err)
		case op == opPong:
			seen = string(text) == "seen"
		case op != opText || !strings.HasPrefix(string(text), `{"subscriptions":[],"all_connections":[],`):
			t.Fatalf("opcode %d: %s", op, text)
		}
	}
	if info := w.info(); info.Server.Published != 0 || info.Server.Subscriptions != 0 {
		t.Errorf("it took effect: %+v", info.Server)
	}
}

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
		a, err := sv.send("POST", "/publish?clientName=a", struct{ *strings.Reader }{strings.NewReader(over)}, "X-API-Key", testKey) // chunked
		if err != nil {
			t.Fatal(err)
		}
		a.refuses(t, http.StatusRequestEntityTooLarge, "limit")
		a, err = sv.send("POST", "/publish?clientName=a", struct{ *strings.Reader }{strings.NewReader(fits)}, "X-API-Key", testKey)
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
			p.raw(frame(opText, []byte(fits)))
			p.raw(frame(fin|opMore, nil))
			sub.delivery()
			p.raw(frame(opText, []byte(fits)))
			p.raw(frame(fin|opMore, []byte(" ")))
			p.wantClose(1009)
			p = connect() // the length alone is enough
			p.raw(frameHeader(fin|opBinary, limit+1))
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
	if got := sv.log.lines(t, "connection limit reached, new clients are refused"); len(got) != 1 || got[0]["max_connections"] != "3" {
		t.Errorf("logged %v, want it once", got)
	}
	// HTTP goes on, and so do the clients who are there.
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
	p.ask(`{"action":"subscribe","event":"1","id":4}`) // it has that one
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
	for range 3 { // no pong is demanded
		op, body, err := p.read()
		if err != nil || op != opPing {
			t.Fatalf("got opcode %d %q (%v), want a ping", op, body, err)
		}
	}
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestPermessageDeflateIsOff(t *testing.T) {
	sv := start(t)
	p := sv.dial(t, "tcp")
	a := p.upgrade("/subscribe?clientName=a", "X-API-Key", testKey, "Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
	if a.status != http.StatusSwitchingProtocols || a.header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("status %d, extensions %q, want 101 and none", a.status, a.header.Get("Sec-WebSocket-Extensions"))
	}
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	p.raw(frame(fin|rsv1|opText, []byte{0xaa, 0x56, 0x4a}))
	p.wantClose(1002)
}
