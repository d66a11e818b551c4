package httpconn

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"picloud/test/certified"
)

// A talk is what a client sends. It is answered as a plain http.Server answers it, byte for byte except for the order
// of headers and the date.
type talk struct {
	name  string
	parts []string // between two of them the client waits for the head of an answer
	half  bool     // then it ends its side, instead of asking for one thing more
}

func (tk talk) times(n int) talk {
	for i, p := range tk.parts {
		tk.parts[i] = strings.Repeat(p, n)
	}
	tk.name += fmt.Sprint(" times ", n)
	return tk
}

var talks = func() []talk {
	whole := func(name string, request ...string) talk {
		return talk{name: name, parts: []string{strings.Join(request, "")}}
	}
	half := func(name, request string) talk { return talk{name: name, parts: []string{request}, half: true} }
	with := func(header string) string { return strings.Replace(get, "\r\n\r\n", "\r\n"+header+"\r\n\r\n", 1) }
	body := func(n int) string { return strings.Repeat("0123456789abcdef", n/16) }
	posts := func(path string, n int, headers ...string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: pi\r\n%sContent-Length: %d\r\n\r\n%s", path,
			strings.Join(headers, ""), n, body(n))
	}
	const expect = "Expect: 100-continue\r\n"
	const chunked = "POST %s HTTP/1.1\r\nHost: pi\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n3\r\n123\r\n0\r\n\r\n"
	echoChunked := fmt.Sprintf(chunked, "/echo")
	continued := func(path string, n int, behind string) talk {
		p := posts(path, n, expect)
		head := p[:len(p)-n]
		return talk{name: fmt.Sprint("expects 100 for ", path, n, len(behind)),
			parts: []string{head, p[len(head):] + behind}}
	}
	return []talk{
		whole("nothing"),
		whole("get", get),
		whole("plain", plainPost(1)),
		whole("general", generalPost(1)),
		whole("plain ones", plainPost(1)).times(50),
		whole("general ones", get).times(50),
		whole("mixed", plainPost(1), get, plainPost(2), plainPost(3), generalPost(4), get, get, plainPost(5)).times(7),
		whole("without a body", posts("/plain", 0), posts("/echo", 0), "POST /plain HTTP/1.1\r\nHost: pi\r\n\r\n"),
		whole("plain body near what rests", posts("/plain", 8<<10)),
		whole("a body longer than rests", posts("/echo", 100<<10), get),
		whole("a plain body longer than rests", posts("/plain", 40<<10), get, plainPost(1)),
		whole("bodies of many lengths", posts("/echo", 16), posts("/echo", 15<<10), posts("/plain", 15<<10),
			posts("/echo", 16<<10), posts("/echo", 17<<10), posts("/echo", 33<<10)),
		whole("a body that nobody reads", posts("/deaf", 10<<10), get, posts("/deaf", 100<<10), get),
		whole("a panic", get, posts("/panic", 16)),
		whole("not found", "GET /nowhere HTTP/1.1\r\nHost: pi\r\n\r\n", get),
		whole("hijack with bytes behind", "GET /hijack?n=6 HTTP/1.1\r\nHost: pi\r\n\r\nbehind"),
		whole("hijack behind others", get, plainPost(1), "GET /hijack?n=600 HTTP/1.1\r\nHost: pi\r\n\r\n", body(608)),
		whole("hijack with a body unread", "POST /hijack?n=30 HTTP/1.1\r\nHost: pi\r\nContent-Length: 10\r\n\r\n",
			body(32)),
		whole("hijack with a long body unread",
			"POST /hijack?n=12000 HTTP/1.1\r\nHost: pi\r\nContent-Length: 10000\r\n\r\n", body(12000)),
		whole("hijack with a body that still comes",
			"POST /hijack?n=42000 HTTP/1.1\r\nHost: pi\r\nContent-Length: 40000\r\n\r\n", body(42000)),
		whole("chunked", echoChunked, get, plainPost(1), echoChunked, get),
		whole("chunked plain", plainPost(0), fmt.Sprintf(chunked, "/plain"), plainPost(1)),
		whole("chunked, nobody reads", fmt.Sprintf(chunked, "/deaf"), get),
		whole("chunked, long", chunkedPost(body(100<<10), 5000, "", ""), get, chunkedPost(body(20<<10), 100, "", ""),
			plainPost(1)),
		whole("chunked, near what rests", chunkedPost(body(16<<10), 1<<14, "", ""),
			chunkedPost(body(15<<10), 1<<14, "", ""), get),
		whole("chunked, with extensions", chunkedPost(body(160), 16, ";x=y", ""),
			chunkedPost(body(160), 16, " \t;x=y", ""), get),
		whole("chunked, with more extensions than data", chunkedPost(body(1600), 1, ";"+strings.Repeat("x", 40), ""),
			get),
		whole("chunked, with trailers", strings.TrimSuffix(echoChunked, "\r\n"), "X-Sum: 1\r\nX-Two: 2\r\n\r\n", get),
		whole("chunked, a trailer that is none", strings.TrimSuffix(echoChunked, "\r\n"), "no colon\r\n\r\n", get),
		whole("chunked, expects 100", strings.Replace(echoChunked, "Host", expect+"Host", 1), get),
		whole("chunked, upper case", strings.Replace(echoChunked, "chunked", "Chunked", 1), get),
		whole("chunked, many zeros", strings.Replace(echoChunked, "4\r\nbody", "0000000004\r\nbody", 1), get),
		whole("chunked, a size that is none", strings.Replace(echoChunked, "4\r\nbody", "x\r\nbody", 1), get),
		whole("chunked, a size that is too large",
			strings.Replace(echoChunked, "4\r\nbody", "fffffffffffffffff\r\nbody", 1), get),
		whole("chunked, no size", strings.Replace(echoChunked, "4\r\nbody", "\r\nbody", 1), get),
		whole("chunked, bare LF", strings.Replace(echoChunked, "4\r\nbody", "4\nbody", 1), get),
		whole("chunked, more than it says", strings.Replace(echoChunked, "body", "bodies", 1), get),
		whole("chunked, twice", strings.Replace(echoChunked, "Host", "Transfer-Encoding: chunked\r\nHost", 1), get),
		whole("chunked and more", strings.Replace(echoChunked, "chunked", "gzip, chunked", 1), get),
		whole("chunked by HTTP/1.0", strings.Replace(echoChunked, "HTTP/1.1", "HTTP/1.0", 1), get),
		whole("HTTP/1.0", "GET /echo HTTP/1.0\r\n\r\n"),
		whole("HTTP/1.0 that stays", "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
			"POST /plain HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1", get),
		whole("HEAD", "HEAD /echo HTTP/1.1\r\nHost: pi\r\n\r\n", "HEAD /large?n=20 HTTP/1.1\r\nHost: pi\r\n\r\n", get),
		whole("close", plainPost(1), lastOne),
		whole("Connection: close, plain but for it", strings.Replace(plainPost(1), "Host", "Connection: close\r\nHost",
			1)),
		whole("Connection: keep-alive", strings.Replace(plainPost(1), "Host", "Connection: keep-alive\r\nHost", 1),
			with("Connection: Keep-Alive"), get),
		whole("bare LF", strings.ReplaceAll(plainPost(1), "\r\n", "\n"), strings.ReplaceAll(get, "\r\n", "\n"), get),
		whole("bare LF in the middle", strings.Replace(get, "pi\r\n", "pi\n", 1), get),
		whole("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: pi\r\n\r\n", get),
		whole("absolute target", "GET http://pi/echo HTTP/1.1\r\nHost: pi\r\n\r\n", get),
		whole("no host", "GET /echo HTTP/1.1\r\n\r\n"),
		whole("two hosts", with("Host: pi")),
		whole("a host that is none", strings.Replace(get, "Host: pi", "Host: p/i", 1)),
		whole("two lengths, the same", strings.Replace(plainPost(1), "Host", "Content-Length: 1\r\nHost", 1), get),
		whole("two lengths", strings.Replace(plainPost(1), "Host", "Content-Length: 2\r\nHost", 1)),
		whole("length and chunked", strings.Replace(echoChunked, "Host", "Content-Length: 2\r\nHost", 1)),
		whole("a length that is none", strings.Replace(plainPost(1), "Length: 1", "Length: one", 1)),
		whole("a negative length", strings.Replace(plainPost(1), "Length: 1", "Length: -1", 1)),
		whole("another encoding", strings.Replace(echoChunked, "chunked", "gzip", 1)),
		whole("a folded header", with("X-Other: a\r\n b"), get),
		whole("a header without a name", with(": x")),
		whole("a header without a colon", with("colon")),
		whole("a space before the colon", with("X-Other : x")),
		whole("a control character", with("X-Other: \x01")),
		whole("bytes beyond ASCII", with("X-Api-Client-Name: \xff\xc3\xa9"), get),
		whole("a method that is none", "G@T /echo HTTP/1.1\r\nHost: pi\r\n\r\n"),
		whole("a method of one's own", "BREW /echo HTTP/1.1\r\nHost: pi\r\n\r\n", get),
		whole("a version that is none", "GET /echo HTTP/1.x\r\nHost: pi\r\n\r\n"),
		whole("HTTP/1.2", "GET /echo HTTP/1.2\r\nHost: pi\r\n\r\n", get),
		whole("HTTP/2.0", "GET /echo HTTP/2.0\r\nHost: pi\r\n\r\n"),
		whole("HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		whole("no version", "GET /echo\r\n\r\n"),
		whole("nothing but line ends", "\r\n\r\n"),
		whole("a line end before it", "\r\n", get),
		whole("a line end behind a plain body", plainPost(1), "\r\n", plainPost(2), "\n", get),
		whole("a line end behind a general body", generalPost(1), "\r\n", generalPost(2), "\n", get),
		whole("a line end behind chunks", echoChunked, "\r\n", echoChunked, "\n\n", plainPost(1)),
		whole("a line end behind a long body", posts("/echo", 100<<10), "\r\n", get),
		whole("line ends behind a body, as many as are skipped", plainPost(1), "\r\n\r\n", generalPost(1), "\n\n\n\n",
			get),
		whole("line ends behind a body, more than are skipped", plainPost(1), "\r\n\r\n\r\n", get),
		whole("a line end behind what has no body", get, "\r\n", get),
		whole("a line end behind what follows a body", plainPost(1), get, "\r\n", get),
		half("a line end behind a body, and its end", plainPost(1)+"\r\n"),
		whole("a target that is none", "GET /%zz HTTP/1.1\r\nHost: pi\r\n\r\n"),
		whole("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
		whole("upgrade that nobody wants", with("Connection: Upgrade\r\nUpgrade: websocket"), get, upgrade("/echo"),
			upgrade("/large?n=9"), get),
		whole("upgrade", upgrade("/hijack?n=6"), "behind"),
		whole("upgrade behind others", get, plainPost(1), upgrade("/hijack?n=12000"), body(12000)),
		whole("upgrade, encoded", upgrade("/hijack?n=%36&x=+;"), "behind"),
		whole("upgrade of what is not there", upgrade("/nowhere"), get),
		whole("upgrade with a body", strings.Replace(upgrade("/hijack?n=12"), "Host", "Content-Length: 6\r\nHost", 1),
			"bodyofbehind"),
		whole("upgrade with chunks", strings.Replace(echoChunked, "Host",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nHost", 1), get),
		whole("upgrade to something else", strings.Replace(upgrade("/hijack?n=6"), "WebSocket\r", "h2c\r", 1),
			"behind"),
		whole("upgrade that expects 100", strings.Replace(upgrade("/hijack?n=6"), "Host", expect+"Host", 1), "behind"),
		whole("upgrade without a host", strings.Replace(upgrade("/hijack?n=6"), "Host: pi\r\n", "", 1), "behind"),
		whole("upgrade with two hosts", strings.Replace(upgrade("/hijack?n=6"), "Host", "Host: pi\r\nHost", 1),
			"behind"),
		whole("upgrade with a host that is none", strings.Replace(upgrade("/hijack?n=6"), "Host: pi", "Host: p/i", 1),
			"behind"),
		whole("upgrade with a control character",
			strings.Replace(upgrade("/hijack?n=6"), "Host", "X-Other: \x01\r\nHost", 1), "behind"),
		whole("upgrade with a header whose name is none",
			strings.Replace(upgrade("/hijack?n=6"), "Host", "X(Other: x\r\nHost", 1), "behind"),
		whole("upgrade to a target that is none", upgrade("/%zz"), get),
		whole("upgrade to an absolute target", upgrade("http://pi/hijack?n=6"), "behind"),
		whole("upgrade by HTTP/1.0", strings.Replace(upgrade("/hijack?n=6"), "HTTP/1.1", "HTTP/1.0", 1), "behind"),
		half("upgrade with a head that is too long",
			strings.Replace(upgrade("/hijack?n=6"), "Host", "X-Other: "+body(12<<10)+"\r\nHost", 1)),
		half("upgrade, and its end", upgrade("/hijack?n=6")+"beh"),
		whole("expectation that nobody meets", strings.Replace(plainPost(1), "Host", "Expect: more\r\nHost", 1)),
		whole("expects 100 for nothing", with("Expect: 100-continue"), get),
		whole("expects 100 and does not wait", posts("/echo", 16, expect), posts("/echo", 40<<10, expect),
			posts("/plain", 1600, expect), get),
		whole("expects 100, nobody reads", posts("/deaf", 16, expect)),
		continued("/echo", 160, ""),
		continued("/plain", 160, get+plainPost(1)),
		continued("/echo", 50<<10, plainPost(1)+get),
		{name: "no version, and no more", parts: []string{"GET /echo\r\n", ""}, half: true},
		{name: "expects 100, nobody asks",
			parts: []string{"POST /deaf HTTP/1.1\r\nHost: pi\r\nContent-Length: 16\r\n" + expect + "\r\n"}, half: true},
		whole("a long head", with("X-Other: "+body(3<<10)), with("X-Other: "+body(5<<10)), get),
		whole("a plain long head", strings.Replace(plainPost(1), "Host", "User-Agent: "+body(3<<10)+"\r\nHost", 1),
			plainPost(2)),
		half("a head that is too long", with("X-Other: "+body(12<<10))),
		half("a plain head that is too long",
			strings.Replace(plainPost(1), "Host", "User-Agent: "+body(13<<10)+"\r\nHost", 1)),
		half("a line that never ends", body(12<<10)),

		half("nothing, and its end", ""),
		half("answered, and its end", get+plainPost(1)),
		half("its end behind a plain one", plainPost(1)),
		half("its end in a method", "GE"),
		half("its end in a head", get[:30]),
		half("its end in a plain head", plainPost(1)[:50]),
		half("its end in a body", generalPost(1)[:len(generalPost(1))-1]),
		half("its end in a long body", posts("/echo", 40<<10)[:30<<10]),
		half("its end behind an answer and in the next head", plainPost(1)+get[:30]),
		half("its end in a chunk", echoChunked[:len(echoChunked)-12]),
		half("its end in a long chunk", chunkedPost(body(40<<10), 8<<10, "", "")[:30<<10]),
		half("its end in a trailer", strings.TrimSuffix(echoChunked, "\r\n")+"X-Su"),
	}
}()

// pieces cuts what is sent.
var pieces = map[string]func(n int, random *rand.Rand) int{
	"whole": func(n int, _ *rand.Rand) int { return n },
	"bytes": func(n int, _ *rand.Rand) int {
		if n > 8<<10 { // a long text is cut that finely only at its end
			return 1000
		}
		return 1
	},
	"anywhere": func(_ int, random *rand.Rand) int { return 1 + random.IntN(1+random.IntN(3000)) },
}

func TestSameAnswersAsWithoutIt(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		for how, cut := range pieces {
			t.Run(network+" "+how, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, network)
				reference := httpServer(&r.Config, newSite())
				l := listen(t, strings.Replace(network, "tls", "tcp", 1), 0)
				there := func() *client { return dial(t, l.Addr()) }
				if network == "tls" {
					there = func() *client { return r.shaken(l.Addr()) }
					l = tls.NewListener(l, certified.Server())
				}
				go reference.Serve(l)
				defer reference.Close()
				for _, tk := range talks {
					want := tk.with(there(), cut)
					if got := tk.with(r.dial(), cut); got != want {
						t.Errorf("%s: answered\n%.600q\nand without a Set in front\n%.600q", tk.name, got, want)
					}
				}
				r.gone()
				if how == "whole" && r.plain.Load() < 50 {
					t.Errorf("%d requests were plain", r.plain.Load())
				}
				if n := r.joined.Load(); n != 4 {
					t.Errorf("%d connections were given away without net/http, want 4", n)
				}
			})
		}
	}
}

