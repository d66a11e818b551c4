package client

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const defaultPort = "9000"

// address is where a server listens.
type address struct {
	network string // "tcp" or "unix"
	dial    string // host:port, or the socket's path
	host    string // for the Host header, with the port
	name    string // what the server's certificate must be for
	tls     bool
	shown   string // for errors
}

// parseAddress reads http://, https://, ws:// and wss:// with a host and an optional port; host; host:port; and
// unix:/path. Its errors do not quote what might contain a key.
func parseAddress(s string) (address, error) {
	if s == "" {
		return address{}, errors.New("the server's address is empty: give host, host:port, http://host:port, https://host:port or unix:/path")
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		// Some write unix:///path.
		if strings.HasPrefix(path, "///") {
			path = path[2:]
		}
		if path == "" || strings.HasPrefix(path, "//") {
			return address{}, fmt.Errorf("address %q names no socket: write unix:/path/to.sock", s)
		}
		return address{network: "unix", dial: path, host: "localhost", shown: "unix:" + path}, nil
	}

	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	}
	if strings.ContainsAny(rest, "@?#") {
		return address{}, errors.New("the server's address is only scheme, host and port: the key and the client name have their own settings")
	}
	if host, path, _ := strings.Cut(rest, "/"); path != "" {
		return address{}, fmt.Errorf("address %q has a path: only scheme, host and port are taken", s)
	} else {
		rest = host
	}

	a := address{network: "tcp"}
	port := defaultPort
	switch strings.ToLower(scheme) {
	case "":
	case "http", "ws":
		port = "80"
	case "https", "wss":
		port = "443"
		a.tls = true
	default:
		return address{}, fmt.Errorf("address %q: the scheme is one of http, https, ws, wss and unix", s)
	}

	// A URL has %25 before the zone (RFC 6874); both are taken.
	host, given, err := splitHostPort(strings.Replace(rest, "%25", "%", 1))
	if err != nil {
		return address{}, fmt.Errorf("address %q: %w", s, err)
	}
	port = cmp.Or(given, port)
	a.name = host
	a.dial = net.JoinHostPort(host, port)
	a.host = a.dial
	// A zone means something only on this machine, and its % is not allowed in a URL.
	if plain, _, ok := strings.Cut(host, "%"); ok {
		a.name, a.host = plain, net.JoinHostPort(plain, port)
	}
	// It can be typed again even if the zone itself begins with 25.
	a.shown = "http://" + strings.Replace(a.dial, "%25", "%2525", 1)
	if a.tls {
		a.shown = "https://" + strings.TrimPrefix(a.shown, "http://")
	}
	return a, nil
}

// splitHostPort is net.SplitHostPort with an optional port and plain errors.
func splitHostPort(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") && isIP(s[1:len(s)-1]) {
		return s[1 : len(s)-1], "", nil
	}
	if isIP(s) {
		return s, "", nil
	}
	host = s
	if strings.Contains(s, ":") {
		host, port, err = net.SplitHostPort(s)
		if err != nil {
			return "", "", errors.New("it is neither host nor host:port")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
		}
	}
	switch {
	case host == "":
		return "", "", errors.New("the host is missing")
	case !isName(host) && !isIP(host):
		return "", "", errors.New("the host is neither a name nor an IP address")
	}
	return host, port, nil
}

// Page returns the address of the server's dashboard for a browser; nil for a Unix socket.
func (c *Client) Page() *url.URL {
	switch {
	case c.address.network == "unix":
		return nil
	case c.address.tls:
		return &url.URL{Scheme: "https", Host: c.address.host}
	}
	return &url.URL{Scheme: "http", Host: c.address.host}
}

func isIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && isName(ip.Zone())
}

func isName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return strings.Trim(s, letters) == ""
}
