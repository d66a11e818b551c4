package wsconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"picloud/internal/poll"
	"picloud/test/wait"
)

func TestEcho(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		p, s := r.connect()
		if want := p.LocalAddr().String(); network == "unix" && s.Addr() != "local" || network != "unix" &&
			s.Addr() != want {
			t.Errorf("got address %q, want local or %q", s.Addr(), want)
		}
		for _, n := range []int{0, 1, 125, 126, 5000, 40_000, 64 << 10} {
			payload := strings.Repeat("x", n)
			p.send(masked(text, payload))
			p.want(opText, payload)
			split := masked(binaryFrame, payload)
			p.send(split[:3])
			p.send(split[3:])
			p.want(opBinary, payload)
		}
	})
}

func TestOrder(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		p, _ := r.connect()
		const n = 2000
		go func() {
			for i := range n {
				p.send(masked(text, fmt.Sprint(i)))
			}
		}()
		for i := range n {
			p.want(opText, fmt.Sprint(i))
		}
	})
}

// A handler may hold its answers back until Rest, which is called when there is no more input at hand; then they go
// out.
func TestRestComesBehindABurst(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) {
			p.receive = func(s *session, _ bool, _ []byte) { s.held++ }
			p.rest = func(s *session) {
				if s.held > 0 {
					s.Queue(s.arena.Text(fmt.Append(nil, s.held)), 1)
				}
				s.held = 0
			}
		})
		p, _ := r.connect()
		for _, n := range []int{1, 50, 1} {
			p.send(slices.Repeat(masked(text, "hello"), n))
			for answered := 0; answered < n; {
				got, err := p.next()
				if err != nil {
					t.Fatalf("after %d answers of %d: %v", answered, n, err)
				}
				k, err := strconv.Atoi(got.payload)
				if err != nil {
					t.Fatal(err)
				}
				answered += k
			}
		}
	})
}

// A client may send at once, without waiting for the answer to its handshake.
func TestMessagesThatComeWithTheHandshake(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		fourth := masked(text, "fourth")
		p, _ := r.connect(join(masked(text, "first"), masked(binaryFrame, "second"), masked(pingByte, "third"),
			fourth[:7])...)
		p.want(opText, "first")
		p.want(opBinary, "second")
		p.want(opPong, "third")
		p.send(fourth[7:])
		p.want(opText, "fourth")
	})
}

func TestMistakesEndTheConnection(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) { p.MessageBytes = 1000 })
		for _, tt := range []struct {
			name   string
			frames []byte
			code   int
			why    error
			words  string
		}{
			{"unmasked", appendFrame(nil, opText, []byte("a")), 1002, nil, "a frame is not masked"},
			{"reserved bit", masked(text|0x40, "a"), 1002, nil, "a reserved bit is set, and no extension was agreed on"},
			{"too big", masked(text, strings.Repeat("x", 1001)), 1009, nil, ""},
			{"not UTF-8", masked(text, "\xff\xfe\xfd"), 1007, ErrProtocol, noText([]byte("\xff\xfe\xfd"))},
			{"goodbye", masked(closeByte, closePayload(1000, "")), 1000, ErrGoodbye, ""},
		} {
			p, s := r.connect()
			p.send(masked(binaryFrame, "\xff is fine in binary"))
			p.want(opBinary, "\xff is fine in binary")
			p.send(tt.frames)
			got, err := p.next()
			if err != nil || got.op != opClose || got.payload != closePayload(tt.code, tt.words) {
				t.Errorf("%s: got %+v, error %v, want code %d and %q", tt.name, got, err, tt.code, tt.words)
			}
			if why := wait.For(t, s.ended, "Closed is called"); why == nil || tt.why != nil && !errors.Is(why, tt.why) {
				t.Errorf("%s: closed with %v", tt.name, why)
			}
			p.wantEOF()
		}
	})
}

func TestClientThatVanishes(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		for name, vanish := range map[string]func(*peer){
			"closes":                     func(p *peer) { p.Close() },
			"resets":                     (*peer).vanish,
			"closes in a frame":          func(p *peer) { p.send(masked(text, "hello")[:8]); p.Close() },
			"closes in a message":        func(p *peer) { p.send(masked(startText, "hello")); p.Close() },
			"ends its half only":         func(p *peer) { p.Conn.(interface{ CloseWrite() error }).CloseWrite() },
			"resets behind its messages": func(p *peer) { p.send(masked(text, "hello")); p.vanish() },
		} {
			p, s := r.connect()
			vanish(p)
			switch why := wait.For(t, s.ended, "Closed is called"); {
			case why == nil, errors.Is(why, ErrGoodbye), errors.Is(why, ErrClosed), errors.Is(why, ErrProtocol):
				t.Errorf("a client %s: closed with %v", name, why)
			case name == "closes" && why != io.EOF:
				t.Errorf("a client %s: closed with %v, want %v", name, why, io.EOF)
			}
			p.bare.Close()
			s.Queue(appendFrame(nil, opText, nil), 1) // does no harm
			s.Flush()
			s.Close(1001, "")
		}
		wait.Until(t, "all are gone", func() bool { return r.Len() == 0 })
	})
}

func TestCloseSendsWhatIsQueuedFirst(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		p, s := r.connect()
		const n = 500
		for i := range n {
			s.Queue(s.arena.Text(fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 1000))), 1)
		}
		s.Close(1001, "the server stops")
		s.Close(1012, "again")
		if s.Queue(appendFrame(nil, opText, []byte("too late")), 2) {
			t.Error("a connection that is being closed asks for a flush")
		}
		s.Flush()
		s.wantEnded(ErrClosed) // nothing has been read yet
		for i := range n {
			p.want(opText, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)))
		}
		p.wantEnd(1001, "the server stops")
	})
}

// What a client sends meanwhile is thrown away: it must not cause a reset, which could overtake the close frame.
func TestCloseReachesAClientThatKeepsSending(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) { p.receive = func(*session, bool, []byte) {} })
		p, s := r.connect()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 200 {
				if _, err := p.Write(masked(text, strings.Repeat("x", 1000))); err != nil {
					return // it has been closed in the end
				}
			}
		}()
		s.Close(1001, "bye")
		p.want(opClose, closePayload(1001, "bye"))
		s.wantEnded(ErrClosed)
		<-sent
	})
}

func TestClientThatDoesNotAnswerTheCloseFrame(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network)
		p, s := r.connect()
		s.Close(1001, "")
		s.wantEnded(ErrClosed)
		p.want(opClose, closePayload(1001, ""))
		p.wantEOF()
		wait.Within(t, "the connection is gone", func() { r.close(t.Context(), 1001, "") })
	})
}

// A client that is slow to read gets the close frame and all that is before it, even if it takes longer than an answer
// may.
func TestCloseWaitsForWhatTheKernelHas(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, network)
			p, s := r.connect()
			p.bare.(*net.TCPConn).SetReadBuffer(4 << 10)
			var pub publisher
			long, n := strings.Repeat("x", 8<<10), 0
			for poll.Unsent(s.sock.fd) == 0 {
				pub.publish(long, s)
				n++
			}
			s.Close(1000, "")
			if !s.Idle() || poll.Unsent(s.sock.fd) == 0 {
				t.Fatal("the kernel has not taken everything")
			}
			s.expire()
			for range n {
				p.want(opText, long)
			}
			p.wantEnd(1000, "")
		})
	}
}
