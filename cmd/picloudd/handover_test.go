package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"picloud/internal/wire"
	picloudd "picloud/test/daemon"
	ws "picloud/test/peer"

	"github.com/gorilla/websocket"
)

// A manager starts the real binary's processes, one after another, and clients that outlive them.
type manager struct {
	*picloudd.Manager
	t       *testing.T
	url     string
	env     env
	trusted *tls.Config // not nil: the process speaks TLS
}

func manage(t *testing.T, e env) *manager {
	t.Helper()
	m := &manager{Manager: picloudd.Manage(t, filepath.Dir(binary)), t: t, env: e}
	m.url = "http://" + m.Addr
	return m
}

// eachManager runs a story with plain connections, and over TLS 1.3 and 1.2.
func eachManager(t *testing.T, story func(t *testing.T, m *manager)) {
	t.Run("plain", func(t *testing.T) { story(t, manage(t, nil)) })
	for name, version := range map[string]uint16{"TLS 1.3": tls.VersionTLS13, "TLS 1.2": tls.VersionTLS12} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, "localhost")
			m := manage(t, p.env())
			m.speakTLS(t, p.cert)
			m.trusted.MaxVersion = version
			story(t, m)
		})
	}
}

// speakTLS is for a manager whose processes do: the clients trust the certificate.
func (m *manager) speakTLS(t *testing.T, cert string) {
	t.Helper()
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	m.trusted = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	m.trusted.RootCAs.AppendCertsFromPEM(text)
	m.url = strings.Replace(m.url, "http:", "https:", 1)
}

// start starts a process and returns when it is ready.
func (m *manager) start() {
	m.t.Helper()
	settings := []string{"API_KEY=" + testKey}
	for k, v := range m.env {
		settings = append(settings, k+"="+v)
	}
	m.Start(settings...)
}

// A guest is a client that outlives the real binary's processes.
type guest struct {
	*websocket.Conn
	name string
	gone error // why it stopped reading
}

func (m *manager) guest(name, route string) *guest {
	m.t.Helper()
	dialer := websocket.Dialer{NetDialContext: ws.DialPatient, TLSClientConfig: m.trusted}
	c, _, err := dialer.Dial(strings.Replace(m.url, "http", "ws", 1)+route+"?clientName="+name,
		http.Header{"X-Api-Key": {testKey}})
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.Log)
	}
	m.t.Cleanup(func() { c.Close() })
	return &guest{Conn: c, name: name}
}

func (g *guest) subscribe(t *testing.T, event string) {
	t.Helper()
	g.WriteMessage(websocket.TextMessage, []byte(`{"action":"subscribe","event":"`+event+`","id":1}`))
	p := receive(t, g.Conn)
	for strings.HasPrefix(p, `{"action":"publish"`) { // a delivery may come before the subscription's ack
		p = receive(t, g.Conn)
	}
	if p != `{"action":"ack","id":1}` {
		t.Fatalf("%s: got %s", g.name, p)
	}
}

func (m *manager) post(event, data string) {
	m.t.Helper()
	req, _ := http.NewRequest("POST", m.url+"/publish?clientName=P",
		strings.NewReader(`{"event":"`+event+`","data":`+data+`}`))
	req.Header.Set("X-API-Key", testKey)
	req.Close = true
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: m.trusted}}
	res, err := client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		m.t.Fatalf("status %s", res.Status)
	}
}

func (m *manager) info() (info wire.Info) {
	m.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: m.trusted, DisableKeepAlives: true}}
	res, err := client.Get(m.url + "/info?apiKey=" + testKey)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&info); err != nil {
		m.t.Fatal(err)
	}
	return info
}

// A client that is between two frames when the process is killed or restarts keeps its connection and all
// subscriptions; a client that does not has been cut off, not garbled.
func TestClientsOutliveEveryProcess(t *testing.T) { eachManager(t, outliveEveryProcess) }

