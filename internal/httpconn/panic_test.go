package httpconn

import (
	"fmt"
	"testing"

	"picloud/test/wait"
)

// A request that makes Short or Join panic costs its own connection, before it is given away or after; others go on.
func TestPanicEndsItsConnectionOnly(t *testing.T) {
	r := newRig(t, "tcp")
	other := r.dial()
	for _, request := range []string{
		"POST /plain?n=-1 HTTP/1.1\r\nHost: pi\r\nContent-Length: 1\r\n\r\n1",
		upgrade("/hijack?n=-1"),
		upgrade("/hijack?n=-1") + "and more",
	} {
		c := r.dial()
		c.send("%s", request)
		c.wantEnd()
		if what := wait.For(t, r.panics, "it is told"); what == nil {
			t.Error("told of nothing")
		}
		other.send("%s", plainPost(1))
		other.want("POST", 201, "1")
	}
}

// However a head drips in, it is answered when it is whole, and a mistake in it as soon as its line is.
func TestHeadDripsIn(t *testing.T) {
	r := newRig(t, "tcp")
	c := r.dial()
	for i, request := range []string{plainPost(1), generalPost(2), plainPost(3)} {
		for _, b := range []byte(request) {
			c.send("%c", b)
		}
		c.want("POST", 201, fmt.Sprint(i+1))
	}
	c = r.dial()
	for _, b := range []byte("GARBAGE\r\n") {
		c.send("%c", b)
	}
	c.want("GET", 400, "")
}
