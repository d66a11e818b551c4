package wsconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// payload takes the payload out of whole, masked frames, as gather finds them, and returns it. It works in place: the
// frames are destroyed.
func payload(frames []byte) []byte {
	p := frames[:0]
	for len(frames) > 0 {
		n, at := int(frames[1]&^maskBit), 2
		switch n {
		case 126:
			n, at = int(binary.BigEndian.Uint16(frames[2:])), 4
		case 127:
			n, at = int(binary.BigEndian.Uint64(frames[2:])), 10
		}
		key, body := [4]byte(frames[at:]), frames[at+4:at+4+n]
		unmask(body, key)
		if len(p) == 0 {
			p = body // a message is nearly always one frame
		} else {
			p = append(p, body...)
		}
		frames = frames[at+4+n:]
	}
	return p
}

// unmask is RFC 6455 §5.3.
func unmask(b []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
	}
	for i := range b {
		b[i] ^= key[i%4]
	}
}

// control answers a control frame, RFC 6455 §5.5. An error ends the connection.
func (c *Conn) control(op byte, p []byte) error {
	switch op {
	case opPing:
		c.reply(appendFrame(nil, opPong, p))
	case opClose:
		var code []byte
		switch {
		case len(p) == 1:
			return c.mistake("a close frame has half a code")
		case len(p) >= 2:
			code = p[:2]
			switch n := int(binary.BigEndian.Uint16(code)); {
			case !isCloseCode(n):
				return c.mistake(fmt.Sprintf("close code %d may not be sent", n))
			case !utf8.Valid(p[2:]):
				return c.mistake("the reason of a close frame is not UTF-8")
			}
		}
		c.sayGoodbye(appendFrame(nil, opClose, code), ErrGoodbye)
		return ErrGoodbye
	}
	return nil
}

// isCloseCode reports whether a client may send a close code, RFC 6455 §7.4 and the IANA registry that follows it.
func isCloseCode(code int) bool {
	return 1000 <= code && code <= 1003 || 1007 <= code && code <= 1014 || 3000 <= code && code <= 4999
}

var (
	errTooBig    = errors.New("a message is over the limit")
	errNotUTF8   = fmt.Errorf("%w: text is not UTF-8", ErrProtocol)
	errFragments = fmt.Errorf("%w: too many fragments", ErrProtocol)
)

// mistake says goodbye for a breach of the protocol, in words for the client's author.
func (c *Conn) mistake(words string) error {
	return c.refuse(websocket.CloseProtocolError, words, fmt.Errorf("%w: %s", ErrProtocol, words))
}

// refuse says goodbye for something that the client did, and returns why.
func (c *Conn) refuse(code int, words string, why error) error {
	c.sayGoodbye(appendFrame(nil, opClose, websocket.FormatCloseMessage(code, words)), why)
	return why
}
