package httpconn

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/test/certified"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// A hesitant client has begun a handshake, in one of these ways, and goes no further.
var hesitant = map[string]string{
	"silent":              "",
	"in a header":         "\x16\x03",
	"in a ClientHello":    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"before its record":   "\x16\x03\x01\x02\x00",
	"behind its greeting": hello,
}

// hello is a ClientHello.
var hello = certified.Hello()

// untilEnd reads to the end of the connection, whatever comes.
func (c *client) untilEnd() {
	c.T.Helper()
	if _, err := io.Copy(io.Discard, c.In); err != nil && !ended(err) {
		c.T.Errorf("%v, want the end", err)
	}
}

// hesitate makes n handshakes that go no further, and waits until all that they have said is known.
func (r *rig) hesitate(begin string, n int) (clients []*client) {
	r.t.Helper()
	for range n {
		before := r.entered()
		c := dial(r.t, r.addr)
		c.send("%s", begin)
		clients = append(clients, c)
		wait.Until(r.t, "it is known", func() bool {
			missing := func(c *Conn) bool {
				taken := c.turn.Rests() && c.quiet() && (begin == "" || len(c.in) > 0)
				return c.shake != nil && !taken && c.lent == 0
			}
			return r.entered() > before && len(r.all()) == r.Usage().Open && r.count(missing) == 0
		})
	}
	return clients
}

// shaking counts those whose handshake has not been made, computing those of them that are under way.
func (r *rig) shaking() int { return r.count(func(c *Conn) bool { return c.shake != nil }) }

func (r *rig) underWay() int {
	return r.count(func(c *Conn) bool { return c.shake != nil && c.lent > 0 })
}

func isShaking(r *rig, n int) func() bool { return func() bool { return r.shaking() == n } }

// Who has said enough for a handshake takes memory for one, up to a bound, and the others wait; who has not takes none.
// Whoever has come in goes on.
func TestHandshakesTakeLittleMemory(t *testing.T) {
	const n, room = 40, 10
	for name, begin := range hesitant {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tls", func(p *plan) { p.KeylessBytes = 2 * room * shakingBytes })
			r.handshakes.patience = time.Hour
			known := r.dial()
			known.send(get)
			known.want("GET", 200, "/echo")
			r.atRest()
			r.hesitate(begin, n)
			if begin == hello {
				wait.Until(t, "as many are under way as may be", func() bool { return r.underWay() == room })
			}
			rests := func(c *Conn) bool { return c.turn.Rests() && len(c.in) >= min(len(begin), 1) }
			wait.Until(t, "all others are at rest", func() bool { return r.count(rests) >= n-r.underWay() })
			if used, most := r.keyless.Used(), r.underWay()*shakingBytes+n*4<<10; used > most {
				t.Errorf("%d bytes are held, want %d at most", used, most)
			}
			known.send(get)
			known.want("GET", 200, "/echo")
		})
	}
}

// What makes those go who hold most without the key is no handshake that is under way: a newcomer's would always be it.
func TestHandshakesUnderWayAreNotWhatIsTooMuch(t *testing.T) {
	const room = 10 * shakingBytes
	r := newRig(t, "tls", func(p *plan) { p.KeylessBytes = room })
	r.handshakes.patience = time.Hour
	r.hesitate(hello, 1)
	wait.Until(t, "it is under way", func() bool { return r.underWay() == 1 })
	long := "POST /plain HTTP/1.1\r\nX-Long: " + strings.Repeat("x", 3<<10)
	for i := 1; i <= 2*room/len(long); i++ {
		r.dial().send("%s", long)
		wait.Until(t, "all there is counts", func() bool { return r.entered() == 1+i && !r.keyless.Over() })
	}
	if r.left() == 0 {
		t.Error("nobody has gone")
	}
	wait.Until(t, "its handshake alone is still under way", func() bool { return r.underWay() == 1 })
}

// Beside a crowd that begins handshakes and goes no further, everybody gets one, from the crowd's own address too.
func TestHandshakesTakeTurns(t *testing.T) {
	r := newRig(t, "tls", func(p *plan) { p.KeylessBytes = 2 * 3 * shakingBytes })
	r.handshakes.patience = 10 * time.Millisecond
	r.hesitate(hello, 60)
	for _, from := range []byte{1, 2, 3} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		nc, err := d.Dial("tcp", r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, tls.Client(nc, certified.Client()))
		c.send(get)
		c.want("GET", 200, "/echo")
	}
}

// Who makes no handshake has no share of the slots that anybody else needs.
func TestHandshakesKeepNobodyOut(t *testing.T) {
	const n = 4
	for bound, edit := range map[string]func(*plan){
		"full": few(n), "address": func(p *plan) { p.Bounds = Bounds{TCP: 100, Network: n, Local: 1} },
	} {
		for name, begin := range hesitant {
			t.Run(bound+", "+name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, "tls", edit)
				held := r.hesitate(begin, 3*n)
				for _, c := range held[:2*n] {
					c.untilEnd()
				}
				c := r.dial()
				c.send(get)
				c.want("GET", 200, "/echo")
				held[2*n].untilEnd()
				if u := r.Usage(); u.Open != n {
					t.Errorf("%+v", u)
				}
			})
		}
	}
}

