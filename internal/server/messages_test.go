package server

// Where each line of docs/protocol.md's Messages is tested.
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
//	not UTF-8 is refused wherever it comes in                        TestInvalidUTF8IsRefusedEverywhere, TestGoodbyeSaysWhatATextWas
//	order, once each                                                 TestOrderOfOnePublisher
//	subscribing twice is subscribing once                            TestSubscribingTwiceIsSubscribingOnce

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"picloud/internal/wire"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

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
		"e", "E", " e", "e ", "e\n", "e\x00", "\x1b[31m", "*", "#", "+", "a/b", "a/+", "a.*", ">", "..", "%", `"`, `\`,
		"<&>",
		"\u00e9", "e\u0301", "\u2028", "🐞", "\ufffd", "null", strings.Repeat("x", 255), strings.Repeat("x", 254),
		strings.Repeat("é", 127),
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
		`"76.5 F"`, `""`, `null`, `true`, `false`, `0`, `-0`, `1.0`, `1e400`, `123456789012345678901234567890`,
		`0.1000`,
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

// compact removes insignificant white space, and nothing else.
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
	sub.Raw(ws.Frame(ws.Fin|ws.Binary, subscribe))
	sub.acked(subscribe)
	pub.Raw(ws.Frame(ws.Fin|ws.Binary, `{"event":"e","data":"é"}`))
	if d := sub.delivery(); d.data != `"é"` { // as text: delivery takes no other frame
		t.Errorf("got %+v", d)
	}
	pub.Raw(ws.Frame(ws.Fin|ws.Binary, []byte("{\"event\":\"e\",\"data\":\"\xff\",\"id\":1}")))
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
		`null`: "string or a number", `true`: "string or a number", `{}`: "string or a number",
		`[1]`:                               "string or a number",
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
		{`{"action":"publish","event":"e","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`,
			"one JSON object", ""},
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

// The goodbye to a client whose text is not UTF-8 says what it was, in the words that a POST gets.
func TestGoodbyeSaysWhatATextWas(t *testing.T) {
	sv := start(t)
	for text, want := range map[string]string{
		"\xff\xfe{\x00":          "1007 message is UTF-16: send UTF-8",
		"\xfe\xff\x00{":          "1007 message is UTF-16: send UTF-8",
		"{\x00\"\x00\xe9\x00":    "1007 message is UTF-16: send UTF-8",
		"\x1f\x8b\x08\x00":       "1007 message is gzip: send it uncompressed",
		`{"event":"` + "\xff\"}": "1007 message is not valid UTF-8",
	} {
		sv.post(t, text).refuses(t, http.StatusBadRequest, want[len("1007 "):])
		for _, path := range []string{"/subscribe?clientName=a", "/publish?clientName=a", "/socket/info"} {
			for _, frames := range [][]byte{
				ws.Frame(ws.Fin|ws.Text, text),
				append(ws.Frame(ws.Text, text[:1]), ws.Frame(ws.Fin|ws.More, text[1:])...),
			} {
				p := sv.connect(t, path, "X-API-Key", testKey)
				p.Raw(frames)
				op, said, err := p.Next()
				for err == nil && op != ws.Close { // info
					op, said, err = p.Next()
				}
				if got := ws.CloseText(said); err != nil || got != want {
					t.Errorf("%s: %q is answered with %q (%v), want %q", path, text, got, err, want)
				}
			}
		}
	}
	wait.Until(t, "all are gone", func() bool { return sv.wsConns.Len() == 0 })
	for _, line := range sv.log.lines(t, "client lost") {
		if got, want := line["reason"], "broke the WebSocket protocol: text is not UTF-8"; got != want {
			t.Errorf("the log says %q, want %q", got, want)
		}
	}
}

func TestInvalidUTF8IsRefusedEverywhere(t *testing.T) {
	sv := start(t)
	for _, bad := range []string{"\xff", "\xc3\x28", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"} {
		body := `{"action":"publish","event":"e","data":"` + bad + `","id":1}`
		sv.post(t, body).refuses(t, http.StatusBadRequest, "UTF-8")

		p := sv.subscriber(t, "binary")
		p.Raw(ws.Frame(ws.Fin|ws.Binary, body))
		p.failed("UTF-8", "")
		p.ask(`{"action":"subscribe","event":"e","id":1}`)

		p = sv.subscriber(t, "text")
		p.Raw(ws.Frame(ws.Fin|ws.Text, body))
		p.wantClose(1007)

		withKey := []string{"X-API-Key", testKey}
		inHeader := append([]string{"X-API-Client-Name", "a" + bad}, withKey...)
		inQuery := "clientName=" + url.QueryEscape("a"+bad)
		sv.request(t, "POST", "/publish", `{"event":"e"}`, inHeader...).refuses(t, http.StatusBadRequest, "UTF-8")
		sv.request(t, "POST", "/publish?"+inQuery, `{"event":"e"}`, withKey...).refuses(t, http.StatusBadRequest,
			"UTF-8")
		for _, path := range []string{"/subscribe", "/publish"} {
			sv.call(t, "GET", path, true, "", "", inHeader...).refuses(t, http.StatusBadRequest, "UTF-8")
			sv.call(t, "GET", path, true, inQuery, "", withKey...).refuses(t, http.StatusBadRequest, "UTF-8")
		}
	}
	// A character may be split between fragments.
	p := sv.subscriber(t, "split")
	message := []byte(`{"action":"subscribe","event":"🐞","id":1}`)
	i := bytes.IndexByte(message, 0xf0) + 2
	p.Raw(ws.Frame(ws.Text, message[:i]))
	p.Raw(ws.Frame(ws.Fin|ws.More, message[i:]))
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
				burst = append(burst, ws.Frame(ws.Fin|ws.Text, fmt.Appendf(nil, `{"event":"e","data":%d}`, n))...)
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

// Whatever refuses a message, its decoder or what it asks for, the answer says which event it was about.
func TestErrorNamesTheEvent(t *testing.T) {
	sv := start(t, func(c *Config) { c.Subscriptions = 1 })
	sub, pub := sv.subscriber(t, "Listener"), sv.publisher(t, "Porch")
	sub.ask(`{"action":"subscribe","event":"first","id":1}`)
	for _, tt := range []struct {
		p             *peer
		message, want string
	}{
		{sub, `{"action":"subscribe","event":"a \"b\"","id":1}`, `"a \"b\""`},
		{sub, `{"action":"shout","event":"\u0065"}`, `"e"`},
		{sub, `{"event":"e","id":2}`, `"e"`},
		{pub, `{"action":"subscribe","event":"e","id":3}`, `"e"`},
		{pub, `{"action":"unsubscribe:all","event":"e","id":4}`, ""},
		{pub, `{"event":7}`, ""},
	} {
		tt.p.send(tt.message)
		text := tt.p.text()
		if got := rawKeys(t, text); got["action"] != `"error"` || got["event"] != tt.want {
			t.Errorf("%s was answered with %s, want an error of the event %s", tt.message, text, tt.want)
		}
	}
}
