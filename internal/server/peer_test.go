package server

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ws "picloud/test/peer"
)

// A peer is the client's end of a WebSocket. The methods without an error end the test, so they are for its own
// goroutine.
type peer struct{ *ws.Peer }

// dial opens a connection that has said nothing.
func dial(t testing.TB, network, addr string) *peer {
	t.Helper()
	return &peer{ws.Dial(t, network, addr)}
}

// newPeer is a peer whose connection is closed at the end of the test.
func newPeer(t testing.TB, nc net.Conn) *peer {
	t.Cleanup(func() { nc.Close() })
	return &peer{ws.New(t, nc)}
}

// dial opens a connection that has said nothing, over "unix" or else TCP.
func (sv *service) dial(t testing.TB, network string) *peer {
	t.Helper()
	if network == "unix" {
		return dial(t, network, sv.path)
	}
	return dial(t, "tcp", sv.addr)
}

// dialFrom opens a connection from another address of this machine.
func (sv *service) dialFrom(t testing.TB, from string) *peer {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.DialContext(t.Context(), "tcp", sv.addr)
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, nc)
}

// connect makes a WebSocket; header is name, value, name, value.
func (sv *service) connect(t testing.TB, target string, header ...string) *peer {
	t.Helper()
	p := sv.dial(t, "tcp")
	if a := p.upgrade(target, header...); a.status != http.StatusSwitchingProtocols {
		t.Fatalf("handshake for %s: status %d %q", target, a.status, a.body)
	}
	return p
}

func (sv *service) subscriber(t testing.TB, name string) *peer {
	t.Helper()
	return sv.connect(t, "/subscribe?clientName="+url.QueryEscape(name), "X-API-Key", testKey)
}

func (sv *service) publisher(t testing.TB, name string) *peer {
	t.Helper()
	return sv.connect(t, "/publish?clientName="+url.QueryEscape(name), "X-API-Key", testKey)
}

// upgrade asks for a WebSocket on a fresh connection and checks the answer if it is 101.
func (p *peer) upgrade(target string, header ...string) answer {
	p.T.Helper()
	a, err := p.Upgrade(target, header...)
	if err != nil {
		p.T.Fatalf("handshake for %s: %v", target, err)
	}
	return answer{a.Status, a.Header, a.Body, a.Last}
}

// response reads an HTTP response to a request with that method.
func (p *peer) response(method string) answer {
	p.T.Helper()
	a, err := p.Answer(method)
	if err != nil {
		p.T.Fatalf("read response: %v", err)
	}
	return answer{a.Status, a.Header, a.Body, a.Last}
}

// send sends one text message.
func (p *peer) send(text string) {
	p.T.Helper()
	p.Raw(ws.Frame(ws.Fin|ws.Text, text))
}

// message reads the next text message; pings are passed over.
func (p *peer) message() ([]byte, error) {
	for {
		op, payload, err := p.Next()
		switch {
		case err != nil:
			return nil, err
		case op == ws.Text:
			return payload, nil
		case op == ws.Close:
			return nil, fmt.Errorf("closed: %s", ws.CloseText(payload))
		case op != ws.Ping:
			return nil, fmt.Errorf("a frame with opcode %d where a text is due", op)
		}
	}
}

func (p *peer) text() string {
	p.T.Helper()
	m, err := p.message()
	if err != nil {
		p.T.Fatalf("read: %v", err)
	}
	return string(m)
}

// A delivered message, all but its action.
type delivered struct {
	event, data, name string // data as its bytes are
	at                time.Time
}

// delivery reads the next text message, which has to be a publish with exactly its five keys.
func (p *peer) delivery() delivered {
	p.T.Helper()
	d, err := parseDelivery([]byte(p.text()))
	if err != nil {
		p.T.Fatal(err)
	}
	return d
}

func parseDelivery(text []byte) (delivered, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return delivered{}, err
	}
	want := []string{"action", "client_name", "created_at", "data", "event"}
	if got := slices.Sorted(maps.Keys(keys)); !slices.Equal(got, want) || string(keys["action"]) != `"publish"` {
		return delivered{}, fmt.Errorf("%s is no delivery: want the keys %v", text, want)
	}
	d := delivered{data: string(keys["data"])}
	var at string
	err := errors.Join(json.Unmarshal(keys["event"], &d.event), json.Unmarshal(keys["client_name"], &d.name),
		json.Unmarshal(keys["created_at"], &at))
	if err == nil {
		d.at, err = parseTime(at)
	}
	return d, err
}

// parseTime reads RFC 3339 with Z.
func parseTime(s string) (time.Time, error) {
	if !strings.HasSuffix(s, "Z") {
		return time.Time{}, fmt.Errorf("time %q does not end in Z", s)
	}
	return time.Parse(time.RFC3339Nano, s)
}

// ask sends a message with an id and reads its ack.
func (p *peer) ask(text string) {
	p.T.Helper()
	p.send(text)
	p.acked(text)
}

// acked reads the ack for a message that has been sent.
func (p *peer) acked(sent string) {
	p.T.Helper()
	var m struct{ ID json.RawMessage }
	if err := json.Unmarshal([]byte(sent), &m); err != nil {
		p.T.Fatal(err)
	}
	want := map[string]string{"action": `"ack"`, "id": string(m.ID)}
	if got := rawKeys(p.T, p.text()); !maps.Equal(got, want) {
		p.T.Fatalf("%s was answered with %v, want %v", sent, got, want)
	}
}

// failed reads an error for the id, "" for none, and checks that its reason contains reason.
func (p *peer) failed(reason, id string) {
	p.T.Helper()
	text := p.text()
	got := rawKeys(p.T, text)
	want := []string{"action", "error"}
	if got["event"] != "" {
		want = append(want, "event")
	}
	if id != "" {
		want = append(want, "id")
	}
	var said string
	json.Unmarshal([]byte(got["error"]), &said)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), want) || got["action"] != `"error"` || got["id"] != id ||
		!strings.Contains(said, reason) || said == "" {
		p.T.Fatalf("got %s, want an error with something of %q and the id %s", text, reason, id)
	}
}

// rawKeys returns the keys of a JSON object with their values as they are written.
func rawKeys(t testing.TB, text string) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	keys := make(map[string]string)
	for k, v := range raw {
		keys[k] = string(v)
	}
	return keys
}

// closed reads on until the server's close frame, answers it, and sees the connection end. It returns the code, 0 for
// none.
func (p *peer) closed() int {
	p.T.Helper()
	for {
		op, payload, err := p.Next()
		if err != nil {
			p.T.Fatalf("want a close frame: %v", err)
		}
		if op != ws.Close {
			continue
		}
		p.Write(ws.Frame(ws.Fin|ws.Close, payload)) // the server may have gone
		p.ended()
		if len(payload) < 2 {
			return 0
		}
		return int(binary.BigEndian.Uint16(payload))
	}
}

// ended reads the connection's end. It may come as a reset when the server has not read all that was sent.
func (p *peer) ended() {
	p.T.Helper()
	if b, err := p.In.ReadByte(); err == nil {
		rest, _ := p.In.Peek(p.In.Buffered())
		p.T.Fatalf("%q comes where the connection should end", append([]byte{b}, rest...))
	} else if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		p.T.Fatalf("want the end of the connection: %v", err)
	}
}

// wantClose checks the code that the server closes with.
func (p *peer) wantClose(code int) {
	p.T.Helper()
	if got := p.closed(); got != code {
		p.T.Errorf("closed with %d, want %d", got, code)
	}
}
