package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/wire"
	"picloud/test/wait"
)

// benchJSON reads what bench --json printed.
func benchJSON(t *testing.T, out string) []result {
	t.Helper()
	var results []result
	for line := range strings.Lines(out) {
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		var r result
		if err := dec.Decode(&r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		results = append(results, r)
	}
	return results
}

func TestBenchCountsEveryDelivery(t *testing.T) {
	d := serve(t, "0")
	j := call(t, environment(d, nil), "bench", "--json", "--subscribers", "3", "--messages", "10", "--window", "4",
		"--rate", "10000", "--size", "48")
	out, said := j.ends(0)
	if !strings.Contains(said, "4 connections") || strings.Count(said, "\n") != 1 {
		t.Errorf("said %q", said)
	}
	var names []string
	for _, r := range benchJSON(t, out) {
		names = append(names, r.Scenario)
		want := result{Scenario: r.Scenario, Subscribers: 3}
		switch r.Scenario {
		case "fanout":
			want.Size, want.Window, want.Messages, want.Deliveries = 48, 4, 10, 30
		case "pairs":
			want.Size, want.Window, want.Messages, want.Deliveries = 48, 4, 10, 10
		case "latency":
			want.Size, want.Rate, want.Messages, want.Deliveries = 48, 10000, 10, 30
		}
		if r.Seconds <= 0 || (r.PerSecond > 0) != (r.Scenario != "memory") {
			t.Errorf("%s: %v a second in %v s", r.Scenario, r.PerSecond, r.Seconds)
		}
		if (r.MemoryBytes != nil) != (r.Scenario == "memory") ||
			(r.ServerCPUMicroseconds != nil) != (r.Scenario != "memory") {
			t.Errorf("%s: memory %v, server CPU %v", r.Scenario, r.MemoryBytes, r.ServerCPUMicroseconds)
		}
		if l := r.Latency; (l != nil) != (r.Scenario == "connect" || r.Scenario == "latency") {
			t.Errorf("%s: latency %v", r.Scenario, l)
		} else if l != nil && !(0 < l.P50 && l.P50 <= l.P99 && l.P99 <= l.P999 && l.P999 <= l.Max) {
			t.Errorf("%s: latency %+v", r.Scenario, *l)
		}
		// How fast it was and who was busy is the machine's affair.
		r.Seconds, r.PerSecond, r.ClientCPU, r.Bottleneck = 0, 0, 0, ""
		r.MemoryBytes, r.ServerCPUMicroseconds, r.Latency = nil, nil, nil
		if r != want {
			t.Errorf("got  %+v\nwant %+v", r, want)
		}
	}
	if got := strings.Join(names, " "); got != "memory connect fanout pairs latency" {
		t.Errorf("scenarios: %s", got)
	}

	// It leaves nothing behind, and the server has delivered what it says: 70, and a last word for each of 3 three
	// times.
	var i wire.Info
	if err := json.Unmarshal([]byte(does(t, d, "info", "--json")), &i); err != nil {
		t.Fatal(err)
	}
	if i.Server.Delivered != 79 || i.Server.Subscriptions != 0 {
		t.Errorf("delivered %d, subscriptions %d, want 79, 0", i.Server.Delivered, i.Server.Subscriptions)
	}
}

func TestBenchTableHasAColumnForEachScenario(t *testing.T) {
	d := serve(t, "0")
	out, said := call(t, environment(d, nil), "bench", "latency", "fanout", "--subscribers", "2", "--messages", "600",
		"--rate", "100000").ends(0)
	rows := make(map[string]string)
	for line := range strings.Lines(out) {
		if len(line) > 16 {
			rows[strings.TrimSpace(line[:16])] = strings.Join(strings.Fields(line[16:]), " ")
		}
	}
	for name, want := range map[string]string{
		"": "fanout latency", "subscribers": "2 2", "messages": "600 600", "deliveries": "1,200 1,200",
		"lost": "0 0", "doubled": "0 0", "out of order": "0 0",
	} {
		if rows[name] != want {
			t.Errorf("%q is %q, want %q, in\n%s", name, rows[name], want, out)
		}
	}
	if strings.Contains(out, "memory") || strings.ContainsAny(out+said, "\r\x1b") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestBenchEndsWithTime(t *testing.T) {
	d := serve(t, "0")
	out, _ := call(t, environment(d, nil), "bench", "fanout", "--json", "--subscribers", "2", "--duration",
		"50ms").ends(0)
	for _, r := range benchJSON(t, out) {
		if r.Deliveries != 2*r.Messages || r.Interrupted {
			t.Errorf("got %+v", r)
		}
	}
}

// frame is one of the server's WebSocket frames, RFC 6455 §5.2.
func frame(r *bufio.Reader) ([]byte, error) {
	head := make([]byte, 2, 200)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	length := int(head[1])
	if length == 126 {
		head = head[:4]
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return nil, err
		}
		length = int(head[2])<<8 | int(head[3])
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(r, payload)
	return append(head, payload...), err
}

// between stands between a client and d, and passes what meddle makes of each frame of the server.
func between(t *testing.T, d *daemon, meddle func(frame []byte) []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		close(ended)
		passing.Wait()
	})
	passing.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(d.URL, "http://"))
			if err != nil { // it has stopped
				client.Close()
				continue
			}
			passing.Go(func() { // the client keeps what it asks for figures with
				<-ended
				client.Close()
			})
			passing.Go(func() {
				pass(server, client)
				server.Close()
			})
			passing.Go(func() {
				defer client.Close()
				r := bufio.NewReader(server)
				for {
					line, err := r.ReadString('\n')
					client.Write([]byte(line))
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "HTTP/1.1 200") { // not a WebSocket
						pass(client, r)
						return
					}
					if line == "\r\n" {
						break
					}
				}
				for {
					p, err := frame(r)
					if err != nil {
						return
					}
					client.Write(meddle(p))
				}
			})
		}
	})
	return l.Addr().String()
}

