package certs

import (
	"crypto/x509"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// made makes a pair for these hosts and writes it to files.
func made(t *testing.T, now time.Time, words ...string) (m *Made, certFile, keyFile string) {
	t.Helper()
	var hosts Hosts
	for _, word := range words {
		if err := hosts.Add(word); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Make(hosts, now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put(t, certFile, m.Cert)
	put(t, keyFile, m.Key)
	return m, certFile, keyFile
}

func TestMadeCertificateIsTrustedForItsHostsOnly(t *testing.T) {
	now := time.Now()
	m, certFile, keyFile := made(t, now, "pi.local", "192.168.1.5", "fd00::2")
	if _, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	other, otherFile, _ := made(t, now, "pi.local", "192.168.1.5", "fd00::2")
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(m.Leaf)
	others.AddCert(other.Leaf)

	pastBuilds := time.Date(2019, time.March, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		host  string
		roots *x509.CertPool
		at    time.Time
		good  bool
	}{
		{"pi.local", roots, now, true},
		{"192.168.1.5", roots, now, true},
		{"fd00::2", roots, now, true},
		{"pi.local", roots, pastBuilds, true}, // a client without a clock
		{"pi.local", roots, now.Add(824 * 24 * time.Hour), true},
		{"pi.local", roots, now.Add(826 * 24 * time.Hour), false},
		{"other.local", roots, now, false},
		{"192.168.1.6", roots, now, false},
		{"pi.local", others, now, false}, // the same names, another key
	} {
		_, err := m.Leaf.Verify(x509.VerifyOptions{DNSName: tt.host, Roots: tt.roots, CurrentTime: tt.at})
		if (err == nil) != tt.good {
			t.Errorf("Go: %s at %v: %v, want good: %t", tt.host, tt.at, err, tt.good)
		}
	}

	// Strict is what Python 3.13 is.
	verify := func(trusted string, args ...string) (string, error) {
		args = slices.Concat([]string{"verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-CAfile", trusted},
			args, []string{certFile})
		out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
		return string(out), err
	}
	both := filepath.Join(t.TempDir(), "both.pem")
	put(t, both, slices.Concat(other.Cert, m.Cert))
	for _, trusted := range []string{certFile, both} {
		for _, host := range [][]string{{"-verify_hostname", "pi.local"}, {"-verify_ip", "192.168.1.5"},
			{"-verify_ip", "fd00::2"}} {
			if out, err := verify(trusted, host...); err != nil {
				t.Errorf("openssl, %q: %v\n%s", host, err, out)
			}
		}
	}
	if out, err := verify(certFile, "-verify_hostname", "other.local"); err == nil {
		t.Errorf("openssl takes another name: %s", out)
	}
	if out, err := verify(otherFile); err == nil {
		t.Errorf("openssl takes another certificate: %s", out)
	}
}

// What is trusted is one server, and not whatever its key signs.
func TestMadeCertificateIsNoAuthority(t *testing.T) {
	m, _, _ := made(t, time.Now(), "pi.local")
	if m.Leaf.IsCA || !m.Leaf.BasicConstraintsValid || m.Leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("the certificate may sign others")
	}
	if want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}; !reflect.DeepEqual(m.Leaf.ExtKeyUsage, want) {
		t.Errorf("it is for %v, want %v", m.Leaf.ExtKeyUsage, want)
	}
}

func TestClockThatCannotBeRightMakesNoCertificate(t *testing.T) {
	_, err := Make(Hosts{Names: []string{"pi"}}, time.Unix(0, 0))
	if err == nil || !strings.Contains(err.Error(), "clock says 1970-01-01") {
		t.Errorf("got %v, want the clock's date", err)
	}
}

func TestHosts(t *testing.T) {
	var h Hosts
	for _, word := range []string{"Pi.Local", "pi.local.", "pi", "*.lan", "my_pi", "xn--bcher-kva.example", "3d", "10.0.0.1",
		"::ffff:10.0.0.1", "fd00:0::2", strings.Repeat("a", 63) + ".lan"} {
		if err := h.Add(word); err != nil {
			t.Errorf("%q: %v", word, err)
		}
	}
	want := Hosts{
		Names: []string{"pi.local", "pi", "*.lan", "my_pi", "xn--bcher-kva.example", "3d",
			strings.Repeat("a", 63) + ".lan"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::2")},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %v, want %v", h, want)
	}
	for _, word := range []string{"", ".", "*", "*.", "a..b", "pi*.lan", "-pi", "pi-", "-check", "https://pi.local", "pi:9000",
		"pi local", "bücher.example", "10.0.0.256", "10", "10.0.0.0/8", "fe80::1%eth0", "0.0.0.0", "::",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a", "pi\n"} {
		if err := h.Add(word); err == nil || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: got %v, want an error in one line", word, err)
		}
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("what is refused is added: %v", h)
	}
}

