// Package peer is the client's end of a WebSocket, written from RFC 6455 alone: it can also send what no library would,
// and checks what the server sends.
package peer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Bits of a frame's first byte, RFC 6455 §5.2.
const (
	Fin  = 0x80
	Rsv1 = 0x40
	Rsv2 = 0x20
	Rsv3 = 0x10
)

// Opcodes, RFC 6455 §5.2.
const (
	More   = 0x0
	Text   = 0x1
	Binary = 0x2
	Close  = 0x8
	Ping   = 0x9
	Pong   = 0xA
)

// mostPayload is more than any server here sends in one frame.
const mostPayload = 1 << 30

// mask returns a frame's own mask, so that a byte unmasked at the wrong place or with another frame's mask shows.
func mask(first byte, n int) [4]byte { return [4]byte{0x37, 0xfa, byte(n), first} }

// Frame is one whole frame as a client sends it. Its first byte is given as it is: Fin, reserved bits and opcode.
func Frame[P string | []byte](first byte, payload P) []byte {
	return AppendFrame(nil, first, mask(first, len(payload)), payload)
}

// AppendFrame appends a frame to b. With the mask 0 the payload is in it unchanged.
func AppendFrame[P string | []byte](b []byte, first byte, mask [4]byte, payload P) []byte {
	b = appendHeader(b, first, len(payload), 0, mask)
	at := len(b)
	b = append(b, payload...)
	if mask != [4]byte{} {
		for i := range b[at:] {
			b[at+i] ^= mask[i%4]
		}
	}
	return b
}

// Header is the beginning of a Frame with a payload of n bytes.
func Header(first byte, n int) []byte { return appendHeader(nil, first, n, 0, mask(first, n)) }

// LongFrame is Frame with the length in a form that may be longer than necessary: form, 126 or 127, or a longer one.
func LongFrame[P string | []byte](first byte, payload P, form byte) []byte {
	n, whole := len(payload), Frame(first, payload)
	return append(appendHeader(nil, first, n, form, mask(first, n)), whole[len(whole)-n:]...)
}

func appendHeader(b []byte, first byte, n int, form byte, mask [4]byte) []byte {
	const masked = 0x80
	switch b = append(b, first); {
	case n <= 125 && form < 126:
		b = append(b, masked|byte(n))
	case n <= 0xffff && form < 127:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	return append(b, mask[:]...)
}

// ReadFrame reads one frame and checks that it is as a server may send it and ours does: whole, unmasked, no reserved
// bit, the shortest form of its length. The payload is in buf if it fits. If the stream ends before a frame the error
// is io.EOF.
func ReadFrame(r *bufio.Reader, buf []byte) (op byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(r, head[1:2]); err != nil {
		return 0, nil, fmt.Errorf("in a frame's header: %w", broken(err))
	}
	op = head[0] & 0xf
	if head[0]&^0xf != Fin || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a server's frame begins with % x", head[:2])
	}
	n, least := uint64(head[1]), uint64(0)
	switch n {
	case 126:
		_, err = io.ReadFull(r, head[2:4])
		n, least = uint64(binary.BigEndian.Uint16(head[2:])), 126
	case 127:
		_, err = io.ReadFull(r, head[2:10])
		n, least = binary.BigEndian.Uint64(head[2:]), 1<<16
	}
	if err != nil {
		return 0, nil, fmt.Errorf("in a frame's header: %w", broken(err))
	}
	if n < least || n > mostPayload {
		return 0, nil, fmt.Errorf("a server's frame says its length is %d, in the form for %d and more", n, least)
	}
	if payload = buf[:0]; uint64(cap(payload)) < n {
		payload = make([]byte, n)
	}
	payload = payload[:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("in a frame of %d bytes: %w", n, broken(err))
	}
	return op, payload, nil
}

// broken makes the end of the stream inside a frame another error than between frames.
func broken(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
