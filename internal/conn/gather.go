package conn

import "encoding/binary"

// A gather finds whole messages in what a socket gives, so that a connection can rest at any byte: what it has sent of an
// unfinished message is kept, nothing else. It judges no frame: where something looks wrong, gorilla is given what is
// there and finds the words (RFC 6455 §5.2, §5.4, §5.5).
type gather struct {
	pos     int // bytes of the unfinished message's whole frames, from its beginning
	payload int // their payload
}

type finding uint8

const (
	needMore    finding = iota // nothing whole
	gotMessage                 // in[:end] is one message
	gotControl                 // in[start:end] is a control frame, perhaps between a message's fragments
	gotMistake                 // in[:end] is no message that will be accepted
	gotOverlong                // so many small fragments that they would cost more than a message may
)

// next looks at in, which begins with the unfinished message's first byte. After gotMessage the caller goes on behind it,
// after gotControl with that frame taken out. Until then in only grows.
func (g *gather) next(in []byte, limit int) (what finding, start, end int) {
	for {
		b := in[g.pos:]
		if len(b) < 2 {
			return needMore, 0, 0
		}
		op, fin, open := b[0]&0xf, b[0]&finBit != 0, g.pos > 0
		n := int(b[1] &^ maskBit)
		control := op >= opClose
		switch {
		case b[0]&rsvBits != 0 || b[1]&maskBit == 0,
			op > opBinary && op < opClose || op > opPong,
			control && (!fin || n > maxControlPayload),
			op == opContinuation && !open,
			op != opContinuation && !control && open:
			return gotMistake, 0, g.pos + 2
		}
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
				return gotMistake, 0, g.pos + header
			}
			n = int(v)
		}
		if !control && n > limit-g.payload {
			return gotMistake, 0, g.pos + header
		}
		if len(b) < header+n {
			return needMore, 0, 0
		}
		end := g.pos + header + n
		if control {
			return gotControl, g.pos, end
		}
		if fin {
			*g = gather{}
			return gotMessage, 0, end
		}
		g.pos, g.payload = end, g.payload+n
		if g.pos > 2*limit+4096 {
			return gotOverlong, 0, 0
		}
	}
}