// once applies f to the first frame that has the message with this number.
func once(number string, f func([]byte) []byte) func([]byte) []byte {
	var mu sync.Mutex
	done := false
	return func(p []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if done || !bytes.Contains(p, []byte(`"data":"`+number+" ")) {
			return p
		}
		done = true
		return f(p)
	}
}

func TestBenchFindsWhatIsLostDoubledOrOutOfOrder(t *testing.T) {
	d := serve(t, "0")
	twice := func(p []byte) []byte { return append(p, p...) }
	none := func([]byte) []byte { return nil }
	// One connection only, so that what is held back is the same subscriber's.
	swapped := func() func([]byte) []byte {
		var held []byte
		first := once("3", func(p []byte) []byte { held = p; return nil })
		second := once("4", func(p []byte) []byte { return append(p, held...) })
		return func(p []byte) []byte { return second(first(p)) }
	}
	for _, test := range []struct {
		name                               string
		meddle                             func([]byte) []byte
		subscribers                        string
		deliveries, lost, doubled, reorder int64
	}{
		{"lost", once("3", none), "3", 29, 1, 0, 0},
		{"the last lost", once("9", none), "3", 29, 1, 0, 0},
		{"doubled", once("3", twice), "3", 30, 0, 1, 0},
		{"out of order", swapped(), "1", 10, 0, 0, 1},
	} {
		url := between(t, d, test.meddle)
		args := []string{"bench", "fanout", "--json", "--url", url, "--subscribers", test.subscribers, "--messages",
			"10"}
		out, said := call(t, environment(d, nil), args...).ends(1)
		results := benchJSON(t, out)
		if len(results) != 1 {
			t.Fatalf("%s: printed %q, said %q", test.name, out, said)
		}
		r := results[0]
		if r.Deliveries != test.deliveries || r.Lost != test.lost || r.Doubled != test.doubled ||
			r.OutOfOrder != test.reorder {
			t.Errorf("%s: got %+v", test.name, r)
		}
		if !strings.Contains(said, "out of order, which must not be") {
			t.Errorf("%s: said %q", test.name, said)
		}
	}
}

func TestBenchGoesOnBehindALostMessage(t *testing.T) {
	d := serve(t, "0")
	url := between(t, d, once("5", func([]byte) []byte { return nil }))
	out, _ := call(t, environment(d, nil), "bench", "fanout", "--json", "--url", url, "--subscribers", "2",
		"--messages", "100", "--window", "2").ends(1)
	if r := benchJSON(t, out)[0]; r.Messages != 100 || r.Lost != 1 || r.Deliveries != 199 {
		t.Errorf("got %+v", r)
	}
}

// pass is io.Copy by reads and writes: what it would splice with is kept for the next, and looks like a leak.
func pass(to io.Writer, from io.Reader) { io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}) }

// noticed stands between a client and d; going returns when messages are passing.
func noticed(t *testing.T, d *daemon) (url string, going func()) {
	passing := make(chan struct{})
	url = between(t, d, once("5", func(p []byte) []byte {
		close(passing)
		return p
	}))
	return url, func() {
		t.Helper()
		select {
		case <-passing:
		case <-time.After(wait.Patience):
			t.Fatal("no message came")
		}
	}
}

