package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picloud/test/certified"
)

// A pair is a self-signed certificate and its key, in files.
type pair struct{ cert, key string }

func newPair(t *testing.T, name string) pair {
	t.Helper()
	dir := t.TempDir()
	p := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	p.write(t, name)
	return p
}

// write replaces both files as a renewal of the certificate does: each in one step.
func (p pair) write(t *testing.T, name string) {
	t.Helper()
	p.put(t, certified.New(name))
}

func (p pair) put(t *testing.T, cert tls.Certificate) {
	t.Helper()
	if err := certified.Write(cert, p.cert, p.key); err != nil {
		t.Fatal(err)
	}
}

func (p pair) env() env { return env{"USE_TLS": "1", "CERT_FILE": p.cert, "KEY_FILE": p.key} }

// trust makes the daemon's clients trust a certificate and no other.
func (d *daemon) trust(t *testing.T, cert string) {
	t.Helper()
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	d.dialer.TLSClientConfig = &tls.Config{RootCAs: roots}
	d.http.CloseIdleConnections()
	d.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
}

func TestTLSEndToEnd(t *testing.T) {
	p := newPair(t, "localhost")
	d, stop := launch(t, p.env())
	d.trust(t, p.cert)
	if first := d.stdout.Await(t, "PiCloud"); !strings.HasSuffix(first, " listens on "+d.url) ||
		!strings.HasPrefix(d.url, "https://") {
		t.Errorf("the first line is %q", first)
	}
	sub, pub := d.subscriber(t, "S"), d.connect(t, "/publish?clientName=P")
	for i := range 100 {
		send(t, pub, fmt.Sprintf(`{"event":"e","data":%d}`, 2*i))
		wantData(t, sub, fmt.Sprint(2*i))
		d.post(t, fmt.Sprintf(`{"event":"e","data":%d}`, 2*i+1))
		wantData(t, sub, fmt.Sprint(2*i+1))
	}
	if status, text := d.request(t, "GET", "/info", ""); status != http.StatusOK ||
		!strings.Contains(text, `"client_name":"S"`) {
		t.Errorf("GET /info: status %d %q", status, text)
	}

	_, addr, _ := strings.Cut(d.url, "://")
	if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true,
		MaxVersion: tls.VersionTLS11}); err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken")
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatalf("TLS 1.2: %v", err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q, want http/1.1", got)
	}
	c.Close()
	plain := d.raw(t)
	fmt.Fprintf(plain, "GET /info?apiKey=%s HTTP/1.1\r\nHost: test\r\n\r\n", d.key)
	if res := response(t, plain); res.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: status %d", res.StatusCode)
	}

	stop()
	wantClose(t, sub, 1001)
	wantClose(t, pub, 1001)
}

func TestCertificateIsReplacedWhileAClientStays(t *testing.T) {
	t.Parallel()
	p := newPair(t, "localhost")
	d, _ := launch(t, p.env())
	d.trust(t, p.cert)
	sub, pub := d.subscriber(t, "S"), d.connect(t, "/publish?clientName=P")

	p.write(t, "localhost")
	d.trust(t, p.cert) // the new one only
	// The files are checked during handshakes, but not during each.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		_, addr, _ := strings.Cut(d.url, "://")
		c, err := tls.Dial("tcp", addr, d.dialer.TLSClientConfig)
		if err == nil {
			c.Close()
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("the old certificate is still in use: %v", err)
		}
	}
	d.stderr.Await(t, "new TLS certificate in use")
	send(t, pub, `{"event":"e","data":"still here"}`)
	wantData(t, sub, `"still here"`)
	d.subscriber(t, "New").Close()

	// Files that cannot be used change nothing, and are logged.
	if err := os.WriteFile(p.key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); !strings.Contains(d.stderr.String(), "the old certificate stays in use"); <-tick.C {
		d.subscriber(t, "New").Close()
		if time.Since(begin) > patience {
			t.Fatalf("nothing is said:\n%s", d.stderr)
		}
	}
	send(t, pub, `{"event":"e","data":"and still"}`)
	wantData(t, sub, `"and still"`)
}

// What the server goes on with after a handshake does not depend on how that was made: in full, by a session, or by a
// session that was itself made by one, as small devices do for days.
func TestSessionsAreResumedAndResumedAgain(t *testing.T) {
	p := newPair(t, "localhost")
	d, _ := launch(t, p.env())
	d.trust(t, p.cert)
	suites := map[string]*tls.Config{"TLS 1.3": {}}
	for _, id := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		suites["TLS 1.2, "+tls.CipherSuiteName(id)] = &tls.Config{MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{id}}
	}
	for name, cfg := range suites {
		cfg.RootCAs = d.dialer.TLSClientConfig.RootCAs
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		d.dialer.TLSClientConfig = cfg
		for i, what := range []string{"full", "resumed", "resumed again"} {
			c := d.subscriber(t, "Device")
			send(t, c, `{"action":"publish","event":"e","data":1}`)
			wantData(t, c, "1")
			if resumed := c.NetConn().(*tls.Conn).ConnectionState().DidResume; resumed != (i > 0) {
				t.Errorf("%s, %s: resumed %t", name, what, resumed)
			}
			c.Close()
		}
	}
}
