package torture

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
	_ "unsafe" // for linkname

	"picloud/test/wait"
)

// crypto/tls lets nobody choose among TLS 1.3's suites, but shows these to linkname and says that they stay.
//
//go:linkname suites13 crypto/tls.defaultCipherSuitesTLS13
var suites13 []uint16

//go:linkname suites13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var suites13NoAES []uint16

// choosing is held from the choice of a suite until a ClientHello is made.
var choosing sync.Mutex

// A link is the client's end of a connection: crypto/tls makes the handshake, and what follows is read and written
// here, every record from the server by the judge. One goroutine may read and one may write.
type link struct {
	nc     *net.TCPConn
	in     *bufio.Reader
	judge  *judge
	ahead  []byte // of the server's application, not read yet
	out    *key
	number uint64
	rng    *rand.Rand // the writer's

	mu      sync.Mutex
	secrets [2][][]byte // all that there have been, ours and the server's
}

// A shaking is a connection during crypto/tls's handshake. crypto/tls gets no more than the rest of the record that it
// is in, so that what follows the handshake stays in the socket.
type shaking struct {
	*net.TCPConn
	header []byte
	left   int
	hello  []byte // the beginning of what the server says
	begun  func() // called when the ClientHello is made
}

func (s *shaking) Read(p []byte) (int, error) {
	most := s.left
	if most == 0 {
		most = 5 - len(s.header)
	}
	n, err := s.TCPConn.Read(p[:min(most, len(p))])
	s.hello = append(s.hello, p[:min(n, 64-len(s.hello))]...)
	if s.left > 0 {
		s.left -= n
	} else if s.header = append(s.header, p[:n]...); len(s.header) == 5 {
		s.left, s.header = int(binary.BigEndian.Uint16(s.header[3:])), nil
	}
	return n, err
}

func (s *shaking) Write(p []byte) (int, error) {
	s.begun()
	return s.TCPConn.Write(p)
}

// dial connects with that suite, or its like for the server's other certificate. The kernel has room for about that
// many bytes that have not been read.
func dial(address string, s *suite, room int, rng *rand.Rand) (*link, error) {
	d := net.Dialer{Timeout: wait.Patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, room)
		})
		return errors.Join(cerr, err)
	}}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &link{nc: nc.(*net.TCPConn), rng: rng}
	if err := l.shake(s); err != nil {
		nc.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return l, nil
}

func (l *link) shake(s *suite) error {
	l.nc.SetDeadline(time.Now().Add(wait.Patience))
	var log bytes.Buffer
	cfg := &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &log, MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12}
	if s.tls13 {
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	}
	if l.rng.IntN(2) == 0 { // asks for a ticket, which is a record under the first key
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	for _, like := range suites {
		if like.tls13 == s.tls13 && like.chacha == s.chacha && like.key == s.key {
			cfg.CipherSuites = append(cfg.CipherSuites, like.id)
		}
	}
	choosing.Lock()
	begun := sync.OnceFunc(choosing.Unlock)
	defer begun()
	suites13, suites13NoAES = cfg.CipherSuites, cfg.CipherSuites
	shaking := &shaking{TCPConn: l.nc, begun: begun}
	tc := tls.Client(shaking, cfg)
	if err := tc.Handshake(); err != nil {
		return err
	}
	return l.begin(tc.ConnectionState().CipherSuite, log.Bytes(), shaking.hello)
}

// begin takes the keys from crypto/tls's log.
func (l *link) begin(id uint16, log, hello []byte) error {
	var s *suite
	for _, known := range suites {
		if known.id == id {
			s = known
		}
	}
	var ours, theirs []byte
	for line := range bytes.Lines(log) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		random, err := hex.DecodeString(string(f[1]))
		if err != nil {
			return err
		}
		secret, err := hex.DecodeString(string(f[2]))
		if err != nil {
			return err
		}
		switch string(f[0]) {
		case "CLIENT_TRAFFIC_SECRET_0":
			ours = secret
		case "SERVER_TRAFFIC_SECRET_0":
			theirs = secret
		case "CLIENT_RANDOM":
			const random12 = 5 + 4 + 2 // behind the record's header, the message's and the version
			ours, theirs = s.block12(secret, random, hello[random12:random12+32])
		}
	}
	if ours == nil || theirs == nil {
		return fmt.Errorf("no keys in the log")
	}
	if !s.tls13 { // Finished was the first record each way
		l.number = 1
	}
	l.out, l.judge, l.in = newKey(s, ours), newJudge(newKey(s, theirs), l.number), bufio.NewReaderSize(l.nc, 4<<10)
	l.secrets = [2][][]byte{{ours}, {theirs}}
	return nil
}

