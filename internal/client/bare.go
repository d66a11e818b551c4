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

// bareBuffers are shared: a Bare that is not writing needs none.
var bareBuffers sync.Pool

// Bare is a connection for measuring: it passes the bytes of messages as they are, and does nothing by itself but
// answer pings. One goroutine may read and one may write. It does not reconnect.
type Bare struct {
	ws  *websocket.Conn
	buf []byte
}

// Dial opens a separate connection, which the caller closes. Run is not needed for it.
func (c *Client) Dial(ctx context.Context) (*Bare, error) {
	dialer := websocket.Dialer{ReadBufferSize: bareReadBytes, WriteBufferSize: batchBytes,
		WriteBufferPool: &bareBuffers}
	ws, err := c.handshake(ctx, dialer, func(conn net.Conn) net.Conn { return conn })
	if err != nil {
		return nil, err
	}
	ws.SetCloseHandler(func(int, string) error { return nil }) // Close answers
	return &Bare{ws: ws, buf: make([]byte, 512)}, nil
}

// Write sends one message. It blocks while the server reads nothing, for 10 s at most.
func (b *Bare) Write(message []byte) error {
	b.ws.SetWriteDeadline(time.Now().Add(patience))
	if err := b.ws.WriteMessage(websocket.TextMessage, message); err != nil {
		return closeError(err)
	}
	return nil
}

// Read returns the next message, which is valid until the next Read. If the server closed the connection and said why,
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

// Close sends a close frame, waits a moment for the server's, and closes. Nobody else may be reading.
func (b *Bare) Close() {
	soon := time.Now().Add(grace)
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if b.ws.WriteControl(websocket.CloseMessage, bye, soon) == nil {
		b.ws.SetReadDeadline(soon)
		for err := error(nil); err == nil; {
			_, _, err = b.ws.NextReader()
		}
	}
	b.ws.Close()
}

// Abort closes the connection at once, which ends every Read and Write.
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
