package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
	"unsafe"

	"picloud/internal/wire"
	"picloud/test/certified"
)

func TestPubIsWhatSubPrints(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "door", "bell")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"pub", "door", "76.5 F"}, "76.5 F"},
		{[]string{"pub", "bell", ""}, ""},
		{[]string{"pub", "door", "-5"}, "-5"},
		{[]string{"pub", "door", "--", "--json"}, "--json"},
		{[]string{"pub", "door", "--- x"}, "--- x"},
		{[]string{"pub", "door", "---", "--name", "Porch"}, "---"},
		{[]string{"pub", "door", "- milk"}, "- milk"},
		{[]string{"pub", "door", "-> in", "--name=Front door"}, "-> in"},
		{[]string{"pub", "door", `{"not":"json"}`}, `{"not":"json"}`},
		{[]string{"pub", "door", "true"}, "true"},
		{[]string{"pub", "door", "tab\tand <ünïcode> \\ \" & \u2028"}, "tab\tand <ünïcode> \\ \" & \u2028"},
		{[]string{"pub", "--json", "door", ` {"a": [1, 2.50], "b": "<&>"} `}, `{"a":[1,2.50],"b":"<&>"}`},
		{[]string{"pub", "door", `"a string"`, "--json"}, "a string"},
		{[]string{"pub", "--json", "door", "-1e3"}, "-1e3"},
		{[]string{"pub", "--json", "door", "null"}, "null"},
	} {
		if out := does(t, d, test.args...); out != "" {
			t.Errorf("picloud %q printed %q", test.args, out)
		}
		s.expect(test.want)
	}
	// Publishing to no subscriber is no error, and reaches nobody.
	does(t, d, "pub", "lamp", "x")
	does(t, d, "pub", "door", "end")
	s.expect("end")
}

func TestFlagsStandAnywhere(t *testing.T) {
	d := serve(t, "0")
	s := call(t, environment(d, nil), "--name", "Porch", "sub", "--json", "door", "-n=1", "bell", "--url", d.URL)
	s.says("subscribed")
	if got := does(t, d, "info"); !strings.Contains(got, "Porch") {
		t.Errorf("info shows %s", got)
	}
	does(t, d, "pub", "bell", "-name=Bell", "ring", "--key="+key)
	out, _ := s.ends(0)
	if !strings.Contains(out, `"client_name":"Bell"`) {
		t.Errorf("got %s", out)
	}
}

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	d := serve(t, "0")
	env := map[string]string{"PICLOUD_URL": "nowhere.invalid", "API_KEY": "wrong", "PICLOUD_NAME": "bad\nname"}
	call(t, env, "info", "--url", d.URL, "--key", key, "--name", "Porch").ends(0)
	env = map[string]string{"PICLOUD_URL": d.URL, "API_KEY": key, "PICLOUD_NAME": "Porch"}
	call(t, env, "info").ends(0)
}

func TestSubJSONIsTheWholeMessageOnOneLine(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "--json", "door")
	does(t, d, "pub", "--name", "Pörch <&>", "--json", "door", "{\"a\":\n 1}")
	var got wire.Delivery
	line := s.line(s.out)
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	at := got.CreatedAt.Format(time.RFC3339Nano)
	want := `{"action":"publish","event":"door","data":{"a":1},"created_at":"` + at + `","client_name":"Pörch <&>"}`
	if line != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
}

