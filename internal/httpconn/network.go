package httpconn

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Network returns what counts as one address: IPv4 whole, IPv6 whole on this machine's own networks, and of any other
// IPv6 address the /64, which is what one home or machine has to itself. An own network is that of the link, or the /64
// of local, the end of the connection on this side.
func Network(remote, local netip.Addr) netip.Addr {
	remote = remote.Unmap().WithZone("")
	if !remote.Is6() || remote.IsLinkLocalUnicast() {
		return remote
	}
	subnet, _ := remote.Prefix(64)
	if subnet.Contains(local.WithZone("")) {
		return remote
	}
	return subnet.Addr()
}

// Address returns the IP address of a TCP connection's end, or the zero Addr.
func Address(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}

// localAddr returns the address on this side of an accepted socket, for Network: that of the listener unless it could
// matter, since a listener is mostly on all addresses and asking for the socket's takes a system call.
func localAddr(fd int, remote, listener net.Addr) net.Addr {
	if a := Address(remote); !a.Is6() || a.Is4In6() || a.IsLinkLocalUnicast() {
		return listener
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return listener
	}
	return address(sa)
}
