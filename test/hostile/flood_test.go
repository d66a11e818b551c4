package hostile

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"picloud/test/certified"
	"picloud/test/peer"
)

// A kind is what a hostile connection does, over TLS after the handshake.
type kind struct {
	name    string
	says    string                       // at once
	then    func(e *enemy) (ended error) // next, for ever; nil: it takes what comes
	below   bool                         // over TLS only, and without a handshake
	guesses bool                         // its address has no guesses left
	sample  bool

	isClient bool // on the local socket, where no key is asked for, it is a client like others
}

// cheap reports whether a daemon with the race detector in it can let a connection come back all the time: it is slow
// with handshakes of TLS, and with large answers.
func (k kind) cheap(network string) bool { return k.below || k.then == nil && network != "tls" }

const (
	head     = "POST /publish?clientName=x HTTP/1.1\r\nHost: pi\r\n"
	nowhere  = "POST /nowhere HTTP/1.1\r\nHost: pi\r\n"
	chunked  = "Transfer-Encoding: chunked\r\n\r\n"
	page     = "GET / HTTP/1.1\r\nHost: pi\r\n\r\n"
	script   = "GET /picloud.js HTTP/1.1\r\nHost: pi\r\n\r\n"
	health   = "GET /healthz HTTP/1.1\r\nHost: pi\r\n\r\n"
	expected = "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
)

var hello = certified.Hello()

var kinds = []kind{
	{name: "silent", sample: true},
	{name: "comes and goes", then: (*enemy).goes},
	{name: "half a request line", says: head[:9]},
	{name: "half a head", says: head, sample: true},
	{name: "a long half head", says: head + "X-Long: " + strings.Repeat("x", 15<<10)},
	{name: "a head that drips", says: head, then: drip("X")},
	{name: "a head whose lines drip", says: head, then: drip("X-Slow: 1\r\n"), sample: true},
	{name: "a short body", says: head + "Content-Length: 1000\r\n\r\n{"},
	{name: "a short body that drips", says: head + "Content-Length: 1000\r\n\r\n{", then: drip(" ")},
	{name: "half a body of 15 KiB", says: head + "Content-Length: 15360\r\n\r\n" + strings.Repeat(" ", 8<<10)},
	{name: "half a long body", says: head + "Content-Length: 60000\r\n\r\n" + strings.Repeat(" ", 30_000)},
	{name: "a short body to nowhere", says: nowhere + "Content-Length: 1000\r\n\r\n{"},
	{name: "half a long body to nowhere", says: nowhere + "Content-Length: 60000\r\n\r\n" + strings.Repeat(" ", 30_000)},
	{name: "a short body to sign in", says: "POST /sign-in HTTP/1.1\r\nHost: pi\r\nContent-Length: 20\r\n\r\n{"},
	{name: "chunks without end", says: head + chunked + "5\r\n{\"eve"},
	{name: "chunks without end to nowhere", says: nowhere + chunked + "5\r\n{\"eve"},
	{name: "chunks that drip", says: head + chunked, then: drip("1\r\n \r\n")},
	{name: "a trailer that drips", says: head + chunked + "1\r\n \r\n0\r\n", then: drip("X-Slow: 1\r\n")},
	{name: "bare line feeds", says: strings.ReplaceAll(health, "\r\n", "\n"), sample: true},
	{name: "half a head with bare line feeds", says: "GET /healthz HTTP/1.1\nHost: pi\n"},
	{name: "bare line feeds, then half a head", says: strings.ReplaceAll(health, "\r\n", "\n") + head},
	{name: "HTTP/1.0 and keep-alive", says: "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"},
	{name: "no HTTP", says: "HELO pi\r\n\r\n"},
	{name: "HTTP/2", says: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
	{name: "idle after an answer", says: health},
	{name: "half a head after an answer", says: health + head},
	{name: "a short body after an answer", says: health + head + "Content-Length: 1000\r\n\r\n{"},
	{name: "Expect and no body", says: head + expected},
	{name: "Expect and no body to nowhere", says: nowhere + expected},
	{name: "asks on and on", then: on(func(int) string { return health })},
	{name: "pages that are not read", then: deaf(page), sample: true},
	{name: "scripts that are not read", then: deaf(script)},
	{name: "short answers that are not read", then: deaf(health)},
	{name: "refusals that are not read", then: deaf(head + "Content-Length: 1\r\n\r\n{")},
	{name: "wrong keys", then: on(wrongKey), guesses: true, sample: true},
	{name: "one wrong key", says: "GET /info HTTP/1.1\r\nHost: pi\r\nX-API-Key: wrong\r\n\r\n", guesses: true},
	{name: "a WebSocket without a key", says: peer.Handshake("/subscribe?clientName=x", peer.Nonce),
		isClient: true},
	{name: "a WebSocket with a wrong key", says: peer.Handshake("/subscribe?clientName=x&apiKey=wrong", peer.Nonce),
		guesses: true, isClient: true},
	{name: "a WebSocket without a key, not read", then: deaf(peer.Handshake("/subscribe?clientName=x", peer.Nonce)),
		isClient: true},
	{name: "half a handshake of a WebSocket",
		says: strings.TrimSuffix(peer.Handshake("/subscribe?clientName=x", peer.Nonce), "\r\n")},
	{name: "nothing of TLS", below: true},
	{name: "half a ClientHello", says: hello[:len(hello)/2], below: true, sample: true},
	{name: "a ClientHello that drips", says: hello[:len(hello)/2], then: drip("\x00"), below: true},
	{name: "a ClientHello and no more", says: hello, below: true},
	{name: "HTTP without TLS", says: health, below: true},
	{name: "half a head without TLS", says: head[:4], below: true},
}

func wrongKey(i int) string {
	return fmt.Sprintf("GET /info HTTP/1.1\r\nHost: pi\r\nX-API-Key: wrong-%d\r\n\r\n", i)
}

// An enemy is one hostile connection.
type enemy struct {
	net.Conn
	drips time.Duration // from one to the next
}

// goes resets the connection.
func (e *enemy) goes() error { return io.EOF }

// drip sends a piece now and then.
func drip(piece string) func(*enemy) error {
	return func(e *enemy) error {
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, e)
			ended <- err
		}()
		tick := time.NewTicker(e.drips)
		defer tick.Stop()
		for {
			select {
			case err := <-ended:
				return err
			case <-tick.C:
				if _, err := io.WriteString(e, piece); err != nil {
					e.Close()
					return <-ended
				}
			}
		}
	}
}

