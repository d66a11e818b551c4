package wire

import (
	"encoding/binary"
	"encoding/json"
)

// maxFastDepth bounds the nesting that decodeFast takes, well below encoding/json's limit: that limit counts from the
// top of the message, so the general decoder judges whatever comes near it.
const maxFastDepth = 100

// decodeFast decodes, without allocating, the shape that nearly every message has: no escapes outside data, no fault.
// What it does not take need not be wrong: ask decodeGeneral, which decodes whatever decodeFast takes to the same
// result. p is valid UTF-8.
func decodeFast(p []byte) (m Message, ok bool) {
	i := skipSpace(p, 0)
	if i == len(p) || p[i] != '{' {
		return m, false
	}
	for hasAction := false; ; {
		var key []byte
		if key, i = plainString(p, skipSpace(p, i+1)); i < 0 {
			return m, false
		}
		if i = skipSpace(p, i); i == len(p) || p[i] != ':' {
			return m, false
		}
		i = skipSpace(p, i+1)
		switch string(key) {
		case "action":
			var word []byte
			if word, i = plainString(p, i); i < 0 || hasAction {
				return m, false
			}
			hasAction = true
			if m.Action, ok = parseAction(word); !ok {
				return m, false
			}
		case "event":
			if m.Event != nil {
				return m, false
			}
			m.Event, i = plainString(p, i)
		case "data":
			if m.Data != nil {
				return m, false
			}
			m.Data, i = anyValue(p, i)
		case "id":
			if m.ID != nil {
				return m, false
			}
			m.ID, i = plainID(p, i)
		default:
			_, i = anyValue(p, i)
		}
		if i < 0 {
			return m, false
		}
		if i = skipSpace(p, i); i == len(p) {
			return m, false
		}
		if p[i] == '}' {
			break
		}
		if p[i] != ',' {
			return m, false
		}
	}
	if skipSpace(p, i+1) != len(p) {
		return m, false
	}
	if !actions[m.Action].hasEvent {
		m.Event = nil
		return m, true
	}
	return m, 0 < len(m.Event) && len(m.Event) <= MaxEventBytes
}

// The functions below read one value that begins at p[i] and return it with the index after it, which is -1 when they
// are not sure of the value. i may be len(p).

// plainString reads a string without escapes and returns what is between its quotes.
func plainString(p []byte, i int) (s []byte, end int) {
	if i == len(p) || p[i] != '"' {
		return nil, -1
	}
	i++
	for end = i; end < len(p); end++ {
		switch c := p[end]; {
		case c == '"':
			return p[i:end:end], end + 1
		case c == '\\' || c < ' ':
			return nil, -1
		}
	}
	return nil, -1
}

func plainID(p []byte, i int) (id []byte, end int) {
	if i == len(p) {
		return nil, -1
	}
	if p[i] == '"' {
		s, end := plainString(p, i)
		if end < 0 || len(s) > MaxIDBytes {
			return nil, -1
		}
		return p[i:end:end], end
	}
	if !startsNumber(p[i]) {
		return nil, -1
	}
	if id, end = anyValue(p, i); len(id) > MaxIDBytes {
		return nil, -1
	}
	return id, end
}

func anyValue(p []byte, i int) (value []byte, end int) {
	if i == len(p) {
		return nil, -1
	}
	sure := false
	switch p[i] {
	case '"':
		if end, sure = stringEnd(p, i); end < 0 {
			return nil, -1
		}
	case '{', '[':
		if end = bracketsEnd(p, i); end < 0 {
			return nil, -1
		}
	default:
		for end = i; end < len(p) && isBare(p[end]); end++ {
		}
	}
	value = p[i:end:end]
	if !sure && !json.Valid(value) {
		return nil, -1
	}
	return value, end
}

// stringEnd finds the end of a string; plain means that it is known to be valid.
func stringEnd(p []byte, i int) (end int, plain bool) {
	plain = true
	for i++; i+8 <= len(p) && !hasSpecial(binary.LittleEndian.Uint64(p[i:])); {
		i += 8
	}
	for ; i < len(p); i++ {
		switch c := p[i]; {
		case c == '"':
			return i + 1, plain
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			return -1, false
		}
	}
	return -1, false
}

// hasSpecial reports whether one of eight bytes is a quote, a backslash or a control character. Most of a message's
// bytes go through here.
func hasSpecial(w uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := w^'"'*each, w^'\\'*each
	return ((quote-each)&^quote|(backslash-each)&^backslash|(w-' '*each)&^w)&high != 0
}

// bracketsEnd finds where as many brackets have closed as have opened, whatever their kind.
func bracketsEnd(p []byte, i int) int {
	for depth := 0; i < len(p); i++ {
		switch p[i] {
		case '"':
			end, _ := stringEnd(p, i)
			if end < 0 {
				return -1
			}
			i = end - 1
		case '{', '[':
			if depth++; depth > maxFastDepth {
				return -1
			}
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// isBare says whether c can be in a number, true, false or null.
func isBare(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'E'
}
