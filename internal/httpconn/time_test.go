package httpconn

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"
)

const limit = 600 * time.Millisecond // after which connections are cut off here

// quick is a plan in which every timeout is limit, except those that edit sets.
func quick(edit func(*plan)) func(*plan) {
	return func(p *plan) {
		p.HeadTimeout, p.BodyTimeout, p.IdleTimeout = limit, limit, limit
		edit(p)
	}
}

// drip sends a byte now and then until it cannot.
func (c *client) drip(b byte) {
	tick := time.NewTicker(limit / 20)
	defer tick.Stop()
	for range tick.C {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
	}
}

func TestTimesAreKept(t *testing.T) {
	long := func(d *time.Duration) { *d = time.Hour }
	const longBody = "POST /echo HTTP/1.1\r\nHost: pi\r\nContent-Length: 100000\r\n\r\n"
	for name, tt := range map[string]struct {
		edit    func(*plan)
		answers string // sent first, and answered
		pause   bool   // for longer than a head may take
		begin   string
		drip    byte
		after   time.Duration
	}{
		"silent": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			after: limit},
		"head": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			begin: get[:20], after: limit},
		"head, dripping": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			begin: get[:20], drip: 'x', after: limit},
		"second head": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			answers: plainPost(1), begin: get[:20], after: limit},
		"head after a pause": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			answers: plainPost(1), pause: true, begin: get[:20], after: limit},
		"second head, general": {edit: func(p *plan) { long(&p.BodyTimeout); long(&p.IdleTimeout) },
			answers: generalPost(1), begin: get[:20], drip: 'x', after: limit},
		"body": {edit: func(p *plan) { long(&p.IdleTimeout) }, begin: postHead + "1",
			after: 2 * limit},
		"body, dripping": {edit: func(p *plan) { long(&p.IdleTimeout) },
			begin: strings.Replace(postHead, "4", "9000", 1), drip: 'x', after: 2 * limit},
		"a second body": {edit: func(p *plan) { long(&p.IdleTimeout) }, answers: generalPost(1),
			begin: postHead, after: 2 * limit},
		"a long body": {edit: func(p *plan) { long(&p.IdleTimeout) }, begin: longBody, after: 2 * limit},
		"a long body, dripping": {edit: func(p *plan) { long(&p.IdleTimeout) }, begin: longBody, drip: 'x',
			after: 2 * limit},
		"chunks, dripping": {edit: func(p *plan) { long(&p.IdleTimeout) },
			begin: "POST /echo HTTP/1.1\r\nHost: pi\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n", drip: 'x',
			after: 2 * limit},
		"body after 100": {edit: func(p *plan) { long(&p.IdleTimeout) },
			begin: strings.Replace(longBody, "Host", "Expect: 100-continue\r\nHost", 1), after: 2 * limit},
		"idle behind a plain one": {edit: func(p *plan) { p.HeadTimeout = limit / 2; long(&p.BodyTimeout) },
			answers: plainPost(1), after: limit},
		"idle behind a general one": {edit: func(p *plan) { p.HeadTimeout = limit / 2; long(&p.BodyTimeout) },
			answers: generalPost(1), after: limit},
		"idle, net/http's for good": {edit: func(p *plan) { p.HeadTimeout = limit / 2; long(&p.BodyTimeout) },
			answers: strings.ReplaceAll(plainPost(1), "\r\n", "\n"), after: limit},
		"a drip that is a long head": {edit: func(p *plan) { long(&p.BodyTimeout); p.HeadBytes = 10 }, begin: get[:20],
			drip: 'x', after: limit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tcp", quick(tt.edit))
			begin := time.Now()
			c := r.dial()
			if tt.answers != "" {
				c.send("%s", tt.answers)
				c.want("POST", 201, "1")
				begin = time.Now()
			}
			if tt.pause {
				r.dial().wantEnd() // a silent one takes that long
				begin = time.Now()
			}
			c.send("%s", tt.begin)
			var dripping sync.WaitGroup
			if tt.drip != 0 {
				dripping.Go(func() { c.drip(tt.drip) })
			}
			said, err := io.ReadAll(c.In) // net/http or a handler may answer it
			if err != nil && !ended(err) {
				t.Fatal(err)
			}
			// How late it may be is up to how busy the machine is: TestLate has a clock of its own.
			if d := time.Since(begin); d < tt.after-10*time.Millisecond {
				t.Errorf("cut off after %v, want %v (%q)", d, tt.after, said)
			}
			c.Close()
			dripping.Wait()
		})
	}
}

