package wire

import "time"

// AppendDelivery appends the message that subscribers get. event is valid UTF-8; data is one JSON value, passed on as
// it is, or nil for a publish without data; quotedName is the publisher's name as AppendString wrote it.
func AppendDelivery(dst, event, data []byte, at time.Time, quotedName []byte) []byte {
	dst = append(dst, `{"action":"publish","event":`...)
	dst = appendQuoted(dst, event)
	dst = append(dst, `,"data":`...)
	if len(data) == 0 {
		dst = append(dst, `""`...)
	} else {
		dst = append(dst, data...)
	}
	dst = append(dst, `,"created_at":"`...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","client_name":`...)
	dst = append(dst, quotedName...)
	return append(dst, '}')
}

// AppendAck appends the answer to a message that had an id and has taken effect.
func AppendAck(dst, id []byte) []byte {
	dst = append(dst, `{"action":"ack","id":`...)
	dst = append(dst, id...)
	return append(dst, '}')
}

// AppendError appends the answer to a message that is refused. event and id are empty where none could be read; reason
// and event are valid UTF-8. The first PiCloud's clients take every message for one about an event.
func AppendError(dst []byte, reason string, event, id []byte) []byte {
	dst = append(dst, `{"action":"error","error":`...)
	dst = appendQuoted(dst, reason)
	if len(event) > 0 {
		dst = append(dst, `,"event":`...)
		dst = appendQuoted(dst, event)
	}
	if len(id) > 0 {
		dst = append(dst, `,"id":`...)
		dst = append(dst, id...)
	}
	return append(dst, '}')
}

// AppendString appends s, valid UTF-8, as a JSON string. Only what RFC 8259 §7 requires is escaped: the result is not
// safe inside HTML.
func AppendString(dst []byte, s string) []byte { return appendQuoted(dst, s) }

func appendQuoted[S string | []byte](dst []byte, s S) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0 // of what is not yet written
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
