package browser

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/wire"
	"picloud/test/daemon"
	"picloud/test/wait"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
)

const (
	key      = "a-key-for-tests"
	patience = 30 * time.Second // what should happen has happened by then
)

var (
	bin     string          // the directory of the built daemon and client
	browser context.Context // the one browser that all tests share, each in a profile of its own

	secured []string          // settings of a server with TLS, whose certificate the browser trusts
	trusted = new(tls.Config) // of clients that trust it
)

func TestMain(m *testing.M) {
	flag.Parse()
	mode := daemon.Raced
	if *screenshots != "" {
		mode = daemon.Plain // the pictures show the memory that users would see
	}
	os.Exit(daemon.Built(mode, func(built string) int {
		bin = built
		profile, err := os.MkdirTemp("", "picloud-browser")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(profile)
		hash, err := certify(profile)
		if err != nil {
			fmt.Fprintf(os.Stderr, "make a certificate: %v\n", err)
			return 1
		}
		options := slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
			chromedp.UserDataDir(profile),
			chromedp.DisableGPU,
			chromedp.Flag("disable-quic", true),
			chromedp.Flag("disable-component-update", true),
			chromedp.Flag("ignore-certificate-errors-spki-list", hash),
			chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		})
		if os.Getuid() == 0 {
			options = append(options, chromedp.NoSandbox)
		}
		allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
		defer end()
		// Messages of a newer browser that this protocol's description does not know are no fault.
		quiet := chromedp.WithErrorf(func(string, ...any) {})
		started, stop := chromedp.NewContext(allocator, quiet)
		defer stop()
		if err := chromedp.Do(started); err != nil {
			fmt.Fprintf(os.Stderr, "start the browser: %v (scripts/setup installs it)\n", err)
			return 1
		}
		browser = started
		// The tests mostly wait for snapshots.
		flag.Set("test.parallel", "4")
		return m.Run()
	}))
}

