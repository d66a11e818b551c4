package tlsrecord

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

// A suite is a cipher suite, and with it a version of TLS: none is of both.
type suite struct {
	id       uint16
	tls13    bool
	chacha   bool             // ChaCha20-Poly1305, otherwise AES-GCM
	key      int              // bytes of its key
	explicit int              // bytes of each nonce that its record carries
	hash     func() hash.Hash // of the key schedule
}

// suites are the suites of TLS 1.3 that crypto/tls speaks (RFC 8446 §B.4) and, of TLS 1.2, those with an AEAD and
// forward secrecy (RFC 5289 §3.2, RFC 7905 §2).
var suites = []suite{
	{tls.TLS_AES_128_GCM_SHA256, true, false, 16, 0, sha256.New},
	{tls.TLS_AES_256_GCM_SHA384, true, false, 32, 0, sha512.New384},
	{tls.TLS_CHACHA20_POLY1305_SHA256, true, true, 32, 0, sha256.New},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, false, 16, 8, sha256.New},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false, false, 16, 8, sha256.New},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, false, false, 32, 8, sha512.New384},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, false, false, 32, 8, sha512.New384},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false, true, 32, 0, sha256.New},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, false, true, 32, 0, sha256.New},
}

// suiteOf returns nil for a suite that is not known here.
func suiteOf(id uint16) *suite {
	for i := range suites {
		if suites[i].id == id {
			return &suites[i]
		}
	}
	return nil
}

// The length of every nonce, RFC 8446 §5.3 and RFC 5288 §3.
const nonceLen = 12

// iv is how many bytes of a nonce the key schedule makes.
func (s *suite) iv() int { return nonceLen - s.explicit }

// maxSecret is the longest secret: one of SHA-384.
const maxSecret = 48

// secret is how many bytes a direction's secret has: in TLS 1.3 its traffic secret, in TLS 1.2 its key and then its IV.
func (s *suite) secret() int {
	if s.tls13 {
		return s.hash().Size()
	}
	return s.key + s.iv()
}

// aead returns the suite's cipher. Trap: it has copied the key, and nothing can clear what the standard library keeps.
func (s *suite) aead(key []byte) cipher.AEAD {
	var a cipher.AEAD
	var err error
	if s.chacha {
		a, err = chacha20poly1305.New(key)
	} else {
		var b cipher.Block
		if b, err = aes.NewCipher(key); err == nil {
			a, err = cipher.NewGCM(b)
		}
	}
	if err != nil {
		panic(err) // a key of the suite's length is always taken
	}
	return a
}

// expandLabel is HKDF-Expand-Label with an empty context, RFC 8446 §7.1.
func (s *suite) expandLabel(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0) // the context's length
	out, err := hkdf.Expand(s.hash, secret, string(info), n)
	if err != nil {
		panic(err) // no n is longer than a hash
	}
	return out
}

// prf is the PRF of TLS 1.2, RFC 5246 §5.
func (s *suite) prf(secret []byte, label string, seed []byte, n int) []byte {
	mac := func(parts ...[]byte) []byte {
		m := hmac.New(s.hash, secret)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	var out []byte
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}

// keyBlock divides the key block of TLS 1.2 (RFC 5246 §6.3) into the secrets of the two directions. With an AEAD there
// are no MAC keys in it.
func (s *suite) keyBlock(master, clientRandom, serverRandom []byte) (client, server []byte) {
	seed := append(append([]byte(nil), serverRandom...), clientRandom...)
	k, v := s.key, s.iv()
	b := s.prf(master, "key expansion", seed, 2*(k+v))
	defer clear(b)
	clientKey, serverKey, clientIV, serverIV := b[:k], b[k:2*k], b[2*k:2*k+v], b[2*k+v:]
	return append(append([]byte(nil), clientKey...), clientIV...),
		append(append([]byte(nil), serverKey...), serverIV...)
}