// with sends it all to a server and returns all that the server says.
func (tk talk) with(c *client, cut func(int, *rand.Rand) int) string {
	defer c.Close()
	random := rand.New(rand.NewPCG(1, 2))
	var said strings.Builder
	for i, p := range tk.parts {
		if i > 0 {
			for !strings.HasSuffix(said.String(), "\r\n\r\n") {
				b, err := c.In.ReadByte()
				if err != nil {
					return said.String() + err.Error()
				}
				said.WriteByte(b)
			}
		}
		last := i == len(tk.parts)-1
		if last && !tk.half {
			p += lastOne
		}
		go func() { // the server may answer before it has all
			for len(p) > 0 {
				n := min(cut(len(p), random), len(p))
				if _, err := io.WriteString(c, p[:n]); err != nil {
					return
				}
				p = p[n:]
			}
			if last && tk.half {
				c.Conn.(interface{ CloseWrite() error }).CloseWrite()
			}
		}()
	}
	rest, err := io.ReadAll(c.In)
	if err != nil && !ended(err) {
		return said.String() + err.Error()
	}
	said.Write(rest)
	return inOrder(said.String())
}

// FuzzTalk: whenever the last of several requests is served, by a Set or by a plain http.Server, the answers to all of
// them are the same: a Set takes what net/http's server takes, in all that may stand between two requests too.
func FuzzTalk(f *testing.F) {
	r := newRig(f, "unix")
	reference := httpServer(&r.Config, newSite())
	l := listen(f, "unix", 0)
	go reference.Serve(l)
	f.Cleanup(func() { reference.Close() })

	chunked := strings.Replace(chunkedPost("0123456789", 3, "", ""), "POST /plain", "POST /echo", 1)
	for _, request := range []string{plainPost(1), generalPost(1), chunked, get} {
		for _, behind := range []string{"", "\r\n", "\n", "\r\n\r\n", "\n\n\n\n\n", " ", "\x00"} {
			f.Add([]byte(request+behind+plainPost(2)), uint8(0))
			f.Add([]byte(request+behind), uint8(20))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, most uint8) { // most: of a piece's bytes; 0: it is whole
		if text := string(in); len(text) > 1<<10 || strings.Contains(text, "/hold") || strings.ContainsAny(text, "?%") {
			return // it never ends, or is too much
		}
		cut := pieces["whole"]
		if most != 0 {
			cut = func(_ int, random *rand.Rand) int { return 1 + random.IntN(int(most)) }
		}
		tk := talk{parts: []string{string(in) + lastOne}, half: true}
		const served = "GET /echo?last "
		want, got := tk.with(dial(t, l.Addr()), cut), tk.with(dial(t, r.addr), cut)
		if got != want && (strings.Contains(want, served) || strings.Contains(got, served)) {
			t.Errorf("answered\n%.600q\nand without a Set in front\n%.600q", got, want)
		}
	})
}

var heads = regexp.MustCompile(`(?s)HTTP/1\.[01] \d\d\d .*?\r\n\r\n`)

// inOrder takes dates out of what a server has said, and puts the headers in order.
func inOrder(said string) string {
	return heads.ReplaceAllStringFunc(said, func(head string) string {
		first, rest, _ := strings.Cut(head, "\r\n")
		h := http.Header{}
		for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\r\n\r\n"), "\r\n") {
			name, value, _ := strings.Cut(line, ": ")
			h.Add(name, value)
		}
		h.Del("Date")
		return fmt.Sprint(first, h)
	})
}
