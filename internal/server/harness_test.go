package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"picloud/internal/leak"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
	"picloud/test/wait"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

const (
	testKey  = "sesame-right"
	wrongKey = "sesame-wrong"
	keyMark  = "sesame"    // in every key: no log line may contain it
	payload  = "swordfish" // in the data of many messages: no log line may contain it
)

// A service is a server on real sockets: 127.0.0.1 and a Unix socket. It logs everything, debug lines too; when the
// test ends it has to stop without an error, and its log is checked.
type service struct {
	*Server
	addr string
	path string // of the Unix socket
	log  *book
	http *http.Client
	stop func() // returns when Run has; may be called again
}

func start(t testing.TB, set ...func(*Config)) *service {
	s, log := newServer(t, set...)
	return serve(t, s, log)
}

// startTight is start with a kernel that keeps little of what is sent, so that a client that does not read soon has a
// queue.
func startTight(t testing.TB, set ...func(*Config)) *service {
	s, log := newServer(t, set...)
	return serveOn(t, s, log, net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error // accepted connections inherit it, tcp(7)
		cerr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 16<<10)
		})
		return errors.Join(cerr, err)
	}}, "127.0.0.1:0")
}

// newServer makes a server with the protocol's defaults, except that it shows info often, and pings so rarely that no
// ping's flush hides a forgotten one.
func newServer(t testing.TB, set ...func(*Config)) (*Server, *book) {
	t.Helper()
	cfg := Config{
		Key:     testKey,
		Version: "v0-test",
		Limits: wsconn.Limits{
			Connections:  8192,
			MessageBytes: 64 << 10,
			QueueBytes:   1 << 20,
			UnsentBytes:  256 << 10,
			PingEvery:    time.Hour,
			PeerTimeout:  30 * time.Second,
		},
		Subscriptions: 1024,
		WaitingBytes:  64 << 20,

		SubscriptionBytes: 64 << 20,
		TCPBytes:          1 << 30,

		HeaderTimeout: 10 * time.Second,
		WrongKeys:     30,
		Requests:      4096,
	}
	for _, f := range set {
		f(&cfg)
	}
	log := new(book)
	s, err := New(cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	s.infoEvery = 10 * time.Millisecond
	return s, log
}

func serve(t testing.TB, s *Server, log *book) *service {
	t.Helper()
	return serveOn(t, s, log, net.ListenConfig{}, "127.0.0.1:0")
}

// serveOn is serve on the listener that lc makes, through what is put on it.
func serveOn(t testing.TB, s *Server, log *book, lc net.ListenConfig, addr string,
	through ...func(net.Listener) net.Listener) *service {
	t.Helper()
	dir, err := os.MkdirTemp("", "picloud") // t.TempDir's paths can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sv := &service{Server: s, path: filepath.Join(dir, "sock"), log: log}
	tcp, err := lc.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	unix, err := net.Listen("unix", sv.path)
	if err != nil {
		t.Fatal(err)
	}
	sv.addr = tcp.Addr().String()
	for _, put := range through {
		tcp = put(tcp)
	}

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, tcp, unix) }()
	sv.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(wait.Patience):
			t.Errorf("Run does not return\n%s", wait.Stacks())
		}
	})
	sv.http = &http.Client{
		Transport:     &http.Transport{},
		Timeout:       wait.Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		sv.http.CloseIdleConnections()
		sv.stop()
		log.check(t)
	})
	return sv
}

// refuseAll makes the server answer as it does when it stops.
func (s *Server) refuseAll() {
	s.gate.Lock()
	s.stopping = true
	s.gate.Unlock()
}

// An answer is an HTTP response with its body.
type answer struct {
	status int
	header http.Header
	body   string
	last   bool // the server closes the connection after it
}

// request makes one HTTP request; header is name, value, name, value.
func (sv *service) request(t *testing.T, method, target, body string, header ...string) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	a, err := sv.send(method, target, r, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

// send is request for a body of any kind and for goroutines of a test.
func (sv *service) send(method, target string, body io.Reader, header ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://"+sv.addr+target, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := sv.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(text), res.Close}, err
}

// post publishes with the right key.
func (sv *service) post(t *testing.T, body string) answer {
	t.Helper()
	return sv.request(t, "POST", "/publish?clientName=Poster", body, "X-API-Key", testKey)
}

// refuses checks a status and that the body is {"error": reason}, where the error contains reason.
func (a answer) refuses(t *testing.T, status int, reason string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d %q, want %d", a.status, a.body, status)
		return
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("status %d has Content-Type %q, want application/json", status, got)
	}
	var body map[string]string
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(body) != 1 || body["error"] == "" {
		t.Errorf(`status %d has the body %q, want {"error": …}`, status, a.body)
		return
	}
	if !strings.Contains(body["error"], reason) {
		t.Errorf("status %d says %q, want something of %q", status, body["error"], reason)
	}
}

