package httpconn

import (
	"net"
	"net/netip"
	"testing"
)

func TestNetworkIsWhatOneHomeOrMachineHas(t *testing.T) {
	for _, c := range []struct{ remote, local, want string }{
		{"192.168.1.5", "192.168.1.1", "192.168.1.5"},
		{"::ffff:192.168.1.5", "::ffff:192.168.1.1", "192.168.1.5"},
		{"::ffff:192.168.1.5", "::", "192.168.1.5"},
		{"::1", "::1", "::1"},
		// On the link, whatever this side is called.
		{"fe80::5%eth0", "fe80::1%eth0", "fe80::5"},
		{"fe80::5%eth0", "::", "fe80::5"},
		{"fe80::5", "2001:db8:1:2::1", "fe80::5"},
		// In the /64 of this side.
		{"2001:db8:1:2::5", "2001:db8:1:2::1", "2001:db8:1:2::5"},
		{"fd00:1:2:3:4:5:6:7", "fd00:1:2:3::1%eth0", "fd00:1:2:3:4:5:6:7"},
		// Elsewhere.
		{"2001:db8:1:3::5", "2001:db8:1:2::1", "2001:db8:1:3::"},
		{"2001:db8:1:2:3:4:5:6", "fe80::1%eth0", "2001:db8:1:2::"},
		{"2001:db8:1:2:3:4:5:6", "::", "2001:db8:1:2::"},
		{"2001:db8:1:2:3:4:5:6", "::ffff:192.168.1.1", "2001:db8:1:2::"},
	} {
		got := Network(netip.MustParseAddr(c.remote), netip.MustParseAddr(c.local))
		if got != netip.MustParseAddr(c.want) {
			t.Errorf("from %s to %s: %v, want %s", c.remote, c.local, got, c.want)
		}
	}
	for _, remote := range []string{"192.168.1.5", "fe80::5", "2001:db8::"} {
		a := netip.MustParseAddr(remote)
		if got := Network(a, netip.Addr{}); got != a {
			t.Errorf("from %s to nowhere: %v, want the same", a, got)
		}
	}
	if got := Network(netip.Addr{}, netip.Addr{}); got.IsValid() {
		t.Errorf("from nowhere: %v", got)
	}
}

// Only where it matters is a socket asked for its own address.
func TestLocalAddressIsTheSocketsWhereItMatters(t *testing.T) {
	l := listen(t, "tcp", 0).(*net.TCPListener)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	everywhere := &net.TCPAddr{IP: net.IPv6zero, Port: 9000}
	for remote, want := range map[string]net.Addr{
		"192.168.1.5":        everywhere,
		"::ffff:192.168.1.5": everywhere,
		"fe80::5%eth0":       everywhere,
		"2001:db8::5":        l.Addr(),
		"::1":                l.Addr(),
	} {
		from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(remote), 1234))
		if got := localAddr(int(f.Fd()), from, everywhere); got.String() != want.String() {
			t.Errorf("from %s: %v, want %v", remote, got, want)
		}
	}
	if got := localAddr(int(f.Fd()), &net.UnixAddr{Net: "unix"}, everywhere); got != everywhere {
		t.Errorf("from a Unix socket: %v, want %v", got, everywhere)
	}
}