func TestSubEndsAfterSoManyMessages(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "-n", "3", "door")
	p := call(t, environment(d, nil), "pub", "door", "-")
	fmt.Fprint(p.stdin, "1\n2\n3\n4\n5\n")
	p.stdin.Close()
	p.ends(0)
	if out, said := s.ends(0); out != "1\n2\n3\n" || said != "" {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestStandardInputIsPublishedLineByLine(t *testing.T) {
	const n = 20_000
	d := serve(t, "0")
	s := subscribed(t, d, "count")
	p := start(t, environment(d, nil), "pub", "count", "-")
	go func() {
		w := bufio.NewWriter(p.stdin)
		for i := range n {
			fmt.Fprintf(w, "line %d", i)
			w.WriteString([]string{"\n", "\r\n"}[i%2])
		}
		fmt.Fprint(w, "\n  the last has no end")
		w.Flush()
		p.stdin.Close()
	}()
	for i := range n {
		if got, want := s.line(s.out), fmt.Sprint("line ", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	s.expect("", "  the last has no end")
	if out, said := p.ends(0); out != "" || said != "" {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestByteOrderMarkIsNoPartOfTheFirstLine(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "door")
	for _, flag := range []string{"--json=false", "--json"} {
		p := call(t, environment(d, nil), "pub", "door", "-", flag)
		fmt.Fprint(p.stdin, "\xef\xbb\xbf1\n")
		s.expect("1")
		fmt.Fprint(p.stdin, "2\n\"\xef\xbb\xbf\"\n")
		s.expect("2")
		p.stdin.Close()
		p.ends(0)
		s.line(s.out)
	}
}

func TestLineIsPublishedBeforeTheNextIsThere(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "door")
	p := call(t, environment(d, nil), "pub", "door", "-")
	for _, line := range []string{"one", "two"} {
		fmt.Fprintln(p.stdin, line)
		s.expect(line)
	}
	p.stdin.Close()
	p.ends(0)
}

func TestLinesThatFailAreNamedAndTheOthersPublished(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "door")
	p := call(t, environment(d, nil), "pub", "--json", "door", "-")
	fmt.Fprint(p.stdin, "1\nx\n\n{}\n\"\xff\"\n[\n5\n")
	p.stdin.Close()
	s.expect("1", "{}", "5")
	_, said := p.ends(1)
	for _, want := range []string{
		"3: not JSON", "picloud: line 5: not UTF-8", "picloud: line 6: not JSON", "picloud: 4 of 7 messages failed\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("said %q, want it to have %q", said, want)
		}
	}
}

func TestLinesThatFailTogetherAreNamedTogether(t *testing.T) {
	inFlight := make(chan sent, 10)
	for line, reason := range []string{1: "a", 2: "a", 3: "a", 4: "b", 6: "b", 7: "b\x1b"} {
		if reason != "" {
			inFlight <- sent{line: line, err: errors.New(reason)}
		}
	}
	close(inFlight)
	var said strings.Builder
	if failed := settle(inFlight, &said); failed != 6 {
		t.Errorf("%d failed, want 6", failed)
	}
	const want = "picloud: lines 1 to 3: a\npicloud: line 4: b\npicloud: line 6: b\npicloud: line 7: b\\u001b\n"
	if said.String() != want {
		t.Errorf("said %q, want %q", said.String(), want)
	}
}

func TestLineThatTheServerRefusesIsNamed(t *testing.T) {
	d := serve(t, "0")
	p := call(t, environment(d, nil), "pub", strings.Repeat("x", 256), "-")
	fmt.Fprint(p.stdin, "1\n")
	p.stdin.Close()
	p.says("line 1: ", "event")
	p.ends(1)
}

func TestLineOverTheServersLimitIsNamedAndTheOthersPublished(t *testing.T) {
	d := serve(t, "0", "MAX_MESSAGE_BYTES=2K")
	s := subscribed(t, d, "door")
	for _, flag := range []string{"--json=false", "--json"} {
		p := call(t, environment(d, nil), "pub", "door", "-", flag)
		long, fits := `{"a":"`+strings.Repeat("x", 2048-8)+`"}`, `{"a":"`+strings.Repeat("x", 1500)+`"}`
		fmt.Fprintf(p.stdin, "1\n%s\n%s\n%s\n%s\n5\n6", long, fits, long, long)
		p.stdin.Close()
		s.expect("1", fits, "5", "6")
		const why = ": the message is larger than the server's MAX_MESSAGE_BYTES (2048 bytes)\n"
		const begin, end = "picloud: line 2" + why, "picloud: 3 of 7 messages failed\n"
		together := begin + "picloud: lines 4 to 5" + why + end // if the second comes before the first is named
		each := begin + "picloud: line 4" + why + "picloud: line 5" + why + end
		if _, said := p.ends(1); said != together && said != each {
			t.Errorf("%s: said %q, want %q", flag, said, together)
		}
	}
}

func TestLineThatNoServerTakesIsNamedAndTheOthersRead(t *testing.T) {
	const rest = "a\r\n\nb"
	long := strings.NewReader(strings.Repeat("x", maxLineBytes+1))
	lines := make(chan line)
	read := make(chan error, 1)
	go func() {
		read <- readLines(t.Context(), io.MultiReader(strings.NewReader("first\n"), long, strings.NewReader("\n"+rest)),
			lines)
	}()
	var got []string
	for l := range lines {
		got = append(got, fmt.Sprintf("%s %v", l.text, l.err))
	}
	if want := []string{"first <nil>", " longer than 32 MiB", "a <nil>", " <nil>", "b <nil>"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
}

func TestLineThatWasOnItsWayIsNamedAsUnconfirmed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := call(t, map[string]string{"PICLOUD_URL": l.Addr().String(), "API_KEY": key}, "pub", "door", "-")
	fmt.Fprint(p.stdin, "one\n")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	conn.Close()
	both := p.line(p.err) + p.line(p.err)
	for _, want := range []string{"line 1: not confirmed", "may or may not", "trying again"} {
		if !strings.Contains(both, want) {
			t.Errorf("said %q, want it to have %q", both, want)
		}
	}
	p.interrupt()
	p.ends(130)
}

func TestSubAndPubComeBackWithTheServer(t *testing.T) {
	d := serve(t, "0")
	s := subscribed(t, d, "door")
	p := call(t, environment(d, nil), "pub", "door", "-")
	fmt.Fprintln(p.stdin, "before")
	s.expect("before")
	d.Stop(t)
	for _, j := range []*job{s, p} {
		j.says("picloud: ", "1001", "trying again")
	}
	serve(t, d.Port())
	for _, j := range []*job{s, p} {
		j.says("picloud: connected after ")
	}
	fmt.Fprintln(p.stdin, "after")
	s.expect("after")
	p.stdin.Close()
	if _, said := p.ends(0); said != "" {
		t.Errorf("pub said %q", said)
	}
	s.interrupt()
	if _, said := s.ends(0); said != "" {
		t.Errorf("sub said %q", said)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	d := serve(t, "0")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	refused := l.Addr().String()
	for _, command := range [][]string{{"info"}, {"pub", "door", "x"}, {"pub", "door", "-"}, {"sub", "door"}} {
		for _, test := range []struct {
			url, key string
			want     []string
		}{
			{d.URL, "wrong-key", []string{"refuses this key", "export API_KEY=", "/etc/picloud/api-key"}},
			{d.URL, "", []string{"none was given", "export API_KEY="}},
			{refused, key, []string{refused, "connection refused", "is picloudd running"}},
			{"https" + strings.TrimPrefix(d.URL, "http"), key, []string{"write the address with http://"}},
			{"unix:/nonexistent/p.sock", key, []string{"unix:/nonexistent/p.sock", "is PiCloud running"}},
		} {
			j := call(t, map[string]string{"PICLOUD_URL": test.url, "API_KEY": test.key}, command...)
			out, said := j.ends(1)
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("picloud %q at %s said %q, want it to have %q", command, test.url, said, want)
				}
			}
			if lines := strings.Count(said, "\n"); out != "" || lines != 1 || strings.Contains(said, "wrong-key") {
				t.Errorf("picloud %q printed %q and said %q", command, out, said)
			}
		}
	}
}

