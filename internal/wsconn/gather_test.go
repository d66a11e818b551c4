package wsconn

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"picloud/internal/poll"
	"picloud/internal/quota"
	ws "picloud/test/peer"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// masked is one frame as a client sends it. The first byte is given whole: FIN, reserved bits and opcode.
func masked(first byte, payload string) []byte { return ws.Frame(first, payload) }

// First bytes of frames, RFC 6455 §5.2.
const (
	text        = finBit | opText
	binaryFrame = finBit | opBinary
	pingByte    = finBit | opPing
	pongByte    = finBit | opPong
	closeByte   = finBit | opClose
	startText   = opText
	startBinary = opBinary
	goOn        = opContinuation
	last        = finBit | opContinuation
)

func closePayload(code int, reason string) string {
	return string(websocket.FormatCloseMessage(code, reason))
}

// A line is a connection whose other end the test holds, without a server or a running poller: it looks at input when
// it is given some, and then rests.
type line struct {
	t        testing.TB
	conn     *Conn
	peer     int // descriptor
	messages []string
	closed   []error
}

// Receive, Rest and Closed implement Handler.
func (l *line) Receive(binary bool, p []byte) {
	l.messages = append(l.messages, fmt.Sprintf("%t %s", binary, p))
}
func (l *line) Rest()            {}
func (l *line) Closed(why error) { l.closed = append(l.closed, why) }

// noText is what a client is told whose text is not UTF-8.
func noText(text []byte) string { return fmt.Sprintf("%d bytes that are no text", len(text)) }

// newPoller makes a poller that does not run.
func newPoller(t testing.TB) *poll.Poller {
	t.Helper()
	p, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// lines makes a Set for lines.
func lines(t testing.TB, messageBytes int) *Set {
	t.Helper()
	s := New(Limits{Connections: 1000, MessageBytes: messageBytes, QueueBytes: 1 << 20, PingEvery: time.Hour,
		PeerTimeout: time.Hour}, newPoller(t), nil, quota.New(1<<30), nil, noText)
	t.Cleanup(func() {
		s.crew.Wait()
		if n := s.Len(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		s.Release()
	})
	return s
}

// newLine makes a line; early is what the client has sent with its handshake.
func newLine(t testing.TB, s *Set, early []byte) *line {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, peer: fds[1]}
	l.conn = reserve(s, socket{fd: fds[0]}, early)
	start(l.conn, l)
	s.crew.Wait()
	return l
}

// start completes a connection, as Upgrade does, and starts it.
func start(c *Conn, h Handler) {
	c.set.admit(c, func(*Conn) Handler { return h })
	c.Start()
}

// reserve makes a connection from a socket, as Upgrade does.
func reserve(s *Set, sock socket, early []byte) *Conn {
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return &Conn{set: s, sock: sock, addr: "local", partial: bytes.Clone(early), held: int32(len(early)), users: 2}
}

// give sends p and lets the connection look.
func (l *line) give(p []byte) {
	for len(p) > 0 {
		n, err := unix.Write(l.peer, p[:min(len(p), 64<<10)])
		if err == unix.EPIPE || err == unix.ECONNRESET { // it has closed
			return
		}
		if err != nil {
			l.t.Fatal(err)
		}
		p = p[n:]
		l.look()
	}
}

func (l *line) look() {
	l.conn.ready(true, false)
	l.conn.set.crew.Wait()
}

// sent returns all that the connection has sent since the last call.
func (l *line) sent() []byte {
	var all []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(l.peer, buf)
		if n <= 0 || err != nil {
			return all
		}
		all = append(all, buf[:n]...)
	}
}

// hangUp ends the line from the client's side. When it returns, Closed has been called.
func (l *line) hangUp() {
	unix.Close(l.peer)
	l.look()
	if len(l.closed) != 1 {
		l.t.Errorf("Closed was called with %v, want once", l.closed)
	}
}

// A verdict is all that comes of a stream of bytes.
type verdict struct {
	messages []string
	sent     []byte // pongs and the close frame
	ended    bool
	goodbye  bool // by the client's close frame
}

