package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picloud/internal/wire"

	"github.com/gorilla/websocket"
)

func TestSubscribeReturnsWhenTheServerHasTheSubscription(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		subscribed := async(func() error { return c.Subscribe(t.Context(), "door") })
		r := s.expect("subscribe", "door")
		synctest.Wait()
		select {
		case err := <-subscribed:
			t.Fatalf("Subscribe returned %v before the ack", err)
		default:
		}
		s.ack(r)
		if err := <-subscribed; err != nil {
			t.Fatal(err)
		}
		s.deliver("door", `{"open": true}`)
		got := <-c.got
		if got.Event != "door" || string(got.Data) != `{"open": true}` || got.ClientName != "Porch" ||
			got.CreatedAt.IsZero() {
			t.Errorf("got %+v", got)
		}
	})
}

func TestKeyAndNameAreInTheHeadersOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		var seen *http.Request
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			seen = r
			return false
		})
		c := run(t, p, func(o *Options) { o.Name = "Küche 2" })
		p.accept()
		c.mustConnect(t)
		if got := seen.Header.Get("X-API-Key"); got != "sesame" {
			t.Errorf("X-API-Key is %q", got)
		}
		if got := seen.Header.Get("X-API-Client-Name"); got != "Küche 2" {
			t.Errorf("X-API-Client-Name is %q", got)
		}
		if got := seen.URL.String(); got != "/subscribe" {
			t.Errorf("URL is %q", got)
		}
	})
}

func TestRefusalByTheServerIsTheCallersError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		calls := []struct {
			action string
			call   func() error
		}{
			{"subscribe", func() error { return c.Subscribe(t.Context(), "door") }},
			{"publish", func() error { return c.publish(t.Context(), "door", `1`) }},
		}
		for _, call := range calls {
			result := async(call.call)
			s.refuse(s.expect(call.action, "door"), "not today")
			err := <-result
			if e, ok := errors.AsType[*wire.Error](err); !ok || e.Reason != "not today" {
				t.Errorf("%s: got %v", call.action, err)
			}
		}
		// The refused subscription is not made again.
		s.end(wire.CloseRestart)
		s = p.accept()
		c.mustConnect(t)
		go c.publish(t.Context(), "door", `2`)
		s.expect("publish", "door")
	})
}

func TestDataIsSentUnchangedAndTheReceiptWaitsForTheAck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		large := `"` + strings.Repeat("x", 100_000) + `"`
		for _, data := range []string{`"a\n\u00e4"`, `{"a": [1, 2.50]}`, `null`, `1e400`, large} {
			published := async(func() error { return c.publish(t.Context(), `do"or`, data) })
			r := s.expect("publish", `do"or`)
			if string(r.Data) != data {
				t.Errorf("data %.40s became %.40s", data, r.Data)
			}
			synctest.Wait()
			select {
			case err := <-published:
				t.Fatalf("the answer %v came before the ack", err)
			default:
			}
			s.ack(r)
			if err := <-published; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDataThatIsNotOneJSONValueIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		for _, data := range []string{"", "tru", `1,"action":"unsubscribe:all"`, `1 2`, "\"\xff\""} {
			if err := c.publish(t.Context(), "door", data); err == nil {
				t.Errorf("Send took %q", data)
			}
			if err := c.Post(t.Context(), "door", json.RawMessage(data)); err == nil {
				t.Errorf("Post took %q", data)
			}
		}
		if err := c.Subscribe(t.Context(), "\xff"); err == nil {
			t.Error("Subscribe took an event that is not UTF-8")
		}
		go c.Subscribe(t.Context(), "good")
		s.expect("subscribe", "good")
	})
}

func TestManyOnTheirWayKeepTheirOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 1000
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		result := async(func() error {
			var receipts []*Receipt
			for i := range n {
				r, err := c.Send(t.Context(), "count", fmt.Append(nil, i))
				if err != nil {
					return err
				}
				receipts = append(receipts, r)
			}
			for i, r := range receipts {
				err := r.Wait(t.Context())
				if refused := i == 500; (err != nil) != refused {
					return fmt.Errorf("message %d: %w", i, err)
				}
			}
			return nil
		})
		for i := range n {
			r := s.expect("publish", "count")
			if string(r.Data) != fmt.Sprint(i) {
				t.Fatalf("message %d came as number %d", i, n)
			}
			if i == 500 {
				s.refuse(r, "no")
			} else {
				s.ack(r)
			}
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestComesBackAndSubscribesAgain(t *testing.T) {
	endings := map[string]func(*socket){
		"1001":        func(s *socket) { s.end(wire.CloseGoingAway) },
		"1012":        func(s *socket) { s.end(wire.CloseRestart) },
		"1013":        func(s *socket) { s.end(wire.CloseTooSlow) },
		"1011":        func(s *socket) { s.end(1011) },
		"broken":      func(s *socket) { s.ws.NetConn().Close() },
		"half frame":  func(s *socket) { s.ws.NetConn().Write([]byte{0x81, 5, 'x'}); s.ws.NetConn().Close() },
		"bad framing": func(s *socket) { s.ws.NetConn().Write([]byte{0xff, 0xff}); s.ws.NetConn().Close() },
	}
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPeer(t)
				c := run(t, p)
				s := p.accept()
				c.mustConnect(t)
				for _, event := range []string{"door", "lamp"} {
					done := async(func() error { return c.Subscribe(t.Context(), event) })
					s.ack(s.expect("subscribe", event))
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}

				end(s)
				if lost := c.next(t); lost.Connected || lost.Err == nil || lost.Wait > backoffFloor {
					t.Errorf("told %+v", lost)
				}
				s = p.accept()
				var events []string
				for range 2 {
					r := s.read()
					if r.Action != "subscribe" {
						t.Errorf("got %q before all is subscribed again", r.Action)
					}
					events = append(events, r.Event)
					synctest.Wait()
					if len(c.states) > 0 {
						t.Error("told of a connection before its subscriptions were back")
					}
					s.ack(r)
				}
				c.mustConnect(t)
				slices.Sort(events)
				if want := []string{"door", "lamp"}; !slices.Equal(events, want) {
					t.Errorf("subscribed again to %q, want %q", events, want)
				}
				s.deliver("door", `"open"`)
				if got := <-c.got; string(got.Data) != `"open"` {
					t.Errorf("got %s", got.Data)
				}
			})
		})
	}
}

func TestSubscribeThatTheConnectionBreaksIsMadeOnTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		done := async(func() error { return c.Subscribe(t.Context(), "door") })
		s.expect("subscribe", "door")
		s.end(wire.CloseRestart)
		s = p.accept()
		s.ack(s.expect("subscribe", "door"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// heldSession is a session whose queue the test reads.
func heldSession() *session {
	return &session{out: make(chan []byte, 1), gone: make(chan struct{}), pending: make(map[uint64]*Receipt)}
}

func TestSubscribeWhoseAckComesAsTheConnectionIsReplacedIsMadeOnTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCaller(t, newPeer(t))
		first, second := heldSession(), heldSession()
		c.setSession(first)
		done := async(func() error { return c.Subscribe(t.Context(), "door") })
		<-first.out
		c.setSession(second)
		first.answer(json.RawMessage("1"), nil)
		<-second.out
		second.answer(json.RawMessage("1"), nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatWasNotSentWaitsForTheNextConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCaller(t, newPeer(t))
		for range 20 {
			first, second := heldSession(), heldSession()
			close(first.gone)
			c.setSession(first)
			done := async(func() error { return c.publish(t.Context(), "door", `1`) })
			synctest.Wait()
			c.setSession(second)
			<-second.out
			second.answer(json.RawMessage("1"), nil)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestMessageOverTheServersLimitIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		asked := 0
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/info" {
				return false
			}
			asked++
			w.Write([]byte(`{"server":{"max_message_bytes":2000}}`))
			return true
		})
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		envelope := len(`{"action":"publish","event":"door","data":"","id":1}`)
		data := func(size int) json.RawMessage {
			return json.RawMessage(`"` + strings.Repeat("x", size-envelope) + `"`)
		}
		for range 2 {
			_, err := c.Send(t.Context(), "door", data(2001))
			if !errors.Is(err, ErrTooBig) {
				t.Errorf("got %v", err)
			}
		}
		for _, size := range []int{1000, 2000} {
			done := async(func() error { return c.publish(t.Context(), "door", string(data(size))) })
			s.ack(s.expect("publish", "door"))
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if asked != 1 {
			t.Errorf("the server was asked %d times", asked)
		}
	})
}

