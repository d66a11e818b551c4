package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A plain POST is answered without net/http. It gets the same answer and does the same as one with one more header,
// which is not plain.
func TestPlainPostIsAPostLikeAnyOther(t *testing.T) {
	const wrongKeys = 4
	limited := func(c *Config) { c.Limits.MessageBytes = 1000; c.WrongKeys = wrongKeys }
	plain, other := start(t, limited), start(t, limited)
	subscribers := make(map[*service]*peer)
	for _, sv := range []*service{plain, other} {
		p := sv.dial(t, "unix") // a WebSocket over TCP would give its address more guesses
		p.upgrade("/subscribe?clientName=S")
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
		p.ask(`{"action":"subscribe","event":"end","id":1}`)
		subscribers[sv] = p
	}
	const right, wrong, name = "X-API-Key: " + testKey, "X-API-Key: " + wrongKey, "X-API-Client-Name: Porch"
	message := `{"event":"e","data":"` + payload + `"}`
	type post struct {
		what    string
		network string // tcp, where not said
		target  string
		headers string // separated by line ends
		body    string
		status  int
		then    func(*Server)
	}
	do := func(sv *service, p post, more string) (answer, []delivered) {
		t.Helper()
		conn := sv.dial(t, p.network)
		defer conn.Close()
		var head strings.Builder
		head.WriteString("POST " + p.target + " HTTP/1.1\r\nHost: pi\r\n" + more)
		for line := range strings.Lines(p.headers) {
			head.WriteString(strings.TrimSpace(line) + "\r\n")
		}
		conn.Raw(fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", head.String(), len(p.body), p.body))
		a := conn.response("POST")
		a.header.Del("Date")
		if after := a.header.Get("Retry-After"); p.status == http.StatusTooManyRequests && after != "" {
			a.header.Set("Retry-After", "some seconds")
		}
		if p.status == http.StatusServiceUnavailable {
			return a, nil
		}
		// What was delivered lies between here and what comes over the local socket.
		end := sv.dial(t, "unix")
		defer end.Close()
		end.Raw([]byte("POST /publish?clientName=x HTTP/1.1\r\nHost: pi\r\nX-Other: 1\r\nContent-Length: 15\r\n\r\n" +
			`{"event":"end"}`))
		if a := end.response("POST"); a.status != http.StatusCreated {
			t.Fatalf("status %d %q", a.status, a.body)
		}
		var effect []delivered
		for {
			d := subscribers[sv].delivery()
			if d.event == "end" {
				return a, effect
			}
			d.at = time.Time{}
			effect = append(effect, d)
		}
	}
	for _, p := range []post{
		{what: "key in a header", headers: right + "\n" + name, status: 201},
		{what: "key in the query", target: "/publish?apiKey=" + testKey, headers: name, status: 201},
		{what: "key as a bearer's", headers: "Authorization: Bearer " + testKey + "\n" + name, status: 201},
		{what: "key as a bearer's, in small letters", headers: "authorization: bearer  " + testKey + "\n" + name,
			status: 201},
		{what: "right key in the header, wrong ones elsewhere", target: "/publish?apiKey=" + wrongKey,
			headers: right + "\nAuthorization: Bearer " + wrongKey + "\n" + name, status: 201},
		{what: "empty header, key in the query", target: "/publish?apiKey=" + testKey, headers: "X-API-Key:\n" + name,
			status: 201},
		{what: "name in the query", target: "/publish?clientName=Query", headers: right, status: 201},
		{what: "name in header and query", target: "/publish?clientName=Query", headers: right + "\n" + name,
			status: 201},
		{what: "empty header, name in the query", target: "/publish?clientName=Query",
			headers: right + "\nX-API-Client-Name: ", status: 201},
		{what: "names in the query", target: "/publish?clientName=&clientName=Second&clientName=Third", headers: right,
			status: 400},
		{what: "a name with a space and quotes", headers: right + "\n" + `X-API-Client-Name:  Front "Porch"  `,
			status: 201},
		{what: "everything a client may send",
			headers: right + "\n" + name +
				"\nUser-Agent: x\nAccept: */*\nAccept-Encoding: gzip\nAccept-Language: en\nContent-Type: text/plain\nConnection: keep-alive\nSec-Fetch-Mode: cors", status: 201},
		{what: "no name", headers: right, status: 400},
		{what: "empty name", target: "/publish?clientName=", headers: right, status: 400},
		{what: "long name", headers: right + "\nX-API-Client-Name: " + strings.Repeat("x", 129), status: 400},
		{what: "name with an escape", target: "/publish?clientName=a%0a", headers: right, status: 400},
		{what: "no body", body: "none", headers: right + "\n" + name, status: 400},
		{what: "no JSON", body: payload, headers: right + "\n" + name, status: 400},
		{what: "no object", body: "[]", headers: right + "\n" + name, status: 400},
		{what: "a byte order mark", body: "\ufeff" + message, headers: right + "\n" + name, status: 201},
		{what: "UTF-16", body: "{\x00\"\x00", headers: right + "\n" + name, status: 400},
		{what: "no event", body: "{}", headers: right + "\n" + name, status: 400},
		{what: "trailing data", body: message + "{}", headers: right + "\n" + name, status: 400},
		{what: "not UTF-8", body: `{"event":"e","data":"` + "\xff" + `"}`, headers: right + "\n" + name, status: 400},
		{what: "no data", body: `{"event":"e"}`, headers: right + "\n" + name, status: 201},
		{what: "an id", body: `{"event":"e","id":7}`, headers: right + "\n" + name, status: 201},
		{what: "any JSON", body: `{"data": {"a" : [1, 2.50, null]}, "event":"e"}`, headers: right + "\n" + name,
			status: 201},
		{what: "action publish", body: `{"action":"publish","event":"e"}`, headers: right + "\n" + name, status: 201},
		{what: "action subscribe", body: `{"action":"subscribe","event":"e"}`, headers: right + "\n" + name,
			status: 400},
		{what: "an action that is none", body: `{"action":"x","event":"e"}`, headers: right + "\n" + name, status: 400},
		{what: "as long as it may be", body: message + strings.Repeat(" ", 1000-len(message)),
			headers: right + "\n" + name, status: 201},
		{what: "over the limit", body: message + strings.Repeat(" ", 1001-len(message)), headers: right + "\n" + name,
			status: 413},
		{what: "over the limit and bad", body: strings.Repeat("x", 2000), headers: wrong + "x\n" + name, status: 401},
		{what: "another route", target: "/elsewhere", headers: right + "\n" + name, status: 404},
		{what: "another route's method", target: "/info", headers: right + "\n" + name, status: 405},
		{what: "a longer path", target: "/publish/", headers: right + "\n" + name, status: 404},
		{what: "local, no key", network: "unix", headers: name, status: 201},
		{what: "local, wrong key", network: "unix", headers: wrong + "\n" + name, status: 201},
		{what: "local, no name", network: "unix", status: 400},
		{what: "no key", headers: name, status: 401},
		{what: "empty key", target: "/publish?apiKey=", headers: "X-API-Key:\nAuthorization: Bearer \n" + name,
			status: 401},
		{what: "another scheme", headers: "Authorization: Basic " + testKey + "\n" + name, status: 401},
		{what: "wrong key", headers: wrong + "\n" + name, status: 401},
		{what: "wrong key, no name, no body", headers: wrong + "y", body: "none", status: 401},
		{what: "wrong key in the query", target: "/publish?apiKey=" + wrongKey + "z", headers: name, status: 401},
		{what: "right key, address blocked", headers: right + "\n" + name, status: 429},
		{what: "wrong key, address blocked", headers: wrong + "\n" + name, status: 429},
		{what: "local, address of others blocked", network: "unix", headers: name, status: 201},
		{what: "stopping", network: "unix", headers: name, status: 503, then: (*Server).refuseAll},
	} {
		if p.target == "" {
			p.target = "/publish"
		}
		switch p.body {
		case "":
			p.body = message
		case "none":
			p.body = ""
		}
		if p.then != nil {
			p.then(plain.Server)
			p.then(other.Server)
		}
		before := plain.guard.wrong.Load()
		got, effect := do(plain, p, "")
		want, wantEffect := do(other, p, "X-Other: 1\r\n")
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: answered\n%+v, and not plain\n%+v", p.what, got, want)
		}
		if !reflect.DeepEqual(effect, wantEffect) || len(effect) == 1 != (p.status == 201) {
			t.Errorf("%s: delivered %+v, and not plain %+v", p.what, effect, wantEffect)
		}
		if got.status != p.status {
			t.Errorf("%s: status %d %q, want %d", p.what, got.status, got.body, p.status)
		}
		wrongOnes := uint64(0)
		if p.status == 401 && strings.Contains(p.headers+p.target, wrongKey) {
			wrongOnes = 1
		}
		if n := plain.guard.wrong.Load() - before; n != wrongOnes {
			t.Errorf("%s: counted %d wrong keys, want %d", p.what, n, wrongOnes)
		}
		if n, m := plain.guard.wrong.Load(), other.guard.wrong.Load(); n != m {
			t.Errorf("%s: %d wrong keys in all, and not plain %d", p.what, n, m)
		}
		if p.status == 201 && plain.created.Swap(nil) == nil && !strings.Contains(p.target, "%") {
			t.Errorf("%s: it was not answered in the short way", p.what)
		}
	}
	if other.created.Load() != nil {
		t.Error("what is not plain was answered in the short way")
	}
	if n := plain.guard.wrong.Load(); n != wrongKeys {
		t.Errorf("%d wrong keys, want %d: this test does not see what it is for", n, wrongKeys)
	}
}

