package tlsrecord

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
)

// Seal appends to b records with what bufs hold, in order: as few as it takes, and as much as b has capacity for, which
// is something if that is BufferBytes. It returns b with them, and how many bytes of bufs are in them. They must be
// sent, or nothing may be sent any more: see the package's comment. rekeyed tells that the key has changed: it is to be
// saved before Out is noted. With an error nothing has been sealed.
//
// The key changes where the peer has asked for that or it has been used enough, before any further data.
func (l *Link) Seal(b []byte, bufs [][]byte) (sealed []byte, n int, rekeyed bool, err error) {
	switch {
	case l.closed:
		return b, 0, false, ErrEnded
	case len(l.owed) > 0:
		return b, 0, false, ErrOwes
	}
	total := 0
	for _, p := range bufs {
		total += len(p)
	}
	key := l.out.first
	for n < total && cap(b)-len(b) > Overhead {
		if l.out.number == math.MaxUint64 || l.out.sequence() >= maxRecords12 {
			if n == 0 {
				err = ErrWorn
			}
			break
		}
		if l.updateIsDue() {
			b = l.update(b)
			continue
		}
		size := min(total-n, MaxPlaintext, cap(b)-len(b)-Overhead)
		at := len(b)
		b = l.out.begin(l.suite, b)
		b = gather(b, bufs, n, size)
		b = l.out.seal(l.suite, b, at, applicationData)
		n += size
	}
	return b, n, l.out.first != key, err
}

// gather appends n bytes of bufs, from pos, to b.
func gather(b []byte, bufs [][]byte, pos, n int) []byte {
	for _, p := range bufs {
		if pos >= len(p) {
			pos -= len(p)
			continue
		}
		k := min(n, len(p)-pos)
		b = append(b, p[pos:pos+k]...)
		n, pos = n-k, 0
	}
	return b
}

// updateIsDue reports whether the next data needs a new key.
func (l *Link) updateIsDue() bool {
	return l.suite.tls13 &&
		(l.in.updates.Load() != l.out.updates.Load() || l.out.sequence() >= maxRecords13)
}

// update appends a KeyUpdate that asks for none in return, and changes the key, RFC 8446 §4.6.3. One answers all that
// have asked.
func (l *Link) update(b []byte) []byte {
	const notRequested = 0
	asked := l.in.updates.Load()
	at := len(b)
	b = append(l.out.begin(l.suite, b), keyUpdate, 0, 0, 1, notRequested)
	b = l.out.seal(l.suite, b, at, handshake)
	l.out.nextKey(l.suite)
	l.out.updates.Store(asked)
	return b
}

// Close appends to b, which has capacity for Overhead and 2 bytes, the alert with which our side ends, and nothing is
// sealed after it: close_notify if why is nil or io.EOF (RFC 8446 §6.1, RFC 5246 §7.2.1), the alert if it is a
// tls.AlertError (RFC 8446 §6.2), for all else none. There is none either if something is owed, since it would come in
// between, or if our side has ended already. It is sealed and sent as data is: see the package's comment.
func (l *Link) Close(b []byte, why error) []byte {
	if l.closed {
		return b
	}
	l.closed = true
	what, ok := errors.AsType[tls.AlertError](why)
	if why == nil || errors.Is(why, io.EOF) {
		what, ok = closeNotify, true
	}
	if !ok || len(l.owed) > 0 || l.out.number == math.MaxUint64 {
		return b
	}
	level := byte(fatal)
	if what == closeNotify || what == noRenegotiation { // RFC 5246 §7.2.2
		level = warning
	}
	at := len(b)
	b = append(l.out.begin(l.suite, b), level, byte(what))
	return l.out.seal(l.suite, b, at, alert)
}

// Owe keeps a copy of what the socket has not taken of Seal's or Close's records.
func (l *Link) Owe(rest []byte) {
	if len(rest) > 0 {
		l.owed = append(l.owed, rest...)
	}
}

// Owed returns what is to be sent before anything else. It is valid until Sent or Owe is called.
func (l *Link) Owed() []byte { return l.owed }

// Sent says that the socket has taken the first n bytes of Owed.
func (l *Link) Sent(n int) {
	if l.owed = l.owed[n:]; len(l.owed) == 0 {
		l.owed = nil
	}
}