func TestBenchThatIsInterruptedShowsWhatItHas(t *testing.T) {
	d := serve(t, "0")
	url, going := noticed(t, d)
	j := start(t, environment(d, nil), "bench", "--json", "fanout", "latency", "--url", url, "--subscribers", "2",
		"--duration", "1h")
	going()
	j.interrupt()
	out, _ := j.ends(130)
	results := benchJSON(t, out)
	if len(results) != 1 || !results[0].Interrupted {
		t.Fatalf("printed %q", out)
	}
	if r := results[0]; r.Messages < 6 || r.Deliveries != 2*r.Messages || r.Lost != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestBenchWhoseServerStopsSaysSo(t *testing.T) {
	d := serve(t, "0")
	url, going := noticed(t, d)
	j := call(t, environment(d, nil), "bench", "fanout", "--url", url, "--subscribers", "2", "--duration", "1h")
	going()
	d.Stop(t)
	out, said := j.ends(1)
	if !strings.Contains(said, "connection: the server stopped") || !strings.Contains(said, "1001") ||
		!strings.Contains(out, "fanout") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestBenchStaysInsideTheServersLimits(t *testing.T) {
	few := func() *daemon { return serve(t, "0", "MAX_CONNECTIONS=16", "MAX_MESSAGE_BYTES=1024") }
	d := few()
	for _, test := range []struct {
		args, want string
	}{
		{"--subscribers 12", "11 subscribers are the most"},
		{"fanout --size 1000 --messages 5", "MAX_MESSAGE_BYTES"},
	} {
		_, said := call(t, environment(d, nil), append([]string{"bench"}, strings.Fields(test.args)...)...).ends(1)
		if !strings.Contains(said, test.want) {
			t.Errorf("bench %s said %q, want it to have %q", test.args, said, test.want)
		}
	}
	// What nobody asked for fits by itself, where nobody is who has just left.
	out, _ := call(t, environment(few(), nil), "bench", "connect", "--json").ends(0)
	if r := benchJSON(t, out)[0]; r.Subscribers != 11 {
		t.Errorf("got %+v", r)
	}
}

func TestBenchWithoutTheKeySaysWhatToDo(t *testing.T) {
	d := serve(t, "0")
	out, said := call(t, map[string]string{"PICLOUD_URL": d.URL, "API_KEY": "wrong"}, "bench").ends(1)
	if out != "" || !strings.Contains(said, "refuses this key") || strings.Count(said, "\n") != 1 {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestBenchShowsABarOnATerminalOnly(t *testing.T) {
	d := serve(t, "0")
	outside, inside := terminal(t)
	shown := make(chan string)
	go func() {
		var all []byte
		for p := make([]byte, 1024); !bytes.Contains(all, []byte("done")); {
			n, err := outside.Read(p)
			all = append(all, p[:n]...)
			if err != nil {
				break
			}
		}
		shown <- string(all)
	}()
	env := environment(d, map[string]string{"TERM": plainTerminal})
	args := []string{"bench", "fanout", "--subscribers", "2", "--messages", "10"}
	var stdout bytes.Buffer
	if err := run(t.Context(), args, nil, &stdout, inside, func(name string) string { return env[name] }); err != nil {
		t.Fatal(err)
	}
	io.WriteString(inside, "done")
	got := <-shown
	if !strings.Contains(got, "\rfanout   [") || strings.Contains(got, "\x1b") {
		t.Errorf("the terminal got %q", got)
	}
	if strings.Contains(stdout.String(), "\r") {
		t.Errorf("printed %q", stdout.String())
	}
}

func TestBenchOfAServerWithoutFiguresSaysSo(t *testing.T) {
	r := result{Scenario: "fanout", Seconds: 1}
	r.account(reading{}, reading{server: map[string]float64{"picloud_events": 1}}, 10, true)
	var b strings.Builder
	benchTable(&b, []result{r})
	if !strings.Contains(b.String(), "fanout: this server does not tell") || r.ServerCPUMicroseconds != nil {
		t.Errorf("got %s", b.String())
	}
}

func TestBenchSaysWhoWasTheBottleneck(t *testing.T) {
	const cpu = "process_cpu_seconds_total"
	for _, test := range []struct {
		name           string
		client, server float64 // of all processors
		local          bool
		want           string
	}{
		{"an idle client", 0.1, 0.1, true, ""},
		{"a busy client", 0.9, 0.1, false, "client"},
		{"one machine", 0.5, 0.45, true, "shared"},
		{"two machines", 0.5, 0.45, false, ""},
	} {
		processors := float64(runtime.GOMAXPROCS(0))
		r := result{Scenario: "fanout", Seconds: 2}
		r.account(reading{server: map[string]float64{cpu: 1}}, reading{
			client: time.Duration(test.client * 2 * processors * float64(time.Second)),
			server: map[string]float64{cpu: 1 + test.server*2*processors},
		}, 1000, test.local)
		if r.Bottleneck != test.want {
			t.Errorf("%s: %q, want %q", test.name, r.Bottleneck, test.want)
		}
		var b strings.Builder
		benchTable(&b, []result{r})
		if got := strings.Contains(b.String(), "fanout: "); got != (test.want != "") {
			t.Errorf("%s: the table is\n%s", test.name, b.String())
		}
		if got, want := *r.ServerCPUMicroseconds, test.server*2*processors*1000; got < want*0.999 || got > want*1.001 {
			t.Errorf("%s: %v µs each, want %v", test.name, got, want)
		}
	}
}

func TestLatencyIsTheNearestRank(t *testing.T) {
	var took []time.Duration
	for i := range 1000 {
		took = append(took, time.Duration(1000-i)*time.Millisecond)
	}
	if got, want := *newLatency(took), (latency{500, 990, 999, 1000}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := *newLatency(took[:1]), (latency{1, 1, 1, 1}); got != want {
		t.Errorf("of one: got %v, want %v", got, want)
	}
}
