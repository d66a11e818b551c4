package wsconn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"picloud/test/wait"
)

// TestStorm lets clients come and go in every way while several publish to all of them. Each client checks that it gets
// what is meant for it and nothing else, of each publisher in order and without gaps: a descriptor that was mixed up
// with another client's would show.
func TestStorm(t *testing.T) {
	for network, clients := range map[string]int{"tcp": 200, "unix": 100, "tls": 50} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			const publishers, lives = 4, 4
			r := newRig(t, network, func(p *plan) {
				p.buffers = 32 << 10
				if network == "tls" { // reading what has come when a client is closed is bounded in time
					p.buffers = 8 << 10
				}
			})
			st := &storm{rig: r, done: make(chan struct{})}
			var publishing, living sync.WaitGroup
			for n := range publishers {
				publishing.Go(func() { st.publish(n) })
			}
			publishing.Go(func() {
				for {
					select {
					case s := <-r.sessions:
						st.mu.Lock()
						st.present = append(st.present, s)
						st.mu.Unlock()
						s.Queue(appendFrame(nil, opText, []byte(s.id+" hello")), 0)
						s.Flush()
					case <-st.done:
						return
					}
				}
			})
			for n := range clients {
				living.Go(func() {
					random := rand.New(rand.NewPCG(1, uint64(n)))
					for life := range lives {
						if err := st.live(fmt.Sprintf("%d.%d", n, life), random); err != nil {
							t.Errorf("client %d, life %d: %v", n, life, err)
							return
						}
					}
				})
			}
			living.Wait()
			close(st.done)
			publishing.Wait()
			wait.Within(t, "Set.Close returns", func() { r.close(context.Background(), 1001, "") })
			if st.frames.Load() < int64(clients*lives) {
				t.Errorf("only %d frames arrived", st.frames.Load())
			}
		})
	}
}

type storm struct {
	rig    *rig
	done   chan struct{}
	frames atomic.Int64

	mu      sync.Mutex
	present []*session
}

// publish sends every connection frame after frame, each with the connection's own name, a number and the publisher.
func (st *storm) publish(publisher int) {
	var arena Arena
	sent := make(map[*session]int)
	var touched []*session
	for batch := uint64(1); ; batch++ {
		select {
		case <-st.done:
			return
		default:
		}
		st.mu.Lock()
		present := st.present
		st.mu.Unlock()
		for _, s := range present[max(0, len(present)-400):] {
			if s.ends.Load() > 0 || s.inQueue() > 32<<10 { // a client in no hurry is not what this is about
				continue
			}
			frame := arena.Text(fmt.Appendf(nil, "%s %d %d %s", s.id, publisher, sent[s],
				strings.Repeat("x", sent[s]%50)))
			if s.Queue(frame, batch<<8|uint64(publisher+1)) {
				touched = append(touched, s)
			}
			sent[s]++
		}
		for _, s := range touched {
			s.Flush()
		}
		clear(touched)
		touched = touched[:0]
	}
}

func (s *session) inQueue() int { return locked(s.Conn, func(c *Conn) int { return c.out.size }) }

// live is one connection's life.
func (st *storm) live(id string, random *rand.Rand) error {
	p, err := st.rig.dial(id)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer p.bare.Close()
	next := make(map[int]int)
	talk := random.IntN(3)
	for range 2 + random.IntN(30) {
		if talk == 0 && random.IntN(4) == 0 {
			p.send(masked(text, id+" echo"), masked(pingByte, id+" ping"))
		}
		got, err := p.next()
		if err != nil {
			return err
		}
		if err := st.check(got, id, next); err != nil {
			return err
		}
	}
	switch random.IntN(5) {
	case 0:
		p.vanish()
	case 1:
		p.Close()
	case 2:
		p.send(masked(text, "half a frame")[:random.IntN(10)])
		p.vanish()
	case 3:
		p.send(masked(text|0x40, ""))
		return st.readToEnd(p, id, next, 1002)
	default:
		p.send(masked(closeByte, closePayload(1000, "")))
		return st.readToEnd(p, id, next, 1000)
	}
	return nil
}

func (st *storm) readToEnd(p *peer, id string, next map[int]int, code int) error {
	for {
		got, err := p.next()
		if err != nil {
			return err
		}
		if got.op == opClose {
			if !strings.HasPrefix(got.payload, closePayload(code, "")) {
				return fmt.Errorf("got close frame %q, want code %d", got.payload, code)
			}
			if got, err := p.next(); err == nil {
				return fmt.Errorf("got %+v behind the close frame", got)
			}
			return nil
		}
		if err := st.check(got, id, next); err != nil {
			return err
		}
	}
}

func (st *storm) check(got received, id string, next map[int]int) error {
	st.frames.Add(1)
	rest, mine := strings.CutPrefix(got.payload, id+" ")
	if !mine {
		return fmt.Errorf("got frame %d %.40q, not meant for %s", got.op, got.payload, id)
	}
	var publisher, seq int
	if _, err := fmt.Sscanf(rest, "%d %d", &publisher, &seq); err != nil {
		if rest == "hello" || rest == "echo" || rest == "ping" && got.op == opPong {
			return nil
		}
		return errors.New("got " + got.payload)
	}
	if seq != next[publisher] {
		return fmt.Errorf("got frame %d of publisher %d, want %d", seq, publisher, next[publisher])
	}
	next[publisher]++
	return nil
}
