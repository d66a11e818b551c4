package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	ws "picloud/test/peer"
	"picloud/test/wait"
)

func TestStopDeliversWhatIsQueuedThenSays1001(t *testing.T) {
	sv := startTight(t, func(c *Config) { c.Limits.QueueBytes = 16 << 20 })
	late, prompt := sv.subscriber(t, "Late"), sv.subscriber(t, "Prompt")
	pub, info := sv.publisher(t, "P"), sv.watch(t)
	info.info()
	for _, p := range []*peer{late, prompt} {
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	// More than the kernel takes for a client that does not read: the rest waits in the queue.
	const messages, step = 250, 25
	blob := strings.Repeat("x", 8<<10)
	for i := 0; i < messages; i += step {
		var burst []byte
		for n := i; n < i+step; n++ {
			burst = append(burst, ws.Frame(ws.Fin|ws.Text,
				fmt.Appendf(nil, `{"event":"e","data":[%d,"%s"]}`, n, blob))...)
		}
		pub.Raw(burst)
		for range step {
			prompt.delivery()
		}
	}
	var stopping sync.WaitGroup
	stopping.Go(sv.stop)
	prompt.wantClose(1001)
	pub.wantClose(1001)
	info.wantClose(1001)
	for i := range messages {
		if d := late.delivery(); !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", i)) {
			t.Fatalf("got %.20s, want %d", d.data, i)
		}
	}
	late.wantClose(1001)
	stopping.Wait()
}

func TestAMessageThatComesTooLateIsAnsweredByTheClose(t *testing.T) {
	sv := start(t)
	pub, late := sv.publisher(t, "P"), sv.subscriber(t, "S")
	late.ask(`{"action":"subscribe","event":"e","id":1}`)
	sv.refuseAll()
	for _, p := range []*peer{pub, late} {
		p.Write(ws.Frame(ws.Fin|ws.Text, `{"action":"publish","event":"e","id":2}`))
		p.Write(ws.Frame(ws.Fin|ws.Text, `{"action":"none of these","id":3}`))
		if text, err := p.message(); err != nil || !strings.HasSuffix(string(text), `"id":3}`) {
			t.Errorf("got %s (%v), want the answer to the other message and none to what was not published", text, err)
		}
	}
	sv.stop()
	pub.wantClose(1001)
	late.wantClose(1001)
}

func TestEverythingAcceptedIsDeliveredDuringAStop(t *testing.T) {
	for range 10 {
		sv := start(t)
		sub := sv.subscriber(t, "S")
		sub.ask(`{"action":"subscribe","event":"e","id":1}`)
		var publishing sync.WaitGroup
		var mu sync.Mutex
		accepted := make(map[string]bool)
		publish := func(by int, one func(message string) bool) { // until one is not accepted
			publishing.Go(func() {
				for n := 0; ; n++ {
					data := fmt.Sprintf("%d%06d", by, n)
					if !one(`{"event":"e","data":` + data + `,"id":1}`) {
						return
					}
					mu.Lock()
					accepted[data] = true
					mu.Unlock()
				}
			})
		}
		for i := range 2 {
			publish(1+i, func(message string) bool {
				a, err := sv.send("POST", "/publish?clientName=a", strings.NewReader(message), "X-API-Key", testKey)
				return err == nil && a.status == http.StatusCreated
			})
			p := sv.publisher(t, "P")
			publish(3+i, func(message string) bool {
				p.Write(ws.Frame(ws.Fin|ws.Text, message))
				if text, err := p.message(); err != nil || string(text) != `{"action":"ack","id":1}` {
					p.Close()
					return false
				}
				return true
			})
		}
		delivered := make(map[string]bool)
		var stopping sync.WaitGroup
		for {
			op, text, err := sub.Next()
			if err != nil {
				t.Fatal(err)
			}
			if op == ws.Close {
				break
			}
			d, err := parseDelivery(text)
			if err != nil || delivered[d.data] {
				t.Fatalf("%s (%v)", text, err)
			}
			if delivered[d.data] = true; len(delivered) == 50 {
				stopping.Go(sv.stop)
			}
		}
		sub.Close()
		publishing.Wait()
		stopping.Wait()
		for data := range accepted {
			if !delivered[data] {
				t.Errorf("%s was accepted and is lost", data)
			}
		}
	}
}

