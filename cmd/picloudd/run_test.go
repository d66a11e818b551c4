package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/internal/config"
	"picloud/internal/wsconn"

	"github.com/gorilla/websocket"
)

// call calls run with settings and arguments with which it should return at once.
func call(t *testing.T, e env, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	err = run(ctx, append([]string{"picloudd"}, args...), e.get, &out, &errs)
	if ctx.Err() != nil {
		t.Fatalf("run(%q) has served", args)
	}
	return out.String(), errs.String(), err
}

func TestWrongSettingsAreNamedInOneLine(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		env  env
		says []string
	}{
		{env{"PORT": "http"}, []string{"PORT", `"http"`, "65535"}},
		{env{"PORT": "65536"}, []string{"PORT", `"65536"`, "65535"}},
		{env{"PORT": "-1\ngoroutine 1 [running]"}, []string{"PORT"}},
		{env{"API_KEY": "two words"}, []string{"API_KEY"}},
		{env{"API_KEY": "clé"}, []string{"API_KEY"}},
		{env{"USE_TLS": "maybe"}, []string{"USE_TLS", `"maybe"`}},
		{env{"USE_TLS": "1"}, []string{"KEY_FILE"}},
		{env{"USE_TLS": "1", "KEY_FILE": dir + "/key.pem"}, []string{"CERT_FILE"}},
		{env{"USE_TLS": "1", "KEY_FILE": dir + "/key.pem", "CERT_FILE": dir + "/cert.pem"}, []string{dir}},
		{env{"MAX_MESSAGE_BYTES": "64 KB"}, []string{"MAX_MESSAGE_BYTES", `"64 KB"`}},
		{env{"MAX_CONNECTIONS": "0"}, []string{"MAX_CONNECTIONS", `"0"`}},
		{env{"MAX_SUBSCRIPTIONS": "many"}, []string{"MAX_SUBSCRIPTIONS", `"many"`}},
		{env{"MAX_QUEUE_BYTES": "1K"}, []string{"MAX_QUEUE_BYTES", `"1K"`}},
		{env{"HEADER_TIMEOUT": "10"}, []string{"HEADER_TIMEOUT", `"10"`}},
		{env{"PING_INTERVAL": "0s"}, []string{"PING_INTERVAL", `"0s"`}},
		{env{"PEER_TIMEOUT": "1d"}, []string{"PEER_TIMEOUT", `"1d"`}},
		{env{"MAX_WRONG_KEYS": "0"}, []string{"MAX_WRONG_KEYS", `"0"`}},
		{env{"LED": "17"}, []string{"LED", `"17"`, "gpio17", "active-low", "led:ACT"}},
		{env{"LOG_LEVEL": "loud"}, []string{"LOG_LEVEL", `"loud"`}},
	} {
		for _, args := range [][]string{nil, {"-check"}} {
			stdout, stderr, err := call(t, tt.env.with("PORT", "0"), args...)
			if err == nil || stdout+stderr != "" {
				t.Errorf("%v: error %v, printed %q, want an error and nothing printed", tt.env, err, stdout+stderr)
				continue
			}
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%v: %q is more than a line", tt.env, err)
			}
			for _, part := range tt.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: %q does not say %s", tt.env, err, part)
				}
			}
			if key := tt.env["API_KEY"]; key != "" && strings.Contains(err.Error(), key) {
				t.Errorf("%q shows the key", err)
			}
		}
	}
}

