package wsconn

import (
	"errors"
	"testing"
)

// A message that makes the handler panic costs its own connection, which is told so; others go on.
func TestPanicEndsItsConnectionOnly(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		r := newRig(t, network, func(p *plan) {
			p.receive = func(s *session, binary bool, p []byte) {
				if string(p) == "panic" {
					panic("as it was asked")
				}
				s.echo(binary, p)
			}
		})
		other, _ := r.connect()
		for range 3 {
			p, s := r.connect()
			p.send(masked(text, "fine"))
			p.want(opText, "fine")
			p.send(masked(text, "panic"))
			p.want(opClose, closePayload(1011, "internal error"))
			var panicked *Panic
			if why := <-s.ended; !errors.As(why, &panicked) || panicked.What != "as it was asked" ||
				len(panicked.Stack) == 0 {
				t.Errorf("ended with %v", why)
			}
			p.send(masked(closeByte, closePayload(1011, "")))
			p.wantEOF()
			other.send(masked(text, "on"))
			other.want(opText, "on")
		}
	})
}