func outliveEveryProcess(t *testing.T, m *manager) {
	m.start()
	const quiet, busy = 40, 8
	var idle, subscribers []*guest
	for i := range quiet {
		g := m.guest(fmt.Sprintf("quiet%d", i), "/subscribe")
		g.subscribe(t, "quiet")
		idle = append(idle, g)
	}
	half := m.guest("half", "/subscribe")
	half.NetConn().Write([]byte{0x81})
	for i, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM,
		syscall.SIGKILL, syscall.SIGABRT, syscall.SIGKILL} {
		for len(subscribers) < busy {
			g := m.guest("busy", "/subscribe")
			g.subscribe(t, "busy")
			subscribers = append(subscribers, g)
		}
		// Publishers that never pause, and subscribers that always read.
		var traffic sync.WaitGroup
		stop := make(chan struct{})
		for range 2 {
			g := m.guest("publisher", "/publish")
			traffic.Go(func() {
				for {
					select {
					case <-stop:
						g.Close()
						return
					default:
					}
					if g.WriteMessage(websocket.TextMessage, []byte(`{"event":"busy","data":"x"}`)) != nil {
						<-stop
						return
					}
				}
			})
		}
		flowing := make(chan struct{}, busy)
		for _, g := range subscribers {
			traffic.Go(func() {
				for n := 0; ; n++ {
					_, p, err := g.ReadMessage()
					if err != nil {
						g.gone = err
						return
					}
					if string(p) == `{"action":"ack","id":9}` {
						return
					}
					if !strings.HasPrefix(string(p), `{"action":"publish","event":"busy","data":"x","created_at":"`) {
						t.Errorf("got %q", p)
					}
					if n == 20 {
						flowing <- struct{}{}
					}
				}
			})
		}
		for range subscribers {
			<-flowing
		}
		m.End(signal)
		m.start()
		close(stop)
		for _, g := range subscribers { // a connection that lives on answers
			g.WriteMessage(websocket.TextMessage, []byte(`{"action":"unsubscribe","event":"nothing","id":9}`))
		}
		traffic.Wait()
		lived, ended := len(subscribers), []error{}
		subscribers = slices.DeleteFunc(subscribers,
			func(g *guest) bool { ended = append(ended, g.gone); return g.gone != nil })
		if signal == syscall.SIGTERM && len(subscribers) != lived {
			t.Errorf("life %d: a restart has cost %d of %d: %v", i, lived-len(subscribers), lived,
				errors.Join(ended...))
		}
		m.post("quiet", fmt.Sprint(i))
		for _, g := range idle {
			if p := receive(t, g.Conn); !strings.Contains(string(p), fmt.Sprintf(`"data":%d,`, i)) {
				t.Fatalf("life %d: %s got %s", i, g.name, p)
			}
		}
		if signal == syscall.SIGTERM && i == 0 {
			half.NetConn().Write([]byte{0x80})
		} else if i == 1 { // it was in the middle of a frame
			if _, _, err := half.ReadMessage(); err == nil {
				t.Error("a client in the middle of a frame went on")
			}
		}
	}
}

// A message whose ack has come reaches every subscriber that lives on, whenever the process is killed: also with
// several messages in one write, and with a publisher that is itself subscribed.
func TestAckedMessageIsWithAllWhoOutliveACrash(t *testing.T) { eachManager(t, ackedIsWithAll) }

func ackedIsWithAll(t *testing.T, m *manager) {
	m.start()
	const subscribers, rounds = 150, 6
	var subs []*guest
	for round := range rounds {
		for len(subs) < subscribers {
			g := m.guest("sub", "/subscribe")
			g.subscribe(t, "e")
			subs = append(subs, g)
		}
		pub := m.guest("pub", "/subscribe")
		if round%2 == 1 {
			pub.subscribe(t, "e")
		}
		var burst []byte
		for n, event := range []string{"other", "e", "other"} {
			burst = append(burst, textFrame(fmt.Sprintf(`{"action":"publish","event":"%s","data":[%d],"id":%d}`, event,
				round, n))...)
		}
		pub.NetConn().Write(burst)
		for acked := false; !acked; {
			_, p, err := pub.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			acked = string(p) == `{"action":"ack","id":1}`
		}
		m.End(syscall.SIGKILL)
		m.start()
		m.post("e", `"end"`)
		lost, ended := 0, 0
		var living []*guest
		for _, g := range subs {
			for has := false; ; {
				_, p, err := g.ReadMessage()
				if err != nil {
					ended++
					break
				}
				if strings.Contains(string(p), `"data":"end"`) {
					if living = append(living, g); !has {
						lost++
					}
					break
				}
				has = has || strings.Contains(string(p), fmt.Sprintf(`"data":[%d]`, round))
			}
		}
		if lost > 0 {
			t.Errorf("round %d: an acked message is missing at %d clients that live on; %d were ended", round, lost,
				ended)
		}
		subs = living
		pub.Close()
	}
}