func TestArgumentsAreUsage(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"-check", "x"}, {"-version", "x"}, {"-port=1"}, {"--nonsense"},
		{"\x1b[31m"}} {
		stdout, stderr, err := call(t, env{"PORT": "0"}, args...)
		if !errors.Is(err, errUsage) || stdout != "" ||
			!strings.Contains(stderr, strings.TrimLeft(strings.SplitN(args[len(args)-1], "=", 2)[0], "-\x1b")) {
			t.Errorf("%q: error %v, printed %q and %q, want usage", args, err, stdout, stderr)
		}
		if strings.Contains(stderr, "\x1b") {
			t.Errorf("%q: an escape is printed: %q", args, stderr)
		}
	}
	for _, arg := range []string{"-help", "-h", "--help"} {
		stdout, stderr, err := call(t, nil, arg)
		if !errors.Is(err, flag.ErrHelp) || stderr != "" {
			t.Errorf("%s: error %v, and on standard error %q", arg, err, stderr)
		}
		for _, s := range config.Settings() {
			if !strings.Contains(stdout, s.Name) || !strings.Contains(stdout, s.Default) {
				t.Errorf("%s does not show %s and its default %s", arg, s.Name, s.Default)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	stdout, stderr, err := call(t, env{"PORT": "wrong, and not looked at"}, "-version")
	want := fmt.Sprintf("picloudd %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if stdout != want || stderr != "" || err != nil {
		t.Errorf("printed %q and %q (%v), want %q", stdout, stderr, err, want)
	}
}

func TestCheckSaysWhatAStartWouldDo(t *testing.T) {
	busy, err := net.Listen("tcp", ":0") // -check opens no port
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)

	stdout, stderr, err := call(t, env{"PORT": port, "API_KEY": testKey, "MAX_CONNECTIONS": "17",
		"MAX_MESSAGE_BYTES": "2K", "MAX_QUEUE_BYTES": "8K"}, "-check")
	if err != nil || stderr != "" {
		t.Errorf("%v, printed %q", err, stderr)
	}
	for _, line := range []string{"settings are valid", `port +` + port, `key +from API_KEY`, `TLS +off.*`,
		`connections +17 .*`, `message +2048 bytes`, `queue +8192 bytes`} {
		if !regexp.MustCompile(`(?m)^ *` + line + `$`).MatchString(stdout) {
			t.Errorf("no line %q in\n%s", line, stdout)
		}
	}
	if strings.Contains(stdout, testKey) {
		t.Errorf("the key is printed:\n%s", stdout)
	}

	stdout, _, err = call(t, nil, "-check")
	if err != nil || !regexp.MustCompile(`(?m)^ *port +9000$`).MatchString(stdout) ||
		!strings.Contains(stdout, "random") || strings.Contains(stdout, "export") {
		t.Errorf("with nothing set: %v, printed\n%s", err, stdout)
	}

	credentials := t.TempDir()
	if err := os.WriteFile(credentials+"/api-key", []byte(testKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, err = call(t, env{"CREDENTIALS_DIRECTORY": credentials}, "-check")
	if err != nil || !regexp.MustCompile(`(?m)^ *key +from the credential api-key$`).MatchString(stdout) ||
		strings.Contains(stdout, testKey) {
		t.Errorf("with a credential: %v, printed\n%s", err, stdout)
	}

	pair := newPair(t, "picloud.local")
	stdout, _, err = call(t, pair.env(), "-check")
	if err != nil || !strings.Contains(stdout, `certificate for "picloud.local"`) ||
		!strings.Contains(stdout, "valid until") {
		t.Errorf("with TLS: %v, printed\n%s", err, stdout)
	}
	other := newPair(t, "other.local")
	broken := t.TempDir() + "/broken.pem"
	if err := os.WriteFile(broken, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range []env{
		{"USE_TLS": "1", "CERT_FILE": pair.cert, "KEY_FILE": other.key},
		{"USE_TLS": "1", "CERT_FILE": broken, "KEY_FILE": pair.key},
		{"USE_TLS": "1", "CERT_FILE": pair.cert, "KEY_FILE": broken},
		{"USE_TLS": "1", "CERT_FILE": pair.cert, "KEY_FILE": t.TempDir()},
		{"USE_TLS": "1", "CERT_FILE": pair.cert + ".missing", "KEY_FILE": pair.key},
	} {
		stdout, _, err := call(t, e, "-check")
		if err == nil || stdout != "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, printed %q, want one line and nothing printed", e, err, stdout)
		}
	}
}

func TestPortInUse(t *testing.T) {
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	stdout, stderr, err := call(t, env{"PORT": port, "API_KEY": testKey})
	if err == nil || !strings.Contains(err.Error(), "port "+port+" is in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
	if stdout != "" || strings.Contains(stderr, "listening") {
		t.Errorf("printed %q and %q", stdout, stderr)
	}
}

func TestGreetingNamesTheAddressFirst(t *testing.T) {
	d, _ := launch(t, env{})
	first := d.stdout.Await(t, "PiCloud")
	if want := "PiCloud " + version + " listens on " + d.url; first != want ||
		!strings.HasPrefix(d.stdout.String(), want) {
		t.Errorf("the first line is %q, want %q", first, want)
	}
	d.stdout.Await(t, "in a browser")
	if text := d.stdout.String(); strings.Contains(text, "export") {
		t.Errorf("a key that was given is no news:\n%s", text)
	}
	if status, text := d.request(t, "GET", "/info", ""); status != http.StatusOK ||
		!strings.Contains(text, `"version":"`+version+`"`) {
		t.Errorf("GET /info: status %d %s", status, text)
	}
}

var export = regexp.MustCompile(`(?m)^ *export API_KEY=(\S+)$`)

func TestRandomKeyIsPrintedOnceToTheTerminal(t *testing.T) {
	keys := make(map[string]bool)
	for range 2 {
		d, _ := launch(t, env{"API_KEY": ""})
		d.stdout.Await(t, "in a browser")
		found := export.FindAllStringSubmatch(d.stdout.String(), -1)
		if len(found) != 1 {
			t.Fatalf("%d lines export a key, want 1:\n%s", len(found), d.stdout)
		}
		key := found[0][1]
		if keys[key] || len(key) < 20 {
			t.Errorf("the key %q is not random", key)
		}
		keys[key] = true
		if n := strings.Count(d.stdout.String()+d.stderr.String(), key); n != 1 {
			t.Errorf("the key is printed %d times, want once:\n%s%s", n, d.stdout, d.stderr)
		}
		for _, tt := range []struct {
			key    string
			status int
		}{{"", 401}, {testKey, 401}, {key, 200}} {
			d.key = tt.key
			if status, _ := d.request(t, "GET", "/info", ""); status != tt.status {
				t.Errorf("with the key %q: status %d, want %d", tt.key, status, tt.status)
			}
		}
		d.key = ""
	}
}

func TestUnderTheJournalNothingIsPrinted(t *testing.T) {
	d, stop := launch(t, env{"API_KEY": "", "JOURNAL_STREAM": "8:12345", "LOG_LEVEL": "debug"})
	d.stderr.Await(t, "random key")
	if status, _ := d.request(t, "GET", "/healthz", ""); status != http.StatusOK {
		t.Errorf("GET /healthz: status %d", status)
	}
	stop()
	if err := d.wait(t); err != nil {
		t.Error(err)
	}
	if d.stdout.String() != "" {
		t.Errorf("stdout has %q, want nothing", d.stdout)
	}
	if key := regexp.MustCompile(`[A-Z2-7]{20,}`).FindString(d.stderr.String()); key != "" {
		t.Errorf("the key %s is in the journal:\n%s", key, d.stderr)
	}
	for line := range strings.Lines(d.stderr.String()) {
		if !strings.HasPrefix(line, "<") { // the level; the journal has the time
			t.Errorf("line %q", line)
		}
	}
}

func TestEverySettingReachesTheServer(t *testing.T) {
	t.Parallel()
	d, _ := launch(t, env{
		"MAX_MESSAGE_BYTES": "1K", "MAX_CONNECTIONS": "2", "MAX_SUBSCRIPTIONS": "1", "HEADER_TIMEOUT": "1s",
		"PING_INTERVAL":  "1s",
		"MAX_WRONG_KEYS": "1", "LOG_LEVEL": "debug",
	})
	begin := time.Now()
	silent := d.raw(t)

	sub := d.subscriber(t, "S")
	send(t, sub, `{"action":"subscribe","event":"f","id":1}`)
	if got := receive(t, sub); !strings.Contains(got, "too many subscriptions") {
		t.Errorf("MAX_SUBSCRIPTIONS: got %s", got)
	}
	other := d.connect(t, "/publish?clientName=P")
	_, res, err := d.dialer.DialContext(t.Context(),
		"ws"+strings.TrimPrefix(d.url, "http")+"/subscribe?clientName=C&apiKey="+d.key, nil)
	if err == nil || res == nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("MAX_CONNECTIONS: %v %v", res, err)
	}
	if status, text := d.request(t, "POST", "/publish?clientName=P",
		`{"event":"e","data":"`+strings.Repeat("x", 1024)+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("MAX_MESSAGE_BYTES: status %d %q", status, text)
	}
	send(t, other, `{"event":"e","data":"`+strings.Repeat("x", 1024)+`"}`)
	wantClose(t, other, 1009)

	pinged := errors.New("pinged")
	sub.SetPingHandler(func(string) error { return pinged })
	if _, p, err := sub.ReadMessage(); err != pinged {
		t.Errorf("PING_INTERVAL: %q, %v", p, err)
	}
	if n, err := silent.Read(make([]byte, 1)); n != 0 || err == nil || time.Since(begin) < time.Second {
		t.Errorf("HEADER_TIMEOUT: %d bytes, %v, after %v", n, err, time.Since(begin))
	}
	// From an address without WebSockets, which would give it more of them.
	d.http.CloseIdleConnections()
	d.http = &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext,
	}}
	for i, want := range []int{401, 429} {
		d.key = fmt.Sprint("sesame-wrong", i)
		if status, _ := d.request(t, "GET", "/info", ""); status != want {
			t.Errorf("MAX_WRONG_KEYS: status %d, want %d", status, want)
		}
	}
	d.key = testKey
	d.stderr.Await(t, "level=DEBUG")
}

