package httpconn

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// handOver makes a rig that takes over all of r's connections, and ends r.
func (r *rig) handOver(edit ...func(*plan)) *rig {
	r.t.Helper()
	r.endAccept()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	wait.Within(r.t, "Freeze returns", func() { r.Freeze(ctx) })
	r.http.Close()
	r.endRun()
	saved := r.Save()
	next := newRig(r.t, r.network, edit...)
	for i := range saved {
		fd, err := unix.FcntlInt(uintptr(saved[i].FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		saved[i].FD = fd
	}
	r.Abandon()
	r.gone()
	for _, sv := range saved {
		if err := next.Restore(sv); err != nil {
			r.t.Error(err)
		}
	}
	return next
}

// requestKinds makes a request of each kind from a body.
var requestKinds = map[string]func(body string) string{
	"plain":   func(body string) string { return plainPost(body) },
	"general": func(body string) string { return generalPost(body) },
	"echo":    func(body string) string { return strings.Replace(generalPost(body), "/plain", "/echo", 1) },
	"expecting": func(body string) string {
		return strings.Replace(generalPost(body), "Host", "Expect: 100-continue\r\nHost", 1)
	},
	"chunked":            func(body string) string { return chunkedPost(body, 1000, "", "") },
	"in many chunks":     func(body string) string { return chunkedPost(body, 7, ";x=y", "") },
	"chunked, expecting": func(body string) string { return chunkedPost(body, 5000, "", "Expect: 100-continue\r\n") },
	"with a bare LF":     func(body string) string { return strings.Replace(generalPost(body), "pi\r\n", "pi\n", 1) },
	"with a long header": func(body string) string {
		return strings.Replace(generalPost(body), "X-Other: 1", "X-Other: "+strings.Repeat("x", 3000), 1)
	},
	"chunked, a trailer ": func(body string) string {
		return strings.TrimSuffix(chunkedPost(body, 400, "", ""), "\r\n") + "X-Sum: 1\r\n\r\n"
	},
}

func chunkedPost(body string, size int, extension, headers string) string {
	var b strings.Builder
	b.WriteString("POST /plain HTTP/1.1\r\nHost: pi\r\n" + headers + "Transfer-Encoding: chunked\r\n\r\n")
	for p := range slices.Chunk([]byte(body), size) {
		fmt.Fprintf(&b, "%x%s\r\n%s\r\n", len(p), extension, p)
	}
	return b.String() + "0\r\n\r\n"
}

// However much of a request has come when the process is to end, the next process goes on, and it is answered once.
func TestUnfinishedRequestIsLeftToTheNextProcess(t *testing.T) {
	for name, request := range requestKinds {
		for _, size := range []int{30, 3000, 20_000, 60_000} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				body := strings.Repeat("0123456789", size/10)
				text := request(body)
				random := rand.New(rand.NewPCG(uint64(size), uint64(len(name))))
				for _, cut := range []int{1, 40, strings.Index(text, "0123") + 5, 1 + random.IntN(len(text)-1),
					len(text) - 1} {
					r := newRig(t, "tcp")
					c := r.dial()
					c.send("%s", plainPost("before"))
					c.want("POST", 201, "before")
					c.send("%s", text[:cut])
					r = r.handOver()
					r = r.handOver()
					if r.general.Load() > 1 { // a process that gave it back may have begun it
						t.Errorf("cut at %d: %d requests were begun", cut, r.general.Load())
					}
					c.send("%s", text[cut:]+plainPost("behind"))
					got, err := c.readFinal()
					if err != nil || got.status != 201 && got.status != 200 ||
						!strings.Contains(got.xBody+got.body, body) {
						t.Fatalf("cut at %d of %d: got %d with %d bytes, error %v", cut, len(text), got.status,
							len(got.xBody+got.body), err)
					}
					c.want("POST", 201, "behind")
					if name != "with a bare LF" {
						r.handOver()
						c.send("%s", plainPost("once more"))
						c.want("POST", 201, "once more")
					}
				}
			})
		}
	}
}

// The line end that a small device sends behind a body may come only when the next process has the connection.
func TestLineEndBehindABodyComesAfterAHandover(t *testing.T) {
	r := newRig(t, "tcp")
	c := r.dial()
	c.send("%s", plainPost(1))
	c.want("POST", 201, `"1"`)
	r.handOver()
	c.send("\r\n%s", get)
	c.want("GET", 200, "GET /echo")
}

// readFinal reads an answer, after those that ask for the body.
func (c *client) readFinal() (answer, error) {
	for {
		got, err := c.read("POST")
		if err != nil || got.status != 100 {
			return got, err
		}
	}
}