func TestAnswerThatIsThereCountsWhateverElseEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		s := heldSession()
		p, id := s.number(wire.Publish, "door", json.RawMessage(`1`))
		r, err := s.send(t.Context(), id, p)
		if err != nil {
			t.Fatal(err)
		}
		s.answer(json.RawMessage("1"), nil)
		close(s.gone)
		if err := r.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSubscriptionThatIsRefusedAfterComingBackEndsRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		done := async(func() error { return c.Subscribe(t.Context(), "door") })
		s.ack(s.expect("subscribe", "door"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.end(wire.CloseRestart)
		s = p.accept()
		s.refuse(s.expect("subscribe", "door"), "too many subscriptions")
		go s.ws.ReadMessage()
		checkContains(t, c.failure(t), "door", "again", "too many subscriptions")
	})
}

func TestUnansweredPublishIsUnconfirmedAndNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		first := async(func() error { return c.publish(t.Context(), "door", `1`) })
		acked := s.expect("publish", "door")
		second := async(func() error { return c.publish(t.Context(), "door", `2`) })
		s.expect("publish", "door")
		s.ack(acked)
		s.end(wire.CloseRestart)
		if err := <-first; err != nil {
			t.Errorf("the answered one: %v", err)
		}
		err := <-second
		if !errors.Is(err, ErrUnconfirmed) {
			t.Errorf("the unanswered one: %v", err)
		}
		checkContains(t, err, "may or may not", "1012")

		s = p.accept()
		third := async(func() error { return c.publish(t.Context(), "door", `3`) })
		r := s.expect("publish", "door")
		if string(r.Data) != `3` {
			t.Errorf("data %s was sent again", r.Data)
		}
		s.ack(r)
		if err := <-third; err != nil {
			t.Error(err)
		}
	})
}

func TestPublishWhoseContextEndsIsUnconfirmed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		ctx, cancel := context.WithCancelCause(t.Context())
		done := async(func() error { return c.publish(ctx, "door", `1`) })
		s.expect("publish", "door")
		cancel(errTest)
		if err := <-done; !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, errTest) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPublishWaitsForTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		p.set(status(http.StatusServiceUnavailable, "Retry-After", "5"))
		s.end(wire.CloseGoingAway)
		c.next(t)
		c.next(t)
		done := async(func() error { return c.publish(t.Context(), "door", `1`) })
		p.set(nil)
		s = p.accept()
		s.ack(s.expect("publish", "door"))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatCannotSucceedIsNotTriedAgain(t *testing.T) {
	for code, want := range map[int]string{
		401: "/etc/picloud/api-key",
		400: "reason 400",
		404: "does not look like PiCloud",
		405: "does not look like PiCloud",
		426: "reason 426",
		429: "try again in 1m0s",
		500: "reason 500",
		200: "does not look like PiCloud",
	} {
		t.Run(fmt.Sprint("status ", code), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPeer(t)
				p.set(status(code, "Retry-After", "60"))
				c := run(t, p)
				err := c.failure(t)
				checkContains(t, err, "connect to http://peer:80: ", want)
				if e, ok := errors.AsType[*StatusError](err); !ok || e.Code != code {
					t.Errorf("got %v, want a StatusError", err)
				}
				if err := c.publish(t.Context(), "door", `1`); !errors.Is(err, c.ended) {
					t.Errorf("Send after the end: %v", err)
				}
			})
		})
	}
	for code, want := range map[int]string{
		wire.CloseProtocolError: "changes the bytes",
		wire.CloseInvalidUTF8:   "changes the bytes",
		wire.ClosePolicy:        "a limit",
		wire.CloseTooBig:        "MAX_MESSAGE_BYTES",
	} {
		t.Run(fmt.Sprint("close ", code), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPeer(t)
				c := run(t, p)
				s := p.accept()
				published := async(func() error { return c.publish(t.Context(), "door", `1`) })
				s.expect("publish", "door")
				s.end(code)
				err := c.failure(t)
				checkContains(t, err, want, fmt.Sprint(code))
				if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code {
					t.Errorf("got %v, want a CloseError", err)
				}
				checkContains(t, <-published, want)
			})
		})
	}
}

func TestMissingKeyIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if _, ok := r.Header["X-Api-Key"]; ok {
				t.Error("an empty key was sent")
			}
			return status(401, "", "")(w, r)
		})
		c := run(t, p, func(o *Options) { o.Key = "" })
		checkContains(t, c.failure(t), "none was given", "/etc/picloud/api-key", "export API_KEY=")
	})
}

func TestFirstAttemptThatFindsNoServerEndsRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.net.Close()
		c := run(t, p)
		checkContains(t, c.failure(t), "connect to http://peer:80", "connection refused", "is picloudd running")
	})
}

func TestServerThatDoesNotAnswerEndsRunInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		})
		c := run(t, p)
		start := time.Now()
		checkContains(t, c.failure(t), "no answer")
		if took := time.Since(start); took != patience {
			t.Errorf("took %s, want %s", took, patience)
		}
	})
}

func TestStopDuringTheHandshakeIsHeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		asked := make(chan struct{})
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			close(asked)
			<-r.Context().Done()
			return true
		})
		c := run(t, p)
		<-asked
		start := time.Now()
		c.stop()
		if err := <-c.result; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("took %s", took)
		}
	})
}

func TestBusyServerIsAskedAgainWhenItSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		var asked []time.Time
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			asked = append(asked, time.Now())
			return len(asked) < 4 && status(http.StatusServiceUnavailable, "Retry-After", "7")(w, r)
		})
		c := run(t, p)
		p.accept()
		for i := range 3 {
			s := c.next(t)
			if s.Connected || s.Wait < 7*time.Second || s.Wait > 7*time.Second+backoffFloor<<i {
				t.Errorf("state %d is %+v", i, s)
			}
		}
		c.mustConnect(t)
		for i := 1; i < len(asked); i++ {
			if d := asked[i].Sub(asked[i-1]); d < 7*time.Second {
				t.Errorf("asked again after %s", d)
			}
		}
	})
}

func TestBackoffGrowsToItsCeilingAndDiffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		p.net.Close()
		s.end(wire.CloseGoingAway)

		limit := backoffFloor
		seen := map[time.Duration]bool{}
		var longest, total time.Duration
		start := time.Now()
		for range 200 {
			if took := time.Since(start); took != total {
				t.Fatalf("an attempt came after %s, want %s", took, total)
			}
			wait := c.next(t).Wait
			if wait > limit {
				t.Fatalf("waits %s, want at most %s", wait, limit)
			}
			seen[wait] = true
			longest = max(longest, wait)
			total = time.Since(start) + wait
			limit = min(2*limit, backoffCeiling)
			synctest.Wait()
			time.Sleep(wait) // the bubble's clock
		}
		if len(seen) < 190 {
			t.Errorf("200 waits had %d values", len(seen))
		}
		if longest < backoffCeiling*9/10 {
			t.Errorf("the longest of 200 waits is %s", longest)
		}
	})
}

