package poll

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// What the kernel holds for a socket is told, and a reset gives it back at once, whoever else has the socket open.
func TestResetGivesBackWhatTheKernelHolds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := nc.(*net.TCPConn).File() // a second descriptor of the socket
	nc.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())

	unix.SetNonblock(fd, true)
	p := make([]byte, 64<<10)
	if _, err := peer.Write(p[:8<<10]); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "what has come counts", func() bool { return Held(fd) >= 8<<10 })
	unread := Held(fd)
	for err == nil {
		_, err = Send(fd, p)
	}
	if err != ErrAgain {
		t.Fatal(err)
	}
	before := Held(fd)
	if before < unread+8<<10 {
		t.Errorf("%d bytes are held when no more can be sent, %d were before", before, unread)
	}
	other, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	Reset(fd)
	if n := Held(other); n >= 8<<10 {
		t.Errorf("%d bytes are held after the reset, %d before", n, before)
	}
	if n, err := Recv(fd, p); n > 0 || err == nil || err == ErrAgain {
		t.Errorf("read %d bytes, %v", n, err)
	}
	for err = nil; err == nil; {
		_, err = peer.Read(p)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer's read ends with %v", err)
	}
}
