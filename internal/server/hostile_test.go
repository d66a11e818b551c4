package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/internal/wire"
	ws "picloud/test/peer"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

func TestBrokenFramesEndTheConnection(t *testing.T) {
	sv := start(t)
	subscribe := []byte(`{"action":"subscribe","event":"e"}`)
	unmasked := append([]byte{ws.Fin | ws.Text, byte(len(subscribe))}, subscribe...)
	closeWith := func(code int, reason string) []byte {
		return ws.Frame(ws.Fin|ws.Close, append([]byte{byte(code >> 8), byte(code)}, reason...))
	}
	for _, tt := range []struct {
		name string
		code int
		sent []byte
	}{
		{"unmasked", 1002, unmasked},
		{"first reserved bit", 1002, ws.Frame(ws.Fin|ws.Rsv1|ws.Text, subscribe)},
		{"second reserved bit", 1002, ws.Frame(ws.Fin|ws.Rsv2|ws.Text, subscribe)},
		{"third reserved bit", 1002, ws.Frame(ws.Fin|ws.Rsv3|ws.Text, subscribe)},
		{"reserved bit on a ping", 1002, ws.Frame(ws.Fin|ws.Rsv1|ws.Ping, "")},
		{"reserved data opcode 3", 1002, ws.Frame(ws.Fin|0x3, subscribe)},
		{"reserved data opcode 7", 1002, ws.Frame(ws.Fin|0x7, subscribe)},
		{"reserved control opcode 11", 1002, ws.Frame(ws.Fin|0xB, "")},
		{"reserved control opcode 15", 1002, ws.Frame(ws.Fin|0xF, "")},
		{"continuation of nothing", 1002, ws.Frame(ws.Fin|ws.More, subscribe)},
		{"text inside a fragmented message", 1002,
			append(ws.Frame(ws.Text, subscribe[:3]), ws.Frame(ws.Fin|ws.Text, subscribe)...)},
		{"binary inside a fragmented message", 1002,
			append(ws.Frame(ws.Text, subscribe[:3]), ws.Frame(ws.Binary, subscribe)...)},
		{"unmasked inside a fragmented message", 1002, append(ws.Frame(ws.Text, subscribe[:3]), unmasked...)},
		{"fragmented ping", 1002, ws.Frame(ws.Ping, "")},
		{"fragmented close", 1002, ws.Frame(ws.Close, "")},
		{"ping of 126 bytes", 1002, ws.Frame(ws.Fin|ws.Ping, make([]byte, 126))},
		{"pong of 126 bytes", 1002, ws.Frame(ws.Fin|ws.Pong, make([]byte, 126))},
		{"close of 126 bytes", 1002, closeWith(1000, strings.Repeat("x", 124))},
		{"close with a code that is reserved", 1002, closeWith(1005, "")},
		{"close with a code that does not exist", 1002, closeWith(999, "")},
		{"close with a reason that is not UTF-8", 1002, closeWith(1000, "\xff")},
		{"text that is not UTF-8", 1007, ws.Frame(ws.Fin|ws.Text, "\xff")},
		{"text that ends inside a character", 1007,
			append(ws.Frame(ws.Text, `{"event":"`), ws.Frame(ws.Fin|ws.More, "\xf0\x9f")...)},
		{"over the limit", 1009, ws.Header(ws.Fin|ws.Text, 64<<10+1)},
		{"a length of 2^62", 1009, []byte{ws.Fin | ws.Text, 0x80 | 127, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}},
		{"a length of 2^63", 1009, []byte{ws.Fin | ws.Text, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}},
		{"fragments over the limit", 1009,
			append(ws.Frame(ws.Text, make([]byte, 64<<10)), ws.Frame(ws.Fin|ws.More, " ")...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"/subscribe?clientName=a", "/publish?clientName=a", "/socket/info"} {
				p := sv.connect(t, path, "X-API-Key", testKey)
				p.Raw(tt.sent)
				p.wantClose(tt.code)
				// Sent byte by byte, it ends the same way.
				p = sv.connect(t, path, "X-API-Key", testKey)
				for _, b := range tt.sent {
					p.Raw([]byte{b})
					if len(tt.sent) > 200 {
						p.Raw(tt.sent[1:])
						break
					}
				}
				p.wantClose(tt.code)
			}
			sv.stillServes(t)
		})
	}
	if w := sv.watch(t); len(w.untilClients(0).Subscriptions) != 0 {
		t.Error("a broken frame has subscribed")
	}
}

