package client

import (
	"strings"
	"testing"
)

func TestAddressForms(t *testing.T) {
	for in, want := range map[string]address{
		"http://pi:9000":  {"tcp", "pi:9000", "pi:9000", "pi", false, "http://pi:9000"},
		"HTTP://pi:9000/": {"tcp", "pi:9000", "pi:9000", "pi", false, "http://pi:9000"},
		"ws://pi":         {"tcp", "pi:80", "pi:80", "pi", false, "http://pi:80"},
		"https://pi.example": {"tcp", "pi.example:443", "pi.example:443", "pi.example", true,
			"https://pi.example:443"},
		"wss://pi:1": {"tcp", "pi:1", "pi:1", "pi", true, "https://pi:1"},
		"pi":         {"tcp", "pi:9000", "pi:9000", "pi", false, "http://pi:9000"},
		"raspberrypi.local:80": {"tcp", "raspberrypi.local:80", "raspberrypi.local:80", "raspberrypi.local",
			false, "http://raspberrypi.local:80"},
		"192.168.1.7": {"tcp", "192.168.1.7:9000", "192.168.1.7:9000", "192.168.1.7", false,
			"http://192.168.1.7:9000"},
		"::1":     {"tcp", "[::1]:9000", "[::1]:9000", "::1", false, "http://[::1]:9000"},
		"[::1]":   {"tcp", "[::1]:9000", "[::1]:9000", "::1", false, "http://[::1]:9000"},
		"[::1]:8": {"tcp", "[::1]:8", "[::1]:8", "::1", false, "http://[::1]:8"},
		"https://[fe80::1%eth0]:8": {"tcp", "[fe80::1%eth0]:8", "[fe80::1]:8", "fe80::1", true,
			"https://[fe80::1%eth0]:8"},
		"http://[fe80::1%25eth0]:8": {"tcp", "[fe80::1%eth0]:8", "[fe80::1]:8", "fe80::1", false,
			"http://[fe80::1%eth0]:8"},
		"fe80::1%25eth0": {"tcp", "[fe80::1%eth0]:9000", "[fe80::1]:9000", "fe80::1", false,
			"http://[fe80::1%eth0]:9000"},
		"fe80::1%2525": {"tcp", "[fe80::1%25]:9000", "[fe80::1]:9000", "fe80::1", false,
			"http://[fe80::1%2525]:9000"},
		"unix:/run/picloud/p.sock": {"unix", "/run/picloud/p.sock", "localhost", "", false,
			"unix:/run/picloud/p.sock"},
		"unix:///run/picloud/p.sock": {"unix", "/run/picloud/p.sock", "localhost", "", false,
			"unix:/run/picloud/p.sock"},
		"unix:p.sock": {"unix", "p.sock", "localhost", "", false, "unix:p.sock"},
	} {
		got, err := parseAddress(in)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestAddressErrorsSayWhatIsTaken(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "unix:/path",
		"ftp://pi":                 "scheme",
		"http://":                  "host is missing",
		":9000":                    "host is missing",
		"pi:":                      "port",
		"pi:http":                  "port",
		"pi:0":                     "port",
		"pi:65536":                 "port",
		"pi:1:2":                   "host:port",
		"http://pi/subscribe":      "path",
		"pi/info":                  "path",
		"a b":                      "host",
		"a\nb":                     "host",
		"a%zz":                     "host",
		"a%25zz":                   "host",
		"[fe80::1%25]:1":           "host",
		"unix:":                    "socket",
		"unix://host/path":         "socket",
		"http://me:sesame@pi":      "own settings",
		"http://pi/?apiKey=sesame": "own settings",
		"http://pi#sesame":         "own settings",
	} {
		_, err := parseAddress(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to have %q", in, err, want)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v has the key", in, err)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"pi", "pi:9000", "https://pi", "[fe80::1%eth0]:8", "fe80::1%2525", "unix:/run/p.sock", "http://a@b",
		"::1", "[::1]", "a%b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		// What it is shown as means the same, so that it can be typed again.
		again, err := parseAddress(a.shown)
		if err != nil || again != a {
			t.Errorf("%q is shown as %q, which is %+v, %v, not %+v", s, a.shown, again, err, a)
		}
		// The rest of the client does not fail on it.
		c, err := New(Options{URL: s, Name: "fuzz"})
		if err != nil {
			t.Fatalf("New: %v", err)
		}
		if _, err := newRequest(t.Context(), c); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func TestPageIsWhereABrowserGoes(t *testing.T) {
	for url, want := range map[string]string{
		"http://pi.local:9000":     "http://pi.local:9000",
		"pi":                       "http://pi:9000",
		"wss://[fe80::1%eth0]:443": "https://[fe80::1]:443",
	} {
		c, err := New(Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Page().String(); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
	c, err := New(Options{URL: "unix:/p.sock"})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Page(); got != nil {
		t.Errorf("a socket has the page %s", got)
	}
}
