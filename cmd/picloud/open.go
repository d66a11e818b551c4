package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"picloud/internal/client"

	"golang.org/x/term"
	"rsc.io/qr"
)

var openCommand = command{
	name:    "open",
	line:    "print a link that opens the dashboard, and a QR code",
	general: []option{urlFlag, keyFlag, caFlag},
	help: `Prints a link that opens the dashboard and signs in, and on a terminal the same as a QR
code for a phone's camera. It is good once, for five minutes. The address is one that works
from the network: if --url is not given, or is localhost, it is this machine's own.

The link has a code in it, after a #, which browsers do not send to servers. Whoever opens it
first gets the key, and can do everything that a client can. The code is from the local
socket of this machine's service, which root and the group picloud may use. For the server
at a --url it takes the key: --key, API_KEY or, on this machine, that of its service.

  sudo picloud open
  picloud open --url http://raspberrypi.local:9000 --key THE_KEY
  xdg-open "$(picloud open)"
`,
	run: func(ctx context.Context, c invocation) error {
		return openPage(ctx, c.settings, c.screen, c.stdout, c.stderr)
	},
}

// openPage prints a link that signs a browser in, once the server has answered there.
func openPage(ctx context.Context, s settings, screen *screen, stdout, stderr io.Writer) error {
	page, own, err := dashboard(ctx, s)
	if err != nil {
		return err
	}
	s.url = cmp.Or(own, page.String())
	if own != "" {
		if s.key == "" && !isSocket(own) {
			if s.key, err = ownKey(); err != nil {
				return err
			}
		}
		if err := answers(ctx, s, page, stderr); err != nil {
			return err
		}
	}
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	var code string
	var good time.Duration
	err = oneRequest(ctx, func(ctx context.Context) (err error) {
		code, good, err = c.SignInCode(ctx)
		return err
	})
	if err != nil {
		return err
	}
	link := page.Scheme + "://" + page.Host + "/#code=" + url.QueryEscape(code)
	fmt.Fprintf(stderr, "picloud: this link is good once, for %.0f minutes: whoever opens it first can publish, subscribe and see who is connected\n", good.Minutes())
	if _, err := fmt.Fprintln(stdout, link); err != nil || screen == nil {
		return err
	}
	drawing, err := qr.Encode(link, qr.L)
	if err != nil {
		return nil // too long for a QR code; the link has been printed
	}
	text, width := drawCode(drawing, s.colour)
	if columns, _, err := term.GetSize(int(screen.Fd())); err == nil && columns < width {
		fmt.Fprintf(stderr, "picloud: for a QR code the window has to be %d characters wide\n", width)
		return nil
	}
	_, err = io.WriteString(stdout, "\n"+text)
	return err
}

func isSocket(url string) bool { return strings.HasPrefix(url, "unix:") }

// answers checks that a server answers at the page's address, and warns of a certificate that this machine does not
// trust. The server is not sent the key, so it may be any.
func answers(ctx context.Context, s settings, page *url.URL, stderr io.Writer) error {
	s.url, s.key = page.String(), ""
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	err = oneRequest(ctx, func(ctx context.Context) error {
		_, err := c.Info(ctx)
		return err
	})
	refused, ok := errors.AsType[*client.StatusError](err)
	switch {
	case ok && (refused.Code == http.StatusUnauthorized || refused.Code == http.StatusTooManyRequests):
		return nil
	case isUntrusted(err):
		fmt.Fprintf(stderr, "picloud: the browser will warn of the certificate: %s\n", visible(err.Error()))
		return nil
	}
	return err
}

// ownKey returns the key of this machine's service.
func ownKey() (string, error) {
	service, err := readSettings()
	if err != nil {
		return "", err
	}
	if service.APIKey != "" {
		return service.APIKey, nil
	}
	key, err := readKey()
	if err != nil {
		return "", fmt.Errorf("which key? Neither --key nor API_KEY is given, and %w", err)
	}
	return key, nil
}

// dashboard returns the address at which other machines find the page and, if it is this machine's, the one at which
// its own programs find the server.
func dashboard(ctx context.Context, s settings) (page *url.URL, own string, err error) {
	if isSocket(s.url) || !s.chosen {
		service, err := readSettings()
		if err != nil {
			return nil, "", err
		}
		page = &url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", strconv.Itoa(service.Port))}
		if service.UseTLS {
			page.Scheme = "https"
		}
	} else {
		c, err := client.New(client.Options{URL: s.url})
		if err != nil {
			return nil, "", usageError{err.Error()}
		}
		page = c.Page()
	}
	if !isLoopback(page.Hostname()) {
		return page, "", nil
	}
	own = page.String()
	if isSocket(s.url) {
		own = s.url
	}
	host, err := ownAddress(ctx)
	if err != nil {
		return nil, "", err
	}
	if page.Scheme == "https" {
		host = nameInCertificate(ctx, net.JoinHostPort(host, page.Port()), host)
	}
	page.Host = net.JoinHostPort(host, page.Port())
	return page, own, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// ownAddress returns the address at which others on the network reach this machine.
func ownAddress(ctx context.Context) (string, error) {
	// Connecting a datagram socket sends nothing, but makes the kernel choose a route. These addresses are reserved for
	// documentation, so they lead out of the local network (RFC 5737, RFC 3849).
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", far)
		if err == nil {
			conn.Close()
			return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
		}
	}
	return isolatedAddress()
}

// isolatedAddress is for a network without a way out, such as an access point on the Pi itself.
func isolatedAddress() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("find this machine's address: %w", err)
	}
	var other string
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		switch {
		case !ok || !ip.IP.IsGlobalUnicast():
		case ip.IP.To4() != nil:
			return ip.IP.String(), nil
		default:
			other = cmp.Or(other, ip.IP.String())
		}
	}
	if other == "" {
		return "", errors.New("this machine has no address that others could reach: is it on a network?")
	}
	return other, nil
}

// nameInCertificate returns a name of the server at an address that its certificate is for: host itself if it is,
// otherwise the first that others can look up.
func nameInCertificate(ctx context.Context, address, host string) string {
	leaf := shownCertificate(ctx, dialTo(address))
	if leaf == nil || leaf.VerifyHostname(host) == nil {
		return host
	}
	for _, name := range leaf.DNSNames {
		if !isLoopback(name) && !strings.Contains(name, "*") {
			return name
		}
	}
	return host
}

// isUntrusted reports whether err is about a certificate that this machine does not trust.
func isUntrusted(err error) bool {
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isOther := errors.AsType[x509.HostnameError](err)
	_, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	return isUnknown || isOther || isInvalid
}

// drawCode draws a QR code, with two of its squares in a character, and returns its width. Without colours it counts on
// a dark terminal: the light squares of the code are the ones that are drawn.
func drawCode(code *qr.Code, colour bool) (text string, width int) {
	const quiet = 4 // width of the quiet zone in squares, ISO/IEC 18004
	light := func(x, y int) bool { return !code.Black(x, y) }
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		if colour {
			b.WriteString("\x1b[38;5;231;48;5;16m")
		}
		for x := -quiet; x < code.Size+quiet; x++ {
			switch {
			case light(x, y) && light(x, y+1):
				b.WriteRune('█')
			case light(x, y):
				b.WriteRune('▀')
			case light(x, y+1):
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		if colour {
			b.WriteString("\x1b[m")
		}
		b.WriteByte('\n')
	}
	return b.String(), code.Size + 2*quiet
}