func (v verdict) String() string {
	return fmt.Sprintf("messages %q, sent %q, ended %t, by the client's close frame %t", v.messages, v.sent, v.ended,
		v.goodbye)
}

// ours gives a stream to a connection, cut into pieces of the given lengths (the rest in one); the first comes with the
// handshake.
func ours(t testing.TB, s *Set, stream []byte, cuts []int) verdict {
	t.Helper()
	var early []byte
	if len(cuts) > 0 {
		n := min(cuts[0], len(stream))
		early, stream, cuts = stream[:n], stream[n:], cuts[1:]
	}
	l := newLine(t, s, early)
	for _, n := range cuts {
		n = min(n, len(stream))
		l.give(stream[:n])
		stream = stream[n:]
	}
	l.give(stream)
	v := verdict{messages: l.messages, sent: l.sent(), ended: len(l.closed) > 0}
	if v.ended {
		v.goodbye = l.closed[0] == ErrGoodbye
	} else if l.conn.partial == nil && l.conn.gather != (gather{}) {
		t.Errorf("between two messages it remembers %+v", l.conn.gather)
	}
	l.hangUp()
	if !v.ended && l.closed[0] != io.EOF {
		t.Errorf("closed with %v, want %v", l.closed[0], io.EOF)
	}
	if len(l.messages) != len(v.messages) {
		t.Error("a message came of the end of the stream")
	}
	return v
}

// theirs gives the same stream to a gorilla Conn of its own. It adds what the contract has beyond gorilla: text that is
// not UTF-8 gets 1007, and a length beyond all limits 1009, like any other that is over the limit.
func theirs(t testing.TB, stream []byte, limit int) verdict {
	t.Helper()
	nc := &memoryConn{in: stream}
	ws, err := (&websocket.Upgrader{}).Upgrade(hijacked{nc}, madeUpRequest, nil)
	if err != nil {
		t.Fatal(err)
	}
	nc.out = nil
	ws.SetReadLimit(int64(limit))
	var v verdict
	for {
		kind, p, err := ws.ReadMessage()
		switch _, goodbye := errors.AsType[*websocket.CloseError](err); {
		case err == io.EOF, err == io.ErrUnexpectedEOF, goodbye && isEOF(err):
		case goodbye:
			v.ended, v.goodbye = true, true
		case err != nil:
			v.ended = true
			if err == websocket.ErrReadLimit && !bytes.HasSuffix(nc.out, []byte{closeByte, 2, 1009 >> 8, 1009 & 0xff}) {
				nc.out = appendFrame(nc.out, opClose, []byte(closePayload(1009, "")))
			}
		case kind == websocket.TextMessage && !utf8.Valid(p):
			v.ended = true
			nc.out = appendFrame(nc.out, opClose, []byte(closePayload(1007, "")))
		default:
			v.messages = append(v.messages, fmt.Sprintf("%t %s", kind == websocket.BinaryMessage, p))
			continue
		}
		v.sent = nc.out
		return v
	}
}

// isEOF tells gorilla's error for an end in the middle of a message from that for a close frame.
func isEOF(err error) bool {
	e, ok := errors.AsType[*websocket.CloseError](err)
	return ok && e.Code == websocket.CloseAbnormalClosure
}

// A memoryConn is a net.Conn that receives in, and then nothing more.
type memoryConn struct {
	net.Conn
	in, out []byte
}

func (c *memoryConn) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *memoryConn) Write(p []byte) (int, error)      { c.out = append(c.out, p...); return len(p), nil }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

type hijacked struct{ *memoryConn }

func (hijacked) Header() http.Header { return nil }
func (hijacked) WriteHeader(int)     {}
func (w hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.memoryConn, bufio.NewReadWriter(bufio.NewReader(w.memoryConn), bufio.NewWriter(w.memoryConn)), nil
}

