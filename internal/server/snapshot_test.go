package server

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/internal/hub"
	ws "picloud/test/peer"
)

// A household is clients with what they have subscribed to.
type household struct {
	what            string
	clients, events int    // each client's
	own             bool   // nobody else has subscribed to them
	client, event   string // their names, which follow a number of six digits
	data            string // published to each event
}

// settle fills the server's hub. It returns the names of the client and the event that are the latest.
func (h household) settle(t testing.TB, s *Server) (client, event string) {
	t.Helper()
	var batch hub.Batch
	for i := range h.clients {
		client = fmt.Sprintf("%06d%s", i, h.client)
		c := s.hub.Join(deaf{}, client, fmt.Sprintf("192.168.%d.%d:%d", i/250%250, i%250, 20000+i%40000), time.Now())
		for k := range h.events {
			if h.own {
				k += i * h.events
			}
			event = fmt.Sprintf("%06d%s", k, h.event)
			if _, err := s.hub.Subscribe(c, []byte(event), h.events); err != nil {
				t.Fatal(err)
			}
			if h.data != "" {
				s.hub.Publish(&batch, []byte(event), nil, hub.Note{At: time.Now(), From: client, Data: []byte(h.data)})
			}
		}
	}
	return client, event
}

func TestWhoAsksMeanwhileSharesTheNextSnapshot(t *testing.T) {
	var shots snapshots
	made := 0
	making, goOn := make(chan bool), make(chan bool)
	var asking sync.WaitGroup
	asking.Go(func() {
		shots.since(time.Now(), func() []byte {
			made++
			making <- true
			<-goOn
			return []byte("first")
		})
	})
	<-making
	next := func() []byte {
		made++
		return []byte("next")
	}
	got := make([]*snapshot, 50)
	for i := range got {
		asked := time.Now()
		asking.Go(func() { got[i] = shots.since(asked, next) })
	}
	close(goOn)
	asking.Wait()
	for _, shot := range got {
		if shot != got[0] || string(shot.text) != "next" || string(shot.frame[2:]) != "next" {
			t.Fatalf("one got %q in %q, another %q, want all the same, which is next", shot.text, shot.frame, got[0].text)
		}
	}
	if made != 2 {
		t.Errorf("%d snapshots were made, want 2", made)
	}
	if shot := shots.since(got[0].begun.Add(-1), next); shot != got[0] {
		t.Error("one that is recent enough was made again")
	}
	if shot := shots.since(got[0].begun, next); shot == got[0] {
		t.Error("one that was begun at the time was taken for later")
	}
}

// What is written to those who share a snapshot is the same memory: they take no more of it if they do not read.
func TestManyWhoAskTakeTheMemoryOfOne(t *testing.T) {
	s, _ := newServer(t)
	defer s.release()
	household{clients: 100, events: 100, client: " client", event: " event"}.settle(t, s)
	shot := s.info.since(time.Now(), s.snapshot)
	shot.begun = shot.begun.Add(time.Hour) // recent enough for all
	answers := make([]written, 50)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() {
			r := httptest.NewRequest("GET", "/info", nil)
			r.Header.Set("X-API-Key", testKey)
			s.infoEither(&answers[i], r)
		})
	}
	asking.Wait()
	for _, a := range answers {
		if len(a.all) != 2 || !bytes.Equal(a.all[0], shot.text) || &a.all[0][0] != &shot.text[0] ||
			string(a.all[1]) != "\n" {
			t.Fatalf("%d pieces were written, want the snapshot itself and a line end", len(a.all))
		}
	}
	if &shot.frame[len(shot.frame)-1] != &shot.text[len(shot.text)-1] {
		t.Error("those who get a frame take more than those who get the text")
	}
}

// A written keeps what is written to it.
type written struct {
	header http.Header
	all    [][]byte
}

func (w *written) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *written) WriteHeader(int) {}

func (w *written) Write(p []byte) (int, error) {
	w.all = append(w.all, p)
	return len(p), nil
}

// Whoever has an ack and then asks finds what was acked, however many others ask at the same time.
func TestInfoHasWhatWasAcked(t *testing.T) {
	const clients, rounds = 8, 25
	sv := start(t)
	var asking sync.WaitGroup
	for i := range clients {
		p := sv.subscriber(t, fmt.Sprint("client ", i))
		asking.Go(func() {
			for k := range rounds {
				event := fmt.Sprintf("%d/%d", i, k)
				for _, action := range []string{"subscribe", "unsubscribe"} {
					if _, err := p.Write(ws.Frame(ws.Fin|ws.Text, `{"action":"`+action+`","event":"`+event+`","id":1}`)); err != nil {
						t.Error(err)
						return
					}
					if text, err := p.message(); err != nil || string(text) != `{"action":"ack","id":1}` {
						t.Errorf("%s: %s, %v", action, text, err)
						return
					}
					a, err := sv.send("GET", "/info", nil, "X-API-Key", testKey)
					if err != nil || a.status != http.StatusOK {
						t.Errorf("status %d, %v", a.status, err)
						return
					}
					if listed := strings.Contains(a.body, `{"name":"`+event+`"`); listed != (action == "subscribe") {
						t.Errorf("after the ack of %s the event is listed: %t", action, listed)
						return
					}
				}
			}
		})
	}
	asking.Wait()
}

func TestMetricsMakeNoSnapshot(t *testing.T) {
	sv := start(t)
	if a := sv.request(t, "GET", "/metrics", "", "X-API-Key", testKey); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	sv.info.mu.Lock()
	defer sv.info.mu.Unlock()
	if sv.info.last != nil {
		t.Error("it had a snapshot made")
	}
}