// Freeze and Close end handshakes at once; HEADER_TIMEOUT does so for a client that says a little now and then, too.
func TestHandshakesEnd(t *testing.T) {
	for name, begin := range hesitant {
		t.Run("Freeze, "+name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tls")
			held := r.hesitate(begin, 3)
			wait.Until(t, "all are there", isShaking(r, 3))
			r.endAccept()
			wait.Within(t, "Freeze returns", func() { r.Freeze(t.Context()) })
			for _, c := range held {
				c.untilEnd()
			}
			if n := len(r.Save()); n != 0 {
				t.Errorf("%d connections are handed over", n)
			}
		})
		t.Run("Close, "+name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tls")
			held := r.hesitate(begin, 3)
			wait.Until(t, "all are there", isShaking(r, 3))
			r.Close()
			for _, c := range held {
				c.untilEnd()
			}
			r.gone()
		})
		t.Run("the time, "+name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tls", func(p *plan) { p.HeadTimeout = limit })
			begun := time.Now()
			c := r.hesitate(begin, 1)[0]
			dripped := make(chan struct{})
			go func() {
				defer close(dripped)
				if begin != "" {
					c.drip(0)
				}
			}()
			c.untilEnd()
			// What drips are zeros, which are no version of TLS, and no record behind a greeting.
			broken := begin == "\x16\x03" || begin == hello
			if d := time.Since(begun); d < limit-10*time.Millisecond && !broken {
				t.Errorf("cut off after %v, want %v", d, limit)
			}
			r.gone()
			c.Close()
			<-dripped
		})
	}
}

// A client that speaks HTTP on the port of TLS is told so, whole and without a reset; one that speaks MQTT is named;
// others are not answered in words.
func TestClientsThatSpeakNoTLS(t *testing.T) {
	const mqtt = "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
	for name, tt := range map[string]struct {
		said string
		told bool
		mqtt int64
	}{
		"GET":              {get, true, 0},
		"HEAD":             {strings.Replace(get, "GET", "HEAD", 1), true, 0},
		"POST":             {plainPost(1), true, 0},
		"PUT":              {strings.Replace(plainPost(1), "POST", "PUT", 1), true, 0},
		"OPTIONS":          {strings.Replace(get, "GET", "OPTIONS", 1), true, 0},
		"a long one":       {strings.Replace(get, "Host", "X-Other: "+strings.Repeat("x", 2000)+"\r\nHost", 1), true, 0},
		"MQTT":             {mqtt, false, 1},
		"anything":         {"\r\n\r\n\r\n", false, 0},
		"an old TLS":       {"\x80\x2e\x01\x00\x02\x00", false, 0},
		"a long record":    {"\x16\x03\x01\xff\xff\x01", false, 0},
		"a record of data": {"\x17\x03\x03\x00\x01\x00", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tls")
			c := dial(t, r.addr)
			c.send("%s", tt.said)
			r.gone()
			raw, err := c.Conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			// A reset that comes behind the end of the stream shows here only.
			if err := raw.Control(func(fd uintptr) {
				if code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); tt.told && code != 0 {
					t.Errorf("the socket's error is %v, %v", syscall.Errno(code), err)
				}
			}); err != nil {
				t.Error(err)
			}
			said, err := io.ReadAll(c.In)
			if tt.told && (err != nil || !strings.HasPrefix(string(said), "HTTP/1.0 400 ") ||
				!strings.HasSuffix(string(said), "to an HTTPS server.\n")) {
				t.Errorf("got %q, %v", said, err)
			}
			if !tt.told && strings.Contains(string(said), "HTTP") {
				t.Errorf("got %q", said)
			}
			if n := r.mqtt.Load(); n != tt.mqtt {
				t.Errorf("%d were named, want %d", n, tt.mqtt)
			}
		})
	}
}

// A handshake in the middle of which the client leaves, or whose last bytes come with a request, is none the less a
// connection like any other.
func TestHandshakeInPieces(t *testing.T) {
	r := newRig(t, "tls")
	for _, most := range []int{1, 7, 100} {
		nc, err := net.Dial("tcp", r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, tls.Client(pieced{nc, most}, certified.Client()))
		c.send("%s%s", plainPost(1), get)
		c.want("POST", 201, "1")
		c.want("GET", 200, "/echo")
		c.Close()
	}
	for range 3 {
		r.hesitate(hesitant["in a ClientHello"], 1)[0].vanish()
	}
	r.gone()
}

// pieced sends in pieces of so many bytes.
type pieced struct {
	net.Conn
	most int
}

func (p pieced) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = p.Conn.Write(b[n:min(len(b), n+p.most)])
		n += k
	}
	return n, err
}

// The http.Server may end what it has been lent while a handler writes and net/http reads: nothing of the connection is
// used twice, as the race detector sees.
func TestServerClosesWhileAnAnswerIsWritten(t *testing.T) {
	r := newRig(t, "tls", func(p *plan) { p.kernel = 16 << 10 })
	var clients []*client
	for i := range 8 {
		c := r.dial()
		request := "GET /large?n=10000000 HTTP/1.1\r\nHost: pi\r\n\r\n"
		if i%2 == 0 { // where net/http reads from the socket all the while
			request = strings.ReplaceAll(request, "\r\n", "\n")
		}
		c.send("%s", request)
		clients = append(clients, c)
	}
	for _, c := range clients {
		if _, err := io.CopyN(io.Discard, c.In, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, c := range clients {
		go func() {
			for ctx.Err() == nil {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
			}
		}()
		go io.Copy(io.Discard, c.In)
	}
	r.http.Close()
	r.gone()
}