func TestControlFramesInsideFragments(t *testing.T) {
	sv := start(t)
	p := sv.subscriber(t, "a")
	message := `{"action":"subscribe","event":"e","id":1}`
	pong := func(want string) {
		t.Helper()
		if op, got, err := p.Next(); err != nil || op != ws.Pong || string(got) != want {
			t.Fatalf("opcode %d %q (%v), want the pong %q", op, got, err, want)
		}
	}
	p.Raw(ws.Frame(ws.Text, ""))
	for i := range len(message) {
		p.Raw(ws.Frame(ws.More, []byte(message[i:i+1])))
		p.Raw(ws.Frame(ws.Fin|ws.Pong, "nobody asked"))
		p.Raw(ws.Frame(ws.Fin|ws.Ping, []byte{byte(i)}))
		pong(string(rune(i)))
	}
	p.Raw(ws.Frame(ws.Fin|ws.More, ""))
	p.acked(message)
	p.Raw(ws.Frame(ws.Fin|ws.Ping, bytes.Repeat([]byte("x"), 125)))
	pong(strings.Repeat("x", 125))

	p.Raw(ws.Frame(ws.Text, []byte(message[:5])))
	p.Raw(ws.Frame(ws.Fin|ws.Close, []byte{0x03, 0xe8}))
	p.wantClose(1000)
	sv.stillServes(t)
}

func TestFragmentsWithoutEnd(t *testing.T) {
	sv := start(t)
	for name, fragment := range map[string][]byte{
		"empty": ws.Frame(ws.More, ""),
		"small": ws.Frame(ws.More, "x"),
		"large": ws.Frame(ws.More, make([]byte, 10_000)),
		"pings": append(ws.Frame(ws.More, ""), ws.Frame(ws.Fin|ws.Ping, "")...),
	} {
		p := sv.subscriber(t, name)
		p.Raw(ws.Frame(ws.Text, ""))
		burst := bytes.Repeat(fragment, max(1, 1000/len(fragment)))
		var sending sync.WaitGroup
		sending.Go(func() {
			for { // until the server has had enough
				if _, err := p.Write(burst); err != nil {
					return
				}
			}
		})
		for {
			op, body, err := p.Next()
			if err != nil {
				t.Fatalf("%s: %v, want a close frame", name, err)
			}
			if op == ws.Close {
				if got := ws.CloseText(body); !strings.HasPrefix(got, "1009") {
					t.Errorf("%s: closed with %s, want 1009", name, got)
				}
				break
			}
		}
		p.Close()
		sending.Wait()
		sv.stillServes(t)
	}
	// Nobody has to wait for a client that stops in the middle.
	for _, sent := range [][]byte{ws.Frame(ws.Text, "{"), ws.Header(ws.Fin|ws.Text, 60_000), {ws.Fin | ws.Text},
		ws.Frame(ws.Fin|ws.Text, make([]byte, 50))[:30]} {
		sv.subscriber(t, "unfinished").Raw(sent)
	}
	sv.stillServes(t)
}

func TestHalfSentHeadersAreCutOff(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	sv := start(t, func(c *Config) { c.HeaderTimeout = timeout })
	cutOff := func(p *peer) {
		t.Helper()
		said, err := io.ReadAll(p.In)
		if errors.Is(err, syscall.ECONNRESET) { // p was still sending
			err = nil
		}
		if err != nil || len(said) > 0 &&
			!strings.HasPrefix(string(said), "HTTP/1.1 4") { // net/http's words for some of them
			t.Errorf("the connection ended with %q (%v)", said, err)
		}
	}
	var halves []*peer
	begin := time.Now()
	for _, sent := range []string{
		"",
		"G",
		"GET /healthz HTTP/1.1\r\n",
		"GET /healthz HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey,
		"POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\r\nContent-Length: 20\r\n",
		strings.TrimSuffix(ws.Handshake("/subscribe?clientName=a", ws.Nonce, "X-API-Key", testKey), "\r\n"),
	} {
		p := dial(t, "tcp", sv.addr)
		p.Raw([]byte(sent))
		halves = append(halves, p)
	}
	sv.stillServes(t)
	for i, p := range halves {
		cutOff(p)
		if d := time.Since(begin); d < timeout {
			t.Errorf("half %d was cut off after %v, want %v", i, d, timeout)
		}
	}
	// One byte now and then does not help, and neither does a good request before it.
	p := dial(t, "tcp", sv.addr)
	p.Raw([]byte("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"))
	if a := p.response("GET"); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	p.Raw([]byte("GET /healthz HTTP/1.1\r\nX: "))
	var dripping sync.WaitGroup
	dripping.Go(func() {
		tick := time.NewTicker(timeout / 10)
		defer tick.Stop()
		for range tick.C {
			if _, err := p.Write([]byte("x")); err != nil {
				return
			}
		}
	})
	cutOff(p)
	p.Close()
	dripping.Wait()
	sv.stillServes(t)
}

