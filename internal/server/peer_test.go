package server

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
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
	"unicode/utf8"
)

// Bits and opcodes of a frame, RFC 6455 §5.2, as the tests write them.
const (
	fin  = 0x80
	rsv1 = 0x40
	rsv2 = 0x20
	rsv3 = 0x10

	opMore   = 0x0
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA
)

// A peer is the client's end of a WebSocket, written from RFC 6455 alone, so that it can also say what no library would.
// It has patience each time it reads or writes. The methods without an error end the test, so they are for its own goroutine.
type peer struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

// dial opens a connection that has said nothing.
func dial(t testing.TB, network, addr string) *peer {
	t.Helper()
	nc, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, nc)
}

func newPeer(t testing.TB, nc net.Conn) *peer {
	t.Cleanup(func() { nc.Close() })
	p := &peer{Conn: nc, t: t}
	p.in = bufio.NewReader(p)
	return p
}

func (p *peer) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(patience))
	return p.Conn.Read(b)
}

func (p *peer) Write(b []byte) (int, error) {
	p.SetWriteDeadline(time.Now().Add(patience))
	return p.Conn.Write(b)
}

// dial opens a connection that has said nothing, over "unix" or else TCP.
func (sv *service) dial(t testing.TB, network string) *peer {
	t.Helper()
	if network == "unix" {
		return dial(t, network, sv.path)
	}
	return dial(t, "tcp", sv.addr)
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
	p.t.Helper()
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	p.raw([]byte(handshake(target, key, header...)))
	a := p.response("GET")
	if a.status == http.StatusSwitchingProtocols {
		sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		if got, want := a.header.Get("Sec-WebSocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
			p.t.Errorf("Sec-WebSocket-Accept %q, want %q", got, want)
		}
	}
	return a
}

