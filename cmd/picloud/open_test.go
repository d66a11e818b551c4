package main

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// opens checks that link leads to the server's port at an address of this machine that is not only its own, and that it
// signs a browser in, once.
func opens(t *testing.T, link, scheme, port, withKey string) {
	t.Helper()
	u, err := url.Parse(strings.TrimSpace(link))
	if err != nil {
		t.Fatal(err)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || ip.IsLoopback() || u.Scheme != scheme || u.Port() != port || u.Path != "/" {
		t.Errorf("the link is %q: %v", link, err)
	}
	code, ok := strings.CutPrefix(u.EscapedFragment(), "code=")
	if !ok || strings.Contains(link, withKey) {
		t.Errorf("the link is %q, want a code in it and not the key %q", link, withKey)
	}
	u.Path, u.Fragment = "/sign-in", ""
	browser := http.Client{Transport: &http.Transport{TLSClientConfig: unchecked(), DisableKeepAlives: true}}
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		resp, err := browser.Post(u.String(), "application/json", strings.NewReader(fmt.Sprintf(`{"code":%q}`, code)))
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Key string }
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if resp.StatusCode != status || status == http.StatusOK && got.Key != withKey {
			t.Errorf("its code gets status %d and the key %q (%v), want %d and %q", resp.StatusCode, got.Key, err, status,
				withKey)
		}
	}
}

func TestOpenPrintsALinkForThePhone(t *testing.T) {
	const odd = "a+b/c=&#%25"
	d := serve(t, "0", "API_KEY="+odd)
	env := map[string]string{"PICLOUD_URL": "http://127.0.0.1:" + d.Port(), "API_KEY": odd}
	out, said := call(t, env, "open").ends(0)
	opens(t, out, "http", d.Port(), odd)
	if !strings.Contains(said, "good once, for 5 minutes") {
		t.Errorf("said %q", said)
	}
}

func TestOpenOnTheApplianceNeedsNothing(t *testing.T) {
	a := newAppliance(t, nil)
	d := a.serve()
	a.write(settingsFile, "PORT="+d.Port()+"\n")
	out, _ := call(t, nil, "open").ends(0)
	opens(t, out, "http", d.Port(), key)
	// Where the socket does not answer for the address that was given, the service's key is needed.
	a.write(keyFile, key+"\n")
	out, _ = call(t, nil, "open", "--url", "http://localhost:"+d.Port()).ends(0)
	opens(t, out, "http", d.Port(), key)
	a.write(keyFile, "another\n")
	if _, said := call(t, nil, "open", "--url", "http://localhost:"+d.Port()).ends(1); !strings.Contains(said,
		"refuses this key") {
		t.Errorf("with a key that is not the server's it said %q", said)
	}
}

func TestOpenWarnsOfACertificate(t *testing.T) {
	certFile, keyFile := selfSigned(t, "localhost")
	a := newAppliance(t, nil)
	d := a.serve("USE_TLS=1", "CERT_FILE="+certFile, "KEY_FILE="+keyFile)
	a.write(settingsFile, "PORT="+d.Port()+"\nUSE_TLS=1\nCERT_FILE=c\nKEY_FILE=k\n")
	out, said := call(t, nil, "open").ends(0)
	opens(t, out, "https", d.Port(), key)
	if !strings.Contains(said, "the browser will warn of the certificate") {
		t.Errorf("said %q", said)
	}
	// A key is sent to no server that could be another's.
	env := map[string]string{"PICLOUD_URL": "https://localhost:" + d.Port(), "API_KEY": key}
	if out, said := call(t, env, "open").ends(1); out != "" || !strings.Contains(said, "PICLOUD_CA") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestOpenWithoutAKeySaysHow(t *testing.T) {
	newAppliance(t, nil)
	if _, said := call(t, nil, "open").ends(1); !strings.Contains(said, "Neither --key nor API_KEY") {
		t.Errorf("said %q", said)
	}
}

func TestOpenDoesNotInventAServer(t *testing.T) {
	env := map[string]string{"PICLOUD_URL": "http://localhost:1", "API_KEY": key}
	out, said := call(t, env, "open").ends(1)
	if out != "" || !strings.Contains(said, "connection refused") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestOpenPrintsNoLinkThatLeadsNowhere(t *testing.T) {
	a := newAppliance(t, nil)
	a.serveOn(nil)
	a.write(settingsFile, "PORT=1\n")
	if out, said := call(t, nil, "open").ends(1); out != "" || !strings.Contains(said, "connection refused") {
		t.Errorf("printed %q, said %q", out, said)
	}
}

func TestOpenShowsACodeThatACameraReads(t *testing.T) {
	d := serve(t, "0")
	for _, plain := range []string{"", "1"} {
		s := picloudOnTerminal(t, environment(d, map[string]string{"TERM": plainTerminal, "NO_COLOR": plain}), "open")
		all := strings.ReplaceAll(s.ends(0), "\r\n", "\n")
		link := regexp.MustCompile(`(?m)^http://\S+$`).FindString(all)
		_, code, ok := strings.Cut(all, link+"\n\n")
		if !ok || strings.Contains(code, "\x1b") != (plain == "") {
			t.Fatalf("NO_COLOR=%q: it showed %q", plain, all)
		}
		if got := readCode(t, code); got != link {
			t.Errorf("NO_COLOR=%q: the code says %q, want %q", plain, got, link)
		}
	}
}

// readCode has zbarimg read what a terminal shows: light where it draws.
func readCode(t *testing.T, text string) string {
	t.Helper()
	text = regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(text, "")
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	const scale = 6
	photo := image.NewGray(image.Rect(0, 0, scale*len([]rune(lines[0])), scale*2*len(lines)))
	for row, line := range lines {
		for x, r := range []rune(line) {
			upper, lower := strings.ContainsRune("█▀", r), strings.ContainsRune("█▄", r)
			for y := range 2 * scale {
				for dx := range scale {
					if y < scale && upper || y >= scale && lower {
						photo.SetGray(x*scale+dx, row*2*scale+y, color.Gray{255})
					}
				}
			}
		}
	}
	path := filepath.Join(t.TempDir(), "code.png")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(file, photo); err != nil {
		t.Fatal(err)
	}
	file.Close()
	out, err := exec.Command("zbarimg", "-q", "--raw", path).Output()
	if err != nil {
		t.Fatalf("zbarimg: %v: make setup installs it", err)
	}
	return strings.TrimSpace(string(out))
}

func TestOpenSkipsACodeThatDoesNotFit(t *testing.T) {
	d := serve(t, "0")
	outside, inside := terminal(t)
	resize(t, outside, 20, 24)
	env := environment(d, map[string]string{"TERM": plainTerminal})
	var said strings.Builder
	if err := run(t.Context(), []string{"open"}, nil, inside, &said,
		func(name string) string { return env[name] }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "the window has to be ") {
		t.Errorf("said %q", said.String())
	}
}

func TestOpenGoesByTheNameInTheCertificate(t *testing.T) {
	certFile, keyFile := selfSigned(t, "localhost", "pi.local")
	d := serve(t, "0", "USE_TLS=1", "CERT_FILE="+certFile, "KEY_FILE="+keyFile)
	host := nameInCertificate(t.Context(), "127.0.0.1:"+d.Port(), "192.0.2.9")
	if host != "pi.local" {
		t.Errorf("got %q", host)
	}
	env := environment(d, map[string]string{"PICLOUD_URL": "https://127.0.0.2:" + d.Port()})
	// pi.local is nobody here.
	if _, said := call(t, env, "open").ends(1); !strings.Contains(said, "pi.local") {
		t.Errorf("said %q", said)
	}
}
