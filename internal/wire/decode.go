package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Message is what a client sent. Its slices may alias the bytes given to Decode.
type Message struct {
	Action Action
	Event  []byte // decoded; nil for UnsubscribeAll, which is not about a single event
	Data   []byte // one JSON value as it was written; nil when missing
	ID     []byte // a JSON string or number as it was written; nil when missing
}

var (
	errNotObject    = &Error{"message must be one JSON object"}
	errActionTwice  = &Error{"action appears twice"}
	errEventTwice   = &Error{"event appears twice"}
	errDataTwice    = &Error{"data appears twice"}
	errIDTwice      = &Error{"id appears twice"}
	errIDType       = &Error{"id must be a string or a number"}
	errIDLong       = &Error{"id must be at most 64 bytes"}
	errIDSurrogate  = &Error{`id has a \u escape that is half of a surrogate pair`}
	errActionType   = &Error{"action must be a string"}
	errEventMissing = &Error{"event is required"}
	errEventType    = &Error{"event must be a string"}
	errEventEmpty   = &Error{"event must not be empty"}
	errEventLong    = &Error{"event must be at most 255 bytes"}
	// Decoders put U+FFFD in place of half a pair, so that two different events would become one.
	errEventSurrogate = &Error{`event has a \u escape that is half of a surrogate pair`}
)

// Decode reads one message. A byte order mark in front is skipped. Keys are matched exactly; unknown ones are ignored.
// The event is checked unless the action needs none, like UnsubscribeAll.
//
// An error is an *Error; the Message returned with it has only the ID and the Event, if the text is JSON and holds
// valid ones. Of several faults the first in this order is reported: UTF-8, JSON, a key that appears twice, id, action,
// event.
func Decode(p []byte) (Message, error) {
	p, err := Text(p)
	if err != nil {
		return Message{}, err
	}
	if m, ok := decodeFast(p); ok {
		return m, nil
	}
	return decodeGeneral(p)
}

// decodeGeneral decodes any message. p is valid UTF-8.
func decodeGeneral(p []byte) (Message, error) {
	// encoding/json refuses nesting beyond 10,000 here; nothing below recurses.
	if start := skipSpace(p, 0); start == len(p) || p[start] != '{' || !json.Valid(p) {
		return Message{}, notObject(p)
	}
	dec := json.NewDecoder(bytes.NewReader(p))
	if _, err := dec.Token(); err != nil {
		return Message{}, errNotObject
	}
	var action, event, data, id json.RawMessage
	var twice *Error
	var idTwice, eventTwice bool
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return Message{}, errNotObject
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return Message{}, errNotObject
		}
		var known *json.RawMessage
		var again *Error
		switch key {
		case "action":
			known, again = &action, errActionTwice
		case "event":
			known, again = &event, errEventTwice
		case "data":
			known, again = &data, errDataTwice
		case "id":
			known, again = &id, errIDTwice
		default:
			continue
		}
		if *known == nil {
			*known = value
			continue
		}
		if twice == nil {
			twice = again
		}
		idTwice = idTwice || again == errIDTwice
		eventTwice = eventTwice || again == errEventTwice
	}

	var failed Message // of two ids, or events, neither is the message's
	name, eventErr := readEvent(event)
	if eventErr == nil && !eventTwice {
		failed.Event = name
	}
	idErr := checkID(id)
	if idErr == nil && !idTwice {
		failed.ID = id
	}
	switch {
	case twice != nil:
		return failed, twice
	case idErr != nil:
		return failed, idErr
	}
	m := Message{Data: data, ID: id}
	if action != nil {
		word, ok := unquote(action)
		if !ok {
			return failed, errActionType
		}
		if m.Action, ok = parseAction(word); !ok {
			return failed, ErrActionUnknown
		}
	}
	if !actions[m.Action].hasEvent {
		return m, nil
	}
	if eventErr != nil {
		return failed, eventErr
	}
	m.Event = name
	return m, nil
}

// readEvent takes a JSON value, or nil for none, and decodes it.
func readEvent(value []byte) (event []byte, err error) {
	if value == nil {
		return nil, errEventMissing
	}
	word, ok := unquote(value)
	switch {
	case !ok:
		return nil, errEventType
	case word == "":
		return nil, errEventEmpty
	case hasLoneSurrogate(value):
		return nil, errEventSurrogate
	case len(word) > MaxEventBytes:
		return nil, errEventLong
	}
	return []byte(word), nil
}

// checkID takes a JSON value, or nil for none.
func checkID(id []byte) error {
	switch {
	case id == nil:
		return nil
	case id[0] == '"':
		if len(id)-len(`""`) > MaxIDBytes {
			return errIDLong
		}
		if hasLoneSurrogate(id) {
			return errIDSurrogate
		}
		return nil
	case !startsNumber(id[0]):
		return errIDType
	case len(id) > MaxIDBytes:
		return errIDLong
	}
	return nil
}

// unquote decodes a JSON value that is a string.
func unquote(value []byte) (s string, ok bool) {
	if value[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(value, &s) == nil
}

// hasLoneSurrogate says whether a valid JSON string has a \u escape for half of a surrogate pair without the other
// half.
func hasLoneSurrogate(quoted []byte) bool {
	const highHalves, lowHalves = 0xD800 >> 10, 0xDC00 >> 10
	for i := 0; i < len(quoted); i++ {
		if quoted[i] != '\\' {
			continue
		}
		i++
		if quoted[i] != 'u' {
			continue
		}
		switch unit(quoted[i+1:]) >> 10 {
		case lowHalves:
			return true
		case highHalves:
			i += len("D800")
			next := quoted[i+1:]
			if !bytes.HasPrefix(next, []byte(`\u`)) || unit(next[2:])>>10 != lowHalves {
				return true
			}
			i += len(`\u`)
		}
	}
	return false
}

// unit returns the UTF-16 code unit of the four hex digits at the start of p, which is part of a valid JSON string.
func unit(p []byte) uint64 {
	n, _ := strconv.ParseUint(string(p[:4]), 16, 16)
	return n
}

func startsNumber(c byte) bool { return c == '-' || '0' <= c && c <= '9' }

// skipSpace returns the index of the first byte at or after i that is not JSON's white space.
func skipSpace(p []byte, i int) int {
	for i < len(p) && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t') {
		i++
	}
	return i
}
