package tlsconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"picloud/internal/handover"
	"picloud/internal/poll"
	"picloud/internal/tlsrecord"
	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// long is more than one read takes, and nowhere the same.
var long = func() string {
	var b strings.Builder
	for i := range 30_000 {
		b.WriteByte(byte(i >> 8))
		b.WriteString("some text")
		b.WriteByte(byte(i))
	}
	return b.String()
}()

// Bytes come as they were sent, in whatever pieces, by either kind of call and by both in turn. Each byte of the socket
// is counted once.
func TestBytesComeInAnyPieces(t *testing.T) {
	for how, pick := range map[string]func() int{
		"Recv": func() int { return 0 }, "Over": func() int { return 1 }, "both": func() int { return rand.IntN(2) },
	} {
		t.Run(how, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				all := append(r.record(long), r.goodbye()...)
				sent := len(all)
				var sending sync.WaitGroup
				defer sending.Wait()
				sending.Go(func() {
					for len(all) > 0 {
						k := min(len(all), 1+rand.IntN(1+rand.IntN(30_000)))
						r.wire.put(t, all[:k])
						all = all[k:]
					}
				})
				over := r.over()
				var got strings.Builder
				moved := 0
				var b [tlsrecord.BufferBytes]byte
				for {
					var n, m int
					var err error
					if pick() == 0 {
						n, m, err = r.recv(b[:])
					} else {
						n, err = over.Read(b[:1+rand.IntN(1+rand.IntN(len(b)-1))])
					}
					got.Write(b[:n])
					moved += m
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if got.String() != long {
					t.Errorf("got %d bytes, want the %d that were sent", got.Len(), len(long))
				}
				if how == "Recv" && moved != sent {
					t.Errorf("%d bytes of the socket are counted, %d were sent", moved, sent)
				}
			})
		})
	}
}

// Half a record brings nothing, is no error, and is kept for either kind of call.
func TestHalfARecordIsKept(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var b [tlsrecord.BufferBytes]byte
		for _, next := range []func([]byte) (int, error){
			func(p []byte) (int, error) { n, _, err := r.recv(p); return n, err },
			r.over().Read,
		} {
			record := r.record("text")
			for _, p := range [][]byte{record[:3], record[3 : len(record)-1]} {
				r.wire.put(t, p)
				if n, moved, err := r.recv(b[:]); n != 0 || moved != len(p) || err != nil {
					t.Fatal(n, moved, err)
				}
			}
			if _, _, err := r.Recv(r.fd, b[:]); err != poll.ErrAgain || r.Held() != len(record)-1 || r.AtRest() {
				t.Errorf("error %v with %d bytes held, want %d", err, r.Held(), len(record)-1)
			}
			r.wire.put(t, record[len(record)-1:])
			if n, err := next(b[:]); string(b[:n]) != "text" || err != nil || !r.AtRest() {
				t.Errorf("got %q, %v", b[:n], err)
			}
		}
	})
}

// What the end of the bytes means depends on where it is.
func TestEnds(t *testing.T) {
	damaged := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for name, tt := range map[string]struct {
		send func(r *rig) []byte // in one piece
		want string
		err  error
	}{
		"without close_notify": {func(r *rig) []byte { return r.record("text") }, "text", io.EOF},
		"close_notify":         {(*rig).goodbye, "", io.EOF},
		"text and close_notify": {func(r *rig) []byte { return append(r.record("text"), r.goodbye()...) }, "text",
			io.EOF},
		"in a header": {func(r *rig) []byte { return append(r.record("text"), r.goodbye()[:4]...) }, "text",
			io.ErrUnexpectedEOF},
		"in a record":         {func(r *rig) []byte { b := r.record("text"); return b[:len(b)-1] }, "", io.ErrUnexpectedEOF},
		"behind close_notify": {func(r *rig) []byte { return append(r.goodbye(), "no record"...) }, "", io.EOF},
		"text and a mistake": {func(r *rig) []byte { return append(r.record("text"), damaged(r.record("x"))...) },
			"text", tls.AlertError(20)},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				r.wire.put(t, tt.send(r))
				r.wire.CloseWrite()
				if got, _, err := r.recvAll(); got != tt.want || err != tt.err {
					t.Errorf("Recv: got %q, %v, want %q, %v", got, err, tt.want, tt.err)
				}
				if _, _, err := r.Recv(r.fd, make([]byte, tlsrecord.BufferBytes)); err != tt.err {
					t.Errorf("Recv once more: %v", err)
				}
			})
			each(t, func(t *testing.T, r *rig) {
				r.wire.put(t, tt.send(r))
				r.wire.CloseWrite()
				over := r.over()
				got, err := io.ReadAll(over)
				if err == nil {
					err = io.EOF
				}
				if string(got) != tt.want || err != tt.err {
					t.Errorf("Over: got %q, %v, want %q, %v", got, err, tt.want, tt.err)
				}
				if _, err := over.Read(make([]byte, 1)); err != tt.err {
					t.Errorf("Over once more: %v", err)
				}
			})
		})
	}
}

