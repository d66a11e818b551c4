package tlsrecord

import (
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"sync/atomic"
)

// Content types, RFC 8446 §5.1.
const (
	changeCipherSpec = 20
	alert            = 21
	handshake        = 22
	applicationData  = 23
)

// Levels of alerts, RFC 5246 §7.2. In TLS 1.3 they mean nothing (RFC 8446 §6).
const (
	warning = 1
	fatal   = 2
)

// The alerts of this layer, RFC 8446 §6 and RFC 5246 §7.2.
const (
	closeNotify       tls.AlertError = 0
	unexpectedMessage tls.AlertError = 10
	badRecordMAC      tls.AlertError = 20
	recordOverflow    tls.AlertError = 22
	illegalParameter  tls.AlertError = 47
	decodeError       tls.AlertError = 50
	protocolVersion   tls.AlertError = 70
	userCanceled      tls.AlertError = 90
	noRenegotiation   tls.AlertError = 100
)

const (
	headerLen = 5 // type, version, length: RFC 8446 §5.1, RFC 5246 §6.2.1
	tagLen    = 16

	maxCiphertext12 = MaxPlaintext + 2048 // RFC 5246 §6.2.3
	maxCiphertext13 = MaxPlaintext + 256  // RFC 8446 §5.2
)

// A half is one direction of a Link: its key, and the number of its next record. It is used by one goroutine at a time,
// but for updates.
type half struct {
	number uint64      // of the next record, counted since the handshake's keys over all changes of the key
	first  uint64      // number of the record whose sequence number was, or would be, 0 under this key
	aead   cipher.AEAD // nil: to be made of secret when it is needed

	secret [maxSecret]byte // see suite.secret
	iv     [nonceLen]byte  // what nonces are made of; valid while aead is not nil
	aad    [13]byte        // room for TLS 1.2's additional data

	// updates counts, modulo 2^32, KeyUpdates that asked for one in return: of the reading half those that have come,
	// of the writing half those that have been answered. The writer reads the reader's.
	updates atomic.Uint32
}

// cipher returns the key's AEAD, and sees to it that iv is valid.
func (h *half) cipher(s *suite) cipher.AEAD {
	if h.aead != nil {
		return h.aead
	}
	if s.tls13 { // RFC 8446 §7.3
		secret := h.secret[:s.secret()]
		key, iv := s.expandLabel(secret, "key", s.key), s.expandLabel(secret, "iv", nonceLen)
		h.aead = s.aead(key)
		copy(h.iv[:], iv)
		clear(key)
		clear(iv)
	} else {
		h.aead = s.aead(h.secret[:s.key])
		copy(h.iv[:s.iv()], h.secret[s.key:]) // what is explicit stays 0
	}
	return h.aead
}

// dropCipher gives up what cipher can make again, if that is worth it: ChaCha20's is little more than its key.
func (h *half) dropCipher(s *suite) {
	if !s.chacha {
		h.aead = nil
	}
}

// nextKey changes to the next traffic secret, RFC 8446 §7.2. The old one is gone.
func (h *half) nextKey(s *suite) {
	secret := h.secret[:s.secret()]
	next := s.expandLabel(secret, "traffic upd", len(secret))
	copy(secret, next)
	clear(next)
	h.first, h.aead = h.number, nil
}

// sequence is the next record's sequence number under the present key.
func (h *half) sequence() uint64 { return h.number - h.first }

// turn makes iv the nonce of number n, and the nonce of n iv again. A nonce is the IV XORed with the sequence number
// (RFC 8446 §5.3, RFC 7905 §2), or the IV and then the number that the record carries (RFC 5288 §3): the same, since
// that part of the IV is 0 here. There is no copy because an interface's arguments would be allocated for each record.
func (h *half) turn(n uint64) {
	tail := h.iv[nonceLen-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^n)
}

// additionalData of TLS 1.3 is the record's header (RFC 8446 §5.2), of TLS 1.2 sequence number, type, version and the
// plaintext's length n (RFC 5246 §6.2.3.3).
func (h *half) additionalData(s *suite, header []byte, n int) []byte {
	if s.tls13 {
		return header
	}
	binary.BigEndian.PutUint64(h.aad[:], h.sequence())
	copy(h.aad[8:], header[:3])
	binary.BigEndian.PutUint16(h.aad[11:], uint16(n))
	return h.aad[:]
}

// begin appends to b what a record has before its plaintext.
func (h *half) begin(s *suite, b []byte) []byte {
	b = append(b, 0, 0, 0, 0, 0)
	if s.explicit > 0 { // RFC 5288 §3 lets it be the sequence number
		b = binary.BigEndian.AppendUint64(b, h.sequence())
	}
	return b
}

// seal makes a record of b[at:], which begin has begun and to which its plaintext has been appended. Afterwards its
// number is used up, whether it is sent or not.
func (h *half) seal(s *suite, b []byte, at int, kind byte) []byte {
	a := h.cipher(s)
	body := at + headerLen + s.explicit
	n := len(b) - body
	if s.tls13 { // RFC 8446 §5.2: the true type is inside
		b = append(b, kind)
		kind = applicationData
	}
	header := b[at : at+headerLen]
	header[0], header[1], header[2] = kind, 3, 3
	binary.BigEndian.PutUint16(header[3:], uint16(len(b)-at-headerLen+tagLen))
	q := h.sequence()
	h.turn(q)
	b = a.Seal(b[:body], h.iv[:], b[body:], h.additionalData(s, header, n))
	h.turn(q)
	h.number++
	return b
}

// open decrypts a whole record, in place, and counts it.
func (h *half) open(s *suite, record []byte) (kind byte, plain []byte, err error) {
	header, body := record[:headerLen], record[headerLen:]
	q := h.sequence()
	if s.explicit > 0 { // the peer's own choice
		if len(body) < s.explicit {
			return 0, nil, badRecordMAC
		}
		q = binary.BigEndian.Uint64(body)
		body = body[s.explicit:]
	}
	a := h.cipher(s)
	h.turn(q)
	plain, err = a.Open(body[:0], h.iv[:], body, h.additionalData(s, header, len(body)-tagLen))
	h.turn(q)
	if err != nil { // RFC 8446 §5.2, RFC 5246 §6.2.3.3
		return 0, nil, badRecordMAC
	}
	h.number++
	kind = header[0]
	if s.tls13 {
		kind, plain, err = inner(kind, plain)
		if err != nil {
			return 0, nil, err
		}
	}
	if len(plain) > MaxPlaintext { // RFC 8446 §5.2, RFC 5246 §6.2.3
		return 0, nil, recordOverflow
	}
	return kind, plain, nil
}

// inner takes TLSInnerPlaintext apart: content, the true type, padding of zeros (RFC 8446 §5.2 and §5.4).
func inner(outer byte, p []byte) (kind byte, content []byte, err error) {
	if outer != applicationData {
		return 0, nil, unexpectedMessage
	}
	if len(p) > MaxPlaintext+1 {
		return 0, nil, recordOverflow
	}
	n := len(p) - 1
	for n >= 0 && p[n] == 0 {
		n--
	}
	if n < 0 {
		return 0, nil, unexpectedMessage
	}
	return p[n], p[:n], nil
}

// wipe clears what is secret. The cipher's own copy of the key is left to the garbage collector.
func (h *half) wipe() {
	clear(h.secret[:])
	clear(h.iv[:])
	h.aead = nil
}
