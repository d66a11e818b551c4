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

// found is a server in discover's JSON.
type found struct {
	Name      string   `json:"name"`
	URL       string   `json:"url"`
	Addresses []string `json:"addresses"` // URLs too
}

// discoverServers lists the servers of the local network. None is an error.
func discoverServers(ctx context.Context, s settings, words []string, stdout io.Writer) error {
	if err := noWords("discover", words); err != nil {
		return err
	}
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