// What has been opened and not been read is the next call's, or whoever asks for it.
func TestAhead(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var b [tlsrecord.BufferBytes]byte
		r.wire.put(t, append(r.record("abcdefgh"), r.goodbye()...))
		over := r.over()
		if n, err := over.Read(b[:2]); string(b[:n]) != "ab" || err != nil {
			t.Errorf("Over: got %q, %v", b[:n], err)
		}
		if n, moved, err := r.Recv(r.fd, b[:3]); string(b[:n]) != "cde" || moved != 0 || err != nil {
			t.Errorf("Recv: got %q, %v", b[:n], err)
		}
		if got := r.Ahead(); string(got) != "fgh" {
			t.Errorf("Ahead: got %q", got)
		}
		if got := r.Ahead(); len(got) > 0 {
			t.Errorf("Ahead once more: got %q", got)
		}
		if n, err := over.Read(b[:2]); n != 0 || err != io.EOF {
			t.Errorf("Over: %d, %v", n, err)
		}
	})
}

// A client that takes nothing stops the sending; once it reads it gets all, once, and each byte is counted once.
func TestClientThatTakesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		text, moved := r.fill()
		before := r.wire.read.Load()
		reading := make(chan error, 1)
		got := make([]byte, len(text)+len("the end"))
		go func() {
			_, err := io.ReadFull(r.client, got)
			reading <- err
		}()
		for p := []byte("the end"); len(p) > 0 || r.Owes(); {
			n, m, err := r.Send(r.fd, [][]byte{p})
			text, moved, p = append(text, p[:n]...), moved+m, p[n:]
			if err != nil && err != poll.ErrAgain {
				t.Fatal(err)
			}
		}
		if err := wait.For(t, reading, "the client reads all"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, text) {
			t.Errorf("the client got other bytes than the %d that were sent", len(text))
		}
		if n := int(r.wire.read.Load() - before); n != moved {
			t.Errorf("%d bytes of the socket are counted, the client has read %d", moved, n)
		}
	})
}

