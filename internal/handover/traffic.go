package handover

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoTraffic: the kernel does not count this socket's bytes.
var ErrNoTraffic = errors.New("the kernel does not count this socket's bytes")

// The states of tcp(7) in which the counters say what Traffic returns: our side is not shut down.
const (
	tcpEstablished = 1
	tcpCloseWait   = 8 // the peer has shut down its side
)

// Traffic returns how many bytes this machine's processes have read from an accepted TCP connection, and how many they
// have written to it, since it was accepted: the kernel also knows what a process did that has since ended. Nothing may
// be read or written meanwhile.
//
// ErrNoTraffic: a Unix socket's bytes are not counted, only those waiting to be read can be asked for (SIOCINQ;
// SIOCOUTQ gives the memory used, not bytes); and a connection whose own side is shut down has nothing to carry on.
func Traffic(fd int) (read, written uint64, err error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for a connection's traffic: %w", err)
	}
	if kind != unix.IPPROTO_TCP {
		return 0, 0, ErrNoTraffic
	}
	// The peer's bytes and acknowledgements come between the system calls: what counts is a round in which none came. A
	// round fails only when the network has moved on.
	for range 1000 {
		before, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, 0, fmt.Errorf("ask for a connection's traffic: %w", err)
		}
		unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil {
			return 0, 0, fmt.Errorf("ask for a connection's unread bytes: %w", err)
		}
		unacked, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			return 0, 0, fmt.Errorf("ask for a connection's unacknowledged bytes: %w", err)
		}
		after, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, 0, fmt.Errorf("ask for a connection's traffic: %w", err)
		}
		if before.State != after.State || before.Bytes_received != after.Bytes_received ||
			before.Bytes_acked != after.Bytes_acked {
			continue
		}
		received := after.Bytes_received
		switch after.State {
		case tcpEstablished:
		case tcpCloseWait:
			received-- // the kernel counts the peer's FIN as a byte, and SIOCINQ does not
		default:
			return 0, 0, ErrNoTraffic
		}
		return received - uint64(unread), after.Bytes_acked + uint64(unacked), nil
	}
	return 0, 0, errors.New("ask for a connection's traffic: it does not stand still")
}