func TestSilentConnectionsDelayNobody(t *testing.T) {
	sv := start(t)
	sub, pub := sv.subscriber(t, "S"), sv.publisher(t, "P")
	var silent []net.Conn
	for range 1000 {
		nc, err := net.Dial("tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		silent = append(silent, nc)
		if len(silent)%100 == 0 {
			sub.ask(`{"action":"subscribe","event":"e","id":1}`)
			pub.ask(fmt.Sprintf(`{"event":"e","data":%d,"id":1}`, len(silent)))
			if d := sub.delivery(); d.data != strconv.Itoa(len(silent)) {
				t.Fatalf("got %+v", d)
			}
			sub.ask(`{"action":"unsubscribe","event":"e","id":1}`)
			sv.stillServes(t) // newcomers too
		}
	}
}

func TestSubscribingTo100000Events(t *testing.T) {
	const events, limit, step = 100_000, 64, 1000
	sv := start(t, func(c *Config) { c.Subscriptions = limit })
	p := sv.subscriber(t, "greedy")
	for i := 0; i < events; i += step {
		var burst []byte
		for n := i; n < i+step; n++ {
			burst = append(burst, ws.Frame(ws.Fin|ws.Text,
				fmt.Appendf(nil, `{"action":"subscribe","event":"%d","id":%d}`, n, n))...)
		}
		p.Raw(burst)
		for n := i; n < i+step; n++ {
			want := fmt.Sprintf(`{"action":"ack","id":%d}`, n)
			if n >= limit {
				want = fmt.Sprintf(
					`{"action":"error","error":"too many subscriptions on this connection","event":"%d","id":%d}`, n, n)
			}
			if got := p.text(); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
	}
	if info := sv.watch(t).info(); info.Server.Subscriptions != limit || info.Server.Events != limit {
		t.Errorf("%d subscriptions to %d events, want %d", info.Server.Subscriptions, info.Server.Events, limit)
	}
	sv.post(t, `{"event":"63","data":1}`)
	if d := p.delivery(); d.event != "63" {
		t.Errorf("got %+v", d)
	}
	p.ask(`{"action":"unsubscribe:all","id":1}`)
	p.ask(`{"action":"subscribe","event":"99999","id":1}`)
	sv.stillServes(t)
}

func TestSlowReaderIsClosed(t *testing.T) {
	sv := startTight(t)
	fast, slow, pub := sv.subscriber(t, "Fast"), sv.subscriber(t, `Slow "reader"`), sv.publisher(t, "P")
	for _, p := range []*peer{fast, slow} {
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	blob := payload + strings.Repeat("x", 4<<10)
	n := 0
	round := func() {
		t.Helper()
		var burst []byte
		for range 63 {
			burst = append(burst, ws.Frame(ws.Fin|ws.Text,
				fmt.Appendf(nil, `{"event":"e","data":[%d,"%s"]}`, n, blob))...)
			n++
		}
		pub.Raw(burst)
		pub.ask(fmt.Sprintf(`{"event":"e","data":[%d,"%s"],"id":1}`, n, blob))
		n++
		for i := n - 64; i < n; i++ {
			if d := fast.delivery(); !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", i)) {
				t.Fatalf("the fast one got %.20s, want %d", d.data, i)
			}
		}
	}
	closed := func() (server uint64, listed int) {
		t.Helper()
		info := sv.watch(t).info()
		return info.Server.SlowClientsClosed, len(info.AllConnections)
	}
	for gone := uint64(0); gone == 0; gone, _ = closed() {
		if round(); n > 1<<16 {
			t.Fatalf("the slow one is still there after %d messages of 4 KiB", n)
		}
	}
	atLeast := n

	// What the socket had taken comes in order and without a gap, then the code.
	got := 0
	for {
		op, text, err := slow.Next()
		if err != nil {
			t.Fatalf("after %d messages: %v, want a close frame", got, err)
		}
		if op == ws.Close {
			if code := ws.CloseText(text); !strings.HasPrefix(code, "1013 ") {
				t.Errorf("closed with %s, want 1013", code)
			}
			break
		}
		if op == ws.Ping {
			continue
		}
		if d, err := parseDelivery(text); err != nil || !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", got)) {
			t.Fatalf("the slow one got %.20s, want %d (%v)", d.data, got, err)
		}
		got++
	}
	if got >= atLeast {
		t.Errorf("it was closed although it got all %d messages", got)
	}
	if queue := (atLeast - got) * len(blob); queue < sv.cfg.Limits.QueueBytes/2 {
		t.Errorf("it was closed with some %d bytes waiting, the limit is %d", queue, sv.cfg.Limits.QueueBytes)
	}
	slow.Raw(ws.Frame(ws.Fin|ws.Close, []byte{0x03, 0xf5}))
	slow.ended()

	for range 5 { // nobody else has lost anything, and it is counted and logged once
		round()
	}
	if server, listed := closed(); server != 1 || listed != 2 {
		t.Errorf("slow_clients_closed %d with %d clients, want 1 with 2", server, listed)
	}
	latest := sv.watch(t).info().Server.SlowClientsClosedLatest
	if len(latest) != 1 || latest[0].ClientName != `Slow "reader"` ||
		latest[0].IPAddress != slow.LocalAddr().String() ||
		latest[0].Reason != "reads too slowly: its queue is full" || time.Since(latest[0].ClosedAt) > wait.Patience {
		t.Errorf("slow_clients_closed_latest: %+v", latest)
	}
	if clients, incidents := sv.Load(); clients != 2 || incidents != 1 {
		t.Errorf("%d clients and %d incidents, want 2 and 1", clients, incidents)
	}
	a := sv.request(t, "GET", "/metrics", "", "X-API-Key", testKey)
	if samples, err := parseMetrics(a.body); err != nil || samples["picloud_slow_clients_closed_total"] != 1 {
		t.Errorf("picloud_slow_clients_closed_total is %v, want 1 (%v)", samples["picloud_slow_clients_closed_total"],
			err)
	}
	lines := sv.log.lines(t, "slow client closed")
	if len(lines) != 1 || lines[0]["level"] != "WARN" || lines[0]["client_name"] != `Slow "reader"` ||
		lines[0]["address"] != slow.LocalAddr().String() {
		t.Errorf("logged %v, want one warning with name and address", lines)
	}
	// It may come back at once.
	again := sv.subscriber(t, "Slow")
	again.ask(`{"action":"subscribe","event":"e","id":1}`)
	pub.send(`{"event":"e","data":"again"}`)
	if d := again.delivery(); d.data != `"again"` {
		t.Errorf("got %+v", d)
	}
}

func TestPingFloodWithoutReading(t *testing.T) {
	sv := startTight(t, func(c *Config) {
		c.Limits.QueueBytes = 128 << 10
		c.Limits.PingEvery = 25 * time.Second
	})
	w := sv.watch(t)
	p := sv.subscriber(t, "flood")
	burst := bytes.Repeat(ws.Frame(ws.Fin|ws.Ping, bytes.Repeat([]byte("x"), 125)), 100)
	var flooding sync.WaitGroup
	flooding.Go(func() {
		for {
			if _, err := p.Write(burst); err != nil {
				return
			}
		}
	})
	w.until("the flood's end", func(i wire.Info) bool {
		return i.Server.SlowClientsClosed == 1 &&
			len(i.AllConnections) == 0
	})
	sv.stillServes(t)
	p.Close()
	flooding.Wait()
	if lines := sv.log.lines(t, "slow client closed"); len(lines) != 1 {
		t.Errorf("logged %v, want it once", lines)
	}
}

func TestPeerWhoseKernelIsSilentIsGone(t *testing.T) {
	t.Parallel()
	sv := start(t, func(c *Config) {
		c.Limits.PingEvery = 200 * time.Millisecond
		c.Limits.PeerTimeout = time.Second
	})
	w := sv.watch(t)
	p := sv.subscriber(t, "unplugged")
	w.untilClients(1)
	// From here on p's kernel drops what comes in for it, as if the cable were pulled.
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if err := errors.Join(cerr, err); err != nil {
		t.Fatal(err)
	}
	w.untilClients(0)
	sv.stillServes(t)
}

func TestSlowBodyDelaysNobody(t *testing.T) {
	t.Parallel()
	s, log := newServer(t)
	if got := s.http.ReadTimeout; got < s.cfg.HeaderTimeout || got > time.Minute {
		t.Errorf("a request has %v, want its headers' time and some for the body", got)
	}
	s.http.ReadTimeout = 2 * time.Second
	sv := serve(t, s, log)
	const head = "POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey +
		"\r\nExpect: 100-continue\r\n"
	for _, tt := range []struct{ framing, begin string }{
		{"Content-Length: 100\r\n\r\n", `{"event":"bystander","data":"` + payload},
		{"Transfer-Encoding: chunked\r\n\r\n", "10\r\n" + `{"event":"bysta`},
		{"Content-Length: 100\r\n\r\n", ""},
	} {
		p := dial(t, "tcp", sv.addr)
		p.Raw([]byte(head + tt.framing))
		if a := p.response("POST"); a.status != http.StatusContinue { // the body is being read
			t.Fatalf("status %d %q, want 100", a.status, a.body)
		}
		p.Raw([]byte(tt.begin))
		sv.stillServes(t)
		p.response("POST").refuses(t, http.StatusBadRequest, "body could not be read")
		p.ended()
	}
}

func TestHugeBodiesAreRefusedEarly(t *testing.T) {
	sv := start(t)
	const head = "POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\r\n"
	const size = 32 << 20

	// The length alone is enough, with or without Expect.
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		p := dial(t, "tcp", sv.addr)
		p.Raw([]byte(head + expect + "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n"))
		p.response("POST").refuses(t, http.StatusRequestEntityTooLarge, "limit")
		p.ended()
	}
	p := dial(t, "tcp", sv.addr)
	p.Raw([]byte(head + "Content-Length: 99999999999999999999\r\n\r\n"))
	if a := p.response("POST"); a.status != http.StatusBadRequest {
		t.Errorf("a length beyond all integers: status %d, want 400", a.status)
	}

	chunk := strings.Repeat("x", 32<<10)
	for _, tt := range []struct{ framing, part string }{
		{"Content-Length: " + strconv.Itoa(size) + "\r\n\r\n", chunk},
		{"Transfer-Encoding: chunked\r\n\r\n", "8000\r\n" + chunk + "\r\n"},
	} {
		p := dial(t, "tcp", sv.addr)
		p.Raw([]byte(head + tt.framing))
		var sending sync.WaitGroup
		sent := 0
		sending.Go(func() {
			for sent < size {
				n, err := p.Write([]byte(tt.part))
				sent += n
				if err != nil {
					return
				}
			}
		})
		a := p.response("POST")
		a.refuses(t, http.StatusRequestEntityTooLarge, "limit")
		sv.stillServes(t)
		p.Close()
		sending.Wait()
		if !a.last {
			t.Errorf("%q: the server would read on", tt.framing)
		}
	}
}