// Over takes up what Send has left, and a deadline loses and doubles nothing: neither in the middle of a record that
// comes nor of one that goes.
func TestDeadlineInTheMiddleOfARecord(t *testing.T) {
	past, never := time.Unix(1, 0), time.Time{}
	each(t, func(t *testing.T, r *rig) {
		over := r.over()
		late := func(what string, err error) {
			t.Helper()
			ne, ok := errors.AsType[net.Error](err)
			if !ok || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		record := r.record("text")
		r.wire.put(t, record[:10])
		var b [10]byte
		read := make(chan error, 1)
		go func() { _, err := over.Read(b[:]); read <- err }()
		wait.Until(t, "what has come is read", func() bool {
			n, err := unix.IoctlGetInt(r.fd, unix.SIOCINQ)
			return err == nil && n == 0
		})
		over.SetReadDeadline(past)
		late("a read under way", wait.For(t, read, "Read returns"))
		r.wire.put(t, record[10:])
		_, err := over.Read(b[:])
		late("a read", err)
		over.SetReadDeadline(never)
		if n, err := over.Read(b[:]); string(b[:n]) != "text" || err != nil {
			t.Errorf("got %q, %v", b[:n], err)
		}

		text, _ := r.fill()
		over.SetWriteDeadline(past)
		n, err := over.Write([]byte("x"))
		late("a write", err)
		if n != 0 {
			t.Error("more is sealed although something is owed")
		}
		over.SetWriteDeadline(never)
		written := make(chan int, 1)
		var werr error
		rest := bytes.Repeat([]byte("0123456789"), 1<<20)
		go func() {
			n, err := over.Write(rest)
			werr = err
			written <- n
		}()
		got := make([]byte, len(text)+100_000)
		if _, err := io.ReadFull(r.client, got); err != nil {
			t.Fatal(err)
		}
		over.SetWriteDeadline(past)
		n = wait.For(t, written, "Write returns")
		late("a write under way", werr)
		over.SetWriteDeadline(never)
		text = append(text, rest[:n]...)
		go func() {
			_, werr = over.Write([]byte("the end"))
			written <- 0
		}()
		got = append(got, make([]byte, len(text)+len("the end")-len(got))...)
		if _, err := io.ReadFull(r.client, got[len(text)-n+100_000:]); err != nil {
			t.Fatal(err)
		}
		if wait.For(t, written, "Write returns"); werr != nil || !bytes.Equal(got, append(text, "the end"...)) {
			t.Errorf("the client got other bytes than the %d that were sent, error %v", len(text), werr)
		}
	})
}

// Bye says why, once, and nothing follows; it says nothing in the middle of a record.
func TestBye(t *testing.T) {
	for name, tt := range map[string]struct {
		why  error
		want string // of what the client reads with
	}{
		"the end": {io.EOF, ""}, "no reason": {nil, ""}, "a mistake": {tls.AlertError(20), "bad record MAC"},
		"a broken socket": {syscall.EPIPE, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				before := int(r.wire.read.Load())
				_, moved, err := r.Send(r.fd, [][]byte{[]byte("text")})
				if err != nil {
					t.Fatal(err)
				}
				r.Bye(r.fd, tt.why)
				r.Bye(r.fd, nil)
				if n, m, err := r.Send(r.fd, [][]byte{[]byte("x")}); n+m != 0 || err != tlsrecord.ErrEnded {
					t.Errorf("Send takes %d bytes, %v", n, err)
				}
				r.nc.(*net.TCPConn).CloseWrite()
				got, err := io.ReadAll(r.client)
				said := int(r.wire.read.Load()) - before - moved
				switch {
				case string(got) != "text":
					t.Errorf("the client got %q", got)
				case tt.want == "nothing":
					if said != 0 {
						t.Errorf("the client was told something, %v", err)
					}
				case said == 0 || tt.want == "" && err != nil ||
					tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
					t.Errorf("the client got %d bytes more, %v, want %q", said, err, tt.want)
				}
			})
		})
	}
	t.Run("something is owed", func(t *testing.T) {
		each(t, func(t *testing.T, r *rig) {
			text, _ := r.fill()
			owed := len(r.Owed())
			r.Bye(r.fd, nil)
			if len(r.Owed()) != owed {
				t.Error("what is owed has changed")
			}
			done := make(chan error, 1)
			go func() {
				got := make([]byte, len(text))
				_, err := io.ReadFull(r.client, got)
				if err == nil && !bytes.Equal(got, text) {
					err = errors.New("the client got other bytes")
				}
				done <- err
			}()
			for r.Owes() { // it is whole records still
				_, _, err := r.Send(r.fd, nil)
				if err != nil && err != poll.ErrAgain && err != tlsrecord.ErrEnded {
					t.Fatal(err)
				}
			}
			if err := wait.For(t, done, "the client reads all"); err != nil {
				t.Error(err)
			}
		})
	})
}

// A note is a Secret that is called with the number of a direction's next record.
type note func(d handover.Direction, n uint64)

func (f note) SetNumber(d handover.Direction, n uint64) { f(d, n) }
func (note) SetKey(handover.Direction, []byte)          {}
func (note) Key(handover.Direction) []byte              { return nil }
func (note) Number(handover.Direction) uint64           { return 0 }