// A fault is why a link is not read any further: what the judge has found.
type fault string

func (f fault) Error() string { return string(f) }

// Read returns what the server's application says. io.EOF: the server has said that it ends.
func (l *link) Read(p []byte) (int, error) {
	for len(l.ahead) == 0 {
		kind, plain, err := l.next()
		switch {
		case err != nil:
			return 0, err
		case kind == data:
			l.ahead = plain
		case kind == alert && len(plain) == 2 && plain[1] == closeNotify:
			if kind, _, err := l.next(); err == nil {
				return 0, fault(fmt.Sprintf("behind its end the server says type %d", kind))
			} else if found, ok := errors.AsType[fault](err); ok {
				return 0, found
			}
			return 0, io.EOF
		case kind == alert && len(plain) == 2:
			return 0, fault(fmt.Sprintf("the server says that the client is at fault: alert %d", plain[1]))
		case kind == handshake && l.judge.records == 1 && plain[0] == 4: // a ticket
		case kind == handshake && string(plain) == keyUpdate:
		default:
			return 0, fault(fmt.Sprintf("the server says type %d, %.40q", kind, plain))
		}
	}
	n := copy(p, l.ahead)
	l.ahead = l.ahead[n:]
	return n, nil
}

// next reads a record and has it judged.
func (l *link) next() (kind byte, plain []byte, err error) {
	l.nc.SetReadDeadline(time.Now().Add(wait.Patience))
	header, err := l.in.Peek(5)
	if err != nil {
		return 0, nil, err
	}
	record := make([]byte, 5+int(binary.BigEndian.Uint16(header[3:])))
	if _, err := io.ReadFull(l.in, record); err != nil {
		return 0, nil, err
	}
	keys := len(l.judge.keys)
	kind, plain, v := l.judge.take(record)
	if v != right {
		return 0, nil, fault(fmt.Sprintf("record %d under key %d, of %d bytes: %s", l.judge.number, keys, len(record),
			v))
	}
	if n := len(l.judge.keys); n > keys {
		l.has(1, l.judge.keys[n-1].secret)
	}
	return kind, plain, nil
}

func (l *link) has(direction int, secret []byte) {
	l.mu.Lock()
	l.secrets[direction] = append(l.secrets[direction], secret)
	l.mu.Unlock()
}

// had returns the secrets that are in use, and those that were.
func (l *link) had() (now, before [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.secrets {
		now = append(now, all[len(all)-1])
		before = append(before, all[:len(all)-1]...)
	}
	return now, before
}

// write seals text in records of any size and sends it in pieces, between which it may take its time.
func (l *link) write(text []byte) error {
	var b []byte
	for len(text) > 0 {
		n := min(len(text), 1+l.rng.IntN(1<<(1+l.rng.IntN(14))))
		b = append(b, l.record(data, text[:n])...)
		text = text[n:]
	}
	if l.rng.IntN(8) == 0 {
		n := l.rng.IntN(len(b))
		if err := l.raw(b[:n]); err != nil {
			return err
		}
		<-time.After(time.Duration(l.rng.IntN(20)) * time.Millisecond)
		b = b[n:]
	}
	return l.raw(b)
}

func (l *link) raw(b []byte) error {
	l.nc.SetWriteDeadline(time.Now().Add(wait.Patience))
	_, err := l.nc.Write(b)
	return err
}

func (l *link) record(kind byte, plain []byte) []byte {
	l.number++
	return l.out.seal(l.number-1, kind, plain)
}

// update changes our key, and may ask for the server's.
func (l *link) update(ask bool) error {
	if !l.out.tls13 {
		return nil
	}
	message := []byte{24, 0, 0, 1, 0}
	if ask {
		message[4] = 1
	}
	b := l.record(handshake, message)
	l.out, l.number = l.out.next(), 0
	l.has(0, l.out.secret)
	return l.raw(b)
}

// A way is how a client leaves.
type way int

const (
	withNotify way = iota // an alert, and the end of our side
	withEnd               // the end of our side only
	withReset
	inARecord // a reset in the middle of a record
	ways
)

// leave leaves. The connection is closed by who reads, or it is reset.
func (l *link) leave(w way) {
	switch w {
	case withNotify:
		l.raw(l.record(alert, []byte{warning, closeNotify}))
		l.nc.CloseWrite()
	case withEnd:
		l.nc.CloseWrite()
	case inARecord:
		b := l.record(data, make([]byte, 100))
		l.raw(b[:l.rng.IntN(len(b))])
		fallthrough
	case withReset:
		l.nc.SetLinger(0)
		l.nc.Close()
	}
}
