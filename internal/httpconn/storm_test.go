package httpconn

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"picloud/test/certified"
	"picloud/test/wait"
)

// TestStorm lets clients come and go in every way. Each checks that it gets its own answers and nothing else, in order:
// a descriptor or a buffer that was mixed up with another's would show. In the middle the server may stop; then
// connections end, but still no client gets what is not its own.
func TestStorm(t *testing.T) {
	for name, stop := range map[string]func(r *rig){
		"to the end": nil,
		"drain":      (*rig).drain,
		"close": func(r *rig) {
			r.endAccept()
			r.http.Close()
			r.Close()
		},
		"drain and close": func(r *rig) {
			r.drain()
			r.http.Close()
			r.Close()
		},
	} {
		for _, network := range []string{"tcp", "unix", "tls"} {
			t.Run(network+" "+name, func(t *testing.T) {
				t.Parallel()
				clients, lives, bound, least := 100, 6, 80, int64(300)
				if network == "tls" { // a handshake takes its time
					clients, bound, least = 30, 24, 10
				}
				r := newRig(t, network, func(p *plan) { p.kernel, p.Bounds = 32<<10, Bounds{bound, bound, bound} })
				st := &storm{rig: r}
				half := make(chan struct{})
				var living sync.WaitGroup
				for n := range clients {
					living.Go(func() {
						random := rand.New(rand.NewPCG(7, uint64(n)))
						for life := range lives {
							if err := st.live(fmt.Sprintf("%d.%d", n, life), random); err != nil {
								t.Errorf("client %d, life %d: %v", n, life, err)
							}
							if st.lived.Add(1) == int64(clients*lives/2) {
								close(half)
							}
							if st.stopping.Load() {
								return
							}
						}
					})
				}
				if stop != nil {
					wait.For(t, half, "half of them have lived")
					st.stopping.Store(true)
					wait.Within(t, "it stops", func() { stop(r) })
				}
				wait.Within(t, "all clients have ended", living.Wait)
				if st.answers.Load() < least {
					t.Errorf("%d answers", st.answers.Load())
				}
				if plain, general := r.plain.Load(), r.general.Load(); plain == 0 || general == 0 {
					t.Errorf("%d plain and %d general ones answered", plain, general)
				}
			})
		}
	}
}

type storm struct {
	rig            *rig
	lived, answers atomic.Int64
	stopping       atomic.Bool
}

// live is one connection's life. A connection may end at any time, at rest to make room for others or when the server
// stops; an error says that something came that must not.
func (st *storm) live(id string, random *rand.Rand) error {
	nc, err := net.Dial(st.rig.addr.Network(), st.rig.addr.String())
	if err != nil {
		if st.stopping.Load() { // it does not listen any more
			return nil
		}
		return err
	}
	defer nc.Close()
	if st.rig.network == "tls" {
		nc = tls.Client(nc, certified.Client())
	}
	c := newClient(st.rig.t, nc)
	var owed []string
	for i := range 1 + random.IntN(12) {
		mine := fmt.Sprintf("%s.%d", id, i)
		switch random.IntN(9) {
		case 0, 1, 2:
			io.WriteString(c, plainPost(mine))
			owed = append(owed, mine)
		case 3, 4:
			io.WriteString(c, generalPost(mine))
			owed = append(owed, mine)
		case 5:
			request := plainPost(mine)
			cut := random.IntN(len(request))
			io.WriteString(c, request[:cut])
			io.WriteString(c, request[cut:])
			owed = append(owed, mine)
		case 6: // what waits behind one that is being answered
			io.WriteString(c, "GET /echo?"+mine+" HTTP/1.1\r\nHost: pi\r\n\r\n"+plainPost(mine))
			owed = append(owed, "GET /echo?"+mine, mine)
		case 7:
			long := strings.Repeat(mine, 4<<10)
			io.WriteString(c, strings.Replace(plainPost(long), "/plain", "/echo", 1))
			owed = append(owed, long)
		default: // an end
			switch random.IntN(4) {
			case 0:
				c.vanish()
				return nil
			case 1:
				io.WriteString(c, plainPost(mine)[:random.IntN(40)])
				return st.read(c, owed)
			case 2:
				request := upgrade(fmt.Sprint("/hijack?n=", len(mine)))
				if random.IntN(2) == 0 {
					request = strings.Replace(request, "Upgrade: WebSocket\r\n", "", 1)
				}
				io.WriteString(c, request+mine)
				if err := st.read(c, owed); err != nil {
					return err
				}
				said, err := io.ReadAll(c.In)
				if want := fmt.Sprintf("behind: %q", mine); err == nil && len(said) > 0 && string(said) != want {
					return fmt.Errorf("got %q, want %q", said, want)
				}
				return nil
			default:
				io.WriteString(c, "GET /panic HTTP/1.1\r\nHost: pi\r\n\r\n")
				return st.read(c, owed)
			}
		}
		if random.IntN(3) > 0 {
			if err := st.read(c, owed); err != nil {
				return err
			}
			owed = nil
		}
	}
	return st.read(c, owed)
}

// read reads the answers that are owed, or as many as come.
func (st *storm) read(c *client, owed []string) error {
	for _, mine := range owed {
		got, err := c.read("POST")
		if err != nil {
			if ended(err) {
				return nil
			}
			return err
		}
		st.answers.Add(1)
		if (got.status != 201 && got.status != 200) || !strings.Contains(got.xBody+got.body, mine) {
			return fmt.Errorf("got %d %.60q %.60q, want %.60q", got.status, got.xBody, got.body, mine)
		}
		if got.last {
			return nil
		}
	}
	return nil
}
