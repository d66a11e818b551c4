package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picloud/internal/leak"
	picloudd "picloud/test/daemon"
	ws "picloud/test/peer"
	await "picloud/test/wait"

	"github.com/gorilla/websocket"
)

const (
	testKey  = "sesame-right"
	patience = await.Patience
)

// binary is the real picloudd.
var binary string

func TestMain(m *testing.M) {
	if how := os.Getenv(failing); how != "" {
		if err := failAsSuccessor(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(leak.Check(func() int {
		return picloudd.Built(picloudd.Raced, func(bin string) int {
			binary = filepath.Join(bin, "picloudd")
			return m.Run()
		})
	}))
}

// A daemon is a running picloudd.
type daemon struct {
	url            string // http://localhost:PORT, or https
	key            string
	stdout, stderr *picloudd.Log
	http           *http.Client
	dialer         *websocket.Dialer
	ended          chan struct{} // closed after err is set
	err            error         // what run returned, or the process's end
}

func newDaemon(key string) *daemon {
	return &daemon{
		key: key, stdout: new(picloudd.Log), stderr: new(picloudd.Log), ended: make(chan struct{}),
		http:   &http.Client{Transport: &http.Transport{}, Timeout: patience},
		dialer: &websocket.Dialer{HandshakeTimeout: patience, NetDialContext: ws.DialPatient},
	}
}

// env is an environment; what is not in it is not set.
type env map[string]string

func (e env) get(name string) string { return e[name] }

// with adds a default for a variable that is not set: nearly every test wants any port, and the tests' key.
func (e env) with(name, value string) env {
	filled := env{name: value}
	maps.Copy(filled, e)
	return filled
}

// launch calls run in this process and returns when it serves. stop stops it, as does the end of the test.
func launch(t *testing.T, e env) (d *daemon, stop context.CancelFunc) {
	t.Helper()
	e = e.with("PORT", "0").with("API_KEY", testKey)
	d = newDaemon(e["API_KEY"])
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		d.err = run(ctx, []string{"picloudd"}, e.get, d.stdout, d.stderr)
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.http.CloseIdleConnections()
		stop()
		if err := d.wait(t); err != nil {
			t.Errorf("run: %v", err)
		}
		if d.key != "" && strings.Contains(d.stdout.String()+d.stderr.String(), d.key) {
			t.Errorf("the key was printed:\n%s%s", d.stdout, d.stderr)
		}
	})
	d.find(t)
	return d, stop
}

// find waits until the daemon serves and learns its address.
func (d *daemon) find(t *testing.T) {
	t.Helper()
	port := field(t, d.stderr.Await(t, "msg=listening"), "port")
	scheme := "http"
	if field(t, d.stderr.Await(t, "msg=listening"), "tls") == "true" {
		scheme = "https"
	}
	d.url = scheme + "://localhost:" + port
}

// field returns an unquoted value of a log line.
func field(t *testing.T, line, key string) string {
	t.Helper()
	_, after, ok := strings.Cut(line, " "+key+"=")
	if !ok {
		t.Fatalf("no %s in %q", key, line)
	}
	value, _, _ := strings.Cut(after, " ")
	return value
}

// wait returns what run returned, and fails the test if that takes too long.
func (d *daemon) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-d.ended:
		return d.err
	case <-time.After(patience):
		t.Fatalf("the daemon does not end; it said\n%s", d.stderr)
		return nil
	}
}

// request makes a request with the key and returns its status and body.
func (d *daemon) request(t *testing.T, method, target, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.url+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", d.key)
	res, err := d.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (d *daemon) post(t *testing.T, body string) {
	t.Helper()
	if status, text := d.request(t, "POST", "/publish?clientName=Poster", body); status != http.StatusCreated {
		t.Fatalf("POST: status %d %q", status, text)
	}
}

// connect makes a WebSocket with the key.
func (d *daemon) connect(t *testing.T, path string) *websocket.Conn {
	t.Helper()
	c, res, err := d.dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(d.url, "http")+path,
		http.Header{"X-Api-Key": {d.key}})
	if err != nil {
		t.Fatalf("%s: %v (%v)", path, err, res)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// subscriber is subscribed to the event e.
func (d *daemon) subscriber(t *testing.T, name string) *websocket.Conn {
	t.Helper()
	c := d.connect(t, "/subscribe?clientName="+name)
	ask(t, c, `{"action":"subscribe","event":"e","id":1}`)
	return c
}

// ask sends a message with the id 1 and reads its ack.
func ask(t *testing.T, c *websocket.Conn, message string) {
	t.Helper()
	send(t, c, message)
	if got := receive(t, c); got != `{"action":"ack","id":1}` {
		t.Fatalf("%.100s was answered with %.200s", message, got)
	}
}

func send(t *testing.T, c *websocket.Conn, message string) {
	t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_, p, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// wantData reads a delivery and checks the beginning of its data.
func wantData(t *testing.T, c *websocket.Conn, data string) {
	t.Helper()
	if got := receive(t, c); !strings.HasPrefix(got, `{"action":"publish","event":"e","data":`+data) {
		t.Fatalf("got %.100s, want the data %s", got, data)
	}
}

// wantClose reads the close frame.
func wantClose(t *testing.T, c *websocket.Conn, code int) {
	t.Helper()
	_, p, err := c.ReadMessage()
	if err == nil {
		t.Fatalf("got %.200s where the close frame is due", p)
	}
	if e, ok := errors.AsType[*websocket.CloseError](err); !ok || e.Code != code {
		t.Fatalf("closed: %v, want %d", err, code)
	}
}

// backlog is a number of 60 KiB messages: more than the kernel buffers for a client that does not read.
const backlog = 200

var blob = strings.Repeat("x", 60<<10)

// fill publishes a backlog of the event e.
func (d *daemon) fill(t *testing.T) {
	t.Helper()
	c := d.connect(t, "/publish?clientName=Filler")
	defer c.Close()
	for i := range backlog {
		send(t, c, fmt.Sprintf(`{"event":"e","data":[%d,"%s"]}`, i, blob))
	}
	ask(t, c, `{"event":"nobody","id":1}`)
}

// raw opens a connection and sends nothing.
func (d *daemon) raw(t *testing.T) net.Conn {
	t.Helper()
	_, addr, _ := strings.Cut(d.url, "://")
	nc, err := ws.DialPatient(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// response reads one HTTP response.
func response(t *testing.T, nc net.Conn) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res
}
