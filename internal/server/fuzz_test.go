package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"picloud/internal/wire"
	ws "picloud/test/peer"
)

const fuzzLimit = 2 << 10 // so that messages over the limit are found, too

// A tap is a subscriber without a socket.
type tap struct{ frames [][]byte }

func (s *tap) Queue(frame []byte, _ uint64) bool {
	s.frames = append(s.frames, frame)
	return false
}

func (s *tap) Flush() bool { return true }

// FuzzPost: whatever is posted, the answer is 201, after which exactly that one message was delivered, or a status from
// 400 to 499 with a JSON error, after which nothing was. Key, name and size are checked in this order.
func FuzzPost(f *testing.F) {
	s, _ := newServer(f, func(c *Config) {
		c.Limits.MessageBytes = fuzzLimit
		c.WrongKeys = 1 << 30
	})
	f.Cleanup(func() { s.release() })
	sub := new(tap)
	client := s.hub.Join(sub, "tap", "here", time.Now())

	f.Fuzz(func(t *testing.T, body []byte, header, bearer, name, query string, chunked bool) {
		r := &http.Request{
			Method: "POST", URL: &url.URL{Path: "/publish", RawQuery: query}, Host: "test",
			RemoteAddr: "192.0.2.1:1234",
			Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"X-Api-Key": {header}, "Authorization": {bearer}, "X-Api-Client-Name": {name}},
			Body:   io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		}
		if chunked {
			r.ContentLength = -1
		}
		in := r.URL.Query()
		key := header
		if key == "" {
			key = in.Get("apiKey")
		}
		if scheme, after, _ := strings.Cut(bearer, " "); key == "" && strings.EqualFold(scheme, "bearer") {
			key = strings.TrimSpace(after)
		}
		if name == "" {
			name = in.Get("clientName")
		}
		goodName := name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= 128 &&
			!strings.ContainsFunc(name, unicode.IsControl)
		var message map[string]json.RawMessage
		var event string
		if json.Unmarshal(bytes.TrimPrefix(body, []byte("\ufeff")), &message) == nil {
			json.Unmarshal(message["event"], &event)
		}
		if _, err := s.hub.Subscribe(client, []byte(event), 1); err != nil {
			t.Fatal(err)
		}
		defer s.hub.UnsubscribeAll(client)
		sub.frames = nil

		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)

		want := []int{201, 400}
		switch {
		case key != testKey:
			want = []int{401}
		case !goodName:
			want = []int{400}
		case len(body) > fuzzLimit:
			want = []int{413}
		}
		if w.Code != want[0] && w.Code != want[len(want)-1] {
			t.Fatalf("status %d %q, want one of %d", w.Code, w.Body, want)
		}
		if w.Code != http.StatusCreated {
			answer{status: w.Code, header: w.Header(), body: w.Body.String()}.refuses(t, w.Code, "")
			if len(sub.frames) > 0 {
				t.Fatalf("status %d, and yet %q was delivered", w.Code, sub.frames)
			}
			return
		}
		if w.Body.Len() > 0 || len(sub.frames) != 1 {
			t.Fatalf("status 201 %q, %d messages were delivered, want 1", w.Body, len(sub.frames))
		}
		op, text, err := (&ws.Peer{In: bufio.NewReader(bytes.NewReader(sub.frames[0]))}).Next()
		if err != nil || op != ws.Text {
			t.Fatalf("delivered a frame of opcode %d (%v)", op, err)
		}
		d, err := parseDelivery(text)
		if err != nil {
			t.Fatal(err)
		}
		data := `""`
		if message["data"] != nil {
			data = compact(t, string(message["data"]))
		}
		if d.event != event || d.name != name || compact(t, d.data) != data {
			t.Fatalf("posted %q as %q, delivered %+v", body, name, d)
		}
	})
}