// selfSigned makes a certificate for the names, and its key.
func selfSigned(t *testing.T, names ...string) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := certified.Write(certified.New(names...), certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	certFile, keyFile := selfSigned(t, "localhost")
	d := serve(t, "0", "USE_TLS=1", "CERT_FILE="+certFile, "KEY_FILE="+keyFile)

	env := environment(d, map[string]string{"PICLOUD_CA": certFile})
	s := start(t, env, "sub", "-n", "2", "door")
	s.says("subscribed")
	start(t, env, "pub", "door", "one").ends(0)
	p := start(t, env, "pub", "door", "-")
	fmt.Fprintln(p.stdin, "two")
	p.stdin.Close()
	p.ends(0)
	if out, _ := s.ends(0); out != "one\ntwo\n" {
		t.Errorf("printed %q", out)
	}

	if _, said := start(t, environment(d, nil), "info").ends(1); !strings.Contains(said, "PICLOUD_CA") {
		t.Errorf("with an unknown authority: said %q", said)
	}
	start(t, environment(d, nil), "info", "--ca", certFile).ends(0)
	start(t, environment(d, map[string]string{"SSL_CERT_FILE": certFile}), "info").ends(0)
	another, _ := selfSigned(t, "localhost")
	for file, want := range map[string]string{another: "PICLOUD_CA", keyFile: "no PEM certificate",
		"/none": "no such file"} {
		if _, said := start(t, env, "info", "--ca", file).ends(1); !strings.Contains(said, want) {
			t.Errorf("--ca %s: said %q", file, said)
		}
	}
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(t.TempDir(), "marked.pem")
	if err := os.WriteFile(marked, append([]byte("\xef\xbb\xbf"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, env, "info", "--ca", marked).ends(0)
	plain := "http" + strings.TrimPrefix(d.URL, "https")
	if _, said := start(t, env, "info", "--url", plain).ends(1); !strings.Contains(said, "https://") {
		t.Errorf("without TLS: said %q", said)
	}
}

func TestWrongCommandLinesSayHow(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"", "which command"},
		{"publish x y", `no command "publish": did you mean picloud pub?`},
		{"ls", "did you mean picloud info?"},
		{"top", "did you mean picloud info --watch?"},
		{"dicover", "did you mean picloud discover?"},
		{"temperature", `no command "temperature": picloud help lists them`},
		{"sub door --jsn", "no flag --jsn: did you mean --json?"},
		{"--nmae=x info", "no flag --nmae: did you mean --name?"},
		{"-w info", "no flag -w: did you mean --watch?"},
		{"pub door -w", "no flag -w: see picloud help pub; data that begins with - goes behind --"},
		{"bench -s 3", "no flag -s: see picloud help bench"},
		{"--jsn", "did you mean --json?"},
		{"pub", "As in: picloud pub"},
		{"pub door", "As in: picloud pub"},
		{"pub door hello world", "quotes"},
		{"pub --json door hello", "not JSON"},
		{"pub --json door 1 2", "quotes"},
		{"pub door \xff", "not UTF-8"},
		{"sub", "As in: picloud sub"},
		{"sub -n 0 door", "1 or more"},
		{"sub -n x door", "1 or more"},
		{"sub door -n", "needs an argument: -n: see picloud help sub"},
		{"sub --colour door", "no flag --colour: see picloud help sub"},
		{"info door", `info takes no "door"`},
		{"info -n 1", "info takes no -n"},
		{"pub -n 1 door x", "pub takes no -n"},
		{"info --url ftp://pi", "scheme"},
		{"info --url http://open-sesame@pi", "own settings"},
		{"info --name \x1b[31m", "control characters"},
		{"info --key open-sesame\x01", "control character"},
		{"bench door", `no scenario "door"`},
		{"bench --size 10", "--size is 48 at least"},
		{"bench --duration 0", "as in 10s"},
		{"bench --window 1024 --size 4096", "MAX_QUEUE_BYTES"},
		{"bench --subscribers 0", "1 or more"},
		{"bench --name Porch", "bench takes no -name"},
		{"sub --rate 1 door", "sub takes no -rate"},
		{"help nothing", `no command "nothing"`},
	} {
		j := call(t, nil, strings.Fields(test.line)...)
		out, said := j.ends(2)
		if !strings.Contains(said, test.want) || !strings.HasPrefix(said, "picloud: ") ||
			strings.Count(said, "\n") != 1 {
			t.Errorf("picloud %q said %q, want it to have %q", test.line, said, test.want)
		}
		if out != "" || strings.Contains(said, "\x1b") {
			t.Errorf("picloud %q printed %q and said %q", test.line, out, said)
		}
	}
}

