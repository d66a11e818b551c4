package conn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// errDry ends gorilla's read when it has had all the frames it was given.
var errDry = errors.New("no more frames")

// A reader is what a connection borrows while it has something to read: a buffer for the socket, one for the message, and
// a gorilla Conn. The gorilla Conn is given whole messages only, so between two of them it holds nothing of the
// connection and can serve another; once it has returned an error it is replaced.
type reader struct {
	buf []byte // what the socket gave
	msg []byte // one unmasked message
	src source
	ws  *websocket.Conn

	none [1]byte // where the payload of emptyMessage would go
}

const (
	readSize  = 32 << 10
	keepLarge = 256 << 10 // a message buffer larger than this is not kept
)

func newReader() *reader { return &reader{buf: make([]byte, readSize)} }

// message gives gorilla the frames of one message and returns the message. It is valid until the next call.
func (r *reader) message(c *Conn, frames []byte) (binary bool, p []byte, err error) {
	ws := r.attach(c, frames)
	defer r.detach()
	kind, body, err := ws.NextReader()
	if err != nil {
		r.ws = nil
		return false, nil, err
	}
	r.msg = r.msg[:0]
	for {
		if len(r.msg) == cap(r.msg) {
			r.msg = append(r.msg, 0)[:len(r.msg)]
		}
		n, err := body.Read(r.msg[len(r.msg):cap(r.msg)])
		r.msg = r.msg[:len(r.msg)+n]
		if err == io.EOF {
			return kind == websocket.BinaryMessage, r.msg, nil
		}
		if err != nil {
			r.ws = nil
			return false, nil, err
		}
	}
}

// control gives gorilla one control frame, which it answers. Behind it lies an empty message: gorilla goes on reading
// after a control frame, and an end there would be an error, which is final.
func (r *reader) control(c *Conn, frame []byte) error {
	r.msg = append(append(r.msg[:0], frame...), emptyMessage...)
	ws := r.attach(c, r.msg)
	defer r.detach()
	_, body, err := ws.NextReader()
	if err == nil {
		if _, err = body.Read(r.none[:]); err == io.EOF {
			return nil
		}
	}
	r.ws = nil
	return err
}

// emptyMessage is a whole text frame without a payload, masked with zeros.
var emptyMessage = []byte{finBit | opText, maskBit, 0, 0, 0, 0}

func (r *reader) attach(c *Conn, frames []byte) *websocket.Conn {
	r.src.conn, r.src.frames = c, frames
	if r.ws == nil {
		r.ws = newWebSocket(&r.src, int64(c.set.limits.MessageBytes))
	}
	return r.ws
}

func (r *reader) detach() {
	r.src.conn, r.src.frames = nil, nil
	if cap(r.msg) > keepLarge {
		r.msg = nil
	}
}

// A source is the net.Conn that gorilla sees: it reads frames that have been received already, and what it writes goes
// to the outbox of the connection whose frames they are. gorilla writes nothing here but a close frame.
type source struct {
	conn   *Conn // nil: nobody's, what is written is dropped
	frames []byte
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.frames) == 0 {
		return 0, errDry
	}
	n := copy(p, s.frames)
	s.frames = s.frames[n:]
	return n, nil
}

func (s *source) Write(p []byte) (int, error) {
	if s.conn != nil {
		s.conn.sayGoodbye(p, ErrProtocol)
	}
	return len(p), nil
}

func (s *source) Close() error                     { return nil }
func (s *source) LocalAddr() net.Addr              { return nil }
func (s *source) RemoteAddr() net.Addr             { return nil }
func (s *source) SetDeadline(time.Time) error      { return nil }
func (s *source) SetReadDeadline(time.Time) error  { return nil }
func (s *source) SetWriteDeadline(time.Time) error { return nil }

// newWebSocket makes a gorilla Conn that reads from src. gorilla makes one only in an upgrade, so it is given a
// handshake that has been made up, and its answer is dropped.
func newWebSocket(src *source, messageLimit int64) *websocket.Conn {
	conn := src.conn
	src.conn = nil
	ws, err := engineUpgrader.Upgrade(madeUpResponse{src}, madeUpRequest, nil)
	src.conn = conn
	if err != nil {
		panic("conn: gorilla refused a handshake that has been made up: " + err.Error())
	}
	ws.SetReadLimit(messageLimit)
	ws.SetPingHandler(func(payload string) error {
		src.conn.reply(appendFrame(nil, opPong, []byte(payload)))
		return nil
	})
	return ws
}

var engineUpgrader = websocket.Upgrader{
	ReadBufferSize:  1024, // frames are in memory already
	WriteBufferPool: new(sync.Pool),
}

var madeUpRequest = &http.Request{Method: http.MethodGet, Header: http.Header{
	"Connection":            {"upgrade"},
	"Upgrade":               {"websocket"},
	"Sec-Websocket-Version": {"13"},
	"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

type madeUpResponse struct{ src *source }

func (w madeUpResponse) Header() http.Header         { return http.Header{} }
func (w madeUpResponse) Write(p []byte) (int, error) { return len(p), nil }
func (w madeUpResponse) WriteHeader(int)             {}

func (w madeUpResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.src, bufio.NewReadWriter(bufio.NewReaderSize(w.src, 16), bufio.NewWriterSize(w.src, 16)), nil
}

// handshake performs the real upgrade and keeps what the client sent behind it, which gorilla would refuse.
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
