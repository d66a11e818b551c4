package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// patience bounds the life of every connection here, and so every wait for the daemon.
const patience = 2 * time.Minute

// socket is the client's end of a WebSocket, with as little to it as a load of thousands wants.
type socket struct {
	*net.TCPConn
	in   *bufio.Reader
	text []byte // of the message that was read last
}

// dial opens the i-th connection of a crowd. Loopback has as many source addresses as one likes, and each has its own ports.
func (d *daemon) dial(i int) (*socket, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}
	dialer := net.Dialer{Timeout: patience, LocalAddr: from, KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
	conn, err := dialer.Dial("tcp4", d.addr)
	if err != nil {
		return nil, err
	}
	s := &socket{TCPConn: conn.(*net.TCPConn), in: bufio.NewReaderSize(conn, 512)}
	if err := s.upgrade(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) upgrade() error {
	s.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s, "GET /subscribe?clientName=load&apiKey="+key+" HTTP/1.1\r\nHost: load\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		return err
	}
	for first := true; ; first = false {
		line, err := s.in.ReadSlice('\n')
		switch {
		case err != nil:
			return fmt.Errorf("handshake: %w", err)
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101 ")):
			return fmt.Errorf("handshake: the daemon answers %q", line)
		case len(line) <= 2:
			return nil
		}
	}
}

const (
	opText  = 1
	opClose = 8
)

// appendFrame appends a client's frame. Its mask is 0, so that the payload stands in it as it is.
func appendFrame(p []byte, op byte, payload string) []byte {
	p = append(p, 0x80|op)
	if len(payload) < 126 {
		p = append(p, 0x80|byte(len(payload)))
	} else {
		p = binary.BigEndian.AppendUint16(append(p, 0x80|126), uint16(len(payload)))
	}
	return append(append(p, 0, 0, 0, 0), payload...)
}

func (s *socket) send(op byte, payload string) error {
	_, err := s.Write(appendFrame(nil, op, payload))
	return err
}

// read returns the next message, which is good until the next read. The end of the connection is io.EOF.
func (s *socket) read() ([]byte, error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(s.in, head[:2]); err != nil {
			return nil, err
		}
		n := int(head[1])
		if n == 126 {
			if _, err := io.ReadFull(s.in, head[2:]); err != nil {
				return nil, err
			}
			n = int(binary.BigEndian.Uint16(head[2:]))
		}
		s.text = append(s.text[:0], make([]byte, n)...)
		if _, err := io.ReadFull(s.in, s.text); err != nil {
			return nil, err
		}
		if head[0] == 0x80|opText {
			return s.text, nil
		}
	}
}

func (s *socket) subscribe(event string) error {
	if err := s.send(opText, `{"action":"subscribe","event":"`+event+`","id":1}`); err != nil {
		return err
	}
	answer, err := s.read()
	if err == nil && !bytes.Contains(answer, []byte(`"ack"`)) {
		err = fmt.Errorf("the daemon answers %q", answer)
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", event, err)
	}
	return nil
}

// leave ends the connection as a browser does, or as a device does whose battery is pulled.
func (s *socket) leave(orderly bool) error {
	defer s.Close()
	if !orderly {
		return s.SetLinger(0)
	}
	if err := s.send(opClose, "\x03\xe8"); err != nil {
		return err
	}
	for {
		if _, err := s.read(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("leave: %w", err)
		}
	}
}

// publish is a message with number in its data.
func publish(event string, number int) string {
	const padding = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	return fmt.Sprintf(`{"action":"publish","event":"%s","data":"%020d%s"}`, event, number, padding)
}

// due checks that the next message is that one.
func (s *socket) due(event string, number int) error {
	got, err := s.read()
	if err == nil && !bytes.HasPrefix(got, fmt.Appendf(nil, `{"action":"publish","event":"%s","data":"%020dx`, event, number)) {
		err = fmt.Errorf("got %q", got)
	}
	if err != nil {
		return fmt.Errorf("message %d of %s is due: %w", number, event, err)
	}
	return nil
}

// each calls do for 0 to n-1, many at a time, and returns the first error.
func each(n int, do func(i int) error) error {
	var (
		next  atomic.Int64
		once  sync.Once
		first error
		tasks sync.WaitGroup
	)
	for range 256 {
		tasks.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
				}
			}
		})
	}
	tasks.Wait()
	return first
}

type crowd []*socket

// gather connects n clients and gives each the events of its number.
func (d *daemon) gather(n int, events func(i int) []string) (crowd, error) {
	c := make(crowd, n)
	err := each(n, func(i int) error {
		s, err := d.dial(i)
		if err != nil {
			return err
		}
		c[i] = s
		for _, event := range events(i) {
			if err := s.subscribe(event); err != nil {
				return err
			}
		}
		return nil
	})
	return c, err
}

// disperse ends all connections at once.
func (c crowd) disperse() {
	for _, s := range c {
		if s != nil {
			s.leave(false)
		}
	}
}