func TestDeepNestingIsRefused(t *testing.T) {
	const depth = 100_000
	sv := start(t, func(c *Config) { c.Limits.MessageBytes = 2 << 20 })
	for _, message := range []string{
		`{"event":"e","data":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`,
		`{"event":"e","data":` + strings.Repeat(`{"a":`, depth) + `1` + strings.Repeat("}", depth) + `}`,
		`{"event":"e","other":` + strings.Repeat(`[{"a":`, depth) + `1` + strings.Repeat("}]", depth) + `}`,
		`{"event":"e","data":` + strings.Repeat("[", depth),
		`{"event":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`,
		strings.Repeat("[", depth) + strings.Repeat("]", depth),
		strings.Repeat(`{"event":`, depth),
	} {
		sv.post(t, message).refuses(t, http.StatusBadRequest, "one JSON object")
		for _, p := range []*peer{sv.subscriber(t, "a"), sv.publisher(t, "a")} {
			p.send(message)
			p.failed("one JSON object", "")
			p.Close()
		}
		sv.stillServes(t)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	sv := start(t)
	sub := sv.subscriber(t, "S")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	post := func(body string) string {
		return fmt.Sprintf("POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(body), body)
	}
	p := dial(t, "tcp", sv.addr)
	upgrade := ws.Handshake("/subscribe?clientName=a", ws.Nonce, "X-API-Key", testKey)
	subscribe, publish := `{"action":"subscribe","event":"e","id":4}`,
		`{"action":"publish","event":"e","data":5,"id":5}`
	p.Raw(bytes.Join([][]byte{
		[]byte(post(`{"event":"e","data":1}`)),
		[]byte(post(`{"event":`)),
		[]byte(post(`{"event":"e","data":3}`)),
		[]byte("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"),
		[]byte(upgrade), // and frames that do not wait for its answer
		ws.Frame(ws.Fin|ws.Text, subscribe),
		ws.Frame(ws.Fin|ws.Text, publish),
	}, nil))
	for _, want := range []int{201, 400, 201, 200, 101} {
		if a := p.response("POST"); a.status != want {
			t.Fatalf("status %d %q, want %d", a.status, a.body, want)
		}
	}
	p.acked(subscribe)
	if d := p.delivery(); d.data != "5" {
		t.Errorf("got %+v", d)
	}
	p.acked(publish)
	for _, want := range []string{"1", "3", "5"} {
		if d := sub.delivery(); d.data != want {
			t.Errorf("got %+v, want %s", d, want)
		}
	}
}

func TestRequestsThatAreNoHTTP(t *testing.T) {
	sv := start(t)
	for _, sent := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
		"\x00\x00\x00\r\n\r\n",
		"hello\r\n\r\n",
		"GET\r\n\r\n",
		"GET /healthz HTTP/9.9\r\nHost: test\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /healthz HTTP/1.1\r\n\r\n", // no Host
		"GET /healthz HTTP/1.1\r\nHost: test\r\nbad header\r\n\r\n",
		"GET /info HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\x00\r\n\r\n",
		"GET /info HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\r\nX: " + strings.Repeat("x",
			64<<10) + "\r\n\r\n",
		"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: test\r\n\r\n",
		"POST /publish?clientName=a&apiKey=" + testKey + " HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n",
		"POST /publish?clientName=a&apiKey=" + testKey +
			" HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}{}",
		"POST /publish?clientName=a&apiKey=" + testKey + " HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n",
		"POST /publish?clientName=a&apiKey=" + testKey +
			" HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}",
		"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n",
	} {
		p := dial(t, "tcp", sv.addr)
		var sending sync.WaitGroup
		sending.Go(func() { p.Write([]byte(sent)) }) // it may be refused before its end
		if a := p.response("GET"); a.status < 400 || a.status >= 600 || a.status == 500 {
			t.Errorf("%.60q: status %d, want an error of the client's", sent, a.status)
		}
		p.Close()
		sending.Wait()
	}
	for request, status := range map[string]int{
		"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n":                               200,
		"GET http://elsewhere/healthz HTTP/1.1\r\nHost: test\r\n\r\n":            200,
		"GET /healthz HTTP/1.0\r\n\r\n":                                          200,
		"GET /info?apiKey=" + testKey + "&%zz;=& HTTP/1.1\r\nHost: test\r\n\r\n": 200,
		"GET /publish?clientName=a&apiKey=" + testKey +
			" HTTP/1.0\r\n\r\n": 426,
		"POST /publish?clientName=a&apiKey=" + testKey + " HTTP/1.1\r\nHost: test\r\nContent-Length: 13\r\n\r\n" +
			`{"event":"e"}`: 201,
		"POST /publish?clientName=a&apiKey=" + testKey +
			" HTTP/1.1\r\nHost: test\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n" + `{}`: 400,
		"POST /publish?clientName=a&apiKey=" + testKey +
			" HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
		"POST /publish?clientName=a&clientName=b&apiKey=&apiKey=" + testKey +
			" HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n" + `{}`: 401,
	} {
		p := dial(t, "tcp", sv.addr)
		p.Raw([]byte(request))
		if a := p.response("GET"); a.status != status {
			t.Errorf("%q: status %d %q, want %d", request, a.status, a.body, status)
		}
	}
	sv.stillServes(t)
}

func TestWrongKeysFromOneAddress(t *testing.T) {
	sv := start(t)
	connected := sv.dialFrom(t, "127.0.0.2")
	connected.upgrade("/subscribe?clientName=Early", "X-API-Key", testKey)
	for i := range 30 {
		route := guarded[i%len(guarded)]
		header := []string{"X-API-Key", wrongKey + strconv.Itoa(i), "X-API-Client-Name", "a"}
		sv.call(t, route.method, route.path, route.socket, "", "", header...).refuses(t, http.StatusUnauthorized,
			"wrong key")
	}
	for _, key := range []string{wrongKey + "0", wrongKey, testKey, ""} {
		for _, route := range guarded {
			a := sv.call(t, route.method, route.path, route.socket, "", "", "X-API-Key", key, "X-API-Client-Name", "a")
			a.refuses(t, http.StatusTooManyRequests, "too many wrong keys")
			if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 1 || s > 60 {
				t.Errorf("Retry-After %q, want 1 to 60 seconds", a.header.Get("Retry-After"))
			}
		}
	}
	// Open routes stay open, and other addresses are not affected.
	if a := sv.request(t, "GET", "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("GET /healthz: status %d", a.status)
	}
	connected.ask(`{"action":"subscribe","event":"e","id":1}`)
	elsewhere := sv.dialFrom(t, "127.0.0.2")
	elsewhere.Raw([]byte("POST /publish?clientName=Neighbour HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey +
		"\r\nContent-Length: 13\r\n\r\n" + `{"event":"e"}`))
	if a := elsewhere.response("POST"); a.status != http.StatusCreated {
		t.Errorf("from another address: status %d %q", a.status, a.body)
	}
	if d := connected.delivery(); d.name != "Neighbour" {
		t.Errorf("got %+v", d)
	}
	elsewhere.Raw([]byte("GET /info HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\r\n\r\n"))
	if a := elsewhere.response("GET"); !strings.Contains(a.body, `"wrong_keys":30,`) {
		t.Errorf("info says %s, want 30 wrong keys", a.body)
	}
	lines := sv.log.lines(t, addressRefused)
	if len(lines) != 1 || lines[0]["address"] != "127.0.0.1" {
		t.Errorf("logged %v, want it once with the address", lines)
	}
}

// What a page from elsewhere can do in the browser of somebody who has the dashboard open.
func TestPageThatGuessesDoesNotLockItsReaderOut(t *testing.T) {
	sv := start(t)
	dashboard := sv.watch(t)
	dashboard.info() // the server has it among its WebSockets
	guesses := func(n, status int, reason string) {
		t.Helper()
		for range n {
			sv.request(t, "GET", "/info", "", "Origin", "http://elsewhere.example", "X-API-Key", another()).refuses(t,
				status, reason)
		}
	}
	guesses(40, http.StatusUnauthorized, "wrong key")
	sub := sv.subscriber(t, "Later")
	sub.ask(`{"action":"subscribe","event":"e","id":1}`)
	if a := sv.post(t, `{"event":"e"}`); a.status != http.StatusCreated {
		t.Errorf("POST: status %d %q", a.status, a.body)
	}
	sub.delivery()
	if a := sv.request(t, "GET", "/info", "", "X-API-Key", testKey); a.status != http.StatusOK {
		t.Errorf("GET /info: status %d %q", a.status, a.body)
	}
	if lines := sv.log.lines(t, addressRefused); len(lines) != 0 {
		t.Errorf("logged %v, and nobody is refused", lines)
	}

	// It cannot go on forever. Who is connected stays.
	guesses(30+moreGuesses-40, http.StatusUnauthorized, "wrong key")
	wait.Until(t, "all is refused", func() bool { // a guess may have come back meanwhile
		for _, key := range []string{another(), testKey, ""} {
			a := sv.request(t, "GET", "/info", "", "X-API-Key", key)
			if a.status != http.StatusTooManyRequests {
				return false
			}
			if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 1 || s > 6 {
				t.Errorf("Retry-After %q, want 1 to 6 seconds", a.header.Get("Retry-After"))
			}
		}
		return true
	})
	sub.ask(`{"action":"publish","event":"other","id":2}`)
	dashboard.untilClients(1)
	if lines := sv.log.lines(t, sharedRefused); len(lines) != 1 || lines[0]["address"] != "127.0.0.1" {
		t.Errorf("logged %v, want it once with the address", lines)
	}
}

func TestDeviceWithAnOldKeyLocksNobodyOut(t *testing.T) {
	sv := start(t, func(c *Config) { c.WrongKeys = 3 })
	for i := range 200 {
		route := guarded[i%len(guarded)]
		sv.call(t, route.method, route.path, route.socket, "", "", "X-API-Key", wrongKey, "X-API-Client-Name",
			"a").refuses(t, http.StatusUnauthorized, "wrong key")
		if a := sv.post(t, `{"event":"e"}`); a.status != http.StatusCreated {
			t.Fatalf("beside it: status %d %q", a.status, a.body)
		}
	}
	if got := sv.guard.wrong.Load(); got != 200 {
		t.Errorf("%d wrong keys are counted, want all 200", got)
	}
}

func TestNamesCannotForgeLogLines(t *testing.T) {
	sv := start(t)
	names := []string{
		"plain", "two words", `quote " level=ERROR msg="forged`, `back\slash`, "a=b", " ", `\n`, "\u2028next",
		"\u202eright to left",
		"\ue000private", "\u200bzero width", "\ufffd", "🐞", strings.Repeat("é", 128),
	}
	for _, name := range names {
		p := sv.subscriber(t, name)
		p.Raw(ws.Frame(ws.Fin|ws.Close, append([]byte{0x03, 0xe8}, "a reason\nmsg=forged"...)))
		p.wantClose(1000)
	}
	for _, name := range []string{"a\nmsg=forged", "\x1b[31mred", "\x9b31m", "\u009b31m", "\xff"} {
		a := sv.call(t, "GET", "/subscribe", true, "clientName="+url.QueryEscape(name), "", "X-API-Key", testKey)
		if a.status != http.StatusBadRequest {
			t.Errorf("the name %q: status %d, want 400", name, a.status)
		}
	}
	sv.watch(t).untilClients(0)
	for _, msg := range []string{"client connected", "client disconnected"} {
		lines := sv.log.lines(t, msg)
		if len(lines) != len(names) {
			t.Fatalf("%d lines say %q, want %d", len(lines), msg, len(names))
		}
		var logged []string
		for _, line := range lines {
			logged = append(logged, line["client_name"])
		}
		slices.Sort(logged)
		if want := slices.Sorted(slices.Values(names)); !slices.Equal(logged, want) {
			t.Errorf("%q has the names\n%q, want\n%q", msg, logged, want)
		}
	}
	// Every other test's log is checked for forged lines, too: see book.check.
}

// Every test's log is searched for key and payload when it ends; this one sends both wherever they could slip in.
func TestNeitherKeyNorPayloadIsLogged(t *testing.T) {
	sv := startTight(t, func(c *Config) { c.Limits.Connections = 3; c.Limits.QueueBytes = 128 << 10; c.WrongKeys = 3 })
	w := sv.watch(t)
	p := sv.connect(t, "/subscribe?clientName=a&apiKey="+testKey, "Authorization", "Bearer "+testKey)
	p.ask(`{"action":"subscribe","event":"` + payload + `","id":"` + payload + `"}`)
	p.send(`{"action":"publish","event":"` + payload + `","data":"` + payload + `"}`)
	p.delivery()
	for _, bad := range []string{payload, `{"action":"` + payload + `"}`, `{"` + payload + `":1}`,
		`{"event":"` + payload} {
		p.send(bad)
		p.failed("", "")
		sv.post(t, bad).refuses(t, http.StatusBadRequest, "")
	}
	// Handshakes that fail, at the limit and before it.
	q := sv.connect(t, "/publish?clientName=b&apiKey="+testKey)
	sv.call(t, "GET", "/subscribe", true, "clientName=c&apiKey="+testKey, "").refuses(t, http.StatusServiceUnavailable,
		"limit")
	q.Raw(ws.Frame(ws.Fin|ws.Text, []byte(payload+"\xff")))
	q.wantClose(1007)
	w.until("a free place", func(i wire.Info) bool { return i.Server.Connections == 2 })
	sv.call(t, "GET", "/subscribe", true, "clientName=c&apiKey="+testKey, "", "Sec-WebSocket-Key", testKey).refuses(t,
		http.StatusBadRequest, "websocket")
	q = sv.connect(t, "/publish?clientName=b&apiKey="+testKey)
	q.Raw(ws.Frame(ws.Fin|ws.Close, append([]byte{0x03, 0xe8}, payload...)))
	q.wantClose(1000)
	w.until("a free place", func(i wire.Info) bool { return i.Server.Connections == 2 })
	// HTTP that fails before any handler.
	x := dial(t, "tcp", sv.addr)
	x.Raw([]byte("GET /" + payload + "?apiKey=" + testKey + " HTTP/1.1\r\nHost: test\r\n" + payload + testKey +
		"\r\n\r\n"))
	x.response("GET")
	// A slow reader.
	slow := sv.subscriber(t, "slow")
	slow.ask(`{"action":"subscribe","event":"big","id":1}`)
	body := `{"event":"big","data":"` + strings.Repeat(payload, 5000) + `"}`
	for sv.slow.Load() == 0 {
		if a := sv.post(t, body); a.status != http.StatusCreated {
			t.Fatalf("status %d %q", a.status, a.body)
		}
	}
	slow.Close()
	// Wrong keys, in each place.
	x = sv.dialFrom(t, "127.0.0.2")
	for _, wrong := range []string{
		"/info?apiKey=" + wrongKey + " HTTP/1.1\r\nHost: test",
		"/info HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer " + wrongKey + "1",
		"/info HTTP/1.1\r\nHost: test\r\nX-API-Key: " + wrongKey + "2",
	} {
		x.Raw([]byte("GET " + wrong + "\r\n\r\n"))
		x.response("GET").refuses(t, http.StatusUnauthorized, "key")
	}
	x.Raw([]byte("GET /info?apiKey=" + testKey + " HTTP/1.1\r\nHost: test\r\n\r\n"))
	x.response("GET").refuses(t, http.StatusTooManyRequests, "key")
	sv.stop()
	for _, msg := range []string{"client connected", "client disconnected", "client lost", "slow client closed",
		"handshake failed",
		"connection limit reached, new clients are refused", addressRefused} {
		if len(sv.log.lines(t, msg)) == 0 {
			t.Errorf("no line says %q: this test does not see what it is for", msg)
		}
	}
}

func TestPanicIsOneAnswerAndOneLogLine(t *testing.T) {
	s, log := newServer(t)
	s.guard = nil
	sv := serve(t, s, log)
	for range 2 {
		a := sv.request(t, "GET", "/info?apiKey="+testKey, "")
		a.refuses(t, http.StatusInternalServerError, "internal error")
	}
	lines := log.lines(t, "a request made the server panic")
	if len(lines) != 2 || lines[0]["level"] != "ERROR" || lines[0]["path"] != "/info" ||
		!strings.Contains(lines[0]["stack"], "goroutine") {
		t.Errorf("logged %v", lines)
	}
	if a := sv.request(t, "GET", "/healthz", ""); a.status != http.StatusOK {
		t.Errorf("GET /healthz: status %d", a.status)
	}
}

// A message, or a request of the short way, that makes the server panic costs its own connection.
func TestPanicEndsOneConnection(t *testing.T) {
	s, log := newServer(t)
	var armed atomic.Bool
	armed.Store(true)
	s.publishers.New = func() any {
		if armed.Load() {
			panic("as it was asked")
		}
		return new(publisher)
	}
	sv := serve(t, s, log)
	p := sv.subscriber(t, "a")
	p.send(`{"action":"subscribe","event":"e","id":1}`)
	p.wantClose(1011)
	post := dial(t, "tcp", sv.addr)
	fmt.Fprintf(post, "POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: %s\r\nContent-Length: 13\r\n\r\n"+`{"event":"e"}`, testKey)
	post.ended()
	for msg, what := range map[string]string{
		"a message made the server panic, its connection is closed": "client_name",
		"a request made the server panic, its connection is closed": "stack",
	} {
		wait.Until(t, "it is logged", func() bool { return len(log.lines(t, msg)) > 0 })
		lines := log.lines(t, msg)
		if len(lines) != 1 || lines[0]["level"] != "ERROR" || lines[0]["panic"] != "as it was asked" || lines[0][what] == "" {
			t.Errorf("%s: logged %v", msg, lines)
		}
	}
	armed.Store(false)
	sv.stillServes(t)
}

func TestHTTPConnectionsAreBounded(t *testing.T) {
	sv := start(t, func(c *Config) { c.Requests = 3 }) // two over TCP
	const head = "POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey + "\r\n"
	body := `{"event":"e","data":1}`
	post := fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
	published := func(p *peer) {
		t.Helper()
		if a := p.response("POST"); a.status != http.StatusCreated {
			t.Fatalf("status %d %q", a.status, a.body)
		}
	}
	// The connection that has been at rest longest makes room: after a request, silent, or in the middle of one. (On a
	// busy machine a connection that has its answer may not be at rest yet: so others come until it has gone.)
	for _, begin := range []string{string(post), "", "POST /publ", head} {
		first := dial(t, "tcp", sv.addr)
		first.Raw([]byte(begin))
		if begin == string(post) {
			published(first)
		}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			first.ended()
		}()
		for alone := true; alone; {
			p := dial(t, "tcp", sv.addr)
			p.Raw(post)
			published(p)
			select {
			case <-gone:
				alone = false
			default:
			}
		}
	}

	// A connection whose request is being answered does not.
	var busy []*peer
	for range 2 {
		p := dial(t, "tcp", sv.addr)
		busy = append(busy, p)
		p.Raw([]byte(head + "Expect: 100-continue\r\nContent-Length: 22\r\n\r\n"))
		if a := p.response("POST"); a.status != http.StatusContinue {
			t.Fatalf("status %d %q, want 100", a.status, a.body)
		}
	}
	late := dial(t, "tcp", sv.addr) // waits in the backlog
	late.Raw(post)
	for _, p := range busy {
		p.Raw([]byte(body))
		published(p)
	}
	published(late)
	// A WebSocket does not count.
	for i := range 5 {
		sv.subscriber(t, fmt.Sprint(i)).ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	sv.stillServes(t)
}