func TestHelp(t *testing.T) {
	for line, want := range map[string]string{
		"help":         "exit status",
		"-h":           "exit status",
		"--help":       "exit status",
		"help help":    "exit status",
		"help pub":     "usage: picloud pub",
		"pub -h":       "usage: picloud pub",
		"--help pub x": "usage: picloud pub",
		"sub --help":   "usage: picloud sub",
		"help info":    "usage: picloud info",
		"help bench":   "usage: picloud bench",
		"help version": "usage: picloud version",
		"version":      "picloud dev",
		"--version":    "picloud dev",
		"-version":     "picloud dev",
	} {
		if out := does(t, nil, strings.Fields(line)...); !strings.Contains(out, want) {
			t.Errorf("picloud %s printed %q, want it to have %q", line, out, want)
		}
	}
}

func TestInfoShowsWhoIsConnected(t *testing.T) {
	d := serve(t, "0")
	s := call(t, environment(d, map[string]string{"PICLOUD_NAME": "Pörch"}), "sub", "a\x1b[31m\tb\nc")
	s.says("subscribed")
	got := does(t, d, "info")
	for _, want := range []string{"PiCloud dev, up ", "connections 1 of ", "events 1, subscriptions 1", "Pörch",
		`a\u001b[31m\tb\nc `, "127.0.0.1:", "s ago\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("info lacks %q:\n%s", want, got)
		}
	}
	raw := does(t, d, "--json", "info")
	var i wire.Info
	if err := json.Unmarshal([]byte(raw), &i); err != nil || strings.Count(raw, "\n") != 1 ||
		len(i.AllConnections) != 1 || i.Subscriptions[0].Name != "a\x1b[31m\tb\nc" {
		t.Errorf("info --json: %v: %s", err, raw)
	}
}

