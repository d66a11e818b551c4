package tlsrecord

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
)

// The tests of this file give crypto/tls and a Link, which have made one handshake together, the same records.

// A pupil is a client's stream in the making.
type pupil struct {
	*peer
	stream []byte
	last   int // where the last record begins
}

func (p *pupil) send(b []byte) {
	p.last = len(p.stream)
	p.stream = append(p.stream, b...)
}

// A lesson is something to put into a stream, with a number that varies it.
type lesson struct {
	what string
	send func(p *pupil, n byte)
}

var lessons = []lesson{
	{"data", func(p *pupil, n byte) { p.send(p.record(applicationData, bytes.Repeat([]byte{n}, int(n)+1)...)) }},
	{"much data", func(p *pupil, n byte) { p.send(p.record(applicationData, make([]byte, MaxPlaintext-int(n))...)) }},
	{"too much data", func(p *pupil, n byte) { p.send(p.record(applicationData, make([]byte, MaxPlaintext+1+int(n))...)) }},
	{"nothing", func(p *pupil, n byte) { p.repeat(n, func() []byte { return p.record(applicationData) }) }},
	{"a warning", func(p *pupil, n byte) { p.repeat(n, func() []byte { return p.record(alert, 1, byte(userCanceled)) }) }},
	{"an alert", func(p *pupil, n byte) { p.send(p.record(alert, n/64, n%64)) }},
	{"close_notify", func(p *pupil, n byte) { p.send(p.record(alert, n, byte(closeNotify))) }},
	{"an alert of another length", func(p *pupil, n byte) { p.send(p.record(alert, make([]byte, n%5)...)) }},
	{"change_cipher_spec", func(p *pupil, n byte) { p.repeat(n, func() []byte { return []byte{20, 3, 3, 0, 1, 1} }) }},
	{"change_cipher_spec of another kind", func(p *pupil, n byte) { p.send([]byte{20, 3, 3, 0, n % 3, n, n}[:5+n%3]) }},
	{"change_cipher_spec, protected", func(p *pupil, n byte) { p.send(p.record(changeCipherSpec, 1)) }},
	{"KeyUpdate", func(p *pupil, n byte) { p.repeat(n/2, func() []byte { return p.keyUpdate(n % 2) }) }},
	{"KeyUpdate that asks for too much", func(p *pupil, n byte) { p.send(p.record(handshake, 24, 0, 0, 1, n|2)) }},
	{"KeyUpdate in two", func(p *pupil, n byte) {
		p.send(p.record(handshake, []byte{24, 0, 0, 1, n / 4 % 2}[:1+n%4]...))
		p.send(p.record(handshake, []byte{24, 0, 0, 1, n / 4 % 2}[1+n%4:]...))
		if p.tls13 {
			p.out.nextKey(p.suite)
		}
	}},
	{"half a KeyUpdate", func(p *pupil, n byte) { p.send(p.record(handshake, []byte{24, 0, 0, 1}[:1+n%4]...)) }},
	{"KeyUpdate with something behind it", func(p *pupil, n byte) { p.send(p.record(handshake, 24, 0, 0, 1, n%2, n)) }},
	{"KeyUpdate of another length", func(p *pupil, n byte) {
		p.send(p.record(handshake, append([]byte{24, 0, 0, n % 4}, make([]byte, n%4)...)...))
	}},
	{"KeyUpdate, key not changed", func(p *pupil, n byte) { p.send(p.record(handshake, 24, 0, 0, 1, n%2)) }},
	{"another message", func(p *pupil, n byte) { p.send(p.record(handshake, n, 0, 0, n%3, n, n, n)) }},
	{"a whole message", func(p *pupil, n byte) { p.send(p.record(handshake, n%26, 0, 0, 0)) }},
	{"a message's beginning", func(p *pupil, n byte) { p.send(p.record(handshake, []byte{n, 0, 0, 9, 1}[:1+n%5]...)) }},
	{"an empty message", func(p *pupil, n byte) { p.send(p.record(handshake)) }},
	{"another type", func(p *pupil, n byte) { p.send(p.record(n, n)) }},
	{"another type outside", func(p *pupil, n byte) { p.send(p.raw(n, []byte{n, applicationData})) }},
	{"padding", func(p *pupil, n byte) {
		p.send(p.raw(applicationData, append([]byte{n, applicationData}, make([]byte, int(n))...)))
	}},
	{"too much padding", func(p *pupil, n byte) {
		p.send(p.raw(applicationData, append([]byte{n, applicationData}, make([]byte, MaxPlaintext-100+int(n))...)))
	}},
	{"nothing but padding", func(p *pupil, n byte) { p.send(p.raw(applicationData, make([]byte, n))) }},
	{"another number", func(p *pupil, n byte) { p.out.number += uint64(n % 3) }},
	{"the same again", func(p *pupil, n byte) { p.send(slices.Clone(p.stream[p.last:])) }},
	{"a bit changed", func(p *pupil, n byte) {
		if b := p.stream[p.last:]; len(b) > 0 {
			b[int(n>>3)%len(b)] ^= 1 << (n & 7)
		}
	}},
	{"a byte changed", func(p *pupil, n byte) {
		if len(p.stream) > 0 {
			p.stream[len(p.stream)-1-int(n)%len(p.stream)] += n
		}
	}},
	{"a piece left out", func(p *pupil, n byte) { p.stream = p.stream[:max(p.last, len(p.stream)-int(n))] }},
	{"noise", func(p *pupil, n byte) { p.send([]byte{n, 3, 3, 0, n, n, n}[:n%8]) }},
	{"a long record's header", func(p *pupil, n byte) { p.send([]byte{23, 3, 3, n, n}) }},
}

