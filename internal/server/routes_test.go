package server

// Where each line of docs/protocol.md's Routes is tested. A line of several clauses is listed with several tests.
//
//	GET /subscribe: the client's main connection                     TestSubscribeConnectionSubscribesPublishesAndReceives
//	GET /publish: each message is a publish, action may be missing   TestPublishConnectionOnlyPublishes
//	POST /publish: 201 and an empty body                             TestPostPublishes
//	GET /socket/info, GET /info                                      info_test.go
//	GET /metrics: Prometheus text format                             TestMetricsArePrometheusText
//	POST /sign-in/codes, POST /sign-in                               signin_test.go
//	GET /healthz, GET / and its files: anyone                        TestOpenRoutesNeedNoKey
//	who: key, key + client name                                      TestKeyIsRequired, TestClientNameIsRequired
//	The key: header, query, Bearer                                   TestKeyIsRequired
//	The client name: header or query; 1 to 128 characters, no
//	    control characters                                           TestClientNameIsRequired
//	Checked in this order: key, client name, body                    TestChecksComeInOrder
//	Over the local Unix socket no key is needed                      TestUnixSocketNeedsNoKey
//
// Answers to HTTP requests
//
//	201: every connection subscribed at that moment has it queued    TestPublishedMeansQueuedForEverySubscriber
//	400                                                              TestBadBodiesAreRefused, TestClientNameIsRequired
//	401                                                              TestKeyIsRequired
//	404, 405 + Allow                                                 TestUnknownRoutesAndMethods
//	413                                                              TestMessageLimit, TestHugeBodiesAreRefusedEarly
//	426 + Upgrade, Sec-WebSocket-Version                             TestWebSocketRoutesAskForAnUpgrade,
//	                                                                     TestHandshakeRulesHoldOnEachNetwork
//	429 + Retry-After                                                TestWrongKeysFromOneAddress, TestGuard…
//	503 + Retry-After: connection limit                              TestConnectionLimit
//	503 + Retry-After: stopping                                      TestStoppingServerIsUnavailable
//	Every error has a JSON body                                      answer.refuses, in all of these

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"picloud/internal/dashboard"
	"picloud/internal/wire"
	ws "picloud/test/peer"
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
	{"POST", "/sign-in/codes", false, false, 201},
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
			t.Run(fmt.Sprintf("%s %s socket=%t/%s", route.method, route.path, route.socket, in.name),
				func(t *testing.T) {
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
		if head.status != http.StatusOK || head.body != "" ||
			head.header.Get("Content-Type") != get.header.Get("Content-Type") {
			t.Errorf("HEAD %s: status %d %v, %d bytes, want 200, the type of GET and none", path, head.status,
				head.header, len(head.body))
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
			t.Run(fmt.Sprintf("%s %s socket=%t/%s", route.method, route.path, route.socket, tt.name),
				func(t *testing.T) {
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
	if a := sv.request(t, "POST", "/publish?clientName=query", `{"event":"e"}`, "X-API-Key", testKey,
		"X-API-Client-Name", "header"); a.status != 201 {
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
		sv.request(t, "POST", "/publish?clientName=%00", body, withKey...).refuses(t, http.StatusBadRequest,
			"client name")
	}
	sv.request(t, "POST", "/publish?clientName=a", big, withKey...).refuses(t, http.StatusRequestEntityTooLarge,
		"limit")
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
	p.Raw([]byte("POST /publish?clientName=Post HTTP/1.1\r\nHost: local\r\nContent-Length: 13\r\n\r\n" +
		`{"event":"e"}`))
	if a := p.response("POST"); a.status != http.StatusCreated {
		t.Errorf("POST: status %d %q", a.status, a.body)
	}
	if d := sub.delivery(); d.name != "Post" {
		t.Errorf("got %+v", d)
	}
	p.Raw([]byte("POST /publish HTTP/1.1\r\nHost: local\r\nContent-Length: 13\r\n\r\n" + `{"event":"e"}`))
	p.response("POST").refuses(t, http.StatusBadRequest, "client name")
	p.Raw([]byte("GET /info HTTP/1.1\r\nHost: local\r\nX-API-Key: " + wrongKey + "\r\n\r\n"))
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

	// An address that has no guesses left is refused over TCP only.
	for range sv.cfg.WrongKeys {
		sv.request(t, "GET", "/info", "", "X-API-Key", another())
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
		t.Errorf("status %d %q, Content-Length %q, want 201 and an empty body", a.status, a.body,
			a.header.Get("Content-Length"))
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
		{"two byte order marks", "\ufeff\ufeff" + `{"event":"e"}`, "one JSON object"},
		{"UTF-16", "\xff\xfe{\x00", "UTF-16"},
		{"gzip", "\x1f\x8b\x08\x00", "gzip"},
		{"bare NaN", `{"event":"e","data":NaN}`, "NaN is no JSON"},
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
	for _, path := range []string{"/nothing", "/subscribe/", "/Publish", "/info/x", "//", "/socket", "/../metrics",
		"/%2e%2e/info"} {
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
		{"GET", "/sign-in", "OPTIONS POST"},
		{"GET", "/sign-in/codes", "OPTIONS POST"},
		{"POST", "/healthz", "GET HEAD"},
		{"PATCH", "/", "GET HEAD"},
		{"TRACE", "/info", "GET"},
		{"BREW", "/info", "GET"},
	} {
		a := sv.request(t, tt.method, tt.path, "", "X-API-Key", testKey)
		a.refuses(t, http.StatusMethodNotAllowed, "method")
		if got := strings.ReplaceAll(a.header.Get("Allow"), ",", ""); strings.ReplaceAll(got, " OPTIONS",
			"") != tt.allow {
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
	sv.stillServes(t)
}

// nginx without proxy_http_version asks so.
func TestHandshakeOfHTTP10IsTaken(t *testing.T) {
	sv := start(t)
	p := sv.dial(t, "tcp")
	request := ws.Handshake("/subscribe?clientName=a", ws.Nonce, "X-API-Key", testKey)
	p.Raw([]byte(strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1)))
	if a := p.response("GET"); a.status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d %q, want 101", a.status, a.body)
	}
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestBrowsersMayAskFromAnyOrigin(t *testing.T) {
	sv := start(t)
	const origin = "http://shed.local:8080"
	for path, methods := range map[string][]string{"/publish": {"GET", "POST"}, "/info": {"GET"}, "/metrics": {"GET"},
		"/healthz": {"GET", "HEAD"}} {
		a := sv.request(t, "OPTIONS", path, "", "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers",
			"x-api-key, x-api-client-name, content-type")
		if a.status != http.StatusNoContent || a.body != "" || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("preflight for %s: status %d %q %v", path, a.status, a.body, a.header)
		}
		for _, m := range methods {
			if !slices.Contains(strings.Split(a.header.Get("Access-Control-Allow-Methods"), ", "), m) {
				t.Errorf("preflight for %s: methods %q, want %s among them", path,
					a.header.Get("Access-Control-Allow-Methods"), m)
			}
		}
		allowed := strings.Split(strings.ToLower(a.header.Get("Access-Control-Allow-Headers")), ", ")
		for _, h := range []string{"x-api-key", "x-api-client-name", "authorization", "content-type"} {
			if !slices.Contains(allowed, h) {
				t.Errorf("preflight for %s: headers %v, want %s among them", path, allowed, h)
			}
		}
	}
	// A library's own headers do not keep a page out.
	const own = "X-API-Key, X-API-Client-Name, Authorization, Content-Type"
	for asked, want := range map[string]string{
		"":                                 own,
		"x-requested-with,x-api-key":       own + ", x-requested-with",
		"traceparent, Cache-Control,, X_Y": own + ", traceparent, Cache-Control, X_Y",
		"x-one, no name":                   own,
		"x-one, x(two":                     own,
		"x-one, é":                         own,
		strings.Repeat("x", askedBytes):    own + ", " + strings.Repeat("x", askedBytes),
		strings.Repeat("x", askedBytes+1):  own,
		strings.Repeat("x,", askedBytes/2+1) + "x-one": own,
	} {
		a := sv.request(t, "OPTIONS", "/publish", "", "Origin", origin, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", asked)
		if got := a.header.Get("Access-Control-Allow-Headers"); a.status != http.StatusNoContent || got != want {
			t.Errorf("asked for %.80q: status %d, allowed %.80q, want %.80q", asked, a.status, got, want)
		}
	}
	// A page reads answers and refusals.
	for _, header := range [][]string{{"Origin", origin}, {"Origin", origin, "X-API-Key", testKey}} {
		a := sv.request(t, "POST", "/publish?clientName=page", `{"event":"e"}`, header...)
		if a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("status %d has Access-Control-Allow-Origin %q, want *", a.status,
				a.header.Get("Access-Control-Allow-Origin"))
		}
	}
	if a := sv.request(t, "GET", "/healthz", ""); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("who names no origin is told about origins")
	}
	sv.connect(t, "/subscribe?clientName=page&apiKey="+testKey, "Origin",
		origin).ask(`{"action":"subscribe","event":"e","id":1}`)
}

func TestMQTTClientsAreLoggedOnceAMinute(t *testing.T) {
	sv := start(t)
	for range 3 {
		p := sv.dial(t, "tcp")
		p.Raw([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"))
		if b, err := p.In.ReadByte(); err == nil {
			t.Errorf("got the byte %#x, want the end", b)
		}
	}
	lines := sv.log.lines(t, "an MQTT client tried to connect: PiCloud does not speak MQTT")
	if len(lines) != 1 || !strings.HasPrefix(lines[0]["address"], "127.0.0.1:") ||
		!strings.Contains(lines[0]["remedy"], "POST /publish") {
		t.Errorf("logged %v, want one line with the address and what to do", lines)
	}
	sv.stillServes(t)
}
