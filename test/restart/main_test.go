package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picloud/internal/server"
	"picloud/internal/wsconn"
	"picloud/test/certified"
)

func TestSequenceTellsWhatWentWrong(t *testing.T) {
	for _, tt := range []struct {
		name                      string
		got                       []int
		lost, doubled, disordered int // of four messages
	}{
		{"all", []int{0, 1, 2, 3}, 0, 0, 0},
		{"none", nil, 4, 0, 0},
		{"the last is missing", []int{0, 1, 2}, 1, 0, 0},
		{"the first are missing", []int{2, 3}, 2, 0, 0},
		{"one is missing", []int{0, 2, 3}, 1, 0, 0},
		{"one comes twice", []int{0, 1, 1, 2, 3}, 0, 1, 0},
		{"one comes twice, late", []int{0, 1, 2, 3, 0}, 0, 1, 0},
		{"two have changed places", []int{0, 2, 1, 3}, 0, 0, 1},
		{"late, and twice", []int{0, 2, 1, 1, 3}, 0, 1, 1},
	} {
		var s sequence
		for _, n := range tt.got {
			s.got(n)
		}
		e := newEvent("e")
		for n := range 4 {
			e.accept(n)
		}
		if lost, behind := e.misses(&s, 0, 4); lost+behind != tt.lost || s.doubled != tt.doubled ||
			s.disordered != tt.disordered {
			t.Errorf("%s: %d lost, %d doubled, %d out of order; want %d, %d, %d", tt.name, lost+behind, s.doubled,
				s.disordered, tt.lost, tt.doubled, tt.disordered)
		}
	}
}

func TestOnlyWhatWasAcceptedIsLost(t *testing.T) {
	e := newEvent("e")
	for _, n := range []int{0, 1, 4, 5} {
		e.accept(n)
	}
	for _, tt := range []struct {
		got  []int
		lost int
	}{
		{[]int{0, 1, 4, 5}, 0},
		{[]int{0, 1, 2, 3, 4, 5, 6}, 0},
		{[]int{0, 2, 5}, 2},
		{nil, 4},
	} {
		var s sequence
		for _, n := range tt.got {
			s.got(n)
		}
		within, behind := e.misses(&s, 0, 6)
		if lost := within + behind; lost != tt.lost {
			t.Errorf("of 0, 1, 4 and 5 came %v: %d lost, want %d", tt.got, lost, tt.lost)
		}
	}
}

func TestDelivery(t *testing.T) {
	for _, tt := range []struct {
		text, event, data string
		ok                bool
	}{
		{`{"action":"publish","event":"e","data":[12],"created_at":"","client_name":""}`, "e", "12", true},
		{`{"action":"publish","event":"e","data":[3,"xx"],"created_at":""}`, "e", "3", true},
		{`{"action":"error","error":"event is required"}`, "", "", false},
		{`{"action":"publish","event":"e","data":7}`, "", "", false},
	} {
		if event, data, ok := delivery(tt.text); event != tt.event || data != tt.data || ok != tt.ok {
			t.Errorf("%s: got %q, %q, %v", tt.text, event, data, ok)
		}
	}
}

const key = "sesame"

// serve runs a server on an address. stop returns when it has stopped.
func serve(t *testing.T, addr string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), serveOn(t, l)
}