// A request that is too long to be handed over is waited for, and ended if it does not finish in time.
func TestTooLongForTheNextProcessIsEnded(t *testing.T) {
	r := newRig(t, "tcp", func(p *plan) { p.RecallBytes = 18 << 10 })
	text := generalPost(strings.Repeat("x", 60_000))
	c := r.dial()
	c.send("%s", text[:50_000]) // more than is looked at before it is lent
	wait.Until(t, "more has come than is kept", func() bool {
		return slices.ContainsFunc(r.loaned(), func(l *loan) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.missing > 0 && l.taken == nil
		})
	})
	r.endAccept()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wait.Within(t, "Freeze returns", func() { r.Freeze(ctx) })
	if n := len(r.Save()); n != 0 {
		t.Errorf("%d connections are handed over", n)
	}
	r.http.Close()
	c.wantEnd()
}

// An answer that has begun is not begun again, and a connection that net/http keeps for good ends at once and holds
// nothing up.
func TestFreezeWaitsForAnswersOnly(t *testing.T) {
	r := newRig(t, "tcp")
	held := r.hold("")
	kept := r.dial() // only net/http knows where its requests end
	kept.send("%s", strings.ReplaceAll(get, "\r\n", "\n"))
	kept.want("GET", 200, "/echo")
	wait.Until(t, "net/http waits for its next one", func() bool {
		return slices.ContainsFunc(r.loaned(), func(l *loan) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.resting
		})
	})
	frozen := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.endAccept()
	go func() {
		defer close(frozen)
		r.Freeze(ctx)
	}()
	kept.wantEnd()
	select {
	case <-frozen:
		t.Error("Freeze did not wait for an answer")
	default:
	}
	r.release <- struct{}{}
	held.want("GET", 200, "held")
	wait.For(t, frozen, "Freeze returns")
}

// A kept connection may be silent for as long after a hand-over as before.
func TestIdleConnectionIsIdleForTheNextProcess(t *testing.T) {
	r := newRig(t, "tcp")
	c := r.dial()
	c.send(get)
	c.want("GET", 200, "/echo")
	r.atRest()
	r = r.handOver()
	r.atRest()
	if n := r.count((*Conn).idle); n != 1 {
		t.Errorf("%d connections count as idle, want the one that has had an answer", n)
	}
}

// There are more connections than slots: the surplus is ended, and newcomers are served.
func TestRestoreWaitsForNoSlot(t *testing.T) {
	r := newRig(t, "tcp")
	var clients []*client
	for range 5 {
		c := r.dial()
		c.send(get)
		c.want("GET", 200, "/echo")
		clients = append(clients, c)
	}
	r.atRest()
	r.endAccept()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.Freeze(ctx)
	r.http.Close()
	r.endRun()
	next := newRig(t, "tcp", few(2))
	refused := 0
	wait.Within(t, "all have been restored or refused", func() {
		for _, sv := range r.Save() {
			var err error
			if sv.FD, err = unix.FcntlInt(uintptr(sv.FD), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				t.Error(err)
			}
			if next.Restore(sv) == ErrCrowded {
				refused++
			}
		}
	})
	r.Abandon()
	if refused != 3 {
		t.Errorf("%d were refused, want 3", refused)
	}
	newcomer := next.dial()
	newcomer.send(get)
	newcomer.want("GET", 200, "/echo")
	ends := 0
	for _, c := range clients {
		io.WriteString(c, get)
		if _, err := c.read("GET"); err != nil && ended(err) {
			ends++
		}
	}
	if ends < 3 {
		t.Errorf("%d connections were ended, want at least 3", ends)
	}
}

// Clients send all kinds of requests all the time, in pieces, while one process follows another: each request is
// answered once, with what belongs to it.
func TestNobodyNoticesHandOvers(t *testing.T) {
	const clients, generations = 24, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newRig(t, "tcp")
	var answered atomic.Int64
	stop := make(chan struct{})
	var talking sync.WaitGroup
	kinds := make([]func(string) string, 0, len(requestKinds))
	for name, kind := range requestKinds {
		if name != "with a bare LF" { // those stay net/http's, and end
			kinds = append(kinds, kind)
		}
	}
	for n := range clients {
		c := r.dial()
		talking.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf("<%d.%d>", n, i) + strings.Repeat("x", random.IntN(1+random.IntN(40_000)))
				text := kinds[random.IntN(len(kinds))](body)
				for len(text) > 0 {
					k := min(len(text), 1+random.IntN(1+random.IntN(20_000)))
					if _, err := io.WriteString(c, text[:k]); err != nil {
						t.Errorf("client %d, request %d: %v", n, i, err)
						return
					}
					text = text[k:]
				}
				got, err := c.readFinal()
				if err != nil || got.status/100 != 2 || !strings.Contains(got.xBody+got.body, body) {
					t.Errorf("client %d, request %d of %d bytes: got %d with %d bytes, error %v", n, i, len(body),
						got.status, len(got.xBody+got.body), err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for range generations {
		goal := answered.Load() + clients
		wait.Until(t, "each has had an answer or so", func() bool { return answered.Load() >= goal || t.Failed() })
		r = r.handOver()
	}
	close(stop)
	wait.Within(t, "all clients have ended", talking.Wait)
}
