package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"picloud/internal/wsconn"
)

// What the service manager's side of the daemon uses: reload over the local socket, the watchdog's probe, the status.
func TestReloadProbeAndStatus(t *testing.T) {
	var broken atomic.Pointer[error] // atomic, since the race detector sees no order in a request over a socket
	broken.Store(new(error))
	s, err := New(Config{
		Key: testKey, Version: "test", Subscriptions: 8, SubscriptionBytes: 1 << 20, WaitingBytes: 1 << 20,
		TCPBytes: 1 << 30, HeaderTimeout: time.Second, WrongKeys: 3, Requests: 8,
		Limits: wsconn.Limits{Connections: 8, MessageBytes: 1024, QueueBytes: 4096, PingEvery: time.Minute,
			PeerTimeout: time.Minute},
		Reload: func() error { return *broken.Load() },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	local, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, local, tcp) }()
	post := func(l net.Listener) int {
		t.Helper()
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
			}}}
		resp, err := c.Post("http://local/reload", "", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := post(local); got != http.StatusNoContent {
		t.Errorf("reload: got %d, want 204", got)
	}
	mismatch := errors.New("the key does not belong to the certificate")
	broken.Store(&mismatch)
	if got := post(local); got != http.StatusConflict {
		t.Errorf("failed reload: got %d, want 409", got)
	}
	if got := post(tcp); got != http.StatusNotFound {
		t.Errorf("reload over the network: got %d, want 404", got)
	}
	if got, want := s.Status(), "0 clients, 0 events"; got != want {
		t.Errorf("status: got %q, want %q", got, want)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("probe: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A poller that does not run is what the probe must see.
func TestProbeFailsWhenThePollerDoesNotAnswer(t *testing.T) {
	s, err := New(Config{Key: testKey, Limits: wsconn.Limits{Connections: 1, PingEvery: time.Minute}},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Probe(ctx); err == nil {
		t.Error("the probe succeeds without a poller")
	}
}