// FuzzMessage: whatever message a client sends, it is answered by one ack or error if its id can be read, by one error
// or nothing if not, and the connection stays; it ends only for text that is not UTF-8 and for a message over the
// limit. A message is delivered at most once, before its ack, and not at all when it is refused.
func FuzzMessage(f *testing.F) {
	sv := start(f, func(c *Config) { c.Limits.MessageBytes = fuzzLimit })
	end := rand.Text()
	var peers [2]*peer // of /subscribe and of /publish
	connect := func(t *testing.T, publishOnly bool) *peer {
		nc, err := net.Dial("tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		p := &peer{ws.New(t, nc)}
		target := "/subscribe?clientName=a"
		if publishOnly {
			target = "/publish?clientName=a"
		}
		if a := p.upgrade(target, "X-API-Key", testKey); a.status != http.StatusSwitchingProtocols {
			t.Fatalf("handshake: status %d %q", a.status, a.body)
		}
		return p
	}
	f.Cleanup(func() {
		for _, p := range peers {
			if p != nil {
				p.Close()
			}
		}
	})

	f.Fuzz(func(t *testing.T, message []byte, binary, publishOnly bool) {
		which := &peers[0]
		before, after := `{"action":"subscribe","event":"e"}`, `{"action":"unsubscribe:all","id":"`+end+`"}`
		if publishOnly {
			which = &peers[1]
			before, after = `{"event":"nobody"}`, `{"event":"nobody","id":"`+end+`"}`
		}
		if *which == nil {
			*which = connect(t, publishOnly)
		}
		p := *which
		p.T = t
		opcode := byte(ws.Fin | ws.Text)
		if binary {
			opcode = ws.Fin | ws.Binary
		}
		p.Raw(bytes.Join([][]byte{ws.Frame(ws.Fin|ws.Text, before), ws.Frame(opcode, message),
			ws.Frame(ws.Fin|ws.Text, after)}, nil))

		closes := 0
		switch {
		case len(message) > fuzzLimit:
			closes = 1009
		case !binary && !utf8.Valid(message):
			closes = 1007
		}
		if closes != 0 {
			*which = nil
			defer p.Close()
			p.wantClose(closes)
			return
		}
		var deliveries, answers int
		var answered wire.Delivery
		for {
			text, err := p.message()
			if err != nil {
				*which = nil
				t.Fatalf("%q ended the connection: %v", message, err)
			}
			var got wire.Delivery
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatalf("%q was answered with %q: %v", message, text, err)
			}
			if string(got.ID) == `"`+end+`"` {
				break
			}
			switch got.Action {
			case "publish":
				deliveries++
				if d, err := parseDelivery(text); err != nil || d.event != "e" || answers > 0 {
					t.Fatalf("%q was delivered as %q, after %d answers (%v)", message, text, answers, err)
				}
			case "ack", "error":
				answers++
				answered = got
			default:
				t.Fatalf("%q was answered with %q", message, text)
			}
		}
		if deliveries > 1 || answers > 1 || deliveries > 0 && (publishOnly || answered.Action == "error") {
			t.Fatalf("%q: %d deliveries, %d answers, the last of them %+v", message, deliveries, answers, answered)
		}
		id, sure := readableID(message)
		if sure && (answers != 1 || string(answered.ID) != id) || answered.ID != nil && string(answered.ID) != id ||
			answered.Action == "ack" && id == "" {
			t.Fatalf("%q has the id %s (surely: %t), and %d answers: %+v", message, id, sure, answers, answered)
		}
		if (answered.Action == "error") != (answered.Error != "") {
			t.Fatalf("%q was answered with %+v", message, answered)
		}
	})
}

// readableID returns the id of a message that has exactly one, and whether the server has to see it as one, too: that
// is not asked of strings with \u.
func readableID(message []byte) (id string, sure bool) {
	message = bytes.TrimPrefix(message, []byte("\ufeff"))
	if !json.Valid(message) || !utf8.Valid(message) {
		return "", false
	}
	dec := json.NewDecoder(bytes.NewReader(message))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return "", false
	}
	ids := 0
	for dec.More() {
		key, err := dec.Token()
		var value json.RawMessage
		if err != nil || dec.Decode(&value) != nil {
			return "", false
		}
		if key == "id" {
			ids++
			id = string(value)
		}
	}
	if ids != 1 {
		return "", false
	}
	switch c := id[0]; {
	case c == '"':
		return id, len(id) <= 66 && !strings.Contains(id, `\u`)
	case c == '-' || '0' <= c && c <= '9':
		return id, len(id) <= 64
	}
	return id, false
}

// FuzzQuery: query finds what net/url finds.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"", "a=1", "b=2&a=1&a=3", "a", "&&a=%41+b", "a=%zz&a=2", "%61=1", "a=1;b=2&a=3", "a=b=c",
		"=x", "a&a=1"} {
		f.Add(q, "a")
	}
	f.Fuzz(func(t *testing.T, raw, name string) {
		r := &http.Request{URL: &url.URL{RawQuery: raw}}
		if got, want := query(r.URL.RawQuery, name), r.URL.Query().Get(name); got != want {
			t.Errorf("%q of %q: got %q, want %q", name, raw, got, want)
		}
	})
}
