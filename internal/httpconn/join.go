package httpconn

import (
	"bufio"
	"context"
	"net"
	"net/http"
)

// join offers a connection whose request asks for a WebSocket to the Set's owner, and reports whether it was taken.
func (c *Conn) join(b *buffer, request, behind []byte) bool {
	b.src.Reset(request)
	b.text.Reset(&b.src)
	r, err := http.ReadRequest(&b.text)
	if err != nil {
		return false // and net/http answers it
	}
	r.RemoteAddr = c.remote.String()
	o := &offer{conn: c, behind: behind}
	c.set.cfg.Join(o, r.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, c.local)))
	return o.taken
}

// An offer is the ResponseWriter of a request whose connection can be hijacked. Anything else that is written to it is
// dropped.
type offer struct {
	conn   *Conn
	behind []byte // what has come after the request
	header http.Header
	taken  bool
}

func (o *offer) Header() http.Header {
	if o.header == nil {
		o.header = make(http.Header)
	}
	return o.header
}

func (o *offer) Write(p []byte) (int, error) { return len(p), nil }
func (o *offer) WriteHeader(int)             {}

// Hijack gives the connection away, with tiny buffers: the connection itself hands over all that has come, see
// loan.Take.
func (o *offer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if o.taken {
		return nil, nil, http.ErrHijacked
	}
	o.taken = true
	l := o.conn.borrowed(nil, o.behind, unbounded)
	return l, bufio.NewReadWriter(bufio.NewReaderSize(l, 16), bufio.NewWriterSize(l, 16)), nil
}
