package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"picloud/test/peer"
)

// patience bounds the life of every connection here but the bystander's, and so every wait for the daemon. An emulated
// machine is slow.
const patience = 15 * time.Minute

// socket is the client's end of a WebSocket, kept small for a load of thousands.
type socket struct {
	*net.TCPConn
	in   *bufio.Reader
	text []byte // of the message that was read last
}

// open opens the i-th connection of a crowd. Loopback has any number of source addresses, each with its own ports.
func (d *daemon) open(i int) (*net.TCPConn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}
	dialer := net.Dialer{Timeout: patience, LocalAddr: from, KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
	if d.tight {
		dialer.Control = tighten
	}
	conn, err := dialer.Dial("tcp4", d.addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// tighten leaves a socket with as little of the kernel's memory as it gives. It must be done before the socket
// connects: what the window was said to be at first will be filled.
func tighten(_, _ string, raw syscall.RawConn) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096),
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 16<<10))
	}); cerr != nil {
		return cerr
	}
	return err
}

// dial is open for a WebSocket.
func (d *daemon) dial(i int) (*socket, error) {
	conn, err := d.open(i)
	if err != nil {
		return nil, err
	}
	s := &socket{TCPConn: conn, in: bufio.NewReaderSize(conn, 512)}
	if err := s.upgrade(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) upgrade() error {
	s.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s, peer.Handshake("/subscribe?clientName=load&apiKey="+key, peer.Nonce)); err != nil {
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

// appendText appends a message. Its mask is 0, which costs nothing.
func appendText(b []byte, text string) []byte {
	return peer.AppendFrame(b, peer.Fin|peer.Text, [4]byte{}, text)
}

func (s *socket) send(text string) error {
	_, err := s.Write(appendText(nil, text))
	return err
}

// read returns the next message, which is valid until the next read. The end of the connection is io.EOF.
func (s *socket) read() ([]byte, error) {
	for {
		op, text, err := peer.ReadFrame(s.in, s.text)
		if err != nil {
			return nil, err
		}
		s.text = text
		if op == peer.Text {
			return text, nil
		}
	}
}

func (s *socket) subscribe(event string) error {
	if err := s.send(`{"action":"subscribe","event":"` + event + `","id":1}`); err != nil {
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

// leave ends the connection as a browser does, or as a device whose battery is pulled does.
func (s *socket) leave(orderly bool) error {
	defer s.Close()
	if !orderly {
		return s.SetLinger(0)
	}
	if _, err := s.Write(peer.Frame(peer.Fin|peer.Close, "\x03\xe8")); err != nil {
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

// publish returns a message with number in its data.
func publish(event string, number int) string {
	const padding = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	return fmt.Sprintf(`{"action":"publish","event":"%s","data":"%020d%s"}`, event, number, padding)
}

// due checks that the next message is the one that is due.
func (s *socket) due(event string, number int) error {
	got, err := s.read()
	if err == nil && !bytes.HasPrefix(got, fmt.Appendf(nil, `{"action":"publish","event":"%s","data":"%020dx`, event,
		number)) {
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

// gather connects n clients; client i subscribes to events(i).
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