// stillServes checks that the server serves other clients: a subscription, a publish in each way, and what is
// delivered.
func (sv *service) stillServes(t *testing.T) {
	t.Helper()
	sub := sv.subscriber(t, "Bystander")
	defer sub.Close()
	sub.ask(`{"action":"subscribe","event":"bystander","id":1}`)
	if a := sv.post(t, `{"event":"bystander","data":1}`); a.status != http.StatusCreated {
		t.Fatalf("a bystander's POST: status %d %q", a.status, a.body)
	}
	if d := sub.delivery(); d.data != "1" {
		t.Fatalf("a bystander got %q, want 1", d.data)
	}
	sub.send(`{"action":"publish","event":"bystander","data":2}`)
	if d := sub.delivery(); d.data != "2" {
		t.Fatalf("a bystander got %q, want 2", d.data)
	}
}

// A book is a log that can be read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lines returns the attributes of every line with that message.
func (b *book) lines(t *testing.T, msg string) []map[string]string {
	t.Helper()
	var found []map[string]string
	for line := range strings.Lines(b.String()) {
		attrs, err := parseLine(line)
		if err != nil {
			t.Errorf("log line %q: %v", line, err)
		}
		if attrs["msg"] == msg {
			found = append(found, attrs)
		}
	}
	return found
}

// check is called at the end of every test: each line must be one well-formed line of printable characters, without key
// or payload.
func (b *book) check(t testing.TB) {
	t.Helper()
	text := b.String()
	for line := range strings.Lines(text) {
		if _, err := parseLine(line); err != nil {
			t.Errorf("log line %q: %v", line, err)
		}
	}
	for _, mark := range []string{keyMark, payload} {
		if i := strings.Index(text, mark); i >= 0 {
			t.Errorf("%q is in the log: …%q…", mark, text[max(0, i-200):min(len(text), i+100)])
		}
	}
	if t.Failed() {
		t.Logf("the server's log ends with\n%s", text[max(0, len(text)-4000):])
	}
}

// parseLine reads one line of slog's text format: key=value, values quoted where needed.
func parseLine(line string) (map[string]string, error) {
	rest, ok := strings.CutSuffix(line, "\n")
	if !ok {
		return nil, fmt.Errorf("it has no end")
	}
	if !utf8.ValidString(rest) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	for _, r := range rest {
		if !unicode.IsPrint(r) {
			return nil, fmt.Errorf("it has %U in it", r)
		}
	}
	attrs := make(map[string]string)
	for rest != "" {
		key, value, ok := strings.Cut(rest, "=")
		if !ok || key == "" || strings.ContainsAny(key, ` "`) {
			return nil, fmt.Errorf("no key at %q", rest)
		}
		if strings.HasPrefix(value, `"`) {
			quoted, err := strconv.QuotedPrefix(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			rest = value[len(quoted):]
			if value, err = strconv.Unquote(quoted); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			if rest != "" && rest[0] != ' ' {
				return nil, fmt.Errorf("no space before %q", rest)
			}
			rest = strings.TrimPrefix(rest, " ")
		} else {
			value, rest, _ = strings.Cut(value, " ")
		}
		if _, twice := attrs[key]; twice {
			return nil, fmt.Errorf("%s appears twice", key)
		}
		attrs[key] = value
	}
	if cmp.Or(attrs["msg"], attrs["level"]) == "" {
		return nil, fmt.Errorf("neither level nor message")
	}
	return attrs, nil
}

// A watcher sees the server's state through an info connection.
type watcher struct{ *peer }

func (sv *service) watch(t *testing.T) watcher {
	t.Helper()
	return watcher{sv.connect(t, "/socket/info", "X-API-Key", testKey)}
}

// info returns the next snapshot; for a watcher that has just connected it is the current state.
func (w watcher) info() wire.Info {
	w.T.Helper()
	var info wire.Info
	if err := json.Unmarshal([]byte(w.text()), &info); err != nil {
		w.T.Fatal(err)
	}
	return info
}

// until waits for such a state in a snapshot made after the call.
func (w watcher) until(what string, is func(wire.Info) bool) wire.Info {
	w.T.Helper()
	begin := time.Now()
	var info wire.Info
	for {
		p, err := w.message()
		if err == nil {
			err = json.Unmarshal(p, &info)
		}
		if err != nil {
			w.T.Fatalf("waited for %s: %v; last seen: %+v", what, err, info.Server)
		}
		if info.CreatedAt.After(begin) && is(info) {
			return info
		}
	}
}

func (w watcher) untilClients(n int) wire.Info {
	w.T.Helper()
	return w.until(fmt.Sprintf("%d clients", n), func(i wire.Info) bool { return len(i.AllConnections) == n })
}