// textFrame is a whole frame, masked with zeros, of up to 125 bytes.
func textFrame(text string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}

// A process that may open fewer files than there are connections serves, keeps the clients it can and closes the
// others.
func TestFewerFilesThanConnections(t *testing.T) {
	const clients, files, kept = 200, 256, 128
	m := manage(t, nil)
	m.start()
	var all []*guest
	for range clients {
		g := m.guest("client", "/subscribe")
		g.subscribe(t, "e")
		all = append(all, g)
	}
	m.Files = files
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		m.End(signal)
		m.start()
		m.post("e", "1")
		var living []*guest
		for _, g := range all {
			if _, _, err := g.ReadMessage(); err == nil {
				living = append(living, g)
			} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Fatal("a client is neither served nor ended")
			}
		}
		if len(living) != kept {
			t.Errorf("%d clients are kept, want %d", len(living), kept)
		}
		all = living
	}
}

// At a restart, clients for which the store has no room are told so.
func TestClientsThatCannotBeKeptAreTold(t *testing.T) {
	m := manage(t, nil)
	m.Files = 300
	m.start()
	m.Log.Await(t, "not all connections can be kept over a restart")
	g := m.guest("client", "/subscribe")
	g.subscribe(t, "e")
	m.End(syscall.SIGTERM)
	wantClose(t, g.Conn, 1012)
	m.start()
}

// What a later version has stored is left alone, in case it comes back.
func TestFilesOfALaterVersionAreLeftAlone(t *testing.T) {
	m := manage(t, nil)
	m.start()
	g := m.guest("client", "/subscribe")
	g.subscribe(t, "e")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	m.Stored(func(files map[string]*os.File) { files["later"] = f })
	for n, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		m.End(signal)
		m.start()
		m.post("e", fmt.Sprint(n))
		if p := receive(t, g.Conn); !strings.Contains(string(p), fmt.Sprintf(`"data":%d`, n)) {
			t.Errorf("got %s", p)
		}
		m.Stored(func(files map[string]*os.File) {
			if files["later"] != f || len(files) != 5 {
				t.Errorf("stored are %v", slices.Sorted(maps.Keys(files)))
			}
		})
	}
}

// With CARRY_TLS=off no key outlives the process, and the clients over TLS are told so. Those whose keys are there
// already, from before, are too.
func TestSecureClientsThatAreNotCarriedAreToldToComeBack(t *testing.T) {
	p := newPair(t, "localhost")
	m := manage(t, p.env())
	m.speakTLS(t, p.cert)
	m.start()
	carried := m.guest("Carried", "/subscribe")
	carried.subscribe(t, "e")
	m.End(syscall.SIGTERM)
	m.env = m.env.with("CARRY_TLS", "off")
	m.start()
	wantClose(t, carried.Conn, 1012)
	for range 2 {
		c := m.guest("Secure", "/subscribe")
		c.subscribe(t, "e")
		m.End(syscall.SIGTERM)
		wantClose(t, c.Conn, 1012)
		m.start()
	}
}

