package wsconn

import (
	"bufio"
	"net"
	"net/http"
)

// A handshake is the ResponseWriter given to gorilla's upgrader. It keeps what the client has sent after the request,
// which the upgrader would refuse.
type handshake struct {
	http.ResponseWriter
	early []byte
}

func (w *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := brw.Reader.Buffered(); n > 0 {
		p, _ := brw.Reader.Peek(n)
		w.early = append([]byte(nil), p...)
		brw.Reader = bufio.NewReaderSize(nc, 16)
	}
	return nc, brw, nil
}