// deaf sends requests until nothing goes any more, and reads no answer.
func deaf(request string) func(*enemy) error {
	burst := strings.Repeat(request, 20)
	return func(e *enemy) error {
		for {
			if _, err := io.WriteString(e, burst); err != nil {
				return err
			}
		}
	}
}

// on sends one request after the other, and reads the answers.
func on(request func(i int) string) func(*enemy) error {
	return func(e *enemy) error {
		in := bufio.NewReaderSize(e, 1<<10)
		for i := 0; ; i++ {
			if _, err := io.WriteString(e, request(i)); err != nil {
				return err
			}
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				return err
			}
		}
	}
}

// A flood is many connections of one kind.
type flood struct {
	kind
	door      *door
	network   string
	size      int
	addresses int
	returns   bool         // who is closed comes back at once
	here      atomic.Int64 // how many of its clients have connected
	came      atomic.Int64 // how many connections there have been
	gone      atomic.Int64 // how many of those have ended
}

// address is that of a client: one of IPv4's loopback, all of whose addresses are this machine's. Those who guess have
// their own, which are refused from then on.
func (f *flood) address(i int) string {
	if f.guesses {
		return fmt.Sprintf("127.0.2.%d", 2+i%f.addresses)
	}
	return fmt.Sprintf("127.0.0.%d", 2+i%f.addresses)
}

func (f *flood) dial(ctx context.Context, i int) (net.Conn, error) {
	if f.network == "unix" {
		return new(net.Dialer).DialContext(ctx, "unix", f.door.local)
	}
	return dialFrom(ctx, f.address(i), f.door.public)
}

// live returns when the connection has ended, which it does with ctx at the latest.
func (f *flood) live(ctx context.Context, i int, nc net.Conn) {
	below := nc
	stop := context.AfterFunc(ctx, func() { below.Close() })
	defer stop()
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetLinger(0) // so that it leaves no port behind
	}
	if f.network == "tls" && !f.kind.below {
		nc = tls.Client(nc, f.door.tls)
	}
	defer below.Close()
	if _, err := io.WriteString(nc, f.says); err != nil {
		return
	}
	then := f.then
	if then == nil {
		then = func(e *enemy) error {
			_, err := io.Copy(io.Discard, e)
			return err
		}
	}
	then(&enemy{nc, time.Duration(f.size) * time.Millisecond / 2})
}