// certify has the daemon make a key and a certificate in dir, and returns the hash of its public key, by which a
// browser can be told to trust it.
func certify(dir string) (hash string, err error) {
	keyFile, certFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	secured = []string{"USE_TLS=on", "KEY_FILE=" + keyFile, "CERT_FILE=" + certFile}
	cmd := exec.Command(filepath.Join(bin, "picloudd"), "-make-cert", "127.0.0.1")
	cmd.Env = append(os.Environ(), secured...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	text, err := os.ReadFile(certFile)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	trusted.RootCAs = x509.NewCertPool()
	trusted.RootCAs.AddCert(cert)
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

var (
	https  = &http.Client{Transport: &http.Transport{TLSClientConfig: trusted}}
	dialer = &websocket.Dialer{TLSClientConfig: trusted, HandshakeTimeout: patience}
)

// A server is the real daemon.
type server struct {
	t        *testing.T
	url      string
	settings []string
	process  *daemon.Process
}

// start runs the daemon with settings like "MAX_SUBSCRIPTIONS=1". At the end it must stop by itself, with status 0.
func start(t *testing.T, settings ...string) *server {
	t.Helper()
	s := &server{t: t, settings: settings}
	s.run(settings)
	return s
}

func (s *server) run(settings []string) {
	s.t.Helper()
	s.process = daemon.Start(s.t, bin, append([]string{"API_KEY=" + key, "LOG_LEVEL=warn"}, settings...)...)
	s.url = strings.Replace(s.process.URL, "localhost", "127.0.0.1", 1)
}

func (s *server) stop() { s.process.Stop(s.t) }

// port is the server's port, also after it has stopped.
func (s *server) port() string { return s.process.Port() }

// again starts a stopped server at the same address.
func (s *server) again() {
	s.t.Helper()
	s.run(append(slices.Clone(s.settings), "PORT="+s.port()))
}

// post publishes over HTTP; data is JSON.
func (s *server) post(name, event, data string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"event":%q,"data":%s}`, event, data)
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/publish", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	r.Header.Set("X-API-Client-Name", name)
	answer, err := https.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		s.t.Fatalf("publish %s: %s", body, answer.Status)
	}
}

// link makes a link that signs in, once.
func (s *server) link() string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/sign-in/codes", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	answer, err := https.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	var made struct{ Code string }
	if err := json.NewDecoder(answer.Body).Decode(&made); err != nil || made.Code == "" {
		s.t.Fatalf("no code: %s, %v", answer.Status, err)
	}
	return s.url + "/#code=" + made.Code
}

// info asks the server for its info.
func (s *server) info() wire.Info {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+"/info?apiKey="+key, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := https.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	var info wire.Info
	if err := json.NewDecoder(answer.Body).Decode(&info); err != nil {
		s.t.Fatalf("no info: %s, %v", answer.Status, err)
	}
	return info
}

// wrongKeys is how many the server has counted.
func (s *server) wrongKeys() int { return int(s.info().Server.WrongKeys) }

// hasSubscriber waits until the client with that name is subscribed.
func (s *server) hasSubscriber(event, name string) {
	s.t.Helper()
	wait.Until(s.t, name+" subscribes to "+event, func() bool {
		for _, subscription := range s.info().Subscriptions {
			if subscription.Name == event && slices.ContainsFunc(subscription.Connections,
				func(c wire.Connection) bool { return c.ClientName == name }) {
				return true
			}
		}
		return false
	})
}

// A device is a client that subscribes and reads.
type device struct{ *websocket.Conn }

// join connects a device; it leaves when the test ends, at the latest.
func (s *server) join(name string, events ...string) device {
	s.t.Helper()
	at := strings.Replace(s.url, "http", "ws", 1) + "/subscribe?" + url.Values{"apiKey": {key},
		"clientName": {name}}.Encode()
	c, _, err := dialer.DialContext(s.t.Context(), at, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	for _, event := range events {
		if err := c.WriteJSON(map[string]any{"action": "subscribe", "event": event, "id": 1}); err != nil {
			s.t.Fatal(err)
		}
		if _, _, err := c.ReadMessage(); err != nil {
			s.t.Fatal(err)
		}
	}
	go io.Copy(io.Discard, reader{c})
	return device{c}
}

// A reader reads a WebSocket's messages as one stream.
type reader struct{ *websocket.Conn }

func (r reader) Read(p []byte) (int, error) {
	_, message, err := r.ReadMessage()
	return copy(p, message), err
}

// A page is one tab in a profile of its own.
type page struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the browser's console would show in red or yellow
	forgiven []string // texts of those that do not count
	foreign  []string // requests to another host
	requests int
}

// A step is something done with a page.
type step = chromedp.Action[chromedp.Void]

// open opens an address, after the steps before. When the test ends no request may have gone elsewhere, and the console
// must be empty except for what is forgiven.
func open(t *testing.T, address string, before ...step) *page {
	t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{t: t}
	var cancel context.CancelFunc
	p.ctx, cancel = chromedp.NewContext(browser, chromedp.WithNewBrowserContext(),
		chromedp.WithListener(func(event any) { p.note(at.Host, event) }))
	t.Cleanup(func() {
		defer cancel()
		if t.Failed() {
			p.keep()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, text := range p.forgiven {
			p.problems = slices.DeleteFunc(p.problems, func(said string) bool { return strings.Contains(said, text) })
		}
		if len(p.problems) > 0 {
			t.Errorf("the console shows:\n%s", strings.Join(p.problems, "\n"))
		}
		if len(p.foreign) > 0 {
			t.Errorf("requests went elsewhere: %q", p.foreign)
		}
		if p.requests == 0 {
			t.Error("no request was seen: the test would not notice one that goes elsewhere")
		}
	})
	// The tab lives as long as the context that starts it, so that context has no deadline.
	if err := chromedp.Do(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(1280, 900))
	p.do(before...)
	p.do(chromedp.Navigate(address))
	return p
}

func (p *page) note(host string, event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.request(host, e.Request.URL)
	case *network.EventWebSocketCreated:
		p.request(host, e.URL)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			p.problems = append(p.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		var words []string
		for _, a := range e.Args {
			words = append(words, string(a.Value)+a.Description)
		}
		p.problems = append(p.problems, strings.Join(words, " "))
	case *runtime.EventExceptionThrown:
		p.problems = append(p.problems, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	}
}

// request counts a request, and notes one to another host. mu must be held.
func (p *page) request(host, address string) {
	p.requests++
	if at, err := url.Parse(address); err != nil || at.Host != host {
		p.foreign = append(p.foreign, address)
	}
}

// showed reports whether the console has shown the text, in red or yellow.
func (p *page) showed(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.problems, func(problem string) bool { return strings.Contains(problem, text) })
}

// forgive says that problems with that text do not count, the later ones too: the browser itself reports each failed
// request, and not at once.
func (p *page) forgive(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgiven = append(p.forgiven, text)
}

// keep saves a picture of a failed test's page.
func (p *page) keep() {
	picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Logf("no picture: %v", err)
		return
	}
	name := filepath.Join(p.t.ArtifactDir(), "page.png")
	if err := os.WriteFile(name, picture, 0o644); err == nil {
		p.t.Logf("the page: %s", name)
	}
}

// do does the steps within patience.
func (p *page) do(steps ...step) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for a JavaScript expression to be true.
func (p *page) until(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool]("!!("+expression+")", chromedp.WithPollingTimeout(patience)))
		if err == nil {
			return
		}
		if e, ok := errors.AsType[*cdproto.Error](err); ok && e.Code == -32000 && ctx.Err() == nil {
			continue // the browser went on to another page meanwhile
		}
		text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		p.t.Fatalf("never came: %s: %v\nthe page:\n%s", expression, err, text)
	}
}

// eval returns the value of a JavaScript expression, which may be a promise.
func eval[T any](p *page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// shows waits until an element's text has text in it.
func (p *page) shows(selector, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector(%s)?.innerText.includes(%s)`, quote(selector), quote(text)))
}

func quote(text string) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(text); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

// signedIn opens a server's dashboard by a link, and waits for its first snapshot.
func signedIn(t *testing.T, s *server, before ...step) *page {
	t.Helper()
	p := open(t, s.link(), before...)
	p.shows("#state", "Live")
	p.until(`document.querySelector('#connections-figure').innerText !== '–'`)
	return p
}

// rows waits until a table's rows have those texts in their first cells.
func (p *page) rows(section string, want ...string) {
	p.t.Helper()
	list := make([]string, len(want))
	for i, text := range want {
		list[i] = quote(text)
	}
	p.until(fmt.Sprintf(`JSON.stringify(
			[...document.querySelectorAll('%s tbody tr:not(.space)')].map((row) => row.cells[0].innerText)
		) === JSON.stringify([%s])`, section, strings.Join(list, ",")))
}
