package client

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const bareReadBytes = 8 << 10

// bareBuffers are shared: a Bare that does not write needs none.
var bareBuffers sync.Pool

// Bare is one connection as it is, for measuring: the bytes of its messages, and nothing by itself but pongs. One
// goroutine reads and one writes. It does not come back.
type Bare struct {
	ws  *websocket.Conn
	buf []byte
}

// Dial opens a connection of its own, which the caller closes. It needs no Run.
func (c *Client) Dial(ctx context.Context) (*Bare, error) {
	dialer := websocket.Dialer{ReadBufferSize: bareReadBytes, WriteBufferSize: batchBytes, WriteBufferPool: &bareBuffers}
	ws, err := c.handshake(ctx, dialer, func(conn net.Conn) net.Conn { return conn })
	if err != nil {
		return nil, err
	}
	ws.SetCloseHandler(func(int, string) error { return nil }) // Close answers
	return &Bare{ws: ws, buf: make([]byte, 512)}, nil
}

// Write sends one message. While the server takes nothing it blocks, for 10 s at most.
func (b *Bare) Write(message []byte) error {
	b.ws.SetWriteDeadline(time.Now().Add(patience))
	if err := b.ws.WriteMessage(websocket.TextMessage, message); err != nil {
		return closeError(err)
	}
	return nil
}

// Read returns the next message, which is good until the next Read. Where the server ended the connection and said why
// the error is a *CloseError.
func (b *Bare) Read() ([]byte, error) {
	_, r, err := b.ws.NextReader()
	if err != nil {
		return nil, closeError(err)
	}
	for n := 0; ; {
		more, err := r.Read(b.buf[n:])
		n += more
		switch {
		case errors.Is(err, io.EOF):
			return b.buf[:n], nil
		case err != nil:
			return nil, closeError(err)
		case n == len(b.buf):
			b.buf = append(b.buf, make([]byte, n)...)
		}
	}
}

// Close says goodbye, waits a moment for the server's answer, and closes. Nobody else reads then.
func (b *Bare) Close() {
	soon := time.Now().Add(lastWords)
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if b.ws.WriteControl(websocket.CloseMessage, bye, soon) == nil {
		b.ws.SetReadDeadline(soon)
		for err := error(nil); err == nil; {
			_, _, err = b.ws.NextReader()
		}
	}
	b.ws.Close()
}

// Abort ends the connection at once, and with it every Read and Write.
func (b *Bare) Abort() { b.ws.NetConn().Close() }

// Local says whether both ends are on this machine.
func (b *Bare) Local() bool {
	conn := b.ws.NetConn()
	here, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return conn.LocalAddr().Network() == "unix"
	}
	there, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && here.IP.Equal(there.IP)
}
