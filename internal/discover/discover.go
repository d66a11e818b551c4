// Package discover finds PiCloud servers, and hosts in .local, on the local network by multicast DNS (RFC 6762, RFC
// 6763).
package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	service = "_picloud._tcp.local."
	port    = 5353
	patient = 3 * time.Second // Wi-Fi loses some multicast packets, and answers may be delayed by 0.1 s

	patientForHost = 2 * time.Second
	settle         = 100 * time.Millisecond // from one answer about a host to another
)

// askAgain is when the questions are repeated, counted from the first time.
var askAgain = []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second}

// Server is a server that announces itself. What it says comes from the network unchecked.
type Server struct {
	Name      string // what people call it, such as "PiCloud on raspberrypi"
	Host      string // raspberrypi.local
	Port      uint16
	TLS       bool
	Addresses []netip.Addr // IPv4 first; a link-local one with its zone
}

// Servers asks on every interface and listens for some seconds, or until ctx ends. The list is sorted by name.
func Servers(ctx context.Context) ([]Server, error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	k := newKnowledge()
	if err := ask(ctx, k.question, k.learn); err != nil {
		return nil, err
	}
	return k.servers(), nil
}

// Addresses asks on every interface for the addresses of a host, such as raspberrypi.local, until one is known or two
// seconds are over, or ctx. IPv4 comes first, and a link-local address has the interface as its zone. There may be
// none.
func Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patientForHost)
	defer cancel()
	k := newKnowledge()
	host = strings.TrimSuffix(host, ".") + "."
	question := func() ([]byte, error) { return pack(addressesOf(host)...) }
	err := ask(ctx, question, func(packet []byte, zone string) {
		k.learn(packet, zone)
		switch known := k.addresses(host); {
		case len(known) == 0:
		case known[0].Is4() && known[len(known)-1].Is6():
			cancel()
		default:
			// The other family may be in an answer of its own.
			time.AfterFunc(settle, cancel)
		}
	})
	return k.addresses(host), err
}

// ask sends the question to every interface, repeats it, and has learn read what is answered, with the interface that
// the answer came on, until ctx ends.
func ask(ctx context.Context, question func() ([]byte, error), learn func(packet []byte, zone string)) error {
	sockets, err := open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)

	type packet struct {
		text []byte
		zone string
	}
	packets := make(chan packet)
	var reading sync.WaitGroup
	for _, s := range sockets {
		reading.Go(func() {
			p := make([]byte, 9000) // RFC 6762 §17
			for {
				n, err := s.conn.Read(p)
				if err != nil {
					if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
						return
					}
					continue // an ICMP error from some host
				}
				select {
				case packets <- packet{slices.Clone(p[:n]), s.zone}:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	stop := context.AfterFunc(ctx, func() {
		for _, s := range sockets {
			s.conn.Close()
		}
	})
	defer func() {
		cancel()
		stop()
		for _, s := range sockets {
			s.conn.Close()
		}
		reading.Wait()
	}()

	var refused []error
	send := func() {
		q, err := question()
		if err != nil {
			refused = append(refused, err)
			return
		}
		for _, s := range sockets {
			if _, err := s.conn.WriteToUDPAddrPort(q, s.group); err != nil {
				refused = append(refused, err)
			}
		}
	}
	send()
	if len(refused) == len(sockets) && ctx.Err() == nil {
		return fmt.Errorf("ask the network: %w", refused[0])
	}
	again := make(chan struct{})
	for _, after := range askAgain {
		defer time.AfterFunc(after, func() {
			select {
			case again <- struct{}{}:
			case <-ctx.Done():
			}
		}).Stop()
	}
	for {
		select {
		case p := <-packets:
			learn(p.text, p.zone)
		case <-again:
			send()
		case <-ctx.Done():
			return nil
		}
	}
}

// socket asks the multicast group of one interface. As its port is not mDNS's own, answers come to it alone (RFC 6762
// §6.7), and other programs on this machine that speak mDNS are not in the way.
type socket struct {
	conn  *net.UDPConn
	group netip.AddrPort
	zone  string
}

func open() ([]socket, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network's interfaces: %w", err)
	}
	var sockets []socket
	var last error
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			last = err
			continue
		}
		var has4, has6 bool
		for _, a := range addresses {
			network, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, _ := netip.AddrFromSlice(network.IP)
			ip = ip.Unmap()
			// The kernel chooses the interface for a group by the socket's own address, or by the group's zone.
			group := netip.AddrFrom4([4]byte{224, 0, 0, 251})
			switch {
			case ip.Is4() && !has4:
				has4 = true
			case ip.Is6() && ip.IsLinkLocalUnicast() && !has6:
				has6 = true
				ip = ip.WithZone(i.Name)
				group = netip.MustParseAddr("ff02::fb").WithZone(i.Name)
			default:
				continue
			}
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
			if err != nil {
				last = err
				continue
			}
			sockets = append(sockets, socket{conn, netip.AddrPortFrom(group, port), i.Name})
		}
	}
	if len(sockets) == 0 {
		return nil, cmp.Or(last, errors.New("this machine is on no network with multicast"))
	}
	return sockets, nil
}
