package client

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"picloud/internal/wire"

	"github.com/gorilla/websocket"
)

// dialBare returns both ends of a connection.
func dialBare(t *testing.T, p *peer) (*Bare, *socket) {
	t.Helper()
	var b *Bare
	dialed := async(func() (err error) {
		b, err = newCaller(t, p).Dial(t.Context())
		return err
	})
	s := p.accept()
	if err := <-dialed; err != nil {
		t.Fatal(err)
	}
	return b, s
}

func TestBarePassesMessagesAsTheyAre(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, s := dialBare(t, newPeer(t))
		for _, text := range []string{`{"action":"subscribe","event":"door","id":1}`, "", strings.Repeat("x", 511),
			strings.Repeat("x", 512), strings.Repeat("x", 100_000)} {
			written := async(func() error { return b.Write([]byte(text)) })
			if _, got, err := s.ws.ReadMessage(); err != nil || string(got) != text {
				t.Fatalf("the peer got %.40q, %v, want %.40q", got, err, text)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			written = async(func() error { return s.ws.WriteMessage(websocket.TextMessage, []byte(text)) })
			if got, err := b.Read(); err != nil || string(got) != text {
				t.Fatalf("got %.40q, %v, want %.40q", got, err, text)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
		b.Abort()
	})
}

func TestBareAnswersPingsWhileItReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, s := dialBare(t, newPeer(t))
		ponged := make(chan string, 1)
		s.ws.SetPongHandler(func(data string) error {
			ponged <- data
			return nil
		})
		read := async(func() error {
			_, err := b.Read()
			return err
		})
		go s.ws.ReadMessage()
		s.ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Now().Add(time.Second))
		if got := <-ponged; got != "hello" {
			t.Errorf("the pong is %q", got)
		}
		b.Abort()
		if err := <-read; err == nil {
			t.Error("Read went on after Abort")
		}
	})
}

func TestBareClosesAsRFC6455Asks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, s := dialBare(t, newPeer(t))
		closed := async(func() error {
			b.Close()
			return nil
		})
		if _, _, err := s.ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the peer got %v", err)
		}
		<-closed
	})
}

func TestBareThatTheServerEndsSaysWhy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, s := dialBare(t, newPeer(t))
		go s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(wire.CloseTooSlow, ""),
			time.Now().Add(time.Second))
		_, err := b.Read()
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != wire.CloseTooSlow {
			t.Errorf("got %v", err)
		}
		b.Abort()
	})
}

func TestBareThatIsRefusedSaysWhatToDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(status(http.StatusUnauthorized, "", ""))
		_, err := newCaller(t, p).Dial(t.Context())
		checkContains(t, err, "refuses this key")
	})
}

func TestBareReadsIntoOneBuffer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, s := dialBare(t, newPeer(t))
		defer b.Abort()
		text := bytes.Repeat([]byte("x"), 4000)
		go func() {
			for range 3 {
				s.write(text)
			}
		}()
		var first *byte
		for range 3 {
			got, err := b.Read()
			if err != nil {
				t.Fatal(err)
			}
			if first != nil && first != &got[0] {
				t.Error("each message has its own buffer")
			}
			first = &got[0]
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/metrics" || r.Header.Get("X-API-Key") != "sesame" {
				t.Errorf("asked for %s with %v", r.URL, r.Header)
			}
			w.Write([]byte("# HELP a Words 1\n# TYPE a gauge\na 12\nb 1.5e+06\nc{d=\"e\"} 3\n\nnonsense\n"))
			return true
		})
		got, err := newCaller(t, p).Metrics(t.Context())
		if err != nil || len(got) != 2 || got["a"] != 12 || got["b"] != 1.5e6 {
			t.Errorf("got %v, %v", got, err)
		}
		p.set(status(http.StatusUnauthorized, "", ""))
		_, err = newCaller(t, p).Metrics(t.Context())
		checkContains(t, err, "metrics", "refuses this key")
	})
}
