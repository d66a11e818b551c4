package peer

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"picloud/internal/leak"

	"github.com/gorilla/websocket"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

// echo is gorilla's end: it sends back what it receives, until it receives a close frame.
func echo(w http.ResponseWriter, r *http.Request) {
	c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, p, err := c.ReadMessage()
		if err != nil {
			return
		}
		c.WriteMessage(kind, p)
	}
}

func dial(t *testing.T) *Peer {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(server.Close)
	return Dial(t, "tcp", server.Listener.Addr().String())
}

// What is sent and read here means the same to gorilla.
func TestPeerSpeaksWebSocket(t *testing.T) {
	p := dial(t)
	if a, err := p.Upgrade("/"); err != nil || a.Status != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v, error %v", a, err)
	}
	for _, n := range []int{0, 1, 125, 126, 0xffff, 0x10000} {
		text := strings.Repeat("x", n)
		for name, frame := range map[string][]byte{
			"Frame": Frame(Fin|Text, text),
			"a header and its payload": append(Header(Fin|Text, n),
				Frame(Fin|Text, []byte(text))[len(Header(Fin|Text, n)):]...),
			"the mask 0": AppendFrame(nil, Fin|Text, [4]byte{}, text),
			"fragments":  append(Frame(Text, text), Frame(Fin|More, "")...),
			"LongFrame":  LongFrame(Fin|Text, text, 127),
		} {
			p.Raw(frame)
			if op, got, err := p.Next(); op != Text || string(got) != text || err != nil {
				t.Fatalf("%s of %d bytes: opcode %d, %d bytes, error %v", name, n, op, len(got), err)
			}
		}
	}
	p.Raw(Frame(Fin|Binary, "\xff"))
	if op, got, err := p.Next(); op != Binary || string(got) != "\xff" || err != nil {
		t.Errorf("opcode %d, %q, error %v", op, got, err)
	}
	p.Raw(Frame(Fin|Ping, "a"))
	if op, got, err := p.Next(); op != Pong || string(got) != "a" || err != nil {
		t.Errorf("opcode %d, %q, error %v", op, got, err)
	}
	p.Raw(Frame(Fin|Close, "\x03\xe8"))
	if op, got, err := p.Next(); op != Close || CloseText(got) != "1000 " || err != nil {
		t.Errorf("opcode %d, %q, error %v", op, got, err)
	}
	if _, _, err := p.Next(); err != io.EOF {
		t.Errorf("behind the close frame: %v, want io.EOF", err)
	}
}

func TestHandshakeIsAsAskedFor(t *testing.T) {
	for _, header := range [][]string{{"Sec-WebSocket-Key", ""}, {"Sec-WebSocket-Version", "8"}, {"Upgrade", "other"}} {
		a, err := dial(t).Upgrade("/", header...)
		if err != nil || a.Status < 400 || a.Body == "" {
			t.Errorf("with %q: %+v, error %v, want a refusal", header, a, err)
		}
	}
}

func TestFramesThatNoServerMaySendAreErrors(t *testing.T) {
	for name, b := range map[string]string{
		"a fragment":                      "\x01\x01a",
		"a reserved bit":                  "\xc1\x01a",
		"masked":                          "\x81\x81\x00\x00\x00\x00a",
		"a long form for a short length":  "\x81\x7e\x00\x01a",
		"the longest form for less":       "\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01a",
		"longer than anything":            "\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x01a",
		"the end behind the first byte":   "\x81",
		"the end in the length":           "\x81\x7e\x00",
		"the end in the payload":          "\x81\x02a",
		"the end in place of the payload": "\x81\x02",
	} {
		if _, _, err := ReadFrame(bufio.NewReader(strings.NewReader(b)), nil); err == nil || err == io.EOF {
			t.Errorf("%s: error %v", name, err)
		}
	}
	p := &Peer{In: bufio.NewReader(strings.NewReader("\x81\x01\xff"))}
	if _, _, err := p.Next(); err == nil {
		t.Error("text that is not UTF-8: no error")
	}
}

func TestPayloadIsReadIntoTheBufferThatHasRoom(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("\x81\x02ab\x81\x04abcd"))
	buf := make([]byte, 3)
	if _, p, err := ReadFrame(r, buf); err != nil || string(p) != "ab" || &p[0] != &buf[0] {
		t.Errorf("%q, error %v", p, err)
	}
	if _, p, err := ReadFrame(r, buf); err != nil || string(p) != "abcd" || !bytes.HasPrefix(buf, []byte("ab")) {
		t.Errorf("%q, error %v", p, err)
	}
}

func TestHeaderIsAsShortAsItCanBe(t *testing.T) {
	for n, length := range map[int]int{0: 6, 125: 6, 126: 8, 0xffff: 8, 0x10000: 14} {
		if got := len(Header(Fin|Text, n)); got != length {
			t.Errorf("for %d bytes it has %d, want %d", n, got, length)
		}
	}
	for form, length := range map[byte]int{126: 8, 127: 14} {
		if got := len(LongFrame(Fin|Text, "", form)); got != length {
			t.Errorf("in the form %d it has %d bytes, want %d", form, got, length)
		}
	}
}