// What has been sealed is noted before any of it is sent.
func TestNothingIsSentBeforeItIsNoted(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		unread := func() (n int) {
			t.Helper()
			raw, err := r.wire.SyscallConn()
			if err == nil {
				cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
				err = errors.Join(cerr, err)
			}
			if err != nil {
				t.Error(err)
			}
			return n
		}
		before, called := unread(), 0
		out := r.Out()
		noted := note(func(d handover.Direction, n uint64) {
			if d == handover.Reading {
				return
			}
			if called++; n != out+uint64(called-1) || unread() != before { // the first time is Keep's
				t.Errorf("something has been sent already, or nothing has been sealed: %d is noted", n)
			}
		})
		r.Keep(noted)
		if _, _, err := r.Send(r.fd, [][]byte{[]byte("text")}); err != nil || called != 2 || r.Out() != out+1 {
			t.Errorf("called %d times, error %v, record %d", called, err, r.Out())
		}
		if _, _, err := r.Send(r.fd, nil); err != nil || called != 2 {
			t.Errorf("nothing to be sent: called %d times, error %v", called, err)
		}
		var b [4]byte
		if _, err := io.ReadFull(r.client, b[:]); err != nil || string(b[:]) != "text" {
			t.Fatalf("%q, %v", b, err)
		}
	})
}

// One goroutine may read while another writes, by either kind of call.
func TestBothWaysAtOnce(t *testing.T) {
	for _, blocks := range []bool{false, true} {
		each(t, func(t *testing.T, r *rig) {
			over := r.over()
			var both sync.WaitGroup
			both.Go(func() {
				io.WriteString(r.client, long)
				r.client.CloseWrite()
			})
			both.Go(func() {
				if got, err := io.ReadAll(r.client); err != nil || string(got) != long {
					t.Errorf("the client got %d bytes, %v", len(got), err)
				}
			})
			both.Go(func() {
				if blocks {
					if got, err := io.ReadAll(over); err != nil || string(got) != long {
						t.Errorf("Over: got %d bytes, %v", len(got), err)
					}
				} else if got, _, err := r.recvAll(); err != io.EOF || got != long {
					t.Errorf("Recv: got %d bytes, %v", len(got), err)
				}
			})
			both.Go(func() {
				if blocks {
					if _, err := io.WriteString(over, long); err != nil {
						t.Error(err)
					}
				} else {
					for p := []byte(long); len(p) > 0 || r.Owes(); {
						n, _, err := r.Send(r.fd, [][]byte{p})
						if p = p[n:]; err != nil && err != poll.ErrAgain {
							t.Error(err)
							break
						}
					}
				}
				r.Bye(r.fd, nil)
				r.nc.(*net.TCPConn).CloseWrite()
			})
			wait.Within(t, "both ways have ended", both.Wait)
		})
	}
}

// Close ends the calls that are under way, and waits for them: the Stream is somebody else's then.
func TestCloseWaitsForCalls(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		over := r.over()
		var calls sync.WaitGroup
		var began sync.WaitGroup
		began.Add(2)
		calls.Go(func() {
			began.Done()
			for b := make([]byte, 100); ; {
				if _, err := over.Read(b); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("Read: %v", err)
					}
					return
				}
			}
		})
		calls.Go(func() {
			began.Done()
			for {
				if _, err := io.WriteString(over, long); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("Write: %v", err)
					}
					return
				}
			}
		})
		calls.Go(func() { io.Copy(io.Discard, r.client) })
		calls.Go(func() {
			for {
				if _, err := io.WriteString(r.client, "text"); err != nil {
					return
				}
			}
		})
		began.Wait()
		before := r.wire.read.Load()
		wait.Until(t, "much is under way", func() bool { return r.wire.read.Load() > before+1<<20 })
		over.Close()
		r.Wipe()
		if _, err := over.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
		if _, err := over.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		wait.Within(t, "all calls have returned", calls.Wait)
	})
}

// A connection without a descriptor cannot be used.
func TestOverNeedsADescriptor(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := new(Stream).Over(a); err == nil {
		t.Error("no error")
	}
}
