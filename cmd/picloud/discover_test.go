package main

import (
	"net/netip"
	"strings"
	"testing"

	"picloud/internal/discover"
)

func TestServersOfTheNetworkAreListed(t *testing.T) {
	servers := []discover.Server{
		{Name: "PiCloud on porch\x1b[2J", Host: "porch.local", Port: 9000,
			Addresses: []netip.Addr{netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("fe80::5%eth0")}},
		{Name: "Säge", Host: "saw.local", Port: 443, TLS: true},
	}
	for _, test := range []struct {
		settings settings
		want     string
	}{
		{settings{}, `SERVER                      URL                       OR
PiCloud on porch\u001b[2J   http://porch.local:9000   http://192.168.1.5:9000
Säge                        https://saw.local:443     -
`},
		{settings{json: true}, `{"name":"PiCloud on porch\u001b[2J","url":"http://porch.local:9000","addresses":["http://192.168.1.5:9000","http://[fe80::5%eth0]:9000"]}
{"name":"Säge","url":"https://saw.local:443","addresses":[]}
`},
	} {
		var b strings.Builder
		if err := listServers(test.settings, servers, &b); err != nil {
			t.Fatal(err)
		}
		if b.String() != test.want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), test.want)
		}
	}
}
