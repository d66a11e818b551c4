package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"picloud/internal/hub"
	"picloud/internal/wire"
)

func TestInfoShowsTheTrafficOfEventsAndConnections(t *testing.T) {
	sv := start(t, func(c *Config) {
		c.About = func() About { return About{Port: 9000, TLS: true, LED: "GPIO17", LEDError: "no such line"} }
	})
	porch, attic := sv.subscriber(t, "Porch"), sv.subscriber(t, "Attic")
	for _, p := range []*peer{porch, attic} {
		p.ask(`{"action":"subscribe","event":"heat","id":1}`)
	}
	attic.ask(`{"action":"subscribe","event":"rain","id":1}`)
	porch.send(`{"action":"publish","event":"heat","data":{"c": 24.70}}`)
	porch.delivery()
	sv.post(t, `{"event":"heat","data":"`+strings.Repeat("ü", 1000)+`"}`)
	porch.delivery()
	porch.send(`{"action":"publish","event":""}`)
	porch.text() // refused
	porch.ask(`{"action":"publish","event":"nobody's","id":1}`)

	info := sv.watch(t).info()
	s := info.Server
	if s.Port != 9000 || !s.TLS || s.LED != "GPIO17" || s.LEDError != "no such line" {
		t.Errorf("about the server: %+v", s)
	}
	if len(s.EventTraffic) != 2 || len(s.ConnectionTraffic) != 2 {
		t.Fatalf("%d and %d entries, want 2 and 2, as in %+v", len(s.EventTraffic), len(s.ConnectionTraffic), info)
	}
	heat, rain := s.EventTraffic[0], s.EventTraffic[1]
	if heat.Published != 2 || heat.Delivered != 4 || heat.Last == nil {
		t.Fatalf("heat: %+v, want 2 published, 4 delivered and the last of them", heat)
	}
	wholes := (hub.PreviewBytes - 1) / len("ü")
	last := wire.LastMessage{CreatedAt: heat.Last.CreatedAt, ClientName: "Poster", Preview: `"` + strings.Repeat("ü", wholes), DataBytes: 2002}
	if *heat.Last != last || time.Since(last.CreatedAt) > patience {
		t.Errorf("last of heat: %+v, want %+v", *heat.Last, last)
	}
	if rain.Published != 0 || rain.Last != nil {
		t.Errorf("rain: %+v, want nothing", rain)
	}
	if got, want := s.ConnectionTraffic, []wire.ConnectionTraffic{{Published: 2, Delivered: 2}, {Published: 0, Delivered: 2}}; got[0] != want[0] || got[1] != want[1] {
		t.Errorf("traffic of Porch and Attic: %+v, want %+v", got, want)
	}
}

func TestPreviewEndsWithAWholeCharacter(t *testing.T) {
	at := time.Unix(1, 0)
	for _, tt := range []struct {
		kept  string
		bytes int
		want  string
	}{
		{`"ü"`, 4, `"ü"`},
		{"\"\xc3", 4, `"`},
		{"\"\xe2\x82", 5, `"`},
		{"\"€", 9, `"€`},
		{"\"\ufffd", 9, "\"\ufffd"},
		{"", 0, ""},
	} {
		got := lastMessage(hub.Last{Note: hub.Note{At: at, Data: []byte(tt.kept)}, Bytes: tt.bytes})
		if got.Preview != tt.want || got.DataBytes != tt.bytes {
			t.Errorf("%q of %d bytes: got %+v, want %q", tt.kept, tt.bytes, got, tt.want)
		}
	}
}

func TestLatestSlowClientsAreKeptAndAllAreCounted(t *testing.T) {
	var d slowClients
	for i := range mostSlowClients + 5 {
		d.note(fmt.Sprint("client ", i), "local", errors.New("slow"))
	}
	list := d.list()
	if d.Load() != mostSlowClients+5 || len(list) != mostSlowClients || list[0].ClientName != "client 24" || list[19].ClientName != "client 5" {
		t.Errorf("%d counted, listed: %+v", d.Load(), list)
	}
}

func TestInfoMetricsAndLogTellWhoWasKeptOverARestart(t *testing.T) {
	l := found(t)
	for range 3 {
		l.subscriber(t, "A").ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	unknown := l.conns.All()[0].Kept()
	l.between = func() {
		if err := unknown.Delete(recordClient, ""); err != nil { // nothing tells who it is
			t.Fatal(err)
		}
	}
	l.restart()
	lines := l.log.lines(t, "connections kept over restart")
	if len(lines) != 1 || lines[0]["kept_over_restart"] != "2" || lines[0]["lost_over_restart"] != "1" || lines[0]["process_was_killed"] != "false" {
		t.Errorf("logged %v, want one line with 2 kept and 1 lost", lines)
	}
	samples, err := parseMetrics(l.request(t, "GET", "/metrics", "", "X-API-Key", testKey).body)
	if err != nil || samples["picloud_kept_over_restart"] != 2 || samples["picloud_lost_over_restart"] != 1 {
		t.Errorf("the metrics have %v and %v (%v), want 2 and 1", samples["picloud_kept_over_restart"], samples["picloud_lost_over_restart"], err)
	}
	if s := l.watch(t).info().Server; s.KeptOverRestart != 2 || s.LostOverRestart != 1 {
		t.Errorf("the info has %d and %d, want 2 and 1", s.KeptOverRestart, s.LostOverRestart)
	}
}

// What a dashboard costs with as many clients as the default limit allows, each with an event of its own.
func BenchmarkSnapshot(b *testing.B) {
	s, _ := newServer(b)
	var batch hub.Batch
	for i := range 8192 {
		c := s.hub.Join(deaf{}, fmt.Sprint("Sensor ", i), fmt.Sprintf("192.168.1.%d:%d", i%256, 20000+i), time.Now())
		event := fmt.Appendf(nil, "event/%d", i)
		if _, err := s.hub.Subscribe(c, event, 1); err != nil {
			b.Fatal(err)
		}
		s.hub.Publish(&batch, event, nil, hub.Note{At: time.Now(), From: "Porch", Data: []byte(`{"celsius":24.7,"humid":false}`)})
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(s.snapshot())))
	}
	b.StopTimer()
	s.release()
}

type deaf struct{}

func (deaf) Queue([]byte, uint64) bool { return false }
func (deaf) Flush() bool               { return true }