func TestAcceptedConnectionIsAnsweredDuringAStop(t *testing.T) {
	s, log := newServer(t)
	s.requestGrace = wait.Patience
	sv := serve(t, s, log)
	early := sv.dial(t, "tcp")
	half := sv.dial(t, "unix")
	half.Raw([]byte("POST /publish?clientName=a HTTP/1.1\r\nHost: te"))
	idle := []*peer{sv.dial(t, "tcp"), sv.dial(t, "unix")} // accepted after those
	for _, p := range idle {
		p.Raw([]byte("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"))
		p.response("GET")
	}

	var stopping sync.WaitGroup
	stopping.Go(sv.stop)
	for { // until no new connection is accepted
		p, err := net.Dial("tcp", sv.addr)
		if err != nil {
			break
		}
		p.Close()
	}
	if _, err := idle[0].In.ReadByte(); err != io.EOF { // from now on an answer is its connection's last
		t.Fatalf("a connection that is idle gets %v, want an end", err)
	}
	early.Raw([]byte("POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey +
		"\r\nContent-Length: 13\r\n\r\n{\"event\":\"e\"}"))
	half.Raw([]byte("st\r\nContent-Length: 13\r\n\r\n{\"event\":\"e\"}"))
	for _, p := range []*peer{early, half} {
		if a := p.response("POST"); a.status != http.StatusCreated || !a.last {
			t.Errorf("status %d %q, the last: %t; want 201, the last", a.status, a.body, a.last)
		}
	}
	stopping.Wait() // for no longer than the answers
}

func TestStoppingServerIsUnavailable(t *testing.T) {
	sv := start(t)
	bystander := sv.subscriber(t, "S")
	bystander.ask(`{"action":"subscribe","event":"e","id":1}`)
	p := sv.dial(t, "tcp")
	p.Raw([]byte("POST /publish?clientName=a HTTP/1.1\r\nHost: test\r\nX-API-Key: " + testKey +
		"\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n"))
	if a := p.response("POST"); a.status != http.StatusContinue { // it waits for the body
		t.Fatalf("status %d %q, want 100", a.status, a.body)
	}
	var stopping sync.WaitGroup
	stopping.Go(sv.stop)
	bystander.wantClose(1001)
	p.Raw([]byte(`{"event":"e"}`))
	a := p.response("POST")
	a.refuses(t, http.StatusServiceUnavailable, "stopping")
	wantRetryAfter(t, a.header)
	stopping.Wait()

	// Requests that arrive at the moment the listeners close.
	for _, target := range []string{"/healthz", "/subscribe?clientName=a", "/publish?clientName=a", "/info",
		"/socket/info"} {
		r := httptest.NewRequest("GET", target, nil)
		r.Header.Set("X-API-Key", testKey)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		w := httptest.NewRecorder()
		sv.Server.http.Handler.ServeHTTP(w, r)
		answer{status: w.Code, header: w.Header(), body: w.Body.String()}.refuses(t, http.StatusServiceUnavailable,
			"stopping")
		wantRetryAfter(t, w.Header())
	}
}

func wantRetryAfter(t *testing.T, h http.Header) {
	t.Helper()
	if s, err := strconv.Atoi(h.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After %q, want seconds", h.Get("Retry-After"))
	}
}

func TestRunReturnsWhatEndsTheServing(t *testing.T) {
	s, log := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil { // nothing to serve, nothing to do
		t.Error(err)
	}
	log.check(t)
}
