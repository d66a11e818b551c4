package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"picloud/test/certified"
	"picloud/test/others"
	await "picloud/test/wait"

	"github.com/gorilla/websocket"
)

// TLS clients that have nothing in common with crypto/tls outlive every process: OpenSSL's with each suite that is
// offered, also when it has changed its keys, and Python's. A restart costs none of them, and a kill none that was
// quiet; whoever lives on has heard all that was acked, once and in order.
func TestTLSClientsOfOthersOutliveEveryProcess(t *testing.T) {
	ofECDSA, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ofRSA, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for kind, key := range map[string]crypto.Signer{"ECDSA": ofECDSA, "RSA": ofRSA} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "localhost")
			p.put(t, certified.By(key, "localhost"))
			// Nothing but what the test writes may come near a command to s_client.
			m := manage(t, p.env().with("PING_INTERVAL", "5m"))
			m.speakTLS(t, p.cert)
			m.start()
			var programs []others.Program
			for _, suite := range []string{"AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"} {
				programs = append(programs,
					others.OpenSSL("1.3", "-ciphersuites", "TLS_"+suite, others.TakesCommands))
			}
			for _, suite := range []string{"AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"} {
				programs = append(programs, others.OpenSSL("1.2", "-cipher", "ECDHE-"+kind+"-"+suite))
			}
			outliveOver(t, m, append(programs, others.Python("1.3"), others.Python("1.2")))
		})
	}
}

func outliveOver(t *testing.T, m *manager, programs []others.Program) {
	var quiet []*guest
	for _, p := range programs {
		g := m.guestOver(p, "/subscribe")
		g.subscribe(t, "quiet")
		quiet = append(quiet, g)
	}
	life := 0
	for _, signals := range [][]syscall.Signal{{syscall.SIGTERM, syscall.SIGTERM}, {syscall.SIGKILL},
		{syscall.SIGTERM}} {
		for _, g := range quiet {
			g.changeKeys(t, true)
			g.subscribe(t, "quiet") // the change goes out with what is written next
		}
		var flows []*flow
		for i, p := range programs {
			f := &flow{t: t, name: p.Name, event: fmt.Sprintf("%d.%d", life, i), stop: make(chan struct{}),
				pub: m.guestOver(p, "/publish"), sub: m.guestOver(p, "/subscribe")}
			f.sub.subscribe(t, f.event)
			f.begin()
			flows = append(flows, f)
		}
		flowing := func() {
			t.Helper()
			for _, f := range flows {
				from := f.heard.Load()
				await.Until(t, f.name+" hears more", func() bool { return f.heard.Load() >= from+20 || f.over.Load() })
			}
		}
		flowing()
		for _, signal := range signals {
			m.End(signal)
			m.start()
			m.post("quiet", fmt.Sprint(life))
			for _, g := range quiet {
				if p := receive(t, g.Conn); !strings.Contains(p, fmt.Sprintf(`"data":%d,`, life)) {
					t.Fatalf("life %d: %s got %s", life, g.name, p)
				}
			}
			if life++; signal == syscall.SIGTERM {
				flowing()
			}
		}
		lived := 0
		for _, f := range flows {
			if f.finish(m) {
				lived++
			} else if !slices.Contains(signals, syscall.SIGKILL) {
				t.Errorf("life %d: %s has not outlived a restart: %v, %v", life, f.name, f.pub.gone, f.sub.gone)
			}
		}
		t.Logf("life %d: %d of %d lived on in the middle of traffic", life, lived, len(flows))
	}
}

// guestOver is guest for a client whose connection is a program's.
func (m *manager) guestOver(p others.Program, route string) *guest {
	m.t.Helper()
	dialer := websocket.Dialer{NetDialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return p.Dial(m.t.Context(), addr)
	}}
	c, _, err := dialer.Dial(strings.Replace(m.url, "http", "ws", 1)+route+"?clientName=stranger",
		http.Header{"X-Api-Key": {testKey}})
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", p.Name, err, m.Log)
	}
	m.t.Cleanup(func() { c.Close() })
	return &guest{Conn: c, name: p.Name}
}

// changeKeys does so if the client can.
func (g *guest) changeKeys(t *testing.T, both bool) {
	t.Helper()
	if !strings.Contains(g.name, others.TakesCommands) {
		return
	}
	if err := g.NetConn().(*others.Conn).ChangeKeys(both); err != nil {
		t.Error(err)
	}
}

// A flow is numbers that one client publishes, each when the one before has been acked, and another hears.
type flow struct {
	t        *testing.T
	name     string
	event    string
	pub, sub *guest
	stop     chan struct{}
	sending  sync.WaitGroup
	hearing  sync.WaitGroup

	acked, heard atomic.Int64
	over         atomic.Bool // one of the two has ended
}

