package httpconn

import (
	"bytes"
	"net"
)

// A Request is one whole HTTP/1.1 request of the plain kind: nothing in it needs decoding, nothing asks for more than
// an answer. Its bytes are valid while it is being answered.
type Request struct {
	Method, Path, Query []byte // Query is what follows the ?
	Body                []byte
	Remote, Local       net.Addr // Local as http.LocalAddrContextKey has it

	headers [len(plainHeaders)]header
	count   int
}

type header struct{ name, value []byte }

// Header returns the value of a header, or nil. name is in lower case.
func (r *Request) Header(name string) []byte {
	for i := range r.headers[:r.count] {
		if h := &r.headers[i]; equalFold(h.name, name) {
			return h.value
		}
	}
	return nil
}

// plainHeaders are the headers that a plain request may have, each once. None of them changes what is to be done with
// the connection; any other might.
var plainHeaders = [...]string{
	"host", "user-agent", "accept", "accept-encoding", "accept-language", "content-type", "content-length",
	"x-api-key", "x-api-client-name", "authorization", "sec-fetch-mode",
}

// A frame says where a request lies in what has come.
type frame struct {
	kind    kind
	head    int  // length of the request line and the headers
	body    int  // Content-Length
	chunked bool // chunks tells where the body ends
	upgrade bool // it asks for a WebSocket, and net/http's server would not refuse it
}

type kind uint8

const (
	unfinished kind = iota // the head is not whole
	framed                 // head and body are known
	expecting              // as framed, but the client waits to be asked for the body
	opaque                 // only net/http knows where it ends, or what is wrong with it
)

// scan finds the head of the request at the beginning of in, as net/http's parser will, and fills r when the request is
// plain. It rejects nothing: whatever it does not know for sure is opaque.
func (r *Request) scan(in []byte) (f frame, plain bool) {
	r.count = 0
	seen := uint32(0)
	length, sound, newer := false, false, false
	for pos := 0; ; {
		n := bytes.IndexByte(in[pos:], '\n')
		if n < 0 {
			return frame{kind: unfinished}, false
		}
		line := in[pos : pos+n]
		first := pos == 0
		pos += n + 1
		if n == 0 || line[n-1] != '\r' { // net/http takes it, but nobody sends it
			return frame{kind: opaque}, false
		}
		line = line[:n-1]
		if first {
			if newer = bytes.HasSuffix(line, []byte(" HTTP/1.1")); !newer &&
				!bytes.HasSuffix(line, []byte(" HTTP/1.0")) {
				return frame{kind: opaque}, false
			}
			sound, plain = r.requestLine(line)
			continue
		}
		if len(line) == 0 {
			f.head = pos
			if f.kind == unfinished {
				f.kind = framed
			}
			sound = sound && f.kind == framed && seen&1 != 0 // with a Host
			f.upgrade = f.upgrade && sound && !f.chunked
			return f, plain && sound && !f.chunked
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || line[0] == ' ' || line[0] == '\t' {
			return frame{kind: opaque}, false
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		switch {
		case equalFold(name, "content-length"):
			if f.body = number(value); f.body < 0 || length || f.chunked {
				return frame{kind: opaque}, false
			}
			length = true
		case equalFold(name, "transfer-encoding"):
			if !newer || !equalFold(value, "chunked") || length || f.chunked {
				return frame{kind: opaque}, false
			}
			f.chunked = true
		case equalFold(name, "expect"):
			f.kind = expecting
		}
		if sound = sound && isName(name) && printable(value); !sound {
			continue
		}
		i := plainHeader(name)
		switch known := i >= 0 && seen&(1<<i) == 0; {
		case i == 0 && (!known || !isHost(value)):
			sound = false
		case known:
			seen |= 1 << i
			r.headers[r.count] = header{name, value}
			r.count++
		case equalFold(name, "connection"):
			plain = plain && equalFold(value, "keep-alive")
		default:
			plain = false
			f.upgrade = f.upgrade || equalFold(name, "upgrade") && equalFold(value, "websocket")
		}
	}
}

// requestLine reports whether the line is sound, of HTTP/1.1 and with a path as its target, and whether it is that of a
// plain request: nothing in the target is encoded.
func (r *Request) requestLine(line []byte) (sound, plain bool) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, ok := bytes.CutSuffix(rest, []byte(" HTTP/1.1"))
	if !ok || len(method) == 0 || len(target) == 0 || target[0] != '/' {
		return false, false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false, false
		}
	}
	plain = true
	for _, c := range target {
		if c <= ' ' || c > '~' {
			return false, false
		}
		if c == '%' || c == '+' || c == '#' || c == ';' {
			plain = false
		}
	}
	r.Method = method
	r.Path, r.Query, _ = bytes.Cut(target, []byte("?"))
	return true, plain && !bytes.HasPrefix(r.Path, []byte("//"))
}

func plainHeader(name []byte) int {
	for i, h := range plainHeaders {
		if equalFold(name, h) {
			return i
		}
	}
	return -1
}

// equalFold reports whether b is s, which is lower-case ASCII, in letters of either case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// isName reports whether a header has a name that nobody could object to.
func isName(name []byte) bool {
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// isHost reports whether a Host is one that nobody could object to: a name or an address, perhaps with a port.
func isHost(value []byte) bool {
	for _, c := range value {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == ':', c == '[',
			c == ']', c == '_':
		default:
			return false
		}
	}
	return true
}

func printable(value []byte) bool {
	for _, c := range value {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// number returns a decimal number of up to nine digits, or -1.
func number(b []byte) int {
	if len(b) == 0 || len(b) > 9 {
		return -1
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
