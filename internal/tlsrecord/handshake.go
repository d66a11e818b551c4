package tlsrecord

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
)

// Handshake makes a server's handshake on nc, by crypto/tls, and returns what goes on from there. Nothing that follows
// the client's Finished has been read from nc then. It takes as long as the client does: nc's deadline is the only
// bound. nc stays the caller's; after an error it is to be closed, and crypto/tls has told the client why. The error
// wraps crypto/tls's own, a tls.RecordHeaderError where the client does not speak TLS.
//
// Session tickets are sealed with cfg's keys, so cfg should be the same for all connections. Its versions below TLS 1.2
// and its CipherSuites do not count, KeyLogWriter, WrapSession and UnwrapSession are replaced, and GetConfigForClient
// must be nil. Where there are no instructions for AES, crypto/tls prefers ChaCha20 in both versions.
func Handshake(nc net.Conn, cfg *tls.Config) (*Link, error) {
	_, l, err := shake(nc, cfg)
	if err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return l, nil
}

func shake(nc net.Conn, cfg *tls.Config) (*tls.Conn, *Link, error) {
	w := &wire{Conn: nc}
	defer w.wipe()
	tc := tls.Server(w, w.config(cfg))
	if err := tc.Handshake(); err != nil {
		return nil, nil, err
	}
	l, err := w.link(tc.ConnectionState())
	return tc, l, err
}

// A wire is a connection as crypto/tls sees it. crypto/tls reads ahead as much as it gets, so it never gets more than
// the rest of the record that it is in: what comes after the handshake stays in the socket. On its way the wire notes
// what is needed to go on from there.
type wire struct {
	net.Conn

	// Of the record that is being read:
	header [headerLen]byte
	have   int // bytes of header
	left   int // bytes of its body still to come

	hello   []byte // the first bytes of the client's handshake messages, up to the end of its random
	answer  []byte // the first bytes written, up to the end of the server's random
	records uint64 // read since the last change_cipher_spec
	tickets uint64 // written

	client, server []byte // TLS 1.3: application traffic secrets
	master         []byte // TLS 1.2: the master secret
}

// Where the random of a hello ends: behind the message's type, its length and a version (RFC 5246 §7.4.1.2 and .3,
// RFC 8446 §4.1.2).
const (
	randomEnd = 1 + 3 + 2 + randomLen
	randomLen = 32
)

func (w *wire) Read(p []byte) (int, error) {
	most := w.left
	if w.have < headerLen {
		most = headerLen - w.have
	}
	n, err := w.Conn.Read(p[:min(most, len(p))])
	w.follow(p[:n])
	return n, err
}

// follow notes what has been read: some of a header, or some of a body.
func (w *wire) follow(p []byte) {
	if w.have == headerLen {
		if w.header[0] == handshake {
			w.hello = append(w.hello, p[:min(len(p), randomEnd-len(w.hello))]...)
		}
		w.left -= len(p)
	} else if w.have += copy(w.header[w.have:], p); w.have == headerLen {
		w.left = int(binary.BigEndian.Uint16(w.header[3:]))
		w.records++
		if w.header[0] == changeCipherSpec {
			w.records = 0
		}
	}
	if w.have == headerLen && w.left == 0 {
		w.have = 0
	}
}

func (w *wire) Write(p []byte) (int, error) {
	w.answer = append(w.answer, p[:min(len(p), headerLen+randomEnd-len(w.answer))]...)
	return w.Conn.Write(p)
}

// config is cfg for this one connection. Only what cfg does itself uses its ticket keys.
func (w *wire) config(cfg *tls.Config) *tls.Config {
	c := cfg.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.CipherSuites = nil
	for _, s := range suites {
		if !s.tls13 { // those of TLS 1.3 cannot be chosen
			c.CipherSuites = append(c.CipherSuites, s.id)
		}
	}
	c.KeyLogWriter = keyLog{w}
	// Called for each ticket that is sent, and for nothing else. In TLS 1.3 it is a record under the application's key,
	// sent before the client's first (RFC 8446 §4.6.1); in TLS 1.2 it goes out under no key (RFC 5077 §3.3).
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		w.tickets++
		if cs.Version == tls.VersionTLS12 {
			extra := append([]byte(extraMaster), w.master...)
			defer clear(extra)
			ss.Extra = append(ss.Extra, extra)
		}
		return cfg.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := cfg.DecryptTicket(ticket, cs)
		if ss == nil || err != nil || cs.Version != tls.VersionTLS12 {
			return ss, err
		}
		for _, extra := range ss.Extra {
			if master, ok := bytes.CutPrefix(extra, []byte(extraMaster)); ok {
				w.master = master // if the session is resumed; otherwise keyLog gets another
				return ss, nil
			}
		}
		return nil, nil // it cannot be resumed here
	}
	return c
}

// extraMaster is what a ticket's master secret begins with in SessionState.Extra. crypto/tls logs no key of a resumed
// session of TLS 1.2, whose master secret is the first one's. It is in the ticket anyway, but not for others to read,
// and each resumed session's new ticket needs it again.
const extraMaster = "picloud master secret:"

// keyLog receives crypto/tls's log of keys for one connection: lines of a label, the client's random and a secret, both
// in hexadecimal. (SSLKEYLOGFILE, which tls.Config.KeyLogWriter describes.)
type keyLog struct{ *wire }

// Write clears the line, which crypto/tls makes for it alone: a secret is to be in no more places than it must.
func (k keyLog) Write(line []byte) (int, error) {
	defer clear(line)
	fields := bytes.Fields(line)
	if len(fields) != 3 {
		return 0, errors.New("a line of the key log has not three fields")
	}
	var to *[]byte
	switch string(fields[0]) {
	case "CLIENT_TRAFFIC_SECRET_0":
		to = &k.client
	case "SERVER_TRAFFIC_SECRET_0":
		to = &k.server
	case "CLIENT_RANDOM":
		to = &k.master
	default: // of the handshake itself
		return len(line), nil
	}
	secret := make([]byte, hex.DecodedLen(len(fields[2])))
	if _, err := hex.Decode(secret, fields[2]); err != nil {
		return 0, err
	}
	clear(*to)
	*to = secret
	return len(line), nil
}

// link makes a Link of what has been noted.
func (w *wire) link(cs tls.ConnectionState) (*Link, error) {
	s := suiteOf(cs.CipherSuite)
	if s == nil {
		return nil, fmt.Errorf("suite %s is not known here", tls.CipherSuiteName(cs.CipherSuite))
	}
	l := &Link{suite: s}
	client, server := w.client, w.server
	l.in.number, l.out.number = 0, w.tickets // RFC 8446 §7.1: application keys begin behind both Finished
	if !s.tls13 {
		if len(w.master) == 0 || len(w.hello) != randomEnd || len(w.answer) != headerLen+randomEnd {
			return nil, errors.New("crypto/tls has not shown what the keys are made of")
		}
		client, server = s.keyBlock(w.master, w.hello[randomEnd-randomLen:], w.answer[headerLen+randomEnd-randomLen:])
		defer clear(client)
		defer clear(server)
		l.in.number, l.out.number = w.records, 1 // the keys begin with Finished, RFC 5246 §7.1
	}
	if len(client) != s.secret() || len(server) != s.secret() || w.have != 0 {
		return nil, errors.New("crypto/tls has not shown the keys")
	}
	copy(l.in.secret[:], client)
	copy(l.out.secret[:], server)
	return l, nil
}

func (w *wire) wipe() {
	clear(w.client)
	clear(w.server)
	clear(w.master)
}
