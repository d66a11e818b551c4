package httpconn

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

const post = "POST /publish?clientName=Porch HTTP/1.1\r\nHost: pi.local:9000\r\nX-API-Key: k\r\nContent-Length: 3\r\n\r\n123"

func TestPlainRequests(t *testing.T) {
	for text, want := range map[string]bool{
		post: true,
		"GET / HTTP/1.1\r\nhost: [::1]:9000\r\n\r\n":                                                   true,
		strings.Replace(post, "X-API-Key: k", "Connection: Keep-Alive\r\nAuthorization: x y", 1):       true,
		strings.Replace(post, "X-API-Key: k", "X-API-Key:k \t", 1):                                     true,
		strings.Replace(post, "X-API-Key: k", "Connection: close", 1):                                  false,
		strings.Replace(post, "X-API-Key: k", "Origin: http://elsewhere", 1):                           false,
		strings.Replace(post, "X-API-Key: k", "X-API-Key: k\r\nx-api-key: l", 1):                       false,
		strings.Replace(post, "X-API-Key: k", "X-API-Key: \xc3\xa9", 1):                                false,
		strings.Replace(post, "X-API-Key: k", "Expect: 100-continue", 1):                               false,
		strings.Replace(post, "HTTP/1.1", "HTTP/1.0", 1):                                               false,
		strings.Replace(post, "Porch", "Front%20Porch", 1):                                             false,
		strings.Replace(post, "Porch", "Front+Porch", 1):                                               false,
		strings.Replace(post, "pi.local", "pi local", 1):                                               false,
		strings.Replace(post, "Host: pi.local:9000\r\n", "", 1):                                        false,
		strings.Replace(post, "Content-Length: 3\r\n\r\n123", "Transfer-Encoding: chunked\r\n\r\n", 1): false,
	} {
		var r Request
		if _, plain := r.scan([]byte(text)); plain != want {
			t.Errorf("%q is plain: %t, want %t", text, plain, want)
		}
	}
	var r Request
	f, _ := r.scan([]byte(post))
	if f.kind != framed || f.head+f.body != len(post) || string(r.Method) != "POST" || string(r.Path) != "/publish" ||
		string(r.Query) != "clientName=Porch" || string(r.Header("x-api-key")) != "k" || r.Header("accept") != nil {
		t.Errorf("%+v %+v", f, r)
	}
}

func TestUpgradeRequests(t *testing.T) {
	ask := upgrade("/subscribe?apiKey=%6b&clientName=Front+Porch")
	for text, want := range map[string]bool{
		ask: true,
		strings.Replace(ask, "Host", "Origin: http://elsewhere\r\nCookie: a=b\r\nCookie: c\r\nHost", 1): true,
		strings.Replace(ask, "WebSocket\r", "h2c\r", 1):                                                 false,
		strings.Replace(ask, "Host", "Expect: 100-continue\r\nHost", 1):                                 false,
		strings.Replace(ask, "Host: pi\r\n", "", 1):                                                     false,
		strings.Replace(ask, "Host", "host: pi\r\nHost", 1):                                             false,
		strings.Replace(ask, "Host: pi", "Host: p/i", 1):                                                false,
		strings.Replace(ask, "Host", "X-Other: \x7f\r\nHost", 1):                                        false,
		strings.Replace(ask, "Host", "X(Other: x\r\nHost", 1):                                           false,
		strings.Replace(ask, "HTTP/1.1", "HTTP/1.0", 1):                                                 false,
		strings.Replace(ask, "GET", "get", 1):                                                           false,
		strings.Replace(ask, "/subscribe", "http://pi/subscribe", 1):                                    false,
		post: false,
	} {
		var r Request
		if f, plain := r.scan([]byte(text)); f.upgrade != want || plain != (text == post) {
			t.Errorf("%q asks for a WebSocket: %t, want %t; plain: %t", text, f.upgrade, want, plain)
		}
	}
}