var madeUpRequest = &http.Request{Method: http.MethodGet, Header: http.Header{
	"Connection":            {"upgrade"},
	"Upgrade":               {"websocket"},
	"Sec-Websocket-Version": {"13"},
	"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

// wordless strips close frames down to their codes: the fuzzer does not judge whose words are better.
func wordless(sent []byte) (out []byte) {
	for len(sent) > 0 {
		n := frameLen(sent)
		f := sent[:n]
		if f[0] == closeByte && len(f) > 4 {
			f = appendFrame(nil, opClose, f[2:4])
		}
		out, sent = append(out, f...), sent[n:]
	}
	return out
}

func same(a, b verdict) bool {
	return slices.Equal(a.messages, b.messages) && bytes.Equal(wordless(a.sent), wordless(b.sent)) &&
		a.ended == b.ended && a.goodbye == b.goodbye
}

// goodbyes turns the answers to the two close frames that gorilla judges otherwise into gorilla's: it takes half a code
// for none, and does not know code 1014, which came later.
func goodbyes(v verdict) verdict {
	half := appendFrame(nil, opClose, []byte(closePayload(1002, "a close frame has half a code")))
	if before, ok := bytes.CutSuffix(v.sent, half); ok {
		v.sent, v.goodbye = appendFrame(bytes.Clone(before), opClose, nil), true
	}
	later := appendFrame(nil, opClose, []byte(closePayload(1014, "")))
	if before, ok := bytes.CutSuffix(v.sent, later); ok && v.goodbye {
		v.sent, v.goodbye = appendFrame(bytes.Clone(before), opClose, []byte(closePayload(1002, ""))), false
	}
	return v
}

// cutting makes the lengths of pieces: seed 0 leaves a stream whole, 1 cuts it after each byte.
func cutting(seed uint64, n int) []int {
	switch seed {
	case 0:
		return nil
	case 1:
		return append([]int{0}, slices.Repeat([]int{1}, n)...)
	}
	random := rand.New(rand.NewPCG(seed, seed))
	cuts := []int{0}
	if random.IntN(3) == 0 {
		cuts[0] = random.IntN(n + 1)
	}
	for sum := cuts[0]; sum < n; {
		k := 1 + random.IntN(1+random.IntN(n))
		cuts = append(cuts, k)
		sum += k
	}
	return cuts
}

// compose makes a mostly valid stream from a fuzzer's bytes.
func compose(program []byte) []byte {
	var stream []byte
	for len(program) >= 3 {
		op, n, x := program[0], int(program[1]), program[2]
		program = program[3:]
		payload := strings.Repeat(string('a'+rune(x%26)), n)
		switch x % 16 {
		case 0:
			payload = strings.Repeat("é", n/2)
		case 1:
			payload = "\xc3" + payload // the rest of it may come with the next fragment
		case 2:
			payload = "\xa9" + payload
		}
		form := byte(0)
		if x&0x20 != 0 {
			form = 126 + x>>7
		}
		switch op % 16 {
		case 0, 1, 2, 3:
			stream = append(stream, ws.LongFrame(text, payload, form)...)
		case 4:
			stream = append(stream, ws.LongFrame(binaryFrame, payload, form)...)
		case 5, 6:
			stream = append(stream, ws.LongFrame(startText, payload, form)...)
		case 7:
			stream = append(stream, ws.LongFrame(startBinary, payload, form)...)
		case 8, 9:
			stream = append(stream, ws.LongFrame(goOn, payload, form)...)
		case 10:
			stream = append(stream, ws.LongFrame(last, payload, form)...)
		case 11:
			stream = append(stream, ws.LongFrame(pingByte, payload[:len(payload)/2], form)...)
		case 12:
			stream = append(stream, ws.LongFrame(pongByte, payload[:len(payload)/2], form)...)
		case 13:
			stream = append(stream, masked(closeByte, closePayload(990+n, "bye"))...)
		case 14:
			stream = append(stream, ws.LongFrame(op>>4<<4|x&0xf, payload, form)...)
		case 15:
			stream = append(stream, op, byte(n), x)
		}
	}
	return stream
}

// FuzzGather checks that, however a stream is cut, the same comes of it as with gorilla.
func FuzzGather(f *testing.F) {
	streams := [][]byte{nil}
	for _, tt := range streamCases {
		if len(tt.stream) < 2000 {
			streams = append(streams, tt.stream)
		}
	}
	for _, stream := range streams {
		for seed := range uint64(4) {
			f.Add(stream, seed, uint16(limitOfCases), false)
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{12, 60, 300} {
		for range 8 {
			program := make([]byte, n)
			for i := range program {
				program[i] = byte(random.Uint32())
				if i%3 == 0 && random.IntN(4) > 0 {
					program[i] %= 13
				}
			}
			f.Add(program, random.Uint64(), uint16(200+random.IntN(1000)), true)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, limit uint16, composed bool) {
		if composed {
			stream = compose(stream)
		}
		// Longer ones may be refused for their many fragments. The bytes appended complete a header, since there is a
		// length that gorilla refuses before it has seen the rest.
		stream = append(stream[:min(len(stream), 4000)], make([]byte, 8+4)...)
		got, want := ours(t, lines(t, int(limit)), stream, cutting(seed, len(stream))), theirs(t, stream, int(limit))
		if got = goodbyes(got); !same(got, want) {
			t.Errorf("limit %d\n   got %v\n  want %v", limit, got, want)
		}
	})
}

const limitOfCases = 300

var streamCases = []struct {
	name     string
	stream   []byte
	messages []string
	pongs    []string
	code     int // of the close frame; 0: the connection goes on
	goodbye  bool
}{
	{name: "nothing"},
	{name: "text", stream: masked(text, "hello"), messages: []string{"false hello"}},
	{name: "binary", stream: masked(binaryFrame, "\xff\x00\xfe"), messages: []string{"true \xff\x00\xfe"}},
	{name: "empty messages", stream: join(masked(text, ""), masked(binaryFrame, "")),
		messages: []string{"false ", "true "}},
	{name: "three in one", stream: join(masked(text, "a"), masked(binaryFrame, "b"), masked(text, "c")),
		messages: []string{"false a", "true b", "false c"}},
	{name: "fragments", stream: join(masked(startText, "a"), masked(goOn, ""), masked(goOn, "b"), masked(last, "c"),
		masked(text, "d")), messages: []string{"false abc", "false d"}},
	{name: "a character in two fragments", stream: join(masked(startText, "\xe2\x82"), masked(last, "\xac")),
		messages: []string{"false €"}},
	{name: "lengths in longer forms", stream: join(ws.LongFrame(text, "a", 126), ws.LongFrame(text, "b", 127),
		ws.LongFrame(pingByte, "", 0)), messages: []string{"false a", "false b"}, pongs: []string{""}},
	{name: "message of 126", stream: masked(text, strings.Repeat("x", 126)),
		messages: []string{"false " + strings.Repeat("x", 126)}},

	{name: "unmasked", stream: appendFrame(nil, opText, []byte("hello")), code: 1002},
	{name: "unmasked ping", stream: pingFrame, code: 1002},
	{name: "unmasked after a message", stream: join(masked(text, "a"), appendFrame(nil, opText, nil)),
		messages: []string{"false a"}, code: 1002},
	{name: "RSV1", stream: masked(text|0x40, "a"), code: 1002},
	{name: "RSV2", stream: masked(text|0x20, "a"), code: 1002},
	{name: "RSV3", stream: masked(text|0x10, "a"), code: 1002},
	{name: "RSV1 on a continuation", stream: join(masked(startText, "a"), masked(last|0x40, "b")), code: 1002},
	{name: "RSV1 on a ping", stream: masked(pingByte|0x40, "a"), code: 1002},
	{name: "opcode 3", stream: masked(finBit|3, "a"), code: 1002},
	{name: "opcode 7", stream: masked(finBit|7, "a"), code: 1002},
	{name: "opcode 11", stream: masked(finBit|11, "a"), code: 1002},
	{name: "opcode 15", stream: masked(finBit|15, "a"), code: 1002},
	{name: "opcode 3 inside fragments", stream: join(masked(startText, "a"), masked(3, "b")), code: 1002},
	{name: "continuation without a start", stream: masked(last, "a"), code: 1002},
	{name: "continuation after the last", stream: join(masked(text, "a"), masked(goOn, "b")),
		messages: []string{"false a"}, code: 1002},
	{name: "new message inside fragments", stream: join(masked(startText, "a"), masked(text, "b")), code: 1002},
	{name: "new fragments inside fragments", stream: join(masked(startText, "a"), masked(startBinary, "b")),
		code: 1002},

	{name: "ping", stream: masked(pingByte, "are you there"), pongs: []string{"are you there"}},
	{name: "longest ping", stream: masked(pingByte, strings.Repeat("p", 125)),
		pongs: []string{strings.Repeat("p", 125)}},
	{name: "pong", stream: masked(pongByte, "here I am")},
	{name: "pings inside fragments", stream: join(masked(startText, "a"), masked(pingByte, "1"), masked(goOn, "b"),
		masked(pingByte, "2"), masked(pongByte, "3"), masked(last, "c")), messages: []string{"false abc"},
		pongs: []string{"1", "2"}},
	{name: "fragmented ping", stream: masked(opPing, "a"), code: 1002},
	{name: "fragmented close", stream: masked(opClose, closePayload(1000, "")), code: 1002},
	{name: "ping of 126", stream: masked(pingByte, strings.Repeat("p", 126)), code: 1002},
	{name: "pong of 126", stream: masked(pongByte, strings.Repeat("p", 126)), code: 1002},
	{name: "close of 126", stream: masked(closeByte, closePayload(1000, strings.Repeat("p", 124))), code: 1002},
	{name: "ping in a longer form", stream: ws.LongFrame(pingByte, "a", 126), code: 1002},

	{name: "goodbye", stream: masked(closeByte, closePayload(1000, "bye")), code: 1000, goodbye: true},
	{name: "goodbye of 125", stream: masked(closeByte, closePayload(4999, strings.Repeat("p", 123))), code: 4999,
		goodbye: true},
	{name: "goodbye without a code", stream: masked(closeByte, ""), code: 1005, goodbye: true},
	{name: "goodbye inside fragments", stream: join(masked(startText, "a"), masked(closeByte, closePayload(1001, ""))),
		code: 1001, goodbye: true},
	{name: "nothing counts after goodbye", stream: join(masked(closeByte, closePayload(1000, "")), masked(text, "a"),
		masked(pingByte, "b"), masked(closeByte, closePayload(1001, ""))), code: 1000, goodbye: true},
	{name: "goodbye after messages", stream: join(masked(text, "a"), masked(pingByte, "b"),
		masked(closeByte, closePayload(3000, ""))), messages: []string{"false a"}, pongs: []string{"b"}, code: 3000,
		goodbye: true},
	{name: "code 1005 on the wire", stream: masked(closeByte, "\x03\xed"), code: 1002},
	{name: "code 1014", stream: masked(closeByte, closePayload(1014, "")), code: 1014, goodbye: true},
	{name: "code 1015", stream: masked(closeByte, closePayload(1015, "")), code: 1002},
	{name: "half a code", stream: masked(closeByte, "\x03"), code: 1002},
	{name: "code 999", stream: masked(closeByte, closePayload(999, "")), code: 1002},
	{name: "reason that is not UTF-8", stream: masked(closeByte, closePayload(1000, "\xff")), code: 1002},

	{name: "text that is not UTF-8", stream: masked(text, "a\xff"), code: 1007},
	{name: "text that ends in half a character", stream: join(masked(startText, "a"), masked(last, "\xe2\x82")),
		code: 1007},
	{name: "surrogate", stream: masked(text, "\xed\xa0\x80"), code: 1007},
	{name: "nothing counts after bad text", stream: join(masked(text, "\xff"), masked(text, "a")), code: 1007},

	{name: "at the limit", stream: masked(text, strings.Repeat("x", limitOfCases)),
		messages: []string{"false " + strings.Repeat("x", limitOfCases)}},
	{name: "one over the limit", stream: masked(text, strings.Repeat("x", limitOfCases+1)), code: 1009},
	{name: "one over the limit, in 8 bytes", stream: ws.LongFrame(text, strings.Repeat("x", limitOfCases+1), 127),
		code: 1009},
	{name: "fragments at the limit", stream: join(masked(startText, strings.Repeat("x", 100)),
		masked(goOn, strings.Repeat("x", 100)), masked(pingByte, strings.Repeat("p", 125)),
		masked(last, strings.Repeat("x", 100))), messages: []string{"false " + strings.Repeat("x", 300)},
		pongs: []string{strings.Repeat("p", 125)}},
	{name: "fragments one over the limit",
		stream: join(masked(startText, strings.Repeat("x", 200)), masked(last, strings.Repeat("x", 101))), code: 1009},
	{name: "limits start anew with each message",
		stream: join(masked(startText, strings.Repeat("x", 200)), masked(last, ""),
			masked(startText, strings.Repeat("y", 200)), masked(last, "")),
		messages: []string{"false " + strings.Repeat("x", 200), "false " + strings.Repeat("y", 200)}},
	{name: "refused by its header", stream: []byte{text, maskBit | 127, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		code: 1009},
	{name: "length with the highest bit", stream: []byte{text, maskBit | 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4},
		code: 1009},
	{name: "the largest length", stream: []byte{text, maskBit | 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
		2, 3, 4}, code: 1009},
	{name: "largest signed length behind a fragment",
		stream: join(masked(startText, "a"), []byte{goOn, maskBit | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			1, 2, 3, 4}), code: 1009},
	// A mistake is refused as soon as it shows, without waiting for what would follow.
	{name: "start of an unmasked frame", stream: []byte{text, 100}, code: 1002},
	{name: "start of a frame with RSV1", stream: []byte{text | 0x40, maskBit | 100}, code: 1002},
	{name: "start of a frame with opcode 3", stream: []byte{finBit | 3, maskBit | 100}, code: 1002},
	{name: "start of a frame with opcode 11", stream: []byte{finBit | 11, maskBit | 100}, code: 1002},
	{name: "start of a fragmented ping", stream: []byte{opPing, maskBit | 100}, code: 1002},
	{name: "start of a long ping", stream: []byte{pingByte, maskBit | 126}, code: 1002},
	{name: "start of a lone continuation", stream: []byte{last, maskBit | 100}, code: 1002},
	{name: "start of a message inside fragments", stream: join(masked(startText, "a"), []byte{text, maskBit | 100}),
		code: 1002},
	{name: "header of one over the limit", stream: []byte{text, maskBit | 126, (limitOfCases + 1) >> 8,
		(limitOfCases + 1) & 0xff, 1, 2, 3, 4}, code: 1009},
	{name: "header of a fragment over the limit",
		stream: join(masked(startText, strings.Repeat("x", 200)), []byte{last, maskBit | 101, 1, 2, 3, 4}), code: 1009},
	{name: "header of a third fragment over the limit",
		stream: join(masked(startText, strings.Repeat("x", 100)), masked(goOn, strings.Repeat("x", 100)),
			[]byte{last, maskBit | 101, 1, 2, 3, 4}), code: 1009},
	{name: "a message before the mistake counts",
		stream: join(masked(text, "a"), masked(startText, "b"), masked(text, "c")), messages: []string{"false a"},
		code: 1002},
}

func join(frames ...[]byte) []byte { return slices.Concat(frames...) }

// TestStreams gives each stream whole, byte by byte, and with the handshake.
func TestStreams(t *testing.T) {
	s := lines(t, limitOfCases)
	for _, tt := range streamCases {
		for manner, cuts := range map[string][]int{
			"whole": nil, "byte by byte": cutting(1, len(tt.stream)), "with the handshake": {len(tt.stream)},
			"in halves": {0, len(tt.stream) / 2},
		} {
			t.Run(tt.name+" "+manner, func(t *testing.T) {
				var want []byte
				for _, p := range tt.pongs {
					want = appendFrame(want, opPong, []byte(p))
				}
				got := ours(t, s, tt.stream, cuts)
				if !slices.Equal(got.messages, tt.messages) {
					t.Errorf("got messages %q, want %q", got.messages, tt.messages)
				}
				rest, pongs := bytes.CutPrefix(got.sent, want)
				if !pongs {
					t.Errorf("got %q, want it to begin with the pongs %q", got.sent, want)
				}
				if code := closeCode(rest); code != tt.code {
					t.Errorf("got close code %d in %q, want %d", code, rest, tt.code)
				}
				if got.ended != (tt.code != 0) || got.goodbye != tt.goodbye {
					t.Errorf("ended: %t, by the client's close frame: %t", got.ended, got.goodbye)
				}
			})
		}
	}
}

// The close frame tells a client's author what the client did wrong.
func TestMistakesAreNamed(t *testing.T) {
	s := lines(t, limitOfCases)
	for words, stream := range map[string][]byte{
		"a reserved bit is set":               {text | 0x40, maskBit, 0, 0, 0, 0},
		"a frame is not masked":               {text, 0},
		"unknown opcode":                      {finBit | 3, maskBit, 0, 0, 0, 0},
		"a control frame is in fragments":     {opPing, maskBit, 0, 0, 0, 0},
		"a control frame has more than 125":   {finBit | opPing, maskBit | 126, 0, 126, 0, 0, 0, 0},
		"a fragment continues nothing":        masked(last, "x"),
		"a message begins inside another one": join(masked(startText, "x"), masked(text, "y")),
		"a close frame has half a code":       masked(closeByte, "\x03"),
		"close code 1005 may not be sent":     masked(closeByte, "\x03\xed"),
		"the reason of a close frame":         masked(closeByte, "\x03\xe8\xff"),
	} {
		got := ours(t, s, stream, nil)
		if closeCode(got.sent) != 1002 || !strings.Contains(string(got.sent), words) {
			t.Errorf("%q was answered with %q, want 1002 and %q", stream, got.sent, words)
		}
	}
}

// closeCode reads a stream that is one close frame and nothing else; it is 0 for an empty stream.
func closeCode(stream []byte) int {
	switch {
	case len(stream) == 0:
		return 0
	case len(stream) == 2 && stream[0] == closeByte && stream[1] == 0:
		return websocket.CloseNoStatusReceived
	case len(stream) >= 4 && stream[0] == closeByte && int(stream[1]) == len(stream)-2:
		return int(binary.BigEndian.Uint16(stream[2:]))
	}
	return -1
}

func TestControlFrameIsAnsweredBeforeItsMessageIsWhole(t *testing.T) {
	l := newLine(t, lines(t, 1000), nil)
	for _, step := range []struct {
		give     []byte
		sent     []byte
		messages int
	}{
		{give: masked(startText, "to be ")},
		{give: masked(pingByte, "now"), sent: appendFrame(nil, opPong, []byte("now"))},
		{give: join(masked(goOn, "continued"), masked(pingByte, "and now"), masked(last, ".")[:3]),
			sent: appendFrame(nil, opPong, []byte("and now"))},
		{give: masked(last, ".")[3:], messages: 1},
		{give: join(masked(text, "a"), masked(pingByte, "1"), masked(pingByte, "2")[:4]),
			sent: appendFrame(nil, opPong, []byte("1")), messages: 2},
		{give: masked(pingByte, "2")[4:], sent: appendFrame(nil, opPong, []byte("2")), messages: 2},
	} {
		l.give(step.give)
		if got := l.sent(); !bytes.Equal(got, step.sent) {
			t.Errorf("given % x: sent %q, want %q", step.give, got, step.sent)
		}
		if len(l.messages) != step.messages {
			t.Errorf("given % x: %d messages, want %d", step.give, len(l.messages), step.messages)
		}
	}
	if want := []string{"false to be continued.", "false a"}; !slices.Equal(l.messages, want) {
		t.Errorf("got %q, want %q", l.messages, want)
	}
	l.hangUp()
}

func TestFragmentsWithoutEndAreRefused(t *testing.T) {
	const limit = 10_000
	for _, fragment := range []string{"", "x"} {
		l := newLine(t, lines(t, limit), nil)
		l.give(masked(startText, fragment))
		given := 0
		for len(l.closed) == 0 {
			l.give(slices.Repeat(masked(goOn, fragment), 50))
			given += 50
			if c := cap(l.conn.partial); c > 8*limit {
				t.Fatalf("%d bytes are held for a message of at most %d", c, limit)
			}
			if given > limit {
				t.Fatalf("%d fragments of %d bytes are not refused", given, len(fragment))
			}
		}
		if code := closeCode(l.sent()); code != 1009 {
			t.Errorf("fragments of %d bytes: got close code %d, want 1009", len(fragment), code)
		}
		if !errors.Is(l.closed[0], ErrProtocol) {
			t.Errorf("fragments of %d bytes: closed with %v", len(fragment), l.closed[0])
		}
		l.hangUp()
	}
}

// A large message grows in a buffer of its own and leaves nothing behind.
func TestLargeMessageInPieces(t *testing.T) {
	const limit = 1 << 20
	s := lines(t, limit)
	random := rand.New(rand.NewPCG(1, 1))
	payload := make([]byte, limit)
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	var stream []byte
	for i := 0; i < limit; i += limit / 4 {
		first := byte(goOn)
		if i == 0 {
			first = startBinary
		}
		if i+limit/4 == limit {
			first = last
		}
		stream = append(stream, masked(first, string(payload[i:i+limit/4]))...)
		stream = append(stream, masked(pingByte, "p")...)
	}
	for range 3 {
		l := newLine(t, s, nil)
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(60_000))
			l.give(rest[:n])
			rest = rest[n:]
			if c := cap(l.conn.partial); c > 3*limit {
				t.Errorf("%d bytes are held for a message of %d", c, limit)
			}
		}
		if len(l.messages) != 1 || l.messages[0] != "true "+string(payload) {
			t.Errorf("got %d messages, or other bytes than were sent", len(l.messages))
		}
		if l.conn.partial != nil {
			t.Errorf("%d bytes are held at rest", cap(l.conn.partial))
		}
		l.hangUp()
	}
}

// Connections share buffers, which must carry nothing from one to the other.
func TestConnectionsShareBuffers(t *testing.T) {
	s := lines(t, 1000)
	a, b, c := newLine(t, s, nil), newLine(t, s, nil), newLine(t, s, nil)
	for range 3 {
		a.give(masked(startText, "half of "))
		b.give(masked(startBinary, "\xff"))
		b.give(masked(last, "\xfe"))
		a.give(masked(pingByte, "a"))
		b.give(join(masked(pingByte, "b"), masked(text, "whole")))
		a.give(masked(last, "one"))
	}
	c.give(masked(text, "no\xff"))
	if want := slices.Repeat([]string{"false half of one"}, 3); !slices.Equal(a.messages, want) {
		t.Errorf("got %q, want %q", a.messages, want)
	}
	if want := slices.Repeat([]string{"true \xff\xfe", "false whole"}, 3); !slices.Equal(b.messages, want) {
		t.Errorf("got %q, want %q", b.messages, want)
	}
	if got, want := a.sent(), slices.Repeat(appendFrame(nil, opPong, []byte("a")), 3); !bytes.Equal(got, want) {
		t.Errorf("a was sent %q, want %q", got, want)
	}
	if got, want := b.sent(), slices.Repeat(appendFrame(nil, opPong, []byte("b")), 3); !bytes.Equal(got, want) {
		t.Errorf("b was sent %q, want %q", got, want)
	}
	if code := closeCode(c.sent()); code != 1007 {
		t.Errorf("c: got close code %d, want 1007", code)
	}
	for _, l := range []*line{a, b, c} {
		l.hangUp()
	}
}
