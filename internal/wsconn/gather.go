package wsconn

import "encoding/binary"

// A gather finds whole messages in a socket's input, so that a connection can rest at any byte: only what has come of
// an unfinished message is kept.
type gather struct {
	pos     int // bytes of the unfinished message's whole frames, from its beginning
	payload int // their payload
}

type finding uint8

const (
	needMore    finding = iota // nothing whole
	gotMessage                 // in[:end] is one message
	gotControl                 // in[start:end] is a control frame, perhaps between a message's fragments
	gotMistake                 // in[start:] begins with a header that a client may not send, see wrong
	gotTooBig                  // the message is over the limit
	gotOverlong                // so many small fragments that they would cost more than a message may
)

// next looks at in, which begins with the unfinished message's first byte. After gotMessage the caller goes on behind
// the message, after gotControl with that frame taken out. Until then, in only grows.
func (g *gather) next(in []byte, limit int) (what finding, start, end int) {
	for {
		b := in[g.pos:]
		if len(b) < 2 {
			return needMore, 0, 0
		}
		if wrong(b, g.pos > 0) != "" {
			return gotMistake, g.pos, 0
		}
		n, control := int(b[1]&^maskBit), b[0]&0xf >= opClose
		header := 2 + 4
		switch n {
		case 126:
			header += 2
		case 127:
			header += 8
		}
		if len(b) < header {
			return needMore, 0, 0
		}
		switch n {
		case 126:
			n = int(binary.BigEndian.Uint16(b[2:]))
		case 127:
			v := binary.BigEndian.Uint64(b[2:])
			if v > uint64(limit) {
				return gotTooBig, 0, 0
			}
			n = int(v)
		}
		if !control && n > limit-g.payload {
			return gotTooBig, 0, 0
		}
		if len(b) < header+n {
			return needMore, 0, 0
		}
		end := g.pos + header + n
		if control {
			return gotControl, g.pos, end
		}
		if b[0]&finBit != 0 {
			*g = gather{}
			return gotMessage, 0, end
		}
		g.pos, g.payload = end, g.payload+n
		if g.pos > 2*limit+4096 {
			return gotOverlong, 0, 0
		}
	}
}

// wrong says what is wrong with a frame whose first two bytes are at hand, RFC 6455 §5.2, §5.4, §5.5; open tells
// whether a message has begun.
func wrong(b []byte, open bool) string {
	op := b[0] & 0xf
	switch {
	case b[0]&rsvBits != 0:
		return "a reserved bit is set, and no extension was agreed on"
	case b[1]&maskBit == 0:
		return "a frame is not masked"
	case op > opBinary && op < opClose || op > opPong:
		return "a frame has an unknown opcode"
	case op >= opClose && b[0]&finBit == 0:
		return "a control frame is in fragments"
	case op >= opClose && b[1]&^maskBit > maxControlPayload:
		return "a control frame has more than 125 bytes"
	case op == opContinuation && !open:
		return "a fragment continues nothing"
	case op != opContinuation && op < opClose && open:
		return "a message begins inside another one"
	}
	return ""
}