// plainPost is one request and the length of its answer.
func plainPost() (request []byte, answer int) {
	body := `{"event":"temperature","data":"76.5 F"}`
	return fmt.Appendf(nil, "POST /publish HTTP/1.1\r\nHost: pi\r\nX-API-Key: %s\r\nX-API-Client-Name: Porch\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		testKey, len(body), body), len("HTTP/1.1 201 Created\r\nDate: Wed, 25 Nov 2015 03:40:13 GMT\r\nContent-Length: 0\r\n\r\n")
}

// maxPlainAllocs is what a plain POST takes at most, from a client that waits for each answer.
const maxPlainAllocs = 6

func TestPlainPostAllocatesLittle(t *testing.T) {
	sv := start(t)
	request, n := plainPost()
	p := dial(t, "tcp", sv.addr)
	answer := make([]byte, n)
	least := ^uint64(0)
	for range 2000 { // the runtime allocates now and then, too
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p.Raw(request)
		if _, err := io.ReadFull(p.In, answer); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 201 ")) {
			t.Fatalf("got %q, error %v", answer, err)
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	if least > maxPlainAllocs {
		t.Errorf("%d allocations, want %d at most", least, maxPlainAllocs)
	}
}

func BenchmarkPlainPost(b *testing.B) {
	sv := start(b)
	request, n := plainPost()
	p := dial(b, "tcp", sv.addr)
	answer := make([]byte, n)
	b.ReportAllocs()
	for b.Loop() {
		p.Raw(request)
		if _, err := io.ReadFull(p.In, answer); err != nil {
			b.Fatal(err)
		}
	}
}
