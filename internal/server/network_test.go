package server

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"picloud/test/alone"
	ws "picloud/test/peer"
)

// The server has the addresses …:1:2::1 and …:9:9::1, in two networks.
func TestAddressesOfTheHouseCountOneByOne(t *testing.T) {
	if !alone.Inside(t) {
		return
	}
	alone.Must(t, `
ip link set lo up
for a in 1:2::1 1:2::10 1:2::20 1:2::30 9:9::1 9:9::10 9:9::20 9:a::10; do
	ip -6 address add 2001:db8:$a/64 dev lo nodad
done`)
	s, log := newServer(t)
	sv := serveOn(t, s, log, net.ListenConfig{}, "[::]:0")
	_, port, err := net.SplitHostPort(sv.addr)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(from, to, key, request string) int {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("2001:db8:" + from)}}
		nc, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("2001:db8:"+to, port))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		p := newPeer(t, nc)
		p.Raw([]byte(strings.Replace(request, testKey, key, 1)))
		return p.response(strings.Fields(request)[0]).status
	}
	// In the three ways in which the server takes a request.
	requests := map[string]int{
		"GET /info HTTP/1.1\r\nHost: pi\r\nX-API-Key: " + testKey + "\r\n\r\n": http.StatusOK,
		"POST /publish HTTP/1.1\r\nHost: pi\r\nX-API-Client-Name: a\r\nX-API-Key: " + testKey +
			"\r\nContent-Length: 13\r\n\r\n" + `{"event":"e"}`: http.StatusCreated,
		ws.Handshake("/subscribe?clientName=a", ws.Nonce, "X-API-Key", testKey): http.StatusSwitchingProtocols,
	}
	guess := func(n int, from, to string) {
		t.Helper()
		for range n {
			for request := range requests {
				if status := ask(from, to, another(), request); status != http.StatusUnauthorized {
					t.Fatalf("a guess from %s to %s: status %d", from, to, status)
				}
			}
		}
	}
	lets := func(in bool, from, to string) {
		t.Helper()
		for request, want := range requests {
			if !in {
				want = http.StatusTooManyRequests
			}
			if status := ask(from, to, testKey, request); status != want {
				t.Errorf("%.20q with the right key from %s to %s: status %d, want %d", request, from, to, status, want)
			}
		}
	}

	guess(10, "1:2::10", "1:2::1")
	lets(false, "1:2::10", "1:2::1")
	lets(true, "1:2::20", "1:2::1") // its neighbour

	// From another network its addresses count as one.
	guess(10, "9:9::10", "1:2::1")
	lets(false, "9:9::10", "1:2::1")
	lets(false, "9:9::20", "1:2::1")
	lets(true, "9:a::10", "1:2::1")
	lets(true, "9:9::20", "9:9::1") // in which the server is, too

	if lines := log.lines(t, addressRefused); len(lines) != 2 || lines[0]["address"] != "2001:db8:1:2::10" ||
		lines[1]["address"] != "2001:db8:9:9::/64" {
		t.Errorf("logged %v", lines)
	}
}