// FuzzScan: where scan says that it knows a request's end, net/http's parser finds the same end or refuses the request,
// and of a plain request it finds the same words. So no byte of one request is ever taken for another's.
func FuzzScan(f *testing.F) {
	for _, text := range []string{
		post, post + post, "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", "\r\nGET / HTTP/1.1\r\n\r\n",
		strings.ReplaceAll(post, "\r\n", "\n"),
		strings.Replace(post, "X-API-Key: k", "X: y\r\n Content-Length: 1", 1),
		strings.Replace(post, "Content-Length: 3", "Content-Length: 3\r\nContent-Length: 3", 1),
		strings.Replace(post, "Content-Length: 3", "Content-Length: 3, 3", 1),
		strings.Replace(post, "Content-Length: 3", "Content-Length: +3", 1),
		strings.Replace(post, "Content-Length: 3", "Content-Length : 3", 1),
		strings.Replace(post, "Content-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked", 1),
		strings.Replace(post, "Content-Length: 3", "Transfer-Encoding: identity", 1),
		chunkedPost("0123456789", 3, "", "") + post, chunkedPost("0123456789", 16, " ; x=\"y\"", ""),
		chunkedPost("", 1, "", "Expect: 100-continue\r\n"),
		strings.TrimSuffix(chunkedPost("1", 1, "", ""), "\r\n") + "X-Sum: 1\r\n\r\n" + post,
		strings.Replace(chunkedPost("1", 1, "", ""), "1\r\n1", "00000001 \r\n1", 1),
		strings.Replace(chunkedPost("1", 1, "", ""), "1\r\n1\r\n", "1\n1\n", 1),
		strings.Replace(chunkedPost("1", 1, "", ""), "1\r\n1", "-1\r\n1", 1),
		strings.Replace(chunkedPost("1", 1, "", ""), "HTTP/1.1", "HTTP/1.0", 1),
		strings.Replace(post, "Content-Length: 3", "Expect: 100-continue\r\nContent-Length: 3", 1),
		strings.Replace(post, "POST", "HEAD", 1),
		strings.Replace(post, "POST /publish", "CONNECT pi:80", 1),
		strings.Replace(post, "/publish", "http://elsewhere/publish", 1),
		strings.Replace(post, "/publish", "//publish", 1),
		upgrade("/subscribe") + post,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Request
		found, plain := r.scan(in)
		if plain && found.kind != framed {
			t.Fatal("plain, but its end is not known")
		}
		if found.kind != framed && found.kind != expecting {
			return
		}
		size := found.head + found.body
		if found.chunked {
			var whole, split chunks
			size = found.head + whole.scan(in[found.head:])
			at := found.head
			for at < len(in) && split.at < chunksEnd { // byte by byte it is the same
				at += split.scan(in[at : at+1])
			}
			if split != whole || whole.at == chunksEnd && at != size {
				t.Fatalf("in one piece %+v to %d, byte by byte %+v to %d", whole, size, split, at)
			}
			if whole.at != chunksEnd {
				return
			}
		}
		if size > len(in) {
			return
		}
		src := bytes.NewReader(in)
		br := bufio.NewReaderSize(src, 16)
		req, err := http.ReadRequest(br)
		if err != nil {
			if plain {
				t.Fatalf("plain, but net/http says %v", err)
			}
			return // refused: the connection ends
		}
		body, err := io.ReadAll(req.Body)
		if err != nil && found.chunked {
			return // refused, too
		}
		if err != nil {
			t.Fatalf("net/http finds no end of the body: %v", err)
		}
		if end := len(in) - src.Len() - br.Buffered(); end != size && req.Method != "PRI" {
			t.Fatalf("it ends at %d, for net/http at %d", size, end)
		}
		if found.upgrade && (req.ProtoMinor != 1 || req.Host == "" ||
			!strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || plain) {
			t.Fatalf("it asks for a WebSocket, and for net/http it is %+v", req)
		}
		if !plain {
			return
		}
		if req.Method != string(r.Method) || req.URL.Path != string(r.Path) || req.URL.RawQuery != string(r.Query) ||
			req.ProtoMinor != 1 || len(body) != found.body || req.Close {
			t.Fatalf("%+v, for net/http %+v", r, req)
		}
		for _, name := range plainHeaders[1:] {
			if got, want := string(r.Header(name)), req.Header.Get(name); got != want {
				t.Errorf("%s is %q, for net/http %q", name, got, want)
			}
		}
		if got := string(r.Header("host")); got != req.Host {
			t.Errorf("host is %q, for net/http %q", got, req.Host)
		}
		for name, values := range req.Header {
			if i := plainHeader([]byte(name)); i < 0 && name != "Connection" ||
				len(values) != 1 && name != "Connection" {
				t.Errorf("plain, with %s: %q", name, values)
			}
		}
	})
}
