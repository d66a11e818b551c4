package server

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"picloud/internal/wsconn"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

// A handshake that succeeds is answered without net/http's server. It gets the same answer and does the same as one
// that httpconn leaves to that server, because of a header beyond ASCII.
func TestHandshakeIsAHandshakeLikeAnyOther(t *testing.T) {
	const wrongKeys = 4
	begin := func() (*service, *atomic.Int64) {
		s, log := newServer(t, func(c *Config) { c.WrongKeys = wrongKeys })
		seen, handler := new(atomic.Int64), s.http.Handler
		s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.Add(1)
			handler.ServeHTTP(w, r)
		})
		return serve(t, s, log), seen
	}
	short, shortSeen := begin()
	other, otherSeen := begin()
	const name = "X-API-Client-Name"
	key := []string{"X-API-Key", testKey, name, "Porch"}
	with := func(header ...string) []string { return append(header, key...) }
	type ask struct {
		what    string
		network string // tcp, where not said
		method  string // GET
		target  string // /subscribe
		nonce   string
		header  []string
		status  int
		then    func(*Server)
	}
	// effect is what the hub has of the client, and the answer to a subscription.
	do := func(sv *service, a ask, more ...string) (got answer, effect string) {
		t.Helper()
		p := sv.dial(t, a.network)
		defer p.Close()
		request := ws.Handshake(a.target, a.nonce, append(a.header, more...)...)
		p.Raw([]byte(strings.Replace(request, "GET", a.method, 1)))
		got = p.response(a.method)
		got.header.Del("Date")
		if after := got.header.Get("Retry-After"); a.status == http.StatusTooManyRequests && after != "" {
			got.header.Set("Retry-After", "some seconds")
		}
		if got.status != http.StatusSwitchingProtocols {
			return got, ""
		}
		p.Raw(ws.Frame(ws.Fin|ws.Text, `{"action":"subscribe","event":"e","id":1}`))
		text, err := p.message()
		if err != nil {
			t.Fatalf("%s: %v", a.what, err)
		}
		_, clients, _ := sv.hub.Snapshot(infoBounds)
		effect = string(text)
		for _, c := range clients {
			if c.Addr != p.LocalAddr().String() && (c.Addr != wsconn.Local || a.network != "unix") {
				continue // an earlier one that is still leaving
			}
			from, _, _ := strings.Cut(c.Addr, ":")
			effect += fmt.Sprintf(" %s from %s to %q", c.Name, from, c.Events())
		}
		return got, effect
	}
	for _, a := range []ask{
		{what: "subscribe", header: key, status: 101},
		{what: "publish", target: "/publish", header: key, status: 101},
		{what: "all in the query, encoded", target: "/subscribe?apiKey=" + strings.ReplaceAll(testKey, testKey[:1],
			fmt.Sprintf("%%%02x", testKey[0])) + "&clientName=Front+P%c3%b6rch", status: 101},
		{what: "key as a bearer's", header: []string{"Authorization", "Bearer " + testKey, name, "Porch"}, status: 101},
		{what: "a browser", header: with("Origin", "http://elsewhere", "Sec-WebSocket-Extensions",
			"permessage-deflate; client_max_window_bits",
			"Sec-WebSocket-Protocol", "a, b", "Cookie", "a=b", "Pragma", "no-cache", "Connection",
			"keep-alive, Upgrade", "Upgrade", "WebSocket"), status: 101},
		{what: "local, no key", network: "unix", header: []string{name, "Porch"}, status: 101},
		{what: "local, no name", network: "unix", status: 400},
		{what: "no name", header: []string{"X-API-Key", testKey}, status: 400},
		{what: "a name with a line end", target: "/subscribe?clientName=a%0a", header: []string{"X-API-Key", testKey},
			status: 400},
		{what: "an older version", header: with("Sec-WebSocket-Version", "8"), status: 426},
		{what: "no version", header: with("Sec-WebSocket-Version", ""), status: 426},
		{what: "two nonces", header: with("Sec-WebSocket-Key", ws.Nonce, "Sec-WebSocket-Key", ws.Nonce), status: 400},
		{what: "empty elements", header: with("Connection", ", keep-alive, , Upgrade,"), status: 101},
		{what: "elements of two headers", header: with("Connection", "keep-alive", "Connection", ",upgrade"),
			status: 101},
		{what: "no nonce", header: with("Sec-WebSocket-Key", ""), status: 400},
		{what: "a nonce that is none", nonce: "AAAA", header: key, status: 400},
		{what: "another protocol", header: with("Upgrade", "h2c"), status: 426},
		{what: "a connection that stays", header: with("Connection", "keep-alive"), status: 426},
		{what: "another method", method: "PUT", header: key, status: 405},
		{what: "another route", target: "/elsewhere", header: key, status: 404},
		{what: "a longer path", target: "/subscribe/", header: key, status: 404},
		{what: "no key", header: []string{name, "Porch"}, status: 401},
		{what: "wrong key", header: []string{"X-API-Key", wrongKey, name, "Porch"}, status: 401},
		{what: "wrong key, no name", header: []string{"X-API-Key", wrongKey + "y"}, status: 401},
		{what: "wrong key in the query", target: "/subscribe?clientName=a&apiKey=" + wrongKey + "z", status: 401},
		{what: "another wrong key", header: []string{"X-API-Key", wrongKey + "x", name, "Porch"}, status: 401},
		{what: "right key, address blocked", header: key, status: 429, then: func(s *Server) {
			wait.Until(t, "those before have left", func() bool { return s.wsConns.Len() == 0 })
		}},
		{what: "stopping", network: "unix", header: key, status: 503, then: (*Server).refuseAll},
	} {
		if a.target == "" {
			a.target = "/subscribe"
		}
		if a.method == "" {
			a.method = "GET"
		}
		if a.nonce == "" {
			a.nonce = ws.Nonce
		}
		if a.then != nil {
			a.then(short.Server)
			a.then(other.Server)
		}
		seen, otherwise := shortSeen.Load(), otherSeen.Load()
		got, effect := do(short, a)
		want, wantEffect := do(other, a, "X-Other", "é")
		if !reflect.DeepEqual(got, want) || effect != wantEffect {
			t.Errorf("%s: answered\n%+v and then %s, and by net/http's server\n%+v and then %s", a.what, got, effect,
				want, wantEffect)
		}
		if got.status != a.status {
			t.Errorf("%s: status %d %q, want %d", a.what, got.status, got.body, a.status)
		}
		if n := shortSeen.Load() - seen; n != 0 != (a.status != 101) {
			t.Errorf("%s: net/http's server was asked %d times", a.what, n)
		}
		if n := otherSeen.Load() - otherwise; n != 1 {
			t.Errorf("%s: net/http's server was asked %d times, want once: this test does not see what it is for",
				a.what, n)
		}
		if n, m := short.guard.wrong.Load(), other.guard.wrong.Load(); n != m {
			t.Errorf("%s: %d wrong keys in all, and by net/http's server %d", a.what, n, m)
		}
	}
	if n := short.guard.wrong.Load(); n != wrongKeys {
		t.Errorf("%d wrong keys, want %d: this test does not see what it is for", n, wrongKeys)
	}
}