func TestConnectionThatLastedStartsTheBackoffAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		short := func(lives time.Duration) time.Duration {
			s := p.accept()
			c.mustConnect(t)
			time.Sleep(lives) // the bubble's clock
			s.end(wire.CloseRestart)
			return c.next(t).Wait
		}
		var longest time.Duration
		for range 30 {
			longest = max(longest, short(0))
		}
		if longest < 5*time.Second {
			t.Errorf("30 connections that ended at once were followed by at most %s", longest)
		}
		for range 10 {
			if wait := short(stableAfter); wait > backoffFloor {
				t.Errorf("a connection that lasted was followed by %s", wait)
			}
		}
	})
}

func TestSilentServerIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		s.ws.SetPingHandler(func(string) error { return nil })
		go s.ws.ReadMessage()
		start := time.Now()
		lost := c.next(t)
		checkContains(t, lost.Err, "nothing heard for 1m0s")
		if took := time.Since(start); took != silence {
			t.Errorf("took %s, want %s", took, silence)
		}
		p.accept()
		c.mustConnect(t)
	})
}

func TestQuietConnectionIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		done := async(func() error { // answers pings
			_, _, err := s.ws.ReadMessage()
			return err
		})
		time.Sleep(time.Hour) // the bubble's clock
		if len(c.states) > 0 {
			t.Fatalf("an hour later: %+v", <-c.states)
		}
		c.stop()
		if err := <-done; !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the stop came as %v", err)
		}
		if err := <-c.result; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestSlowReceiverIsNotTakenForASilentServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		held := make(chan struct{})
		got := make(chan string)
		c := run(t, p, func(o *Options) {
			o.OnMessage = func(d wire.Delivery) {
				<-held
				got <- string(d.Data)
			}
		})
		s := p.accept()
		c.mustConnect(t)
		go func() {
			for {
				if _, _, err := s.ws.ReadMessage(); err != nil {
					return
				}
			}
		}()
		written := async(func() error {
			s.deliver("door", `1`)
			s.deliver("door", `2`)
			return nil
		})
		time.Sleep(10 * silence) // the bubble's clock
		close(held)
		for _, want := range []string{"1", "2"} {
			if data := <-got; data != want {
				t.Errorf("got %s, want %s", data, want)
			}
		}
		<-written
		if len(c.states) > 0 {
			t.Errorf("lost: %v", (<-c.states).Err)
		}
	})
}

func TestServersPingIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		pong := make(chan string, 1)
		s.ws.SetPongHandler(func(data string) error {
			pong <- data
			return nil
		})
		go s.ws.ReadMessage()
		s.ws.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Second))
		if got := <-pong; got != "are you there" {
			t.Errorf("pong %q", got)
		}
	})
}

func TestServerThatTakesNothingIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		p.accept() // and never reads
		c.mustConnect(t)
		start := time.Now()
		err := c.publish(t.Context(), "door", `1`)
		if !errors.Is(err, ErrUnconfirmed) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != patience+grace {
			t.Errorf("took %s, want %s", took, patience+grace)
		}
	})
}

func TestStuckWriteDoesNotDelayComingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept() // and never reads
		c.mustConnect(t)
		go c.publish(t.Context(), "door", `1`)
		synctest.Wait()
		start := time.Now()
		s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(wire.CloseRestart, ""),
			time.Now().Add(time.Second))
		c.next(t)
		if took := time.Since(start); took > grace {
			t.Errorf("took %s", took)
		}
	})
}

func TestNoMessageAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		var c *caller
		stop := make(chan struct{})
		c = run(t, p, func(o *Options) {
			o.OnMessage = func(d wire.Delivery) {
				c.got <- d
				close(stop) // a second call would panic
				c.stop()
			}
		})
		s := p.accept()
		c.mustConnect(t)
		s.deliver("door", `1`)
		<-stop
		s.deliver("door", `2`) // before the peer reads that it ended
		go s.ws.ReadMessage()
		if err := <-c.result; err != nil {
			t.Error(err)
		}
	})
}