// repeat sends something up to 18 times, around the limit of what may bring nothing.
func (p *pupil) repeat(n byte, record func() []byte) {
	for range 1 + n%18 {
		p.send(record())
	}
}

// keyUpdate is update, and in TLS 1.2 a message that does not exist.
func (p *pupil) keyUpdate(request byte) []byte {
	if !p.tls13 {
		return p.record(handshake, 24, 0, 0, 1, request)
	}
	return p.update(request)
}

// theirAlerts are a Link's alerts, by the RFCs, and those of crypto/tls for the same.
var theirAlerts = [][2]int{
	{int(illegalParameter), int(decodeError)},      // a KeyUpdate that is neither 0 nor 1, RFC 8446 §4.6.3
	{int(unexpectedMessage), int(decodeError)},     // change_cipher_spec with another byte, §5; bad foreign messages
	{int(unexpectedMessage), int(noRenegotiation)}, // TLS 1.2: HelloRequest, which no client may send
	{int(noRenegotiation), int(unexpectedMessage)}, // TLS 1.2: a new hello, RFC 5246 §7.2.2
	{int(noRenegotiation), int(decodeError)},       // and one that is malformed
}

// An end of a stream, as one of the two sees it.
type outcome struct {
	data  []byte
	alert int // that it sends, or -1
	why   error
	asked bool // a KeyUpdate that wants an answer has come
}

func (o outcome) String() string {
	return fmt.Sprintf("%d bytes, alert %d, asked %t, %v", len(o.data), o.alert, o.asked, o.why)
}

// A script is a connection on which crypto/tls makes its handshake, and then reads a stream.
type script struct {
	net.Conn
	stream *bytes.Reader // nil during the handshake
	said   []byte
}

func (c *script) Read(p []byte) (int, error) {
	if c.stream == nil {
		return c.Conn.Read(p)
	}
	return c.stream.Read(p)
}

func (c *script) Write(p []byte) (int, error) {
	if c.stream == nil {
		return c.Conn.Write(p)
	}
	c.said = append(c.said, p...)
	return len(p), nil
}

// together makes one handshake, after which both go on from the same keys.
func together(t testing.TB, s *suite) (*script, *tls.Conn, *Link) {
	t.Helper()
	server, client := s.only(t)
	server.SessionTicketsDisabled = true // nobody would read one
	server.CurvePreferences = []tls.CurveID{tls.X25519}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Client(b, client).Handshake() }()
	c := &script{Conn: a}
	tc, l, err := shake(c, server)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return c, tc, l
}

// theirs is what crypto/tls makes of the stream.
func theirs(p *peer, c *script, tc *tls.Conn, stream []byte) (o outcome) {
	c.stream = bytes.NewReader(stream)
	buf := make([]byte, 4096)
	for o.why == nil {
		var n int
		n, o.why = tc.Read(buf)
		o.data = append(o.data, buf[:n]...)
	}
	said := p.open(c.said)
	o.asked = said.updates > 0
	o.alert = -1
	if len(said.alerts) > 0 {
		o.alert = int(said.alerts[0])
	}
	return o
}

// ours is what a Link makes of it, in pieces, with the Link saved and restored before each.
func ours(t testing.TB, l *Link, stream []byte, r *rand.Rand) (o outcome) {
	e := &end{t: t, Link: l, renew: true}
	for len(stream) > 0 && o.why == nil {
		e.again()
		k := e.Resume(e.buf[:])
		piece := min(len(stream), len(e.buf)-k, 1+r.IntN(1<<(1+r.IntN(15))))
		copy(e.buf[k:], stream[:piece])
		stream = stream[piece:]
		first := e.in.first
		n, rekeyed, err := e.Open(e.buf[:k+piece])
		if rekeyed != (e.in.first != first) {
			t.Error("the reading key, rekeyed", rekeyed)
		}
		o.data = append(o.data, e.buf[:n]...)
		o.why = err
	}
	if o.why == nil {
		o.why = io.EOF
		if e.Held() > 0 {
			o.why = io.ErrUnexpectedEOF
		}
	}
	o.asked = e.in.updates.Load() > 0
	o.alert = -1
	if what, ok := errors.AsType[tls.AlertError](o.why); ok {
		o.alert = int(what)
	}
	return o
}

