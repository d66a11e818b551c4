package httpconn

import (
	"io"
	"net"
	"sync"
	"testing"

	"picloud/internal/leak"
	"picloud/test/wait"
)

// drain does what a stopping server does first.
func (r *rig) drain() {
	r.t.Helper()
	r.endAccept()
	r.http.SetKeepAlivesEnabled(false)
	r.Drain()
}

func TestDrainAnswersWhatHasBegun(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, network)
			idle, silent, inHead, inBody, second := r.dial(), r.dial(), r.dial(), r.dial(), r.dial()
			for _, c := range []*client{idle, second} {
				c.send("%s", generalPost(1))
				c.want("POST", 201, "1")
			}
			inHead.send("%s", get[:20])
			inBody.send("%s", postHead)
			second.send("%s", get[:20])
			held := r.hold("")
			wait.Until(t, "what was sent is known", func() bool { return r.count((*Conn).begun) == 3 })
			r.drain()
			r.Drain()

			idle.wantEnd()
			inHead.send("%s", get[20:])
			inHead.wantLast("GET", 200)
			second.send("%s", get[20:])
			second.wantLast("GET", 200)
			inBody.send("%s", "body"+plainPost(2))
			inBody.wantLast("POST", 201)
			silent.send("%s", plainPost(3))
			silent.wantLast("POST", 201)
			r.release <- struct{}{}
			held.wantLast("GET", 200)
			r.gone()
			if n := r.plain.Load(); n != 0 {
				t.Errorf("%d plain answers kept their connections", n)
			}
		})
	}
}

// wantLast reads an answer that says it is the last one, and then the end of the connection.
func (c *client) wantLast(method string, status int) {
	c.T.Helper()
	got, err := c.read(method)
	if err != nil || got.status != status || !got.last {
		c.T.Errorf("got %+v, error %v, want %d and that it is the last", got, err, status)
	}
	c.wantEnd()
}

// A request that had come before Drain is answered, even if the poller has not reported it yet.
func TestDrainAnswersWhatTheKernelHas(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		for name, request := range map[string]string{"plain": plainPost(2), "general": generalPost(2)} {
			t.Run(network+" "+name, func(t *testing.T) {
				r := newRig(t, network)
				c := r.dial()
				c.send("%s", plainPost(1))
				c.want("POST", 201, "1")
				r.atRest()
				hear := r.deafen()
				c.send("%s", request)
				r.drain()
				hear()
				c.wantLast("POST", 201)
				r.gone()
			})
		}
	}
}

// Where the http.Server would keep its connections, Drain ends them all the same.
func TestDrainEndsWhatComesBack(t *testing.T) {
	r := newRig(t, "tcp")
	held, more := r.hold(""), r.hold(get)
	r.Drain()
	for range 2 {
		r.release <- struct{}{}
	}
	held.want("GET", 200, "held")
	held.wantEnd()
	more.want("GET", 200, "held")
	more.want("GET", 200, "/echo")
	more.wantEnd()
}

func TestCloseEndsEveryConnection(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			r := newRig(t, network, func(p *plan) { p.kernel = 8 << 10 })
			var clients []*client
			say := func(what string) {
				c := r.dial()
				c.send("%s", what)
				clients = append(clients, c)
			}
			say("")
			say(get[:20])
			say(postHead)
			say("POST /echo HTTP/1.1\r\nHost: pi\r\nContent-Length: 100000\r\n\r\nlent")
			say("GET /echo HTTP/1.1\nHost: pi\n\n")
			say("POST /plain?n=10000000 HTTP/1.1\r\nHost: pi\r\n\r\n") // and does not read it
			say("GET /large?n=10000000 HTTP/1.1\r\nHost: pi\r\n\r\n")
			wait.Until(t, "all are known", func() bool { return r.entered() == len(clients) })
			wait.Until(t, "one sends", func() bool { return len(leak.Goroutines("picloud/internal/httpconn.(*Conn).send")) == 1 })
			wait.Until(t, "two read and one writes in net/http", func() bool {
				return len(leak.Goroutines("picloud/internal/httpconn.(*loan).Read")) >= 2 &&
					len(leak.Goroutines("picloud/internal/httpconn.(*loan).Write")) == 1
			})
			held := r.hold("")
			r.http.Close()
			r.Close()
			for _, c := range append(clients, held) {
				if _, err := io.Copy(io.Discard, c.In); err != nil && !ended(err) {
					t.Error(err)
				}
			}
			r.gone() // the held one's handler goes on, without a connection
			r.release <- struct{}{}
		})
	}
}

// What is lent when Close is called ends when it comes back.
func TestCloseEndsWhatComesBack(t *testing.T) {
	for name, behind := range map[string]string{"nothing": "", "a part": get[:20], "a whole one": get} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "tcp")
			c := r.hold(behind)
			r.Close()
			r.release <- struct{}{}
			c.want("GET", 200, "held")
			c.wantEnd()
			r.gone()
			if n := r.general.Load(); n != 1 {
				t.Errorf("%d requests were answered, want the one that had begun", n)
			}
		})
	}
}

func TestAdoptedAfterCloseIsClosed(t *testing.T) {
	r := newRig(t, "tcp")
	r.Close()
	c := r.dial()
	c.wantEnd()
	r.gone()
}

// Serve says why it cannot, and ends with its context, even while it waits for a slot.
func TestServe(t *testing.T) {
	r := newRig(t, "tcp", few(1))
	l := listen(t, "tcp", 0).(*net.TCPListener)
	l.Close()
	if err := r.Serve(t.Context(), l, nil); err == nil {
		t.Error("a listener that is closed: no error")
	}
	r.hold("")
	late := r.dial()
	late.send(get)
	wait.Until(t, "the newcomer waits", func() bool { return r.Usage().Waited == 1 })
	var ending sync.WaitGroup
	ending.Go(r.endAccept)
	wait.Within(t, "Serve returns", ending.Wait)
	late.want("GET", 200, "/echo") // it had been accepted
}
