package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ws "picloud/test/peer"
)

// A meddler sits between the load and a server and changes what the server sends over WebSockets.
type meddler struct {
	to       string
	listener net.Listener
	// change returns what is passed on in a message's place; calls do not overlap.
	change func(message string) []string
	mu     sync.Mutex
	open   sync.WaitGroup
}

func meddle(t *testing.T, to string, change func(string) []string) *meddler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{to: to, listener: l, change: change}
	m.open.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			m.open.Go(func() { m.serve(nc) })
		}
	})
	t.Cleanup(func() { l.Close(); m.open.Wait() })
	return m
}

func (m *meddler) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", m.to)
	if err != nil {
		return
	}
	defer server.Close()
	var asking sync.WaitGroup
	asking.Go(func() {
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	})
	defer asking.Wait()
	defer client.Close()
	br := bufio.NewReader(server)
	var head bytes.Buffer
	for {
		line, err := br.ReadBytes('\n')
		head.Write(line)
		if err != nil || len(bytes.TrimSpace(line)) == 0 {
			break
		}
	}
	client.Write(head.Bytes())
	if !strings.HasPrefix(head.String(), "HTTP/1.1 101") {
		io.Copy(client, br)
		return
	}
	p := &peer{br: br}
	for {
		op, payload, err := ws.ReadFrame(p.br, nil)
		if err != nil {
			return
		}
		if op != ws.Text {
			client.Write(append([]byte{ws.Fin | op, byte(len(payload))}, payload...))
			continue
		}
		m.mu.Lock()
		messages := m.change(string(payload))
		m.mu.Unlock()
		for _, text := range messages {
			client.Write(unmasked([]byte(text)))
		}
	}
}

// unmasked returns a text frame as a server sends it.
func unmasked(payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		return append([]byte{ws.Fin | ws.Text, byte(n)}, payload...)
	default:
		return append([]byte{ws.Fin | ws.Text, 126, byte(n >> 8), byte(n)}, payload...)
	}
}

// Anything that goes wrong even once is noticed, whatever else is in the load, and named correctly.
func TestLoadNamesWhatGoesWrong(t *testing.T) {
	of := func(name, message string) bool {
		return strings.HasPrefix(message, `{"action":"publish","event":"`+name+`"`)
	}
	for _, tt := range []struct {
		name   string
		change func(message string) []string // for some subscribers of publisher1
		always bool
		found  func(r report) bool
	}{
		{"messages are lost", func(string) []string { return nil }, false, func(r report) bool { return r.Lost > 0 }},
		{"messages come twice", func(m string) []string { return []string{m, m} }, false,
			func(r report) bool { return r.Doubled > 0 }},
		{"a subscription is forgotten", func(string) []string { return nil }, true,
			func(r report) bool { return r.Deaf > 0 }},
		{"messages come to those who have not asked", func(m string) []string {
			return []string{m, strings.Replace(m, "publisher1", "somebody", 1)}
		}, false, func(r report) bool { return r.Kept > 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, stop := serve(t, "127.0.0.1:0")
			defer stop()
			var meddling atomic.Bool
			n := 0
			m := meddle(t, addr, func(message string) []string {
				if !meddling.Load() || !of("publisher1", message) {
					return []string{message}
				}
				if n++; !tt.always && n%7 != 0 {
					return []string{message}
				}
				return tt.change(message)
			})
			p := small(m.listener.Addr().String())
			p.plain = true
			if r := meddledWith(t, p, &meddling); !tt.found(r) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestLoadNamesAcksThatAreMissing(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer stop()
	var meddling atomic.Bool
	m := meddle(t, addr, func(message string) []string {
		if strings.HasPrefix(message, `{"action":"ack"`) && strings.HasSuffix(message, "7}") &&
			meddling.CompareAndSwap(true, false) {
			return nil
		}
		return []string{message}
	})
	if r := meddledWith(t, small(m.listener.Addr().String()), &meddling); r.Unacked != 1 {
		t.Errorf("got %+v", r)
	}
}

// meddledWith returns the report of a load whose only step begins the meddling. The load must find something.
func meddledWith(t *testing.T, p plan, meddling *atomic.Bool) report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var table strings.Builder
	err := drive(ctx, p, []step{{name: "step", do: func(context.Context, *load) error {
		meddling.Store(true)
		return nil
	}}}, watched{}, &table, io.Discard)
	lines := strings.Split(strings.TrimSpace(table.String()), "\n")
	var r report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, errFound) || r.OK {
		t.Errorf("got %v\n%s", err, table.String())
	}
	return r
}

// The seed determines what is done at random, and is printed.
func TestSeedIsTold(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer stop()
	p := small(addr)
	p.seed = 4711
	table, err := drives(t, p, nothing)
	if err != nil || !strings.Contains(table, `"seed":4711,`) || !strings.Contains(table, " 4711\n") {
		t.Errorf("got %v\n%s", err, table)
	}
	if a, b := random(1, "a"), random(1, "a"); a.Uint64() != b.Uint64() {
		t.Error("the same client of the same seed does something else")
	}
	if a, b := random(1, "a"), random(2, "a"); a.Uint64() == b.Uint64() {
		t.Error("another seed does the same")
	}
}

// Idlers go back to the connection that they have kept, and rest before the load ends.
func TestIdlersKeepTheirConnection(t *testing.T) {
	addr, stop := serve(t, "127.0.0.1:0")
	defer stop()
	p := small(addr)
	p.idleFor = 50 * time.Millisecond
	table, err := drives(t, p, nothing)
	if err != nil || !strings.Contains(table, `"ok":true`) {
		t.Errorf("got %v\n%s", err, table)
	}
}