// same gives both the stream that the program makes: a suite, a seed for the cuts, and then pairs of a lesson and its
// number.
func same(t testing.TB, program []byte) {
	t.Helper()
	if len(program) < 2 {
		return
	}
	s := &suites[[]int{0, 1, 2, 3, 5, 7}[program[0]%6]] // an RSA key makes the handshake slower, and no other records
	r := rand.New(rand.NewPCG(uint64(program[1]), 0))
	c, tc, l := together(t, s)
	p := &pupil{peer: peerOf(t, l)}
	p.send(p.data("hello"))
	var story []string
	for step := range slices.Chunk(program[2:min(len(program), 42)], 2) {
		if len(step) == 2 {
			what := lessons[int(step[0])%len(lessons)]
			story = append(story, fmt.Sprintf("%s (%d)", what.what, step[1]))
			what.send(p, step[1])
		}
	}
	b := theirs(peerOf(t, l), c, tc, p.stream)
	sv, _ := l.Save()
	a := ours(t, restored(t, sv), p.stream, r)
	if why := differ(a, b); why != "" && !excused(t, restored(t, sv), p.stream, a, b) {
		t.Errorf("%s after %q: %s\nours:   %v\ntheirs: %v", s, story, why, a, b)
	}
}

// differ says in what; empty: in nothing.
func differ(a, b outcome) string {
	waits := func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
	switch {
	case !bytes.Equal(a.data, b.data):
		return "other data"
	case a.asked != b.asked && waits(a.why): // otherwise nobody is answered any more
		return "another answer"
	case a.alert != b.alert && !slices.Contains(theirAlerts, [2]int{a.alert, b.alert}):
		return "another alert"
	case waits(a.why) != waits(b.why), waits(a.why) && a.why != b.why:
		return "another end"
	}
	return ""
}

// excused reports whether a Link ends where crypto/tls does not yet, or not at all, by design:
//
//   - A message that no client may send, and a KeyUpdate of a wrong length, are refused by what has come of them.
//     crypto/tls gathers the message first, of up to 64 KiB.
//   - A protected change_cipher_spec is refused (RFC 8446 §5). crypto/tls drops it.
//   - A record without even a type inside is refused (RFC 8446 §5.4). crypto/tls takes it for an empty one.
func excused(t testing.TB, l *Link, stream []byte, a, b outcome) bool {
	for {
		record, err := l.whole(stream)
		if record == nil || err != nil {
			return false
		}
		stream = stream[len(record):]
		message := slices.Clone(l.message[:l.messages])
		var as half // to see what is in the record
		if _, err := as.parseKey(l.AppendInKey(nil), 'i'); err != nil {
			t.Fatal(err)
		}
		as.number = l.In()
		kind, text, inside := as.open(l.suite, slices.Clone(record))
		if _, err := open(l, record); err == nil {
			continue
		}
		switch {
		case kind == handshake && inside == nil:
			m := append(message, text...)
			unfinished := len(m) < 4 || len(m) < 4+(int(m[1])<<16|int(m[2])<<8|int(m[3]))
			return unfinished && bytes.Equal(a.data, b.data)
		case kind == changeCipherSpec && inside == nil,
			inside == unexpectedMessage && len(record) == headerLen+tagLen:
			return l.suite.tls13 && bytes.HasPrefix(b.data, a.data)
		}
		return false
	}
}

func restored(t testing.TB, sv Saved) *Link {
	t.Helper()
	l, err := Restore(sv)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// streams is how many TestSameAsCryptoTLS tries.
var streams = flag.Int("streams", 600, "streams that crypto/tls and a Link compare")

func TestSameAsCryptoTLS(t *testing.T) {
	for i := range *streams {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		program := []byte{byte(i), byte(i >> 8)}
		for range 1 + r.IntN(5) {
			program = append(program, byte(r.IntN(3)), byte(r.IntN(256))) // mostly what is good
			if r.IntN(3) == 0 {
				program[len(program)-2] = byte(r.IntN(len(lessons)))
			}
		}
		if same(t, program); t.Failed() {
			t.Fatalf("stream %d", i)
		}
	}
}

func FuzzSameAsCryptoTLS(f *testing.F) {
	for suite := range byte(6) {
		for what := range lessons {
			f.Add([]byte{suite, byte(what), 0, 3, byte(what), 1, 0, 200})
			f.Add([]byte{suite, byte(what), byte(what), 16, byte(what), 255, 8, 9})
		}
	}
	f.Fuzz(func(t *testing.T, program []byte) { same(t, program) })
}
