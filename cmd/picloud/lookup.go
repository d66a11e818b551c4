package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"picloud/internal/discover"
)

// lookUp finds the addresses of a host whose name ends in .local: in /etc/hosts, by multicast DNS or, where nobody
// answers to that, by DNS. It takes two seconds or so at most.
func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	files := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("only files are asked")
	}}
	if list := lookUpWith(ctx, &files, host); len(list) > 0 {
		return list, nil
	}

	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	dns := make(chan []netip.Addr, 1)
	go func() {
		dns <- lookUpWith(limited, net.DefaultResolver, host)
		close(dns)
	}()
	defer func() {
		cancel()
		for range dns {
		}
	}()
	list, err := discover.Addresses(ctx, host)
	if len(list) > 0 {
		return list, nil
	}
	if list := <-dns; len(list) > 0 {
		return list, nil
	}
	const remedy = "Its IP address does as well, and picloud discover shows those of the servers that announce themselves"
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("look up %s by multicast DNS: %w. %s", host, err, remedy)
	}
	return nil, fmt.Errorf("nobody on this network answers to the name %s (multicast DNS): is it right, and that machine on? %s",
		host, remedy)
}

// lookUpWith returns nothing where it fails.
func lookUpWith(ctx context.Context, r *net.Resolver, host string) []netip.Addr {
	list, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	return list
}
