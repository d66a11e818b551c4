package wsconn

import (
	"encoding/binary"

	"github.com/gorilla/websocket"
)

// Bits and opcodes of a frame's first two bytes, RFC 6455 §5.2.
const (
	finBit  = 0x80
	rsvBits = 0x70
	maskBit = 0x80

	opContinuation = 0
	opText         = websocket.TextMessage
	opBinary       = websocket.BinaryMessage
	opClose        = websocket.CloseMessage
	opPing         = websocket.PingMessage
	opPong         = websocket.PongMessage

	maxControlPayload = 125
)

// appendFrame appends one whole, unmasked frame, as a server sends it.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, finBit|op)
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, byte(n))
	case n <= 0xffff:
		dst = append(dst, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// frameLen returns the length of the frame that begins at b[0], header included. b holds at least its header; the frame
// was made by appendFrame.
func frameLen(b []byte) int {
	switch b[1] {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + int(b[1])
	}
}

const (
	arenaSize  = 32 << 10
	arenaLarge = arenaSize / 4 // a larger frame gets memory of its own
)

// An Arena holds the frames of one publisher back to back, so that a burst to one subscriber is one run of bytes. The
// zero Arena is ready for use, by one goroutine at a time.
//
// Once every queue has been flushed, its memory is reused: it is still in the processor's cache, and nothing is left
// for the garbage collector. Memory that a queue still refers to is left alone.
type Arena struct {
	buf  []byte
	used int // bytes of buf in frames that a queue may still refer to
}

// Text returns payload as one text frame. The frame is shared by all connections that queue it and must not be changed
// or appended to.
func (a *Arena) Text(payload []byte) []byte {
	need := len(payload) + 10
	if need > arenaLarge {
		return appendFrame(make([]byte, 0, need), opText, payload)
	}
	if cap(a.buf)-len(a.buf) < need {
		*a = Arena{buf: make([]byte, 0, arenaSize)}
	}
	start := len(a.buf)
	a.buf = appendFrame(a.buf, opText, payload)
	return a.buf[start:]
}

// Flushed ends the use of the frames made since the last call. free says that no queue refers to any of them any more,
// as every Flush owed for them has reported.
func (a *Arena) Flushed(free bool) {
	if free {
		a.buf = a.buf[:a.used]
	} else {
		a.used = len(a.buf)
	}
}