func (f *flow) begin() {
	f.sending.Go(func() {
		if f.pub.gone = f.publish(); f.pub.gone != nil {
			f.over.Store(true)
		}
	})
	f.hearing.Go(func() {
		if f.sub.gone = f.hear(); f.sub.gone != nil {
			f.over.Store(true)
		}
	})
}

func (f *flow) publish() error {
	for n := int64(0); ; n++ {
		select {
		case <-f.stop:
			return nil
		default:
		}
		if n%8 == 3 {
			f.pub.changeKeys(f.t, n%16 == 3)
		}
		if err := f.pub.WriteMessage(websocket.TextMessage,
			fmt.Appendf(nil, `{"event":%q,"data":%d,"id":%d}`, f.event, n, n)); err != nil {
			return err
		}
		_, p, err := f.pub.ReadMessage()
		if err != nil {
			return err
		}
		if string(p) != fmt.Sprintf(`{"action":"ack","id":%d}`, n) {
			f.t.Errorf("%s: the publisher got %s", f.name, p)
		}
		f.acked.Store(n + 1)
	}
}

func (f *flow) hear() error {
	for n := int64(0); ; n++ {
		_, p, err := f.sub.ReadMessage()
		if err != nil {
			return err
		}
		if strings.Contains(string(p), `"data":"end"`) {
			return nil
		}
		if want := fmt.Sprintf(`{"action":"publish","event":%q,"data":%d,`, f.event, n); !strings.HasPrefix(string(p), want) {
			f.t.Errorf("%s: got %s, want %s…", f.name, p, want)
		}
		f.heard.Store(n + 1)
	}
}

// finish stops the numbers, checks what has come of them, and reports whether both clients have lived on.
func (f *flow) finish(m *manager) bool {
	close(f.stop)
	await.Within(f.t, f.name+" stops", f.sending.Wait)
	m.post(f.event, `"end"`)
	await.Within(f.t, f.name+" hears the end", f.hearing.Wait)
	f.pub.Close()
	f.sub.Close()
	acked, heard := f.acked.Load(), f.heard.Load()
	switch {
	case f.sub.gone != nil:
	case f.pub.gone == nil && heard != acked, heard < acked, heard > acked+1:
		f.t.Errorf("%s: %d are acked and %d have been heard; the publisher: %v", f.name, acked, heard, f.pub.gone)
	}
	return f.pub.gone == nil && f.sub.gone == nil
}

// curl posts over one connection, which it keeps, before and after each restart.
func TestCurlPostsOverOneConnectionThroughRestarts(t *testing.T) {
	for _, version := range []string{"1.3", "1.2"} {
		t.Run("TLS "+version, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "localhost")
			m := manage(t, p.env())
			m.speakTLS(t, p.cert)
			m.start()
			g := m.guest("client", "/subscribe")
			g.subscribe(t, "e")
			const posts = 4
			// It opens the next FIFO when the post before has been answered.
			var args, fifos []string
			for n := range posts {
				fifo := filepath.Join(t.TempDir(), "post")
				if err := syscall.Mkfifo(fifo, 0o600); err != nil {
					t.Fatal(err)
				}
				if fifos = append(fifos, fifo); n > 0 {
					args = append(args, "--next")
				}
				_, port, _ := net.SplitHostPort(m.Addr)
				args = append(args, "-sS", "--cacert", p.cert, "--tlsv"+version, "--tls-max", version,
					"-H", "X-API-Key: "+testKey, "-X", "POST", "-T", fifo,
					"-w", "%{http_code}, %{num_connects} new connections\n",
					"https://localhost:"+port+"/publish?clientName=curl")
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			curl := exec.CommandContext(ctx, "curl", args...)
			var out strings.Builder
			curl.Stdout, curl.Stderr = &out, &out
			if err := curl.Start(); err != nil {
				t.Fatal(err)
			}
			defer curl.Wait()
			defer cancel()
			want := "201, 1 new connections\n" + strings.Repeat("201, 0 new connections\n", len(fifos)-1)
			for n, fifo := range fifos {
				if n > 0 {
					m.End(syscall.SIGTERM)
					m.start()
				}
				await.Within(t, "curl takes the post", func() {
					if err := os.WriteFile(fifo, fmt.Appendf(nil, `{"event":"e","data":%d}`, n), 0); err != nil {
						t.Error(err)
					}
				})
				if p := receive(t, g.Conn); !strings.Contains(p, fmt.Sprintf(`"data":%d,`, n)) {
					t.Fatalf("got %s", p)
				}
			}
			if err := curl.Wait(); err != nil || out.String() != want {
				t.Errorf("curl: %v, got\n%swant\n%s", err, &out, want)
			}
		})
	}
}
