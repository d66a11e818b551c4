package server

import (
	"errors"
	"io"
	"net/http"
	"time"

	"picloud/internal/httpconn"
	"picloud/internal/hub"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
)

// A publisher is what publishing needs while it lasts: memory for the frames, and the list of the sinks to be flushed.
// It is borrowed from Server.publishers by one goroutine at a time.
type publisher struct {
	batch hub.Batch
	own   hub.Sink // of the client that publishes, whose acks go out last; nil for a POST
	arena wsconn.Arena
	text  []byte
	name  []byte // quoted
	body  []byte // of a POST
}

// keepBytes is the largest buffer that is kept for the next use.
const keepBytes = 128 << 10

var errStopping = errors.New("server is stopping")

// publish encodes a message, once, and queues it for all its subscribers. Once their connections may have been sent a
// close frame, it queues nothing and returns errStopping.
func (s *Server) publish(p *publisher, m *wire.Message, from string) error {
	p.name = wire.AppendString(p.name[:0], from)
	at := time.Now()
	p.text = wire.AppendDelivery(p.text[:0], m.Event, m.Data, at, p.name)
	frame := p.arena.Text(p.text)
	s.gate.RLock()
	stopping := s.stopping
	if !stopping {
		s.hub.Publish(&p.batch, m.Event, frame, hub.Note{At: at, From: from, Data: m.Data})
	}
	s.gate.RUnlock()
	if stopping {
		return errStopping
	}
	s.relieve()
	p.sent(len(frame))
	return nil
}

// answer queues text for the client that is being served.
func (p *publisher) answer(c *wsconn.Conn, text []byte) {
	p.text = text
	frame := p.arena.Text(text)
	p.batch.Queue(c, frame)
	p.sent(len(frame))
}

// flush sends the clients what was queued; the acks for what was published go out last.
func (p *publisher) flush() { p.arena.Flushed(p.batch.Flush(p.own)) }

func (p *publisher) sent(n int) {
	if p.batch.Added(n) {
		p.flush()
	}
	if cap(p.text) > keepBytes {
		p.text = nil
	}
}

func (s *Server) publishPost(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) {
		return
	}
	name, ok := named(w, r)
	if !ok {
		return
	}
	p := s.publishers.Get().(*publisher)
	s.publishBody(p, w, r, name)
	s.publishers.Put(p) // not after a panic, which could have left anything in it
}

func (s *Server) publishBody(p *publisher, w http.ResponseWriter, r *http.Request, name string) {
	if !p.readBody(w, r, s.cfg.Limits.MessageBytes) {
		return
	}
	m, err := wire.Decode(p.body)
	if err == nil && m.Action != wire.None && m.Action != wire.Publish {
		err = errors.New("action must be publish, or missing")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.publish(p, &m, name); err != nil {
		unavailable(w, err.Error())
		return
	}
	p.flush()
	w.WriteHeader(http.StatusCreated)
}

// publishPlain is publishPost for a request of the plain kind that succeeds. For others it does nothing and returns
// false: net/http takes the request, and publishPost answers it.
func (s *Server) publishPlain(r *httpconn.Request) (answer []byte, ok bool) {
	if string(r.Method) != http.MethodPost || string(r.Path) != "/publish" || len(r.Body) > s.cfg.Limits.MessageBytes {
		return nil, false
	}
	c := plainCredentials(r)
	if !isUnix(r.Local) && !s.guard.admits(c.key(), plainOrigin(r), time.Now()) {
		return nil, false
	}
	name := c.name()
	if wire.CheckName(name) != nil {
		return nil, false
	}
	m, err := wire.Decode(r.Body)
	if err != nil || m.Action != wire.None && m.Action != wire.Publish {
		return nil, false
	}
	p := s.publishers.Get().(*publisher)
	if err = s.publish(p, &m, name); err == nil {
		p.flush()
	}
	s.publishers.Put(p)
	if err != nil {
		return nil, false
	}
	return s.createdNow(), true
}

// created is the answer to everything published within one second.
type created struct {
	second int64
	answer []byte
}

// createdNow is what net/http sends for a 201 without a body.
func (s *Server) createdNow() []byte {
	now := time.Now()
	if c := s.created.Load(); c != nil && c.second == now.Unix() {
		return c.answer
	}
	c := &created{now.Unix(), now.UTC().AppendFormat([]byte("HTTP/1.1 201 Created\r\nDate: "), http.TimeFormat)}
	c.answer = append(c.answer, "\r\nContent-Length: 0\r\n\r\n"...)
	s.created.Store(c)
	return c.answer
}

// readBody reads a request's body into p.body, or answers it.
func (p *publisher) readBody(w http.ResponseWriter, r *http.Request, limit int) bool {
	if r.ContentLength > int64(limit) {
		tooLarge(w)
		return false
	}
	if cap(p.body) > keepBytes {
		p.body = nil
	}
	p.body = p.body[:0]
	body := http.MaxBytesReader(w, r.Body, int64(limit))
	for {
		if len(p.body) == cap(p.body) {
			p.body = append(p.body, make([]byte, max(512, len(p.body)))...)[:len(p.body)]
		}
		n, err := body.Read(p.body[len(p.body):cap(p.body)])
		p.body = p.body[:len(p.body)+n]
		var over *http.MaxBytesError
		switch {
		case err == io.EOF:
			return true
		case errors.As(err, &over):
			tooLarge(w)
			return false
		case err != nil:
			refuse(w, http.StatusBadRequest, "body could not be read")
			return false
		}
	}
}

func tooLarge(w http.ResponseWriter) {
	w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	refuse(w, http.StatusRequestEntityTooLarge, "message is over the limit")
}
