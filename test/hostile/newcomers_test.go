package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"picloud/test/certified"
	"picloud/test/daemon"
	"picloud/test/peer"
	"picloud/test/wait"
)

const key = "a-key-for-newcomers"

// A door is a daemon, and how to reach it.
type door struct {
	*daemon.Process
	public string      // host and port
	local  string      // path of the Unix socket
	cert   string      // file of public's certificate; empty without TLS
	tls    *tls.Config // what trusts it; nil without TLS
}

// openDoor starts a daemon that may open so many files, and hands it its sockets as systemd does.
func openDoor(t *testing.T, files int, secure bool) *door {
	t.Helper()
	// The address is a short one: a Unix socket's may have 107 bytes.
	dir, err := os.MkdirTemp("", "picloud-hostile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &door{local: filepath.Join(dir, "local.sock")}
	public, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer public.Close()
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.local, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	local.SetUnlinkOnClose(false)
	defer local.Close()
	d.public = public.Addr().String()
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && LISTEN_PID=$$ exec "$0"`, files),
		filepath.Join(bin, "picloudd"))
	// Nobody is cut off for being slow while newcomers come.
	cmd.Env = []string{"API_KEY=" + key, "LISTEN_FDS=2", "LOG_LEVEL=warn", "HEADER_TIMEOUT=5m"}
	for _, l := range []interface{ File() (*os.File, error) }{public.(*net.TCPListener), local} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if secure {
		var settings []string
		settings, d.cert = certificate(t, dir)
		cmd.Env = append(cmd.Env, settings...)
		if d.tls, err = trusting(d.cert); err != nil {
			t.Fatal(err)
		}
	}
	d.Process = daemon.Launch(t, cmd)
	return d
}

// certificate makes a certificate for localhost in a folder, and returns the settings that make the daemon use it, and
// its file.
func certificate(t *testing.T, dir string) (settings []string, cert string) {
	t.Helper()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := certified.Write(certified.New("localhost"), cert, key); err != nil {
		t.Fatal(err)
	}
	return []string{"USE_TLS=on", "CERT_FILE=" + cert, "KEY_FILE=" + key}, cert
}

// trusting trusts the certificate in a file.
func trusting(cert string) (*tls.Config, error) {
	text, err := os.ReadFile(cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}, nil
}

func dialFrom(ctx context.Context, from, addr string) (net.Conn, error) {
	return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp4", addr)
}

// A caller is a connection that is no enemy.
type caller struct {
	net.Conn
	in *bufio.Reader
}

// call connects, from an address or, if that is empty, over the Unix socket. Everything on the connection has to be
// done by the deadline.
func (d *door) call(from string, deadline time.Time) (*caller, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var nc net.Conn
	var err error
	if from == "" {
		nc, err = new(net.Dialer).DialContext(ctx, "unix", d.local)
	} else {
		nc, err = dialFrom(ctx, from, d.public)
	}
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(deadline)
	if from != "" && d.tls != nil {
		nc = tls.Client(nc, d.tls)
	}
	return &caller{nc, bufio.NewReader(nc)}, nil
}

// wrong is an answer that nobody should get.
type wrong struct{ error }

// ask sends a request and returns the answer's body. An error that is not a wrong one says that the connection has
// ended.
func (c *caller) ask(request string, want int) (body string, err error) {
	if _, err := io.WriteString(c, request); err != nil {
		return "", err
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return "", err
	}
	if res.StatusCode == http.StatusSwitchingProtocols && want == res.StatusCode {
		return "", nil
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != want {
		return "", wrong{fmt.Errorf("got %s %q, want %d", res.Status, text, want)}
	}
	return string(text), nil
}

// subscribe makes the connection a WebSocket that is subscribed to an event.
func (c *caller) subscribe(event string) error {
	if _, err := c.ask(peer.Handshake("/subscribe?clientName=newcomer&apiKey="+key, peer.Nonce),
		http.StatusSwitchingProtocols); err != nil {
		return err
	}
	if _, err := c.Write(peer.Frame(peer.Fin|peer.Text,
		`{"action":"subscribe","event":"`+event+`","id":1}`)); err != nil {
		return err
	}
	text, err := c.next()
	if err == nil && !bytes.Contains(text, []byte(`"ack"`)) {
		err = wrong{fmt.Errorf("got %q, want an ack", text)}
	}
	return err
}

// next returns the WebSocket's next message.
func (c *caller) next() ([]byte, error) {
	for {
		op, text, err := peer.ReadFrame(c.in, nil)
		switch {
		case err != nil:
			return nil, err
		case op == peer.Text:
			return text, nil
		case op == peer.Ping:
			if _, err := c.Write(peer.Frame(peer.Fin|peer.Pong, text)); err != nil {
				return nil, err
			}
		default:
			return nil, wrong{fmt.Errorf("got a frame of the kind %#x with %q", op, text)}
		}
	}
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + key + "\r\n\r\n"
}

func post(number int) string {
	body := fmt.Sprintf(`{"event":"news","data":%d}`, number)
	return fmt.Sprintf("POST /publish?clientName=newcomer HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s",
		key, len(body), body)
}

// A newcomer connects, and is served.
type newcomer struct {
	name  string
	local bool // over the Unix socket
	comes func(*visit, *caller) error
}

var newcomers = []newcomer{
	{name: "GET /info", comes: asks(get("/info"), 200)},
	{name: "POST /publish", comes: func(v *visit, c *caller) error {
		v.Number++
		_, err := c.ask(post(v.Number), 201)
		return err
	}},
	{name: "subscribe", comes: func(_ *visit, c *caller) error { return c.subscribe("other") }},
	{name: "GET /healthz without the key", comes: asks(health, 200)},
	{name: "GET /info here", local: true, comes: asks("GET /info HTTP/1.1\r\nHost: local\r\n\r\n", 200)},
	{name: "POST /reload here", local: true, // what picloudd -reload sends
		comes: asks("POST /reload HTTP/1.1\r\nHost: local\r\nContent-Length: 0\r\n\r\n", 204)},
}

func asks(request string, want int) func(*visit, *caller) error {
	return func(_ *visit, c *caller) error {
		_, err := c.ask(request, want)
		return err
	}
}

// served is how a newcomer fared.
type served struct {
	Tries int
	Took  time.Duration // with all tries
}

// A tally adds up how newcomers fared.
type tally struct {
	newcomers, tries, most int
	worst                  time.Duration
	slowest                string
}

func (sum *tally) add(name string, s served) {
	sum.newcomers++
	sum.tries += s.Tries
	sum.most = max(sum.most, s.Tries)
	if s.Took > sum.worst {
		sum.worst, sum.slowest = s.Took, name
	}
}

// A visit is a newcomer's. Beside a large flood it is made by a process of its own: in that of the flood a newcomer
// would be one of thousands that wait for a processor, and reach the server as late as those.
type visit struct {
	Newcomer            int // of newcomers
	From                string
	Public, Local, Cert string // of the door
	Number              int    // of the message that was published last

	served
	Fault string // why it was not served
}

// visiting, in the environment, has a visit for such a process.
const visiting = "HOSTILE_VISIT"

// serve returns when the newcomer has been served.
func (s *stage) serve(t *testing.T, n int, from string) served {
	t.Helper()
	if newcomers[n].local {
		from = ""
	}
	v := visit{Newcomer: n, From: from, Public: s.public, Local: s.local, Cert: s.cert, Number: s.number}
	if all {
		v = v.elsewhere(t)
	} else {
		v.come(s.door)
	}
	if v.Fault != "" {
		t.Fatalf("%s from %q is not served in %d tries and %v: %s", newcomers[n].name, from, v.Tries, v.Took, v.Fault)
	}
	s.number = v.Number
	return v.served
}

// elsewhere makes the visit in another process.
func (v visit) elsewhere(t *testing.T) visit {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), visiting+"="+string(text))
	cmd.Stderr = t.Output()
	if text, err = cmd.Output(); err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatalf("the newcomer's process: %v, it says %q", err, text)
	}
	return v
}

// visits is the process of a visit.
func visits(text string) error {
	var v visit
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	d := &door{public: v.Public, local: v.Local}
	if v.Cert != "" {
		var err error
		if d.tls, err = trusting(v.Cert); err != nil {
			return err
		}
	}
	v.come(d)
	return json.NewEncoder(os.Stdout).Encode(v)
}

// come returns when the newcomer has been served. It tries again when its connection is closed, as it may be in a flood
// while it is new; that it never is served is what must not happen.
func (v *visit) come(d *door) {
	begin := time.Now()
	for {
		v.Tries++
		err := func() error {
			c, err := d.call(v.From, begin.Add(wait.Patience))
			if err != nil {
				return err
			}
			defer c.Close()
			return newcomers[v.Newcomer].comes(v, c)
		}()
		runtime.Gosched()
		switch v.Took = time.Since(begin); {
		case err == nil:
			return
		case errors.As(err, new(wrong)), v.Took > wait.Patience:
			v.Fault = err.Error()
			return
		}
	}
}

// A resident is an HTTP client that has shown the key and keeps its connection.
type resident struct{ *caller }

// remains connects somebody who stays until the test ends.
func (s *stage) remains(t *testing.T) *caller {
	t.Helper()
	c, err := s.call("127.0.1.3", time.Now().Add(wait.Patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *stage) settle(t *testing.T) *resident {
	t.Helper()
	r := &resident{s.remains(t)}
	r.ask(t, "/info")
	return r
}

func (r *resident) ask(t *testing.T, path string) (body string) {
	t.Helper()
	r.SetDeadline(time.Now().Add(wait.Patience))
	body, err := r.caller.ask(get(path), 200)
	if err != nil {
		t.Fatalf("who was there before, with the key: %v", err)
	}
	return body
}

// Metrics of the daemon.
const (
	open    = "picloud_http_connections"
	evicted = "picloud_http_connections_evicted_total"
)

func (r *resident) metric(t *testing.T, name string) (n float64) {
	t.Helper()
	metrics := r.ask(t, "/metrics")
	_, rest, _ := strings.Cut(metrics, "\n"+name+" ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("%s: %v in %q", name, err, metrics)
	}
	return n
}

// A subscriber is a WebSocket that is subscribed to what newcomers publish.
type subscriber struct{ *caller }

func (s *stage) subscribe(t *testing.T) *subscriber {
	t.Helper()
	c := s.remains(t)
	if err := c.subscribe("news"); err != nil {
		t.Fatal(err)
	}
	return &subscriber{c}
}

// awaits returns when the message with the number has come, behind those of tries that failed.
func (s *subscriber) awaits(t *testing.T, number int) {
	t.Helper()
	s.SetDeadline(time.Now().Add(wait.Patience))
	for got := 0; got != number; {
		text, err := s.next()
		if err == nil {
			var message struct{ Data *int }
			message.Data = &got
			err = json.Unmarshal(text, &message)
		}
		if err != nil {
			t.Fatalf("who was subscribed before: %v", err)
		}
	}
}
