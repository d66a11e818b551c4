//go:build heavy

package recipes

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/internal/client"
	"picloud/test/certified"
	"picloud/test/snippet"
)

// proxyName stands in for raspberrypi.local, which this machine may not know.
const proxyName = "localhost"

// freePort returns a port that is free at the moment, below those that the kernel gives to clients: one of them could
// have it before the server does.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		l, err := net.Listen("tcp", ":"+port)
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// through checks that clients can do everything through a proxy whose certificate is from the authority.
func (p *picloudd) through(port string, authority []byte) {
	t := p.t
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		t.Fatalf("no certificate in %q", authority)
	}
	options := client.Options{URL: "https://" + proxyName + ":" + port, Key: apiKey, Name: "behind",
		TLS: &tls.Config{RootCAs: roots}}
	came, c := connect(t, options)
	for range 2 {
		if err := c.Subscribe(t.Context(), "door"); err != nil {
			t.Fatal(err)
		}
		for _, data := range append(messages(t), `"`+strings.Repeat("x", 60<<10)+`"`) {
			if err := c.Post(t.Context(), "door", json.RawMessage(data)); err != nil {
				t.Fatal(err)
			}
			receipt, err := c.Send(t.Context(), "door", json.RawMessage(data))
			if err != nil {
				t.Fatal(err)
			}
			if err := receipt.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				select {
				case m := <-came:
					if string(m.Data) != data || m.ClientName != "behind" {
						t.Errorf("got %.40s of %s, want %.40s", m.Data, m.ClientName, data)
					}
				case <-time.After(late):
					t.Fatalf("%.40s does not come", data)
				}
			}
		}
		// And again after a restart behind the proxy.
		p.end()
		p.begin()
		p.hasSubscriber("door", "behind")
	}
	options.Key = "wrong"
	stranger, err := client.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Info(t.Context()); err == nil || !strings.Contains(err.Error(), "refuses this key") {
		t.Errorf("with a wrong key: %v", err)
	}
}

// listens waits until the program d presents a certificate.
func (d *dish) listens(port string) {
	d.t.Helper()
	for deadline := time.Now().Add(late); ; time.Sleep(20 * time.Millisecond) {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{ServerName: proxyName, InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-d.ended:
			for line := range d.lines {
				d.t.Log(line)
			}
			d.t.Fatalf("%s: %v", d.cmd, err)
		default:
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s does not listen: %v", d.cmd, err)
		}
	}
}

func TestNginxInFront(t *testing.T) {
	p := serve(t)
	port := freePort(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := certified.Write(certified.New(proxyName), cert, key); err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	site := snippet.Put(t, snippet.Of(t, "docs/recipes/reverse-proxy.md", "proxy_pass"), "443", port,
		"raspberrypi.local", proxyName, "127.0.0.1:9000", p.address,
		"/etc/ssl/picloud/cert.pem", cert, "/etc/ssl/picloud/key.pem", key)
	conf := file(t, "nginx.conf", "daemon off;\npid "+dir+"/pid;\nerror_log stderr;\nuser root;\nevents {}\nhttp {\naccess_log "+dir+"/access.log;\n"+
		"client_body_temp_path "+dir+"/b; proxy_temp_path "+dir+"/p; fastcgi_temp_path "+dir+"/f; uwsgi_temp_path "+dir+"/u; scgi_temp_path "+dir+"/s;\n"+site+"}\n")
	d := cook(t, nil, nil, "nginx", "-e", "stderr", "-p", dir, "-c", conf)
	d.listens(port)
	p.through(port, authority)
}

func TestCaddyInFront(t *testing.T) {
	p := serve(t)
	port, home := freePort(t), t.TempDir()
	site := snippet.Put(t, snippet.Of(t, "docs/recipes/reverse-proxy.md", "reverse_proxy"),
		"raspberrypi.local", proxyName, "127.0.0.1:9000", p.address)
	conf := file(t, "Caddyfile", "{\n\tadmin off\n\tskip_install_trust\n\thttp_port "+freePort(t)+"\n\thttps_port "+port+"\n}\n"+site)
	d := cook(t, nil, []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home}, "caddy", "run",
		"--adapter", "caddyfile", "--config", conf)
	d.listens(port)
	root, err := os.ReadFile(filepath.Join(home, "caddy/pki/authorities/local/root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	p.through(port, root)
	line := snippet.Put(t, snippet.Of(t, "docs/recipes/reverse-proxy.md", "--ca root.crt"),
		"https://raspberrypi.local", "https://"+proxyName+":"+port)
	d = cook(t, nil, nil, "sh", "-c", "cd "+home+"/caddy/pki/authorities/local && exec "+line)
	d.prints("published")
	d.ends(true)
}
