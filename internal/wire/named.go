package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"picloud/internal/utf"
)

// Texts that others' programs send for JSON get an error that says what they are.
var (
	errUTF16    = &Error{"message is UTF-16: send UTF-8"}
	errGzip     = &Error{"message is gzip: send it uncompressed"}
	errNaN      = &Error{"NaN is no JSON: send null or a string"}
	errInfinity = &Error{"Infinity is no JSON: send null or a string"}
)

// Text returns p without a byte order mark in front. The error, an *Error, names what p is if it is not UTF-8.
func Text(p []byte) ([]byte, error) {
	if !utf8.Valid(p) {
		return nil, NotUTF8(p)
	}
	p = bytes.TrimPrefix(p, utf.Mark)
	if utf.Is16(p) { // UTF-16 of ASCII is UTF-8, too
		return nil, errUTF16
	}
	return p, nil
}

// NotUTF8 names what p is, which is not UTF-8. Its reason fits into a close frame.
func NotUTF8(p []byte) *Error {
	switch {
	case utf.Is16(p):
		return errUTF16
	case bytes.HasPrefix(p, []byte("\x1f\x8b")): // RFC 1952 §2.3.1
		return errGzip
	}
	return ErrInvalidUTF8
}

// notObject names what p is, UTF-8 that is not one JSON object.
func notObject(p []byte) error {
	syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(p, new(json.RawMessage)))
	if !ok || syntax.Offset >= int64(len(p)) { // at the end it may be inside a string
		return errNotObject
	}
	at := int(syntax.Offset) - 1
	start := len(bytes.TrimRightFunc(p[:at], isLetter))
	end := len(p) - len(bytes.TrimLeftFunc(p[start:], isLetter))
	before := bytes.TrimRight(bytes.TrimRight(p[:start], "+-"), " \t\r\n")
	if len(before) == 0 || !strings.ContainsRune(":,[", rune(before[len(before)-1])) {
		return errNotObject // not where a value begins
	}
	switch strings.ToLower(string(p[start:end])) {
	case "nan":
		return errNaN
	case "inf", "infinity":
		return errInfinity
	}
	return errNotObject
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