func TestOwnHosts(t *testing.T) {
	h, err := OwnHosts()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"127.0.0.1", "::1"} {
		if !slices.Contains(h.Addresses, netip.MustParseAddr(want)) {
			t.Errorf("no %s in %v", want, h.Addresses)
		}
	}
	if !slices.Contains(h.Names, "localhost") {
		t.Errorf("no localhost in %v", h.Names)
	}
	if name, err := os.Hostname(); err == nil && new(Hosts).Add(name) == nil && !strings.HasPrefix(name, "localhost") {
		short, _, _ := strings.Cut(strings.ToLower(name), ".")
		for _, want := range []string{strings.ToLower(name), short, short + ".local"} {
			if !slices.Contains(h.Names, want) {
				t.Errorf("no %s in %v", want, h.Names)
			}
		}
	}
	for _, a := range h.Addresses {
		if a.IsLinkLocalUnicast() {
			t.Errorf("%s is link-local", a)
		}
	}
	if _, err := Make(h, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestPairKnowsWhoSignedIt(t *testing.T) {
	_, certFile, keyFile := made(t, time.Now(), "pi.local")
	pair, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if !pair.IsSelfSigned() {
		t.Error("one that has signed itself counts as signed by another")
	}
	openssl := newSite(t, issue(t, "pi", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }))
	if !openssl.pair.IsSelfSigned() {
		t.Error("one that has signed itself, as openssl req -x509 makes it, counts as signed by another")
	}
	if signed := newSite(t, issueBy(t, "pi", "authority")); signed.pair.IsSelfSigned() {
		t.Error("one that an authority has signed counts as self-signed")
	}
	if signed := newSite(t, issueBy(t, "pi", "pi")); signed.pair.IsSelfSigned() {
		t.Error("one that an authority of the same name has signed counts as self-signed")
	}
}

func TestHostIsOneOfTheCertificate(t *testing.T) {
	for _, tt := range []struct {
		in    []string // the certificate's
		hosts []string
		want  string
	}{
		{[]string{"localhost", "pi.local", "127.0.0.1"}, []string{"localhost", "127.0.0.1"}, "localhost"},
		{[]string{"pi.local", "127.0.0.1"}, []string{"localhost", "127.0.0.1"}, "127.0.0.1"},
		{[]string{"localhost", "pi.example.org"}, []string{"192.168.1.5", ""}, "pi.example.org"},
		{[]string{"*.example.org", "example.org"}, []string{"localhost"}, "example.org"},
		{[]string{"*.example.org"}, []string{"localhost"}, "pi.example.org"},
		{[]string{"*.example.org", "192.168.1.5"}, []string{"localhost"}, "192.168.1.5"},
		{[]string{"::1", "192.168.1.5"}, []string{"localhost"}, "192.168.1.5"},
		{[]string{"localhost", "127.0.0.1"}, []string{"192.168.1.5"}, ""},
	} {
		_, certFile, keyFile := made(t, time.Now(), tt.in...)
		pair, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := pair.Host("pi", tt.hosts...); got != tt.want {
			t.Errorf("of a certificate for %q: got %q for %q, want %q", tt.in, got, tt.hosts, tt.want)
		}
	}
	evil := issue(t, "pi", func(c *x509.Certificate) { c.DNSNames = []string{"$(reboot).lan", "pi\nlan"} })
	if got := newSite(t, evil).pair.Host("$(reboot)", "localhost"); got != "" {
		t.Errorf("of a certificate with names for a shell: got %q, want none", got)
	}
	if got := newSite(t, issue(t, "localhost")).pair.Host("pi", "localhost"); got != "" {
		t.Errorf("of a certificate without names: got %q, want none", got)
	}
}
