package tlsrecord

import (
	"crypto/tls"
	"encoding/binary"
	"slices"
	"testing"
)

// fresh returns a Link with secrets that anybody knows.
func fresh(s *suite) *Link {
	l := &Link{suite: s}
	for i := range s.secret() {
		l.in.secret[i], l.out.secret[i] = byte(i+1), byte(i+101)
	}
	return l
}

// A peer is a Link's client, which can say what no library would. It seals by code of its own: the Link's two sides
// could agree on a mistake.
type peer struct {
	t testing.TB
	*suite
	out, in half // as the client sees them: out is what the Link opens
}

func peerOf(t testing.TB, l *Link) *peer {
	t.Helper()
	p := &peer{t: t}
	var err error
	if p.suite, err = p.out.parseKey(l.AppendInKey(nil), 'i'); err != nil {
		t.Fatal(err)
	}
	if _, err = p.in.parseKey(l.AppendOutKey(nil), 'o'); err != nil {
		t.Fatal(err)
	}
	p.out.number, p.in.number = l.In(), l.Out()
	return p
}

// raw seals text as it is, which in TLS 1.3 has to end with a type.
func (p *peer) raw(kind byte, text []byte) []byte {
	var key, nonce, explicit []byte
	h := &p.out
	seq := h.number - h.first
	if p.tls13 {
		secret := h.secret[:p.hash().Size()]
		key, nonce = p.expandLabel(secret, "key", p.key), p.expandLabel(secret, "iv", 12)
	} else {
		key, nonce = h.secret[:p.key], slices.Clone(h.secret[p.key:][:12-p.explicit])
	}
	if p.explicit > 0 {
		explicit = binary.BigEndian.AppendUint64(nil, seq*0x123456789abcdef+5) // any will do
		nonce = append(nonce, explicit...)
	} else {
		for i := range 8 {
			nonce[11-i] ^= byte(seq >> (8 * i))
		}
	}
	header := []byte{kind, 3, 3}
	header = binary.BigEndian.AppendUint16(header, uint16(len(explicit)+len(text)+16))
	extra := header
	if !p.tls13 {
		extra = binary.BigEndian.AppendUint64(nil, seq)
		extra = append(extra, kind, 3, 3)
		extra = binary.BigEndian.AppendUint16(extra, uint16(len(text)))
	}
	h.number++
	return p.aead(key).Seal(append(header, explicit...), nonce, text, extra)
}

// record seals a record of that type.
func (p *peer) record(kind byte, text ...byte) []byte {
	if !p.tls13 {
		return p.raw(kind, text)
	}
	return p.raw(applicationData, append(slices.Clone(text), kind))
}

func (p *peer) data(text string) []byte { return p.record(applicationData, []byte(text)...) }

// update says KeyUpdate and changes the key.
func (p *peer) update(request byte) []byte {
	b := p.record(handshake, keyUpdate, 0, 0, 1, request)
	p.out.nextKey(p.suite)
	return b
}

// said opens what the Link has sealed.
type said struct {
	data    string
	sizes   []int // of the records of data
	updates int
	alerts  []tls.AlertError
	levels  []byte
}

func (p *peer) open(b []byte) (s said) {
	p.t.Helper()
	b = slices.Clone(b)
	for len(b) > 0 {
		size := headerLen + int(binary.BigEndian.Uint16(b[3:]))
		kind, text, err := p.in.open(p.suite, b[:size])
		if err != nil {
			p.t.Fatal("the Link's record does not open:", err)
		}
		b = b[size:]
		switch {
		case kind == applicationData && len(s.alerts) == 0:
			s.data += string(text)
			s.sizes = append(s.sizes, len(text))
		case kind == alert && len(text) == 2:
			s.levels = append(s.levels, text[0])
			s.alerts = append(s.alerts, tls.AlertError(text[1]))
		case kind == handshake && string(text) == "\x18\x00\x00\x01\x00":
			s.updates++
			p.in.nextKey(p.suite)
		default:
			p.t.Fatalf("the Link has sealed type %d, %q", kind, text)
		}
	}
	return s
}

// open gives a Link what has come, whole.
func open(l *Link, records ...[]byte) (string, error) {
	var all []byte
	for _, r := range records {
		buf := make([]byte, max(BufferBytes, l.Held()+len(r)))
		k := l.Resume(buf)
		n, _, err := l.Open(buf[:k+copy(buf[k:], r)])
		all = append(all, buf[:n]...)
		if err != nil {
			return string(all), err
		}
	}
	return string(all), nil
}
