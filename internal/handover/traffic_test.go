package handover

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// accepted returns both ends of a TCP connection, and the accepted one's descriptor.
func accepted(t *testing.T) (client, served *net.TCPConn, fd int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f, err := s.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn), int(f.Fd())
}

func wantTraffic(t *testing.T, fd int, read, written uint64) {
	t.Helper()
	gotRead, gotWritten, err := Traffic(fd)
	if gotRead != read || gotWritten != written || err != nil {
		t.Errorf("%d bytes read and %d written, %v; want %d and %d", gotRead, gotWritten, err, read, written)
	}
}

func TestTrafficIsWhatTheProcessHasReadAndWritten(t *testing.T) {
	client, served, fd := accepted(t)
	wantTraffic(t, fd, 0, 0)

	write := func(c net.Conn, n int) {
		t.Helper()
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(c net.Conn, n int) {
		t.Helper()
		if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	write(client, 1000)
	wantTraffic(t, fd, 0, 0) // it waits in the kernel
	read(served, 1)
	wantTraffic(t, fd, 1, 0)
	read(served, 998)
	wantTraffic(t, fd, 999, 0)

	write(served, 5000) // nobody reads it
	wantTraffic(t, fd, 999, 5000)
	read(client, 5000)
	wantTraffic(t, fd, 999, 5000)

	// The peer has shut down its side: first with a byte unread, then without.
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await(t, fd)
	wantTraffic(t, fd, 999, 5000)
	read(served, 1)
	wantTraffic(t, fd, 1000, 5000)
	write(served, 10)
	wantTraffic(t, fd, 1000, 5010)

	if err := served.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Traffic(fd); !errors.Is(err, ErrNoTraffic) {
		t.Errorf("with our side shut down: %v, want %v", err, ErrNoTraffic)
	}
}

// await waits until the peer's FIN is here.
func await(t *testing.T, fd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		if n, err := unix.Poll(fds, 30_000); n == 1 {
			return
		} else if err != unix.EINTR {
			t.Fatalf("the peer's end does not come: %v", err)
		}
	}
}

// The peer goes on sending and reading while Traffic is called.
func TestTrafficWhileThePeerIsBusy(t *testing.T) {
	client, served, fd := accepted(t)
	var peer sync.WaitGroup
	peer.Go(func() {
		for { // until the kernel takes no more and the connection is closed
			if _, err := client.Write(make([]byte, 1+len(t.Name()))); err != nil {
				return
			}
		}
	})
	peer.Go(func() { io.Copy(io.Discard, client) })
	var read, written uint64
	for n := range 2000 {
		got, err := served.Read(make([]byte, 1+n*7%3000))
		if err != nil {
			t.Fatal(err)
		}
		read += uint64(got)
		if got, err = served.Write(make([]byte, 1+n*11%3000)); err != nil {
			t.Fatal(err)
		}
		written += uint64(got)
		wantTraffic(t, fd, read, written)
	}
	client.Close()
	peer.Wait()
}

func TestTrafficOfOtherSockets(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if _, _, err := Traffic(pair[0]); !errors.Is(err, ErrNoTraffic) {
		t.Errorf("a Unix socket: %v, want %v", err, ErrNoTraffic)
	}
	if _, _, err := Traffic(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no socket: %v, want %v", err, unix.EBADF)
	}
}

func BenchmarkTraffic(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		if _, _, err := Traffic(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}
