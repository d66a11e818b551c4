package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"

	"picloud/internal/discover"
)

var discoverCommand = command{
	name:  "discover",
	line:  "find the servers of the network",
	flags: []option{jsonFlag("print an object for each server")},
	help: `Finds the servers of the local network, which takes three seconds: each that Avahi
announces as _picloud._tcp, with its URL, and a second URL with its address for machines
that cannot look up names ending in .local. When none answers, the exit status is 1.

  --json   an object on a line of its own for each: name, url, and addresses, which are
           URLs with an address in place of the name

  picloud discover
  export PICLOUD_URL=$(picloud discover --json | jq -r .url | head -1)
`,
	run: func(ctx context.Context, c invocation) error {
		return discoverServers(ctx, c.settings, c.stdout)
	},
}

// found is a server in discover's JSON.
type found struct {
	Name      string   `json:"name"`
	URL       string   `json:"url"`
	Addresses []string `json:"addresses"` // URLs too
}

// discoverServers lists the servers on the local network. It is an error if there are none.
func discoverServers(ctx context.Context, s settings, stdout io.Writer) error {
	servers, err := discover.Servers(ctx)
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return errInterrupted
	case len(servers) == 0:
		return errors.New("no server answered. They announce themselves where Avahi runs (systemctl status avahi-daemon on the server); " +
			"a Wi-Fi that keeps its clients apart, or a firewall here that drops UDP from port 5353, keeps the answers away. " +
			"With its address a server is found all the same: picloud info --url http://ADDRESS:9000")
	}
	return listServers(s, servers, stdout)
}

func listServers(s settings, servers []discover.Server, stdout io.Writer) error {
	var rows [][]string
	for _, server := range servers {
		scheme := "http://"
		if server.TLS {
			scheme = "https://"
		}
		at := func(host string) string { return scheme + net.JoinHostPort(host, strconv.Itoa(int(server.Port))) }
		f := found{Name: server.Name, URL: at(server.Host), Addresses: []string{}}
		for _, ip := range server.Addresses {
			f.Addresses = append(f.Addresses, at(ip.String()))
		}
		if s.json {
			line, err := json.Marshal(f)
			if err != nil {
				return err
			}
			text := string(line)
			if s.terminal {
				text = visible(text)
			}
			if _, err := io.WriteString(stdout, text+"\n"); err != nil {
				return err
			}
			continue
		}
		row := []string{cell(f.Name), cell(f.URL), "-"}
		if len(f.Addresses) > 0 {
			row[2] = cell(f.Addresses[0])
		}
		rows = append(rows, row)
	}
	text := columns(s, []string{"SERVER", "URL", "OR"}, rows)
	if text != "" {
		text = text[1:] // the empty line
	}
	_, err := io.WriteString(stdout, text)
	return err
}