func TestInfoTable(t *testing.T) {
	now := time.Date(2015, 11, 25, 3, 40, 39, 0, time.UTC)
	porch := wire.Connection{ClientName: "Porch", IPAddress: "192.168.99.1:62178",
		ConnectedAt: now.Add(-26 * time.Second)}
	attic := wire.Connection{ClientName: "The attic", IPAddress: "local",
		ConnectedAt: now.Add(-50*time.Hour - time.Minute)}
	got := table(settings{}, wire.Info{
		Subscriptions:  []wire.Subscription{{Name: "door", Connections: []wire.Connection{porch, attic}}},
		AllConnections: []wire.Connection{porch, attic},
		CreatedAt:      now,
		Server: wire.ServerInfo{Version: "0.1.0", UptimeSeconds: 3*3600 + 12*60 + 5, Connections: 2,
			MaxConnections: 8192,
			Events:         1, Subscriptions: 2, Published: 120, Delivered: 240, SlowClientsClosed: 3, WrongKeys: 4},
	})
	const want = `PiCloud 0.1.0, up 3h 12m
connections 2 of 8192, events 1, subscriptions 2
published 120, delivered 240, slow clients closed 3, wrong keys 4
TLS off

CLIENT      ADDRESS              CONNECTED
Porch       192.168.99.1:62178   26s ago
The attic   local                2d 2h ago

EVENT   CLIENT      ADDRESS              CONNECTED
door    Porch       192.168.99.1:62178   26s ago
door    The attic   local                2d 2h ago
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestInfoTableTellsOfTLS(t *testing.T) {
	now := time.Date(2015, 11, 25, 3, 40, 39, 0, time.UTC)
	i := wire.Info{CreatedAt: now, AllConnections: []wire.Connection{
		{ClientName: "Porch", IPAddress: "192.168.99.1:62178", ConnectedAt: now},
		{ClientName: "The attic", IPAddress: "local", ConnectedAt: now}}}
	i.Server.TLS = true
	i.Server.ConnectionTraffic = []wire.ConnectionTraffic{{TLSVersion: "1.3"}, {}}
	const ended = "\nTLS on: a restart ends its connections, and clients come back\n"
	if got := table(settings{}, i); !strings.Contains(got, ended) {
		t.Errorf("got\n%s\nwant %q in it", got, ended)
	}
	i.Server.TLSKeptOverRestart = true
	const kept = `
TLS on: a restart keeps its connections

CLIENT      ADDRESS              CONNECTED   TLS
Porch       192.168.99.1:62178   0s ago      1.3
The attic   local                0s ago      -
`
	if got := table(settings{}, i); !strings.HasSuffix(got, kept) {
		t.Errorf("got\n%s\nwant its end to be%s", got, kept)
	}
	i.Server.ConnectionTraffic = nil // as with a server that has no such list
	if got := table(settings{}, i); !strings.Contains(got, "\nThe attic   local                0s ago\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestInfoTableSaysWhatIsMissing(t *testing.T) {
	porch := wire.Connection{ClientName: "Porch", IPAddress: "local"}
	const part = "\nshown are 1 of 9000 connections, 1 of 1001 events, 1 of 20000 subscriptions\n\nCLIENT "
	i := wire.Info{AllConnections: []wire.Connection{porch},
		Subscriptions: []wire.Subscription{{Name: "door", Connections: []wire.Connection{porch}}},
		Server:        wire.ServerInfo{Connections: 9000, Events: 1001, Subscriptions: 20000, Truncated: true}}
	if got := table(settings{}, i); !strings.Contains(got, part) {
		t.Errorf("got\n%s\nwant %q in it", got, part)
	}
	i.Server.Truncated = false
	if got := table(settings{}, i); strings.Contains(got, "shown") {
		t.Errorf("of a whole info: got\n%s", got)
	}
}

func TestInterruptEndsSubQuietly(t *testing.T) {
	d := serve(t, "0")
	s := start(t, environment(d, nil), "sub", "door")
	s.says("subscribed")
	s.interrupt()
	if out, said := s.ends(0); out+said != "" {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestInterruptBeforeTheEndIsStatus130(t *testing.T) {
	d := serve(t, "0")
	s := start(t, environment(d, nil), "sub", "-n", "2", "door")
	s.says("subscribed")
	p := start(t, environment(d, nil), "pub", "door", "-")
	fmt.Fprint(p.stdin, "x\n")
	s.expect("x")
	for _, j := range []*job{s, p} {
		j.interrupt()
		if out, said := j.ends(130); out+said != "" {
			t.Errorf("%q printed %q, said %q", j.args, out, said)
		}
	}
}

func TestReaderThatGoesEndsSubAndWatchQuietly(t *testing.T) {
	d := serve(t, "0")
	for _, args := range [][]string{{"sub", "door"}, {"sub", "--json", "-n", "2", "door"}, {"info", "--watch"}} {
		cmd := exec.Command(bin+"/picloud", args...)
		cmd.Env = []string{"PICLOUD_URL=" + d.URL, "API_KEY=" + key}
		var said bytes.Buffer
		errReader, errWriter := io.Pipe()
		cmd.Stderr = io.MultiWriter(&said, errWriter)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		want := ""
		if args[0] == "sub" {
			want = "picloud: subscribed\n"
			if _, err := errReader.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			does(t, d, "pub", "door", "one")
		}
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		stdout.Close() // and no message comes
		if err := cmd.Wait(); err != nil || said.String() != want {
			t.Errorf("%q ended with %v and said %q", args, err, said.String())
		}
	}
}

func TestReaderThatStaysIsNotGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	gone := make(chan bool, 1)
	stop := whenReaderGone(output{w}, func() { gone <- true })
	stop()
	if len(gone) > 0 {
		t.Error("gone, with a reader")
	}
	stop = whenReaderGone(output{w}, func() { gone <- true })
	r.Close()
	<-gone
	stop()
}

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	d := serve(t, "0")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	env := environment(d, nil)
	err = run(t.Context(), []string{"info"}, nil, full, io.Discard, func(name string) string { return env[name] })
	if !errors.Is(err, syscall.ENOSPC) || exitStatus(err, io.Discard) != 1 {
		t.Errorf("got %v", err)
	}
}

// terminal returns both ends of a pseudo-terminal, pty(7).
func terminal(t *testing.T) (outside, inside *os.File) {
	t.Helper()
	outside, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	var number, locked int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, outside.Fd(), request,
			uintptr(unsafe.Pointer(argument))); errno != 0 {
			t.Fatal(errno)
		}
	}
	inside, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	return outside, inside
}

func TestMessagesCannotTrickATerminal(t *testing.T) {
	d := serve(t, "0")
	const nasty = "red \x1b[31m\r\nforged: line\u009b2J\u202e\x7f\tend"
	for _, test := range []struct {
		flag string
		want string
	}{
		{"--json=false", `red \u001b[31m\r\nforged: line\u009b2J\u202e\u007f` + "\tend\r\n"},
		{"--json", `{"action":"publish","event":"door","data":"red \u001b[31m\r\nforged: line\u009b2J\u202e\u007f\tend","created_at":`},
	} {
		outside, inside := terminal(t)
		ctx, cancel := context.WithCancel(t.Context())
		errReader, errWriter := io.Pipe()
		done := make(chan error)
		env := environment(d, nil)
		go func() {
			done <- run(ctx, []string{"sub", "door", test.flag}, nil, inside, errWriter,
				func(name string) string { return env[name] })
		}()
		if _, err := errReader.Read(make([]byte, 100)); err != nil { // subscribed
			t.Fatal(err)
		}
		does(t, d, "pub", "door", nasty)
		got, err := bufio.NewReader(outside).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: the terminal got %q, want %q", test.flag, got, test.want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestServersWordsCannotTrickATerminal(t *testing.T) {
	var said strings.Builder
	status := exitStatus(errors.New("so says the server: \x1b[31m\nforged"), &said)
	if want := "picloud: so says the server: \\u001b[31m\\nforged\n"; said.String() != want || status != 1 {
		t.Errorf("said %q, status %d", said.String(), status)
	}
}

func TestWhatHidesInANameIsShown(t *testing.T) {
	for name, want := range map[string]string{
		"Porch\u202ehcroP": `Porch\u202ehcroP`, "Po\u200brch": `Po\u200brch`, "Porch\u00ad": `Porch\u00ad`,
		"\u115f\u3164\uffa0\u2800": `\u115f\u3164\uffa0\u2800`, "\u2028\u2029\u0085": `\u2028\u2029\u0085`,
		"Porch\U000e0041": `Porch\udb40\udc41`, "Porch\ufe0f\ufe01": `Porch\ufe0f\ufe01`, "1\ufe0f": `1\ufe0f`,
		"a\u200db": `a\u200db`, "❤\u200dx": `❤\u200dx`, "❤\ufe0f\ufe0f": "❤\ufe0f" + `\ufe0f`,
		"❤\ufe0f\ufe0f\u200d❤": "❤\ufe0f" + `\ufe0f\u200d❤`, "\u2800\u200d\u2800": `\u2800\u200d\u2800`,
	} {
		if got := visible(name); got != want {
			t.Errorf("%+q is shown as %+q, want %+q", name, got, want)
		}
	}
	for _, whole := range []string{"Käfer 🐞", "👩\u200d👩\u200d👧", "👩🏽\u200d🚒", "❤\ufe0f\u200d🔥", "☀\ufe0f", "1\ufe0f\u20e3",
		"ℹ\ufe0f", "🏳\ufe0f\u200d🌈", "玄関", "دما", "⣿", "\uFFFD"} {
		if got := visible(whole); got != whole {
			t.Errorf("%+q is shown as %+q", whole, got)
		}
	}

	d := serve(t, "0")
	sub := call(t, environment(d, map[string]string{"PICLOUD_NAME": "Po\u200brch\u202e"}), "sub", "door\u3164")
	sub.says("subscribed")
	if out := does(t, d, "info"); strings.Count(out, `Po\u200brch\u202e `) != 2 || !strings.Contains(out, `door\u3164 `) {
		t.Errorf("info shows\n%+q", out)
	}
	sub.interrupt()
	sub.ends(0)
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31m", "a\nb\r\tc", "\u202e\u2028\u0085", "\xff\xfe\uFFFD",
		"{\"a\":\"\u009b\"}", "👩‍👩‍👧",
		"❤\ufe0f\ufe0f\u200d🔥", "\xa9\u200d", "1\ufe0f\u20e3", "{\"a\":\"\U000e0041\"}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := visible(s)
		if !utf8.ValidString(got) {
			t.Errorf("%q is shown as %q", s, got)
		}
		for i, r := range got {
			if isHidden(r) && !joinsEmoji(got[:i], r, got[i+utf8.RuneLen(r):]) {
				t.Errorf("%q is shown as %q, which hides %U", s, got, r)
			}
		}
		if again := visible(got); again != got {
			t.Errorf("%q is shown as %q, then as %q", s, got, again)
		}
		// A line of JSON, which is what --json prints, stays the same JSON.
		var before, after any
		if utf8.ValidString(s) && !strings.ContainsAny(s, "\r\n") && json.Unmarshal([]byte(s), &before) == nil {
			if err := json.Unmarshal([]byte(got), &after); err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("%s became %s: %v", s, got, err)
			}
		}
	})
}

func TestOneRequestIsNotWaitedForForEver(t *testing.T) {
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := oneRequest(t.Context(), wait)
		if took := time.Since(start); err == nil || errors.Is(err, errInterrupted) || took != patience {
			t.Errorf("after %s: %v", took, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := oneRequest(ctx, wait); !errors.Is(err, errInterrupted) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

func TestDefaultServerIsTheLocalSocketWhereItMayBeUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "picloud.sock")
	if got := defaultURL(path); got != localURL {
		t.Errorf("without a socket: got %q, want %q", got, localURL)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, want := defaultURL(path), "unix:"+path; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
