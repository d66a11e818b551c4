package server

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"strings"
	"testing"

	"picloud/test/certified"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

// onEachNetwork runs a test of a server's plain TCP connections, those over TLS, and those of its Unix socket.
func onEachNetwork(t *testing.T, test func(t *testing.T, sv *service, dial func(*testing.T) *peer)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			sv := start(t)
			test(t, sv, func(t *testing.T) *peer { return sv.dial(t, network) })
		})
	}
	t.Run("tls", func(t *testing.T) {
		s, log := newServer(t)
		sv := serveOn(t, s, log, net.ListenConfig{}, "127.0.0.1:0", func(l net.Listener) net.Listener {
			config := certified.Server().Clone()
			config.NextProtos = []string{"http/1.1"}
			return Secure{l, config}
		})
		test(t, sv, func(t *testing.T) *peer {
			nc, err := tls.Dial("tcp", sv.addr, certified.Client())
			if err != nil {
				t.Fatal(err)
			}
			return newPeer(t, nc)
		})
	})
}

const joining = "/subscribe?clientName=a"

func TestHandshakeRulesHoldOnEachNetwork(t *testing.T) {
	onEachNetwork(t, func(t *testing.T, _ *service, dial func(*testing.T) *peer) {
		for _, tt := range []struct {
			what   string
			header []string
			status int
			reason string
		}{
			{"no version", []string{"Sec-WebSocket-Version", ""}, 426, "must be 13"},
			{"version 0", []string{"Sec-WebSocket-Version", "0"}, 426, "must be 13"},
			{"version 8", []string{"Sec-WebSocket-Version", "8"}, 426, "must be 13"},
			{"version 14", []string{"Sec-WebSocket-Version", "14"}, 426, "must be 13"},
			{"version abc", []string{"Sec-WebSocket-Version", "abc"}, 426, "must be 13"},
			{"no nonce", []string{"Sec-WebSocket-Key", ""}, 400, "websocket"},
			{"a short nonce", []string{"Sec-WebSocket-Key", "short"}, 400, "websocket"},
			{"two nonces", []string{"Sec-WebSocket-Key", ws.Nonce, "Sec-WebSocket-Key", ws.Nonce}, 400,
				"one Sec-WebSocket-Key"},
			{"two nonces that differ", []string{"Sec-WebSocket-Key", ws.Nonce, "Sec-WebSocket-Key",
				"dGhlIHNhbXBsZSBub25jZQ=="}, 400, "one Sec-WebSocket-Key"},
			{"an empty element first", []string{"Connection", ", Upgrade"}, 101, ""},
			{"an empty element last", []string{"Connection", "Upgrade,"}, 101, ""},
			{"empty elements between", []string{"Connection", "keep-alive, ,, Upgrade"}, 101, ""},
			{"empty elements of two headers", []string{"Connection", "keep-alive,", "Connection", ",upgrade"}, 101, ""},
			{"an empty element of Upgrade", []string{"Upgrade", ", websocket"}, 101, ""},
			{"empty elements alone", []string{"Connection", ", ,"}, 426, "WebSocket"},
		} {
			t.Run(tt.what, func(t *testing.T) {
				p := dial(t)
				p.Raw([]byte(ws.Handshake(joining, ws.Nonce, append(tt.header, "X-API-Key", testKey)...)))
				a := p.response("GET")
				if tt.status == http.StatusSwitchingProtocols {
					if a.status != tt.status {
						t.Fatalf("status %d %q, want 101", a.status, a.body)
					}
					p.ask(`{"action":"subscribe","event":"e","id":1}`)
					return
				}
				a.refuses(t, tt.status, tt.reason)
				if got := a.header.Get("Upgrade"); tt.status == http.StatusUpgradeRequired && got != "websocket" {
					t.Errorf("Upgrade %q, want websocket", got)
				}
				if got := a.header.Get("Sec-WebSocket-Version"); tt.reason == "must be 13" && got != "13" {
					t.Errorf("Sec-WebSocket-Version %q, want 13", got)
				}
			})
		}
	})
}

// A body would be taken for frames; as it is, the next request on the connection is served.
func TestHandshakeWithABodyIsRefused(t *testing.T) {
	ping := string(ws.Frame(ws.Fin|ws.Ping, "hi"))
	onEachNetwork(t, func(t *testing.T, _ *service, dial func(*testing.T) *peer) {
		for header, body := range map[string]string{
			"Content-Length: 5":          "hello",
			"Content-Length: 8":          ping,
			"Transfer-Encoding: chunked": "8\r\n" + ping + "\r\n0\r\n\r\n",
		} {
			name, value, _ := strings.Cut(header, ": ")
			p := dial(t)
			p.Raw([]byte(ws.Handshake(joining, ws.Nonce, "X-API-Key", testKey, name, value) + body +
				"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"))
			p.response("GET").refuses(t, http.StatusBadRequest, "body")
			if a := p.response("GET"); a.status != http.StatusOK {
				t.Errorf("%s: then status %d %q, want 200", header, a.status, a.body)
			}
		}
	})
}

func TestCloseIsAnswered(t *testing.T) {
	onEachNetwork(t, func(t *testing.T, sv *service, dial func(*testing.T) *peer) {
		for _, tt := range []struct {
			sent string
			want int
		}{
			{"", 0},
			{"\x03\xe8", 1000},
			{"\x03\xe8bye", 1000},
			{"\x03\xe9", 1001},
			{"\x03\xf6", 1014},
			{"\x0f\xa0private", 4000},
			{"\x03", 1002},
			{"\x03\xed", 1002}, // 1005
			{"\x03\xf7", 1002}, // 1015
		} {
			p := dial(t)
			if a := p.upgrade(joining, "X-API-Key", testKey); a.status != http.StatusSwitchingProtocols {
				t.Fatalf("status %d %q", a.status, a.body)
			}
			p.ask(`{"action":"subscribe","event":"e","id":1}`)
			p.Raw(ws.Frame(ws.Fin|ws.Close, tt.sent))
			op, said, err := p.Next()
			got := 0
			if len(said) >= 2 {
				got = int(binary.BigEndian.Uint16(said))
			}
			if err != nil || op != ws.Close || got != tt.want {
				t.Errorf("a close with %q is answered with opcode %d %q (%v), want the code %d", tt.sent, op, said, err,
					tt.want)
			}
			p.ended()
		}
		wait.Until(t, "the clients have left", func() bool {
			_, clients, _ := sv.hub.Snapshot(infoBounds)
			return len(clients) == 0
		})
	})
}