// An answer that takes its time is not cut off by any of the times above.
func TestNothingIsCutOffWhileItIsAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, "tcp", func(p *plan) { p.HeadTimeout, p.BodyTimeout, p.IdleTimeout = limit/2, limit/2, limit/2 })
	c := r.dial()
	c.send("%s", plainPost(1)+"GET /hold HTTP/1.1\r\nHost: pi\r\n\r\n"+postHead)
	c.want("POST", 201, "1")
	wait.For(t, r.held, "the request is being answered")
	for range 4 { // as long as it takes to be cut off
		r.dial().wantEnd()
	}
	r.release <- struct{}{}
	c.want("GET", 200, "held")
	c.send("next")
	c.want("POST", 201, "next")
}

// A client that takes a large answer slowly gets all of it, in whichever way it is answered.
func TestSlowReaderGetsAll(t *testing.T) {
	const n = 2 << 20
	for name, request := range map[string]string{
		"plain":   "POST /plain?n=2097152 HTTP/1.1\r\nHost: pi\r\n\r\n",
		"general": "POST /plain?n=2097152 HTTP/1.1\r\nHost: pi\r\nX-Other: 1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tcp", func(p *plan) {
				p.kernel = 16 << 10
				p.HeadTimeout, p.BodyTimeout, p.IdleTimeout = limit/2, limit/2, limit/2
			})
			c := r.dial()
			c.send("%s", request+generalPost(2))
			for range 3 { // as long as it takes to be cut off
				r.dial().wantEnd()
			}
			if got, err := c.read("POST"); err != nil || len(got.body) != n {
				t.Errorf("got %d bytes, error %v, want %d", len(got.body), err, n)
			}
			c.want("POST", 201, "2")
		})
	}
}

// A client that never reads its answers is cut off, and delays no other.
func TestWhoNeverReadsIsCutOff(t *testing.T) {
	for name, request := range map[string]string{"plain": plainPost(1), "general": generalPost(1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "tcp", func(p *plan) { p.kernel, p.SendTimeout = 8<<10, limit })
			burst := bytes.Repeat([]byte(request), 50)
			var end error
			flooding := make(chan struct{})
			c := r.dial()
			go func() {
				defer close(flooding)
				for end == nil {
					_, end = c.Write(burst)
				}
			}()
			other := r.dial()
			for open := true; open; {
				other.send("%s", plainPost(2)+generalPost(3))
				other.want("POST", 201, "2")
				other.want("POST", 201, "3")
				select {
				case <-flooding:
					open = false
				default:
				}
			}
			if !ended(end) {
				t.Errorf("the flood ends with %v, want the connection's end", end)
			}
			wait.Until(t, "the flood's slot is free", func() bool { return r.Usage().Open == 1 })
		})
	}
}

// The limits are exact where a clock can be given.
func TestLate(t *testing.T) {
	s := &Set{cfg: Config{HeadTimeout: 1, BodyTimeout: 10, IdleTimeout: 100}}
	now := time.Now()
	for name, tt := range map[string]struct {
		conn  *Conn
		limit time.Duration
	}{
		"fresh":            {&Conn{}, 1},
		"in a head":        {&Conn{in: []byte("G")}, 1},
		"in a second head": {&Conn{in: []byte("G"), used: true}, 1},
		"in a body":        {&Conn{in: []byte("G"), head: true}, 11},
		"idle":             {&Conn{used: true}, 100},
		"not at rest":      {&Conn{}, 0},
	} {
		c := tt.conn
		c.set, c.since = s, now
		if tt.limit == 0 {
			c.turn.Take()
			if c.late(now.Add(time.Hour)) {
				t.Errorf("%s: it can be late", name)
			}
			continue
		}
		if c.late(now.Add(tt.limit-1)) || !c.late(now.Add(tt.limit)) {
			t.Errorf("%s: not late from %v on", name, tt.limit)
		}
	}
}