func TestReasonIsReadWhereTheServerStoppedReading(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		// The writer gets stuck, then fails; the close frame comes after that.
		published := async(func() error { return c.publish(t.Context(), "door", `1`) })
		time.Sleep(patience + grace/2) // the bubble's clock
		s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(wire.CloseTooBig, ""),
			time.Now().Add(time.Second))
		checkContains(t, <-published, "MAX_MESSAGE_BYTES")
		checkContains(t, c.failure(t), "MAX_MESSAGE_BYTES")
	})
}

func TestWhatIsNotPiCloudsProtocolEndsRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		go s.ws.ReadMessage()
		s.write([]byte(`{"a":1}`)) // an unknown action comes from a later server
		s.write([]byte(`{"action":"ack","id":12345}`))
		s.write([]byte(`{"action":"ack","id":"x"}`))
		s.write([]byte(`{"action":"error","error":"for nobody"}`))
		synctest.Wait()
		select {
		case err := <-c.result:
			t.Fatalf("Run ended too early: %v", err)
		default:
		}
		s.write([]byte(`welcome to the echo server`))
		checkContains(t, c.failure(t), "not PiCloud's protocol")
	})
}

func TestCallsEndWithRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		s := p.accept()
		c.mustConnect(t)
		go func() {
			for {
				if _, _, err := s.ws.ReadMessage(); err != nil {
					return
				}
			}
		}()
		subscribed := async(func() error { return c.Subscribe(t.Context(), "door") })
		published := async(func() error { return c.publish(t.Context(), "door", `1`) })
		synctest.Wait()
		c.stop()
		if err := <-subscribed; !errors.Is(err, ErrStopped) {
			t.Errorf("Subscribe: %v", err)
		}
		if err := <-published; !errors.Is(err, ErrUnconfirmed) || !errors.Is(err, ErrStopped) {
			t.Errorf("Send: %v", err)
		}
		if err := <-c.result; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := c.Subscribe(t.Context(), "bell"); !errors.Is(err, ErrStopped) {
			t.Errorf("Subscribe after the end: %v", err)
		}
	})
}

func TestStopDuringTheBackoffIsHeeded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(status(http.StatusServiceUnavailable, "Retry-After", "3600"))
		c := run(t, p)
		c.next(t)
		start := time.Now()
		c.stop()
		if err := <-c.result; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("took %s", took)
		}
	})
}

func TestStopOfAServerThatIsStuckIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		c := run(t, p)
		p.accept() // and never reads
		c.mustConnect(t)
		go c.publish(t.Context(), "door", `1`)
		synctest.Wait()
		start := time.Now()
		c.stop()
		<-c.result
		if took := time.Since(start); took > grace {
			t.Errorf("took %s", took)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"newline in the key":  {URL: "pi", Key: "sesame\n"},
		"newline in the name": {URL: "pi", Name: "a\nb"},
		"long name":           {URL: "pi", Name: strings.Repeat("x", 129)},
		"no address":          {},
	} {
		_, err := New(o)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v has the key", name, err)
		}
	}
}

func TestDefaultNameIsOne(t *testing.T) {
	if name := defaultName(); wire.CheckName(name) != nil {
		t.Errorf("default name %q", name)
	}
}

func TestBurstIsFewWrites(t *testing.T) {
	count := &countingConn{}
	l := &link{Conn: count}
	l.begin()
	for range 100 {
		l.Write(make([]byte, 100))
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	if count.writes > 1 || count.bytes != 10_000 {
		t.Errorf("%d bytes in %d writes, want 10000 in 1", count.bytes, count.writes)
	}
}

type countingConn struct {
	net.Conn
	writes, bytes int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes++
	c.bytes += len(p)
	return len(p), nil
}

func (c *countingConn) SetWriteDeadline(time.Time) error { return nil }
