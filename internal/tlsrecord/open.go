package tlsrecord

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Resume copies what is held of an unfinished record to the beginning of p and returns its length. What is read next
// belongs behind it, for Open. Nothing happens if nothing is read.
func (l *Link) Resume(p []byte) int { return copy(p, l.held) }

// Open opens the whole records in p: what Resume has put there and what has been read since. Their plaintext becomes
// p[:n], the rest of p is garbage; an unfinished record is held. The n bytes are good whatever err is. rekeyed tells
// that the key has changed: it is to be saved before In is noted.
//
// io.EOF says that the peer has ended its side, and what follows is ignored (RFC 8446 §6.1). Every other error ends
// the connection: a tls.AlertError is what the peer has done wrong, and Close tells it so. After an error nothing more
// can be opened.
func (l *Link) Open(p []byte) (n int, rekeyed bool, err error) {
	if l.ended {
		return 0, false, ErrEnded
	}
	key := l.in.first
	rest := p
	for {
		var record, plain []byte
		if record, err = l.whole(rest); record == nil {
			break
		}
		if plain, err = l.take(record); err != nil {
			break
		}
		n += copy(p[n:], plain)
		rest = rest[len(record):]
	}
	if err != nil {
		rest, l.ended = nil, true
	}
	l.hold(rest)
	return n, l.in.first != key, err
}

// whole returns the record that b begins with, or nil while it is not whole. A bad header is not waited for.
func (l *Link) whole(b []byte) ([]byte, error) {
	if len(b) < headerLen {
		return nil, nil
	}
	// RFC 5246 §6.2.1. RFC 8446 §5.1 requires the same of who sends and tells who receives to ignore it; crypto/tls
	// does not.
	if b[1] != 3 || b[2] != 3 {
		return nil, protocolVersion
	}
	size := int(binary.BigEndian.Uint16(b[3:]))
	if size > maxCiphertext12 || l.suite.tls13 && size > maxCiphertext13 {
		return nil, recordOverflow
	}
	if len(b) < headerLen+size {
		return nil, nil
	}
	return b[:headerLen+size], nil
}

// hold keeps a copy of b in place of what was held.
func (l *Link) hold(b []byte) {
	if len(b) == 0 {
		l.held = nil
		return
	}
	if cap(l.held) > 4*len(b)+512 { // a large record is done with
		l.held = nil
	}
	l.held = append(l.held[:0], b...)
}

// take opens one record and returns what of it is the application's.
func (l *Link) take(record []byte) ([]byte, error) {
	if l.suite.tls13 && record[0] == changeCipherSpec {
		return nil, l.ignoreChange(record[headerLen:])
	}
	if l.in.number == math.MaxUint64 { // a sequence number may not wrap, RFC 8446 §5.3
		return nil, ErrWorn
	}
	kind, plain, err := l.in.open(l.suite, record)
	if err != nil {
		return nil, err
	}
	if kind != handshake && l.messages > 0 { // RFC 8446 §5.1
		return nil, unexpectedMessage
	}
	switch kind {
	case applicationData:
		if len(plain) == 0 { // RFC 8446 §5.1: one may be empty
			return nil, l.bringsNothing()
		}
		l.useless = 0
		return plain, nil
	case alert:
		return nil, l.alert(plain)
	case handshake:
		if l.suite.tls13 {
			return nil, l.handshake(plain)
		}
		return nil, refuse12(plain)
	default: // a protected change_cipher_spec too, RFC 8446 §5
		return nil, unexpectedMessage
	}
}

// ignoreChange drops a change_cipher_spec that is not protected, which clients send for the sake of what is on the way
// (RFC 8446 D.4). RFC 8446 §5 would have it refused now that the handshake is over; crypto/tls drops it all the same.
func (l *Link) ignoreChange(body []byte) error {
	if len(body) != 1 || body[0] != 1 || l.messages > 0 {
		return unexpectedMessage
	}
	return l.bringsNothing()
}

// bringsNothing counts something that the peer could send without end.
func (l *Link) bringsNothing() error {
	if l.useless++; l.useless > maxUseless {
		return unexpectedMessage
	}
	return nil
}

// alert deals with an alert, RFC 8446 §6 and RFC 5246 §7.2.
func (l *Link) alert(p []byte) error {
	if len(p) != 2 { // it may not be divided, RFC 8446 §5.1
		return unexpectedMessage
	}
	level, what := p[0], tls.AlertError(p[1])
	switch {
	case what == closeNotify:
		return io.EOF
	case l.suite.tls13 && what == userCanceled, // close_notify follows, RFC 8446 §6.1, but not from everybody
		!l.suite.tls13 && level == warning:
		return l.bringsNothing()
	case l.suite.tls13 || level == fatal: // RFC 8446 §6: the level means nothing any more
		return fmt.Errorf("TLS: the peer has sent an alert: %v", what) // not wrapped: it is no error of the peer's
	default:
		return unexpectedMessage
	}
}

// refuse12 refuses a message of TLS 1.2 by its first byte. After the handshake a client can only ask for another.
func refuse12(p []byte) error {
	if len(p) > 0 && p[0] == clientHello {
		return noRenegotiation // RFC 5246 §7.2.2; the connection ends, as it does in crypto/tls
	}
	return unexpectedMessage
}

// handshake deals with a piece of a message of TLS 1.3. A client may send KeyUpdate (RFC 8446 §4.6.3) and nothing
// else: the server does not ask for a certificate after the handshake (§4.6.2).
func (l *Link) handshake(p []byte) error {
	if len(p) == 0 { // RFC 8446 §5.1
		return unexpectedMessage
	}
	var m [keyUpdateLen]byte
	copy(m[:], l.message[:l.messages])
	k := copy(m[l.messages:], p)
	have := int(l.messages) + k
	if m[0] != keyUpdate { // known by its first byte, so nothing long is ever gathered
		return unexpectedMessage
	}
	if m[1]|m[2] != 0 || have >= 4 && m[3] != 1 { // of the length
		return decodeError
	}
	if have < keyUpdateLen {
		l.messages = uint8(copy(l.message[:], m[:have]))
		return nil
	}
	l.messages = 0
	if m[4] > 1 { // RFC 8446 §4.6.3
		return illegalParameter
	}
	if err := l.bringsNothing(); err != nil {
		return err
	}
	if k < len(p) { // a key changes between two records, RFC 8446 §5.1
		return unexpectedMessage
	}
	if m[4] == 1 {
		l.in.updates.Add(1)
	}
	l.in.nextKey(l.suite)
	return nil
}