func TestLimitsFitWhatTheProcessMayOpen(t *testing.T) {
	cfg, err := config.Parse(env{"PEER_TIMEOUT": "7s", "PING_INTERVAL": "3s", "MAX_QUEUE_BYTES": "2M",
		"MAX_MESSAGE_BYTES": "5K"}.get)
	if err != nil {
		t.Fatal(err)
	}
	want := wsconn.Limits{MessageBytes: 5 << 10, QueueBytes: 2 << 20, UnsentBytes: unsentBytes(memory()),
		PingEvery: 3 * time.Second, PeerTimeout: 7 * time.Second}
	for files, connections := range map[int]int{1 << 30: 8192, 1 << 20: 8192, 8192: 6080, 1024: 704, 256: 128} {
		want.Connections = connections
		if got := fit(cfg, files); got != want {
			t.Errorf("with %d files: %+v, want %+v", files, got, want)
		}
		if total := want.Connections + requests(files) + spareFiles; total > files {
			t.Errorf("with %d files %d may be opened", files, total)
		}
	}
}

func TestStopDeliversWhatIsQueued(t *testing.T) {
	d, stop := launch(t, env{"MAX_QUEUE_BYTES": "64M"})
	late, prompt := d.subscriber(t, "Late"), d.connect(t, "/subscribe?clientName=Prompt")
	d.fill(t)
	info := d.connect(t, "/socket/info")
	receive(t, info)
	stop()
	wantClose(t, prompt, 1001)
	wantClose(t, info, 1001)
	for i := range backlog {
		wantData(t, late, fmt.Sprintf("[%d,", i))
	}
	wantClose(t, late, 1001)
	if err := d.wait(t); err != nil {
		t.Errorf("run: %v", err)
	}
	d.stderr.Await(t, "msg=stopped")
	_, addr, _ := strings.Cut(d.url, "://")
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		t.Error("the port is still open")
	}
}

func TestStopIsBoundedWhateverClientsDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		env  env
	}{{"plain", env{}}, {"TLS", newPair(t, "localhost").env()}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, stop := launch(t, tt.env.with("MAX_QUEUE_BYTES", "64M"))
			if tt.name == "TLS" {
				d.trust(t, tt.env["CERT_FILE"])
			}
			d.subscriber(t, "Stalled") // stops reading
			d.fill(t)
			silent, half := d.raw(t), d.raw(t)
			fmt.Fprintf(silent, "")
			fmt.Fprintf(half, "GET /healthz HTTP/1.1\r\n")
			begin := time.Now()
			stop()
			if err := d.wait(t); err != nil {
				t.Errorf("run: %v", err)
			}
			// Without a bound it would never end: the stalled client reads nothing.
			if took := time.Since(begin); took < 4*time.Second {
				t.Errorf("the stop took %v, want 5s", took)
			}
		})
	}
}

func TestRunLeavesNothingBehind(t *testing.T) {
	pair := newPair(t, "localhost")
	cycle := func(t *testing.T) {
		for _, e := range []env{{}, pair.env()} {
			d, stop := launch(t, e)
			if e["USE_TLS"] != "" {
				d.trust(t, pair.cert)
			}
			a, b := d.subscriber(t, "A"), d.connect(t, "/publish?clientName=B")
			info := d.connect(t, "/socket/info")
			receive(t, info)
			send(t, b, `{"event":"e","data":1}`)
			wantData(t, a, "1")
			d.post(t, `{"event":"e","data":2}`)
			wantData(t, a, "2")
			d.raw(t)
			stop()
			for _, c := range []*websocket.Conn{a, b, info} {
				wantClose(t, c, 1001)
				c.Close()
			}
			if err := d.wait(t); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("warm up", cycle)
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	files, goroutines := descriptors(), runtime.NumGoroutine()
	t.Run("again", cycle)
	// net/http does not wait for the goroutines of connections that it closes: give them a moment.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	bound := time.After(patience)
	for descriptors() > files || runtime.NumGoroutine() > goroutines {
		select {
		case <-tick.C:
		case <-bound:
			var stacks bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("%d descriptors were %d, %d goroutines were %d\n%s", descriptors(), files, runtime.NumGoroutine(),
				goroutines, stacks.String())
		}
	}
}