func serveOn(t *testing.T, listeners ...net.Listener) (stop func()) {
	t.Helper()
	s, err := server.New(server.Config{
		Key:     key,
		Version: "v0",
		Limits: wsconn.Limits{
			Connections: 100, MessageBytes: 64 << 10, QueueBytes: 1 << 20, UnsentBytes: 1 << 20,
			PingEvery:   time.Minute,
			PeerTimeout: time.Minute,
		},
		Subscriptions:     100,
		SubscriptionBytes: 64 << 20,
		TCPBytes:          1 << 30,
		WaitingBytes:      64 << 20,
		HeaderTimeout:     time.Minute,
		WrongKeys:         8,
		Requests:          100,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listeners...) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func small(addr string) plan {
	return plan{tcp: target{network: "tcp", address: addr, key: key}, clients: 30, subscribers: 4, posters: 4,
		posts: 20, pause: time.Millisecond}
}

func drives(t *testing.T, p plan, do func(context.Context, *load) error) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var table strings.Builder
	err := drive(ctx, p, []step{{name: "step", do: do}, {name: "another", do: do}}, watched{}, &table, io.Discard)
	return table.String(), err
}

func nothing(context.Context, *load) error { return nil }

func TestLoadIsContentWhenNothingHappens(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer stop()
	table, err := drives(t, small(addr), nothing)
	if err != nil || !strings.Contains(table, `"ok":true`) {
		t.Errorf("got %v\n%s", err, table)
	}
}

// secure returns the listeners of a server with TLS, and a load for it.
func secure(t *testing.T) (p plan, listeners []net.Listener) {
	t.Helper()
	tcp, err1 := net.Listen("tcp", "127.0.0.1:0")
	local, err2 := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	p = small(tcp.Addr().String())
	p.tcp.secure, p.clients = true, 60
	p.unix.network, p.unix.address = "unix", local.Addr().String()
	return p, []net.Listener{server.Secure{Listener: tcp, Config: certified.Server()}, local}
}

// Over TLS programs of others are among the clients.
func TestLoadOverTLSIsContentWhenNothingHappens(t *testing.T) {
	p, listeners := secure(t)
	defer serveOn(t, listeners...)()
	table, err := drives(t, p, nothing)
	if err != nil || !strings.Contains(table, `"ok":true`) {
		t.Errorf("got %v\n%s", err, table)
	}
}

func TestLoadNoticesTheEndOfTheServer(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer func() { stop() }()
	table, err := drives(t, small(addr), func(context.Context, *load) error {
		stop()
		_, stop = serve(t, addr)
		return nil
	})
	if !errors.Is(err, errFound) || !strings.Contains(table, `"ok":false`) {
		t.Fatalf("got %v\n%s", err, table)
	}
	if want := `"closed":{"1001":`; !strings.Contains(table, want) {
		t.Errorf("the report has no %s:\n%s", want, table)
	}
}

func TestLoadWaitsForWhatEveryoneIsTold(t *testing.T) {
	for _, told := range []int{1001, 1012} {
		addr, stop := serve(t, "127.0.0.1:0")
		p := small(addr)
		p.told = told
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var table strings.Builder
		err := drive(ctx, p, []step{{name: "stop", do: func(context.Context, *load) error { stop(); return nil }}},
			watched{}, &table, io.Discard)
		if ok := err == nil && strings.Contains(table.String(), `"ok":true`); ok != (told == 1001) {
			t.Errorf("told %d, the server says 1001: got %v\n%s", told, err, table.String())
		}
	}
}

func TestLoadNoticesWhatASubscriberMisses(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer stop()
	var l *load
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := begin(ctx, small(addr), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	l.pulse.accept(1 << 10) // a message that was never sent
	watchers := 0
	for _, c := range l.clients {
		c.mu.Lock()
		if c.pages["pulse"] != nil {
			watchers++
		}
		c.mu.Unlock()
	}
	if err := l.finish(); err != nil {
		t.Fatal(err)
	}
	if l.tally.lost < watchers || watchers == 0 {
		t.Errorf("%d lost, want at least one for each of %d subscribers", l.tally.lost, watchers)
	}
}

func TestPostsThatHoldUpACommandAreSeen(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name          string
		with, without []time.Duration
		held          bool
	}{
		{"each", []time.Duration{2100 * ms, 2050 * ms, 2200 * ms}, []time.Duration{100 * ms, 90 * ms, 80 * ms}, true},
		{"none", []time.Duration{110 * ms, 90 * ms, 100 * ms}, []time.Duration{100 * ms, 90 * ms, 80 * ms}, false},
		{"a machine that is busy", []time.Duration{2100 * ms, 4000 * ms, 9000 * ms},
			[]time.Duration{3000 * ms, 900 * ms, 5000 * ms}, false},
		{"too few to tell", []time.Duration{2100 * ms, 2050 * ms}, []time.Duration{100 * ms, 90 * ms, 80 * ms}, false},
	} {
		d := durations{tt.with, tt.without}
		if got := d.held() > 0; got != tt.held {
			t.Errorf("%s: held up: %v, want %v", tt.name, got, tt.held)
		}
	}
}
