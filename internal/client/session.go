package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"picloud/internal/wire"

	"github.com/gorilla/websocket"
)

const (
	patience  = 10 * time.Second // for connecting, and for a write
	pingEvery = 20 * time.Second
	silence   = 60 * time.Second // from the server, after which it counts as gone
	grace     = time.Second      // for what is still in flight when a connection ends
)

var errGone = errors.New("the connection is gone")

// session is one WebSocket connection, with a goroutine that reads and one that writes. It ends when reading does.
type session struct {
	ws    *websocket.Conn
	link  *link
	out   chan []byte
	pongs chan []byte

	gone chan struct{} // closed by read, once no more answers can come
	err  error         // why; set before gone is closed

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]*Receipt
	limit   int // the longest message that the server takes; 0 is not known
}

// open dials and makes the WebSocket handshake.
func (c *Client) open(ctx context.Context) (*session, error) {
	l := new(link)
	ws, err := c.handshake(ctx, websocket.Dialer{WriteBufferSize: batchBytes}, func(conn net.Conn) net.Conn {
		l.Conn = conn
		return l
	})
	if err != nil {
		return nil, err
	}
	l.begin()
	s := &session{
		ws:      ws,
		link:    l,
		out:     make(chan []byte, 64),
		pongs:   make(chan []byte, 1),
		gone:    make(chan struct{}),
		pending: make(map[uint64]*Receipt),
	}
	ws.SetPingHandler(func(data string) error {
		select {
		case s.pongs <- []byte(data):
		default: // RFC 6455 §5.5.3 lets us answer only the latest
		}
		return nil
	})
	ws.SetCloseHandler(func(int, string) error { return nil }) // the writer answers
	return s, nil
}

// handshake opens a WebSocket over the connection as wrap returns it.
func (c *Client) handshake(ctx context.Context, dialer websocket.Dialer, wrap func(net.Conn) net.Conn) (*websocket.Conn,
	error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := func() bool { return true }
	dialer.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := c.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		// gorilla heeds the deadline of ctx, but not its cancellation.
		stop = context.AfterFunc(ctx, func() { conn.Close() })
		return wrap(conn), nil
	}
	// dial does TLS where it is needed, so gorilla need not know.
	ws, resp, err := dialer.DialContext(limited, "ws://"+c.address.host+"/subscribe", c.header.Clone())
	if !stop() {
		if err == nil {
			ws.Close()
		}
		err = context.Cause(limited)
	}
	if errors.Is(err, websocket.ErrBadHandshake) {
		err = statusError(resp, c.options.Key == "")
	}
	if err != nil {
		return nil, connectError(c.address, err)
	}
	return ws, nil
}

// Receipt is a message in flight.
type Receipt struct {
	s    *session
	done chan struct{}
	err  error // the server's answer; set before done is closed
}

// Wait returns once every subscriber of the event has the message in its queue. If the server refuses it, the error is
// a *wire.Error; if the connection or ctx ends before the answer, it is ErrUnconfirmed. Wait may be called more than
// once.
func (r *Receipt) Wait(ctx context.Context) error {
	err := r.wait(ctx)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*wire.Error](err); ok {
		return err
	}
	if errors.Is(err, errGone) {
		err = r.s.err
	}
	return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
}

func (r *Receipt) wait(ctx context.Context) error {
	var err error
	select {
	case <-r.done:
	case <-r.s.gone:
		err = errGone
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	select {
	case <-r.done: // an answer counts, even if it was the last thing to arrive
		return r.err
	default:
		return err
	}
}

// number returns a message, and the id that it has.
func (s *session) number(action wire.Action, event string, data json.RawMessage) ([]byte, uint64) {
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.mu.Unlock()

	p := make([]byte, 0, len(`{"action":"subscribe","event":"","data":,"id":}`)+len(event)+len(data)+20)
	p = append(p, `{"action":"`...)
	p = append(p, action.String()...)
	p = append(p, `","event":`...)
	p = wire.AppendString(p, event)
	if data != nil {
		p = append(p, `,"data":`...)
		p = append(p, data...)
	}
	p = append(p, `,"id":`...)
	p = strconv.AppendUint(p, id, 10)
	return append(p, '}'), id
}

// send queues a message from number. An error, errGone or the cause of ctx, means that it will not be sent.
func (s *session) send(ctx context.Context, id uint64, p []byte) (*Receipt, error) {
	select {
	case <-s.gone:
		return nil, errGone
	default:
	}
	r := &Receipt{s: s, done: make(chan struct{})}
	s.mu.Lock()
	s.pending[id] = r
	s.mu.Unlock()

	var err error
	select {
	case s.out <- p:
		return r, nil
	case <-s.gone:
		err = errGone
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
	return nil, err
}

// answer settles the message with this id. It is no error if nobody is waiting for it.
func (s *session) answer(id json.RawMessage, err error) {
	n, parseErr := strconv.ParseUint(string(id), 10, 64)
	if parseErr != nil {
		return
	}
	s.mu.Lock()
	r := s.pending[n]
	delete(s.pending, n)
	s.mu.Unlock()
	if r != nil {
		r.err = err
		close(r.done)
	}
}

func (s *session) read(ctx context.Context, deliver func(wire.Delivery)) {
	s.err = s.receive(ctx, deliver)
	if ctx.Err() != nil {
		s.err = ErrStopped
	}
	close(s.gone)
}

func (s *session) receive(ctx context.Context, deliver func(wire.Delivery)) error {
	for {
		_, p, err := s.ws.ReadMessage()
		if err != nil {
			return closeError(err)
		}
		var d wire.Delivery
		if err := json.Unmarshal(p, &d); err != nil {
			return hopeless{fmt.Errorf("%w (%w)", errNotPiCloud, err)}
		}
		switch d.Action {
		case "ack":
			s.answer(d.ID, nil)
		case "error":
			s.answer(d.ID, &wire.Error{Reason: d.Error})
		case "publish":
			if deliver != nil && ctx.Err() == nil {
				deliver(d)
			}
		}
		// Any other action comes from a later version of the server.
	}
}

func (s *session) write(ctx context.Context) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var err error
		select {
		case p := <-s.out:
			err = s.ws.WriteMessage(websocket.TextMessage, p)
		case p := <-s.pongs:
			err = s.control(websocket.PongMessage, p)
		case <-ping.C:
			err = s.control(websocket.PingMessage, nil)
		case <-s.gone:
			s.goodbye()
			return
		case <-ctx.Done():
			s.goodbye()
			return
		}
		if err == nil && len(s.out) == 0 {
			err = s.link.flush()
		}
		if err != nil {
			// What the server said before it went has still to be read.
			s.closeSoon()
			return
		}
	}
}

// goodbye answers the server's close frame (RFC 6455 §5.5.1), or sends the first one.
func (s *session) goodbye() {
	code := websocket.CloseNormalClosure
	select {
	case <-s.gone:
		code = 0
		if e, ok := errors.AsType[*CloseError](s.err); ok && e.Code != websocket.CloseNoStatusReceived {
			code = e.Code
		}
	default:
	}
	if code != 0 {
		s.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
	}
	s.link.flush()
}

func (s *session) control(kind int, data []byte) error {
	return s.ws.WriteControl(kind, data, time.Now().Add(patience))
}

func (s *session) closeSoon() {
	time.AfterFunc(grace, func() { s.link.Close() })
}
