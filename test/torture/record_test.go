package torture

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// Types of records, RFC 8446 §5.1, and the alerts that say that a client ends its side, RFC 8446 §6.1.
const (
	alert     = 21
	handshake = 22
	data      = 23

	warning     = 1
	closeNotify = 0
)

// A suite is what the client knows of a cipher suite. It shares no code with the server: the two could agree on a
// mistake.
type suite struct {
	id       uint16
	tls13    bool
	chacha   bool
	key      int // bytes
	explicit int // bytes of each nonce that its record carries
	hash     func() hash.Hash
}

var suites = []*suite{
	{tls.TLS_AES_128_GCM_SHA256, true, false, 16, 0, sha256.New},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, false, 16, 8, sha256.New},
	{tls.TLS_AES_256_GCM_SHA384, true, false, 32, 0, sha512.New384},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, false, false, 32, 8, sha512.New384},
	{tls.TLS_CHACHA20_POLY1305_SHA256, true, true, 32, 0, sha256.New},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false, true, 32, 0, sha256.New},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false, false, 16, 8, sha256.New},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, false, false, 32, 8, sha512.New384},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, false, true, 32, 0, sha256.New},
}

func (s *suite) String() string { return tls.CipherSuiteName(s.id) }

// A key is one direction's, until it changes.
type key struct {
	*suite
	secret []byte // of TLS 1.3 the traffic secret, of TLS 1.2 the key and the implicit part of the nonce
	aead   cipher.AEAD
	iv     [12]byte
}

func newKey(s *suite, secret []byte) *key {
	k := &key{suite: s, secret: secret}
	raw, iv := secret[:min(s.key, len(secret))], secret[min(s.key, len(secret)):]
	if s.tls13 { // RFC 8446 §7.3
		raw, iv = s.expand(secret, "key", s.key), s.expand(secret, "iv", 12)
	}
	copy(k.iv[:], iv)
	var err error
	if s.chacha {
		k.aead, err = chacha20poly1305.New(raw)
	} else {
		var b cipher.Block
		if b, err = aes.NewCipher(raw); err == nil {
			k.aead, err = cipher.NewGCM(b)
		}
	}
	if err != nil {
		panic(err)
	}
	return k
}

// next is the key that follows in TLS 1.3, RFC 8446 §7.2.
func (k *key) next() *key { return newKey(k.suite, k.expand(k.secret, "traffic upd", k.hash().Size())) }

// expand is HKDF-Expand-Label, RFC 8446 §7.1.
func (s *suite) expand(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "+label+"\x00"...)
	out, err := hkdf.Expand(s.hash, secret, string(info), n)
	if err != nil {
		panic(err)
	}
	return out
}

// block12 is the key block of TLS 1.2, RFC 5246 §6.3: the client's secret and the server's.
func (s *suite) block12(master, client, server []byte) (ours, theirs []byte) {
	sum := func(p ...[]byte) []byte {
		m := hmac.New(s.hash, master)
		for _, b := range p {
			m.Write(b)
		}
		return m.Sum(nil)
	}
	seed := append(append([]byte("key expansion"), server...), client...)
	iv := 12 - s.explicit
	var b []byte
	for a := sum(seed); len(b) < 2*(s.key+iv); a = sum(a) {
		b = append(b, sum(a, seed)...)
	}
	k := s.key
	ours = append(append([]byte(nil), b[:k]...), b[2*k:2*k+iv]...)
	theirs = append(append([]byte(nil), b[k:2*k]...), b[2*k+iv:2*k+2*iv]...)
	return ours, theirs
}

// nonce of a record: of number n, or as the record itself says.
func (k *key) nonce(n uint64, body []byte) []byte {
	if k.explicit > 0 {
		n = binary.BigEndian.Uint64(body)
	}
	b := k.iv
	for i := range 8 {
		b[11-i] ^= byte(n >> (8 * i))
	}
	return b[:]
}

// extra is the additional data, RFC 8446 §5.2 and RFC 5246 §6.2.3.3. n is the record's number, size its plaintext's.
func (k *key) extra(n uint64, header []byte, size int) []byte {
	if k.tls13 {
		return header
	}
	b := binary.BigEndian.AppendUint64(nil, n)
	b = append(b, header[:3]...)
	return binary.BigEndian.AppendUint16(b, uint16(size))
}

// open opens a record as one of number n, and leaves it as it is.
func (k *key) open(n uint64, record []byte) (kind byte, plain []byte, ok bool) {
	header, body := record[:5], record[5:]
	if len(body) < k.explicit+16 {
		return 0, nil, false
	}
	sealed := body[k.explicit:]
	plain, err := k.aead.Open(nil, k.nonce(n, body), sealed, k.extra(n, header, len(sealed)-16))
	if err != nil {
		return 0, nil, false
	}
	if !k.tls13 {
		return header[0], plain, true
	}
	for len(plain) > 0 && plain[len(plain)-1] == 0 {
		plain = plain[:len(plain)-1]
	}
	if header[0] != data || len(plain) == 0 {
		return 0, nil, false
	}
	return plain[len(plain)-1], plain[:len(plain)-1], true
}

// seal makes record n.
func (k *key) seal(n uint64, kind byte, plain []byte) []byte {
	size := len(plain)
	if k.tls13 {
		plain = append(append([]byte(nil), plain...), kind)
		kind = data
	}
	record := []byte{kind, 3, 3}
	record = binary.BigEndian.AppendUint16(record, uint16(k.explicit+len(plain)+16))
	var explicit []byte
	if k.explicit > 0 {
		explicit = binary.BigEndian.AppendUint64(nil, n)
	}
	extra := k.extra(n, record, size)
	return k.aead.Seal(append(record[:5:5], explicit...), k.nonce(n, explicit), plain, extra)
}