// The info says how each connection came, and what a restart does to it, after one as before.
func TestInfoTellsOfTLS(t *testing.T) {
	eachManager(t, func(t *testing.T, m *manager) {
		version, isTLS := "", m.trusted != nil
		if isTLS {
			version = strings.TrimPrefix(tls.VersionName(m.trusted.MaxVersion), "TLS ")
		}
		m.start()
		m.guest("Kept", "/subscribe").subscribe(t, "e")
		for life := range 2 {
			m.guest("New", "/publish")
			s := m.info().Server
			if s.TLS != isTLS || s.TLSKeptOverRestart != isTLS {
				t.Errorf("tls %t, tls_kept_over_restart %t, want %t twice", s.TLS, s.TLSKeptOverRestart, isTLS)
			}
			for i, c := range s.ConnectionTraffic {
				if c.TLSVersion != version {
					t.Errorf("connection %d has TLS %q, want %q", i, c.TLSVersion, version)
				}
			}
			if got, want := len(s.ConnectionTraffic), 2+life; got != want {
				t.Errorf("%d connections are listed, want %d", got, want)
			}
			m.End(syscall.SIGTERM)
			if life == 1 {
				m.env = m.env.with("CARRY_TLS", "off")
			}
			m.start()
		}
		if s := m.info().Server; s.TLS != isTLS || s.TLSKeptOverRestart {
			t.Errorf("with CARRY_TLS=off: tls %t, tls_kept_over_restart %t", s.TLS, s.TLSKeptOverRestart)
		}
	})
}

// An HTTP connection over TLS goes on after a restart, at rest and in the middle of a request.
func TestRequestsOverTLSOutliveARestart(t *testing.T) {
	p := newPair(t, "localhost")
	m := manage(t, p.env())
	m.speakTLS(t, p.cert)
	m.start()
	dial := func() *ws.Peer {
		c, err := tls.Dial("tcp", strings.TrimPrefix(m.url, "https://"), m.trusted)
		if err != nil {
			t.Fatal(err)
		}
		return ws.New(t, c)
	}
	ask := func(c *ws.Peer, request string, status int) {
		t.Helper()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if a, err := c.Answer("GET"); err != nil || a.Status != status {
			t.Fatalf("%q: got %+v, %v", request, a, err)
		}
	}
	const health = "GET /healthz HTTP/1.1\r\nHost: pi\r\n\r\n"
	post := "POST /publish?clientName=P HTTP/1.1\r\nHost: pi\r\nX-API-Key: " + testKey +
		"\r\nContent-Length: 13\r\n\r\n{\"event\":\"e\"}"
	idle, head, body := dial(), dial(), dial()
	ask(idle, health, 200)
	ask(head, post, 201)
	io.WriteString(head, post[:20])
	ask(body, health, 200)
	io.WriteString(body, post[:len(post)-5])
	for range 2 {
		m.End(syscall.SIGTERM)
		m.start()
		ask(idle, health, 200)
	}
	ask(head, post[20:], 201)
	ask(body, post[len(post)-5:], 201)
	for _, c := range []*ws.Peer{idle, head, body} {
		ask(c, post, 201)
		ask(c, health, 200)
	}
}

// A store that is damaged or of another version costs its connections and nothing else.
func TestStoreThatCannotBeReadCostsNoStart(t *testing.T) {
	for name, damage := range map[string]func(files map[string]*os.File){
		"another version": func(files map[string]*os.File) { files["journal"].WriteAt([]byte{99}, 8) },
		"no journal":      func(files map[string]*os.File) { files["journal"].WriteAt([]byte("?"), 0) },
		"other marks":     func(files map[string]*os.File) { files["marks"].WriteAt([]byte{99}, 8) },
		"files missing": func(files map[string]*os.File) {
			files["vault-singles"].Close()
			delete(files,
				"vault-singles")
		},
		"files swapped": func(files map[string]*os.File) {
			files["journal"], files["marks"] = files["marks"], files["journal"]
		},
		"a file of somebody else": func(files map[string]*os.File) {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			files["journal"].Close()
			files["journal"] = f
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := manage(t, nil)
			m.start()
			g := m.guest("lost", "/subscribe")
			g.subscribe(t, "e")
			m.End(syscall.SIGTERM)
			m.Stored(damage)
			m.start()
			m.Log.Await(t, "not all connections can be kept over this restart")
			if _, _, err := g.ReadMessage(); err == nil {
				t.Error("it got a message")
			} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Error("it was not ended")
			}
			// The next process has a store again.
			g = m.guest("kept", "/subscribe")
			g.subscribe(t, "e")
			m.End(syscall.SIGTERM)
			m.start()
			m.post("e", "1")
			if p := receive(t, g.Conn); !strings.Contains(string(p), `"data":1`) {
				t.Errorf("got %s", p)
			}
		})
	}
}
