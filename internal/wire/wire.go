// Package wire reads and writes PiCloud's JSON messages and names their limits and close codes.
package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	MaxEventBytes = 255 // of the decoded event
	MaxNameChars  = 128 // code points of a client name
	MaxIDBytes    = 64  // of an id as the client wrote it, a string's quotes not counted
)

// Close codes a server sends: RFC 6455 §7.4.1 and the IANA registry that follows it.
const (
	CloseGoingAway     = 1001 // the server stops
	CloseProtocolError = 1002 // broken framing
	CloseInvalidUTF8   = 1007 // a text frame that is not UTF-8
	ClosePolicy        = 1008 // a limit was exceeded
	CloseTooBig        = 1009 // a message over the limit
	CloseInternal      = 1011 // a message made the server panic
	CloseRestart       = 1012 // the server restarts and could not keep this connection
	CloseTooSlow       = 1013 // the client's queue is full
)

// Action is what a client asks for.
type Action uint8

const (
	None Action = iota // the key is missing: a publisher's connection takes it as Publish
	Subscribe
	Unsubscribe
	UnsubscribeAll
	Publish
)

// actions has each action's word, and whether it is about one event. A message without an action is checked as if it
// were.
var actions = [...]struct {
	word     string
	hasEvent bool
}{
	None:           {"", true},
	Subscribe:      {"subscribe", true},
	Unsubscribe:    {"unsubscribe", true},
	UnsubscribeAll: {"unsubscribe:all", false},
	Publish:        {"publish", true},
}

// Actions returns all actions but None.
func Actions() []Action {
	var list []Action
	for a := Subscribe; int(a) < len(actions); a++ {
		list = append(list, a)
	}
	return list
}

// String returns the word on the wire, "" for None.
func (a Action) String() string {
	if int(a) < len(actions) {
		return actions[a].word
	}
	return ""
}

func parseAction[S string | []byte](word S) (Action, bool) {
	for a := Subscribe; int(a) < len(actions); a++ {
		if string(word) == actions[a].word {
			return a, true
		}
	}
	return None, false
}

// listActions names all actions, as part of a sentence.
func listActions(conjunction string) string {
	var b strings.Builder
	for _, a := range Actions() {
		switch {
		case a == Subscribe:
		case int(a) == len(actions)-1:
			b.WriteString(" " + conjunction + " ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// Error says that a message or a name is refused. Reason is for the client that sent it.
type Error struct{ Reason string }

func (e *Error) Error() string { return e.Reason }

// ErrInvalidUTF8 is Decode's error for bytes that are not UTF-8, nor anything else that it has a name for.
var ErrInvalidUTF8 = &Error{"message is not valid UTF-8"}

// These are for a message that has no action, or one that is not known.
var (
	ErrActionMissing = &Error{"action is required: " + listActions("or")}
	ErrActionUnknown = &Error{"unknown action: known are " + listActions("and")}
)

var (
	errNameMissing = &Error{"client name is required"}
	errNameUTF8    = &Error{"client name is not valid UTF-8"}
	errNameLong    = &Error{"client name must be at most 128 characters"}
	errNameControl = &Error{"client name must not contain control characters"}
)

// CheckName says whether name can be a client's name: 1 to MaxNameChars characters of valid UTF-8, none of them a
// control character. The error is an *Error.
func CheckName(name string) error {
	if name == "" {
		return errNameMissing
	}
	if !utf8.ValidString(name) {
		return errNameUTF8
	}
	if utf8.RuneCountInString(name) > MaxNameChars {
		return errNameLong
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return errNameControl
		}
	}
	return nil
}