// handshake is a WebSocket request; a name of header with an empty value is left out, a default too.
func handshake(target, key string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: test\r\n", target)
	fields := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", key}
	for i := 0; i < len(fields); i += 2 {
		if !slices.Contains(header, fields[i]) {
			fmt.Fprintf(&b, "%s: %s\r\n", fields[i], fields[i+1])
		}
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", header[i], header[i+1])
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// response reads an HTTP response to a request with that method.
func (p *peer) response(method string) answer {
	p.t.Helper()
	res, err := http.ReadResponse(p.in, &http.Request{Method: method})
	if err != nil {
		p.t.Fatalf("read response: %v", err)
	}
	a := answer{status: res.StatusCode, header: res.Header, last: res.Close}
	if a.status == http.StatusSwitchingProtocols {
		return a
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatalf("read response's body: %v", err)
	}
	a.body = string(body)
	return a
}

// raw writes bytes as they are.
func (p *peer) raw(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// frame is a whole, masked frame.
func frame(first byte, payload []byte) []byte {
	return append(frameHeader(first, len(payload)), masked(payload)...)
}

var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// frameHeader announces a masked payload of n bytes.
func frameHeader(first byte, n int) []byte {
	b := []byte{first}
	switch {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(b, mask[:]...)
}

func masked(payload []byte) []byte {
	p := bytes.Clone(payload)
	for i := range p {
		p[i] ^= mask[i%4]
	}
	return p
}

// send sends one text message.
func (p *peer) send(text string) {
	p.t.Helper()
	p.raw(frame(fin|opText, []byte(text)))
}

// read reads one frame and checks that it is one a server may send: whole, unmasked, no reserved bit, the shortest form of
// its length, text that is UTF-8.
func (p *peer) read() (op byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(p.in, head[:2]); err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xf
	if head[0]&^0xf != fin || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a server's frame begins with %x", head[:2])
	}
	n := uint64(head[1])
	least := uint64(0)
	switch n {
	case 126:
		_, err = io.ReadFull(p.in, head[2:4])
		n, least = uint64(binary.BigEndian.Uint16(head[2:])), 126
	case 127:
		_, err = io.ReadFull(p.in, head[2:10])
		n, least = binary.BigEndian.Uint64(head[2:]), 1<<16
	}
	if err != nil {
		return 0, nil, err
	}
	if n < least || n > 1<<30 {
		return 0, nil, fmt.Errorf("a server's frame says its length is %d, in the form for %d and more", n, least)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(p.in, payload); err != nil {
		return 0, nil, err
	}
	if op == opText && !utf8.Valid(payload) {
		return 0, nil, fmt.Errorf("a server's text is not UTF-8: %q", payload)
	}
	return op, payload, nil
}

// message reads the next text message; pings are passed over.
func (p *peer) message() ([]byte, error) {
	for {
		op, payload, err := p.read()
		switch {
		case err != nil:
			return nil, err
		case op == opText:
			return payload, nil
		case op == opClose:
			return nil, fmt.Errorf("closed: %s", closeText(payload))
		case op != opPing:
			return nil, fmt.Errorf("a frame with opcode %d where a text is due", op)
		}
	}
}

func closeText(payload []byte) string {
	if len(payload) < 2 {
		return "no code"
	}
	return fmt.Sprintf("%d %s", binary.BigEndian.Uint16(payload), payload[2:])
}

func (p *peer) text() string {
	p.t.Helper()
	m, err := p.message()
	if err != nil {
		p.t.Fatalf("read: %v", err)
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
	p.t.Helper()
	d, err := parseDelivery([]byte(p.text()))
	if err != nil {
		p.t.Fatal(err)
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
	err := errors.Join(json.Unmarshal(keys["event"], &d.event), json.Unmarshal(keys["client_name"], &d.name), json.Unmarshal(keys["created_at"], &at))
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
	p.t.Helper()
	p.send(text)
	p.acked(text)
}

// acked reads the ack for a message that has been sent.
func (p *peer) acked(sent string) {
	p.t.Helper()
	var m struct{ ID json.RawMessage }
	if err := json.Unmarshal([]byte(sent), &m); err != nil {
		p.t.Fatal(err)
	}
	want := map[string]string{"action": `"ack"`, "id": string(m.ID)}
	if got := rawKeys(p.t, p.text()); !maps.Equal(got, want) {
		p.t.Fatalf("%s was answered with %v, want %v", sent, got, want)
	}
}

// failed reads an error for the id, "" for none, and checks that its reason has something of reason.
func (p *peer) failed(reason, id string) {
	p.t.Helper()
	text := p.text()
	got := rawKeys(p.t, text)
	want := []string{"action", "error"}
	if id != "" {
		want = append(want, "id")
	}
	var said string
	json.Unmarshal([]byte(got["error"]), &said)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), want) || got["action"] != `"error"` || got["id"] != id || !strings.Contains(said, reason) || said == "" {
		p.t.Fatalf("got %s, want an error with something of %q and the id %s", text, reason, id)
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
	p.t.Helper()
	for {
		op, payload, err := p.read()
		if err != nil {
			p.t.Fatalf("want a close frame: %v", err)
		}
		if op != opClose {
			continue
		}
		p.Write(frame(fin|opClose, payload)) // the server may have gone
		p.ended()
		if len(payload) < 2 {
			return 0
		}
		return int(binary.BigEndian.Uint16(payload))
	}
}

// ended reads the connection's end. It may come as a reset when the server has not read all that was sent.
func (p *peer) ended() {
	p.t.Helper()
	if b, err := p.in.ReadByte(); err == nil {
		rest, _ := p.in.Peek(p.in.Buffered())
		p.t.Fatalf("%q comes where the connection should end", append([]byte{b}, rest...))
	} else if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		p.t.Fatalf("want the end of the connection: %v", err)
	}
}

// wantClose checks the code that the server closes with.
func (p *peer) wantClose(code int) {
	p.t.Helper()
	if got := p.closed(); got != code {
		p.t.Errorf("closed with %d, want %d", got, code)
	}
}
