package tlsconn

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"picloud/internal/poll"
	"picloud/internal/tlsrecord"
	"picloud/test/certified"
	"picloud/test/wait"
)

// A rig is a Stream on one end of a TCP connection, with a client of crypto/tls at the other.
type rig struct {
	*Stream
	t      testing.TB
	fd     int
	nc     net.Conn // the Stream's socket
	client *tls.Conn
	wire   *wire // below the client
}

// A wire counts what the client reads, and can hold back what it writes.
type wire struct {
	*net.TCPConn
	read  atomic.Int64
	write func(p []byte) // instead of TCPConn's Write
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.TCPConn.Read(p)
	w.read.Add(int64(n))
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.write == nil {
		return w.TCPConn.Write(p)
	}
	w.write(p)
	return len(p), nil
}

// SetWriteDeadline does nothing: crypto/tls lets nothing be written after its close_notify, and put does.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// put writes to the socket as it is.
func (w *wire) put(t testing.TB, p []byte) {
	t.Helper()
	if _, err := w.TCPConn.Write(p); err != nil {
		t.Error(err)
	}
}

// each runs a story with each version.
func each(t *testing.T, story func(t *testing.T, r *rig)) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) { story(t, newRig(t, version)) })
	}
}

func newRig(t testing.TB, version uint16) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bare, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bare.Close() })
	r := &rig{t: t, wire: &wire{TCPConn: bare.(*net.TCPConn)}}
	if r.nc, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.nc.Close() })
	for _, nc := range []net.Conn{bare, r.nc} {
		nc.SetDeadline(time.Now().Add(wait.Patience))
	}
	config := certified.Client()
	config.MaxVersion = version
	r.client = tls.Client(r.wire, config)
	shaken := make(chan error, 1)
	go func() { shaken <- r.client.Handshake() }()
	link, err := tlsrecord.Handshake(r.nc, certified.Server())
	if err != nil {
		t.Fatal(err)
	}
	if err := wait.For(t, shaken, "the client's handshake"); err != nil {
		t.Fatal(err)
	}
	r.Stream = New(link)
	raw, err := r.nc.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { r.fd = int(fd) })
	return r
}

// over is Over on the rig's socket.
func (r *rig) over() net.Conn {
	r.t.Helper()
	nc, err := r.Over(r.nc)
	if err != nil {
		r.t.Fatal(err)
	}
	return nc
}

// record returns what the client would send of text.
func (r *rig) record(text string) (record []byte) {
	r.t.Helper()
	r.wire.write = func(p []byte) { record = append(record, p...) }
	defer func() { r.wire.write = nil }()
	if _, err := io.WriteString(r.client, text); err != nil {
		r.t.Error(err)
	}
	return record
}

// goodbye returns the client's close_notify.
func (r *rig) goodbye() (record []byte) {
	r.wire.write = func(p []byte) { record = append(record, p...) }
	defer func() { r.wire.write = nil }()
	r.client.CloseWrite()
	return record
}

// recv is Recv that waits for something to be read.
func (r *rig) recv(p []byte) (n, moved int, err error) {
	r.t.Helper()
	wait.Until(r.t, "something comes", func() bool {
		n, moved, err = r.Recv(r.fd, p)
		return err != poll.ErrAgain
	})
	if n > 0 && err != nil {
		r.t.Errorf("%d bytes come with error %v", n, err)
	}
	return n, moved, err
}

// recvAll receives until there is an error.
func (r *rig) recvAll() (text string, moved int, err error) {
	r.t.Helper()
	var b [tlsrecord.BufferBytes]byte
	for {
		n, m, err := r.recv(b[:])
		text, moved = text+string(b[:n]), moved+m
		if err != nil {
			return text, moved, err
		}
	}
}

// fill sends numbers, whose text it returns, until the socket takes no more. moved is what it has taken.
func (r *rig) fill() (text []byte, moved int) {
	r.t.Helper()
	for i := 0; ; i++ {
		p := make([]byte, 50_000)
		for j := range p {
			p[j] = byte(i + j%251)
		}
		for len(p) > 0 {
			n, m, err := r.Send(r.fd, [][]byte{p[:1], p[1 : len(p)/2+1], p[len(p)/2+1:]})
			text, moved, p = append(text, p[:n]...), moved+m, p[n:]
			if err == poll.ErrAgain && r.Owes() {
				return text, moved
			}
			if err != nil && err != poll.ErrAgain {
				r.t.Fatal(err)
			}
		}
	}
}
