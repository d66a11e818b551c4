package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"
)

var infoCommand = command{
	name: "info",
	line: "show who is connected",
	flags: []option{
		jsonFlag("print the snapshot as the server gives it"),
		{name: "watch", line: "look again every two seconds", to: func(s *settings) any { return &s.watch }},
	},
	general: generalFlags,
	help: `Shows the server's counts, whether it has TLS, who is connected, and who is subscribed to what.
What is not seen in a name is escaped: \u202e, for one, would turn the direction of writing.
Where there is more than the server lists, a line says how much is shown.

  --json    the snapshot as the server gives it, on one line
  --watch   look again every two seconds, until SIGINT (Ctrl-C): on a terminal a table that
            stays in place, otherwise a line with the counts each time. When the server
            goes away, it waits for it to come back.

  picloud info
  picloud info --watch
  picloud info --json | jq '.subscriptions[].name'
`,
	run: func(ctx context.Context, c invocation) error {
		if c.watch {
			return watch(ctx, c.settings, c.screen, c.stdout, c.stderr)
		}
		return info(ctx, c.settings, c.stdout, c.stderr)
	},
}

func info(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	var text string
	err = oneRequest(ctx, func(ctx context.Context) (err error) {
		if s.json {
			text, err = infoLine(ctx, s, c)
			return err
		}
		info, err := c.Info(ctx)
		text = table(s, info)
		return err
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// infoLine is a snapshot as the server gives it, on one line.
func infoLine(ctx context.Context, s settings, c *client.Client) (string, error) {
	raw, err := c.InfoJSON(ctx)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return "", err
	}
	if s.terminal {
		return visible(b.String()) + "\n", nil
	}
	return b.String() + "\n", nil
}

// table shows a snapshot. How long ago something was is by the server's clock.
func table(s settings, i wire.Info) string {
	return fmt.Sprintf("PiCloud %s, up %s\n%s\n%s\n%s\n%s", cell(cmp.Or(i.Server.Version, "?")),
		duration(time.Duration(i.Server.UptimeSeconds)*time.Second), present(i.Server), total(i.Server),
		secured(i.Server), lists(s, i))
}

func present(s wire.ServerInfo) string {
	return fmt.Sprintf("connections %d of %d, events %d, subscriptions %d", s.Connections, s.MaxConnections, s.Events,
		s.Subscriptions)
}

func total(s wire.ServerInfo) string {
	return fmt.Sprintf("published %d, delivered %d, slow clients closed %d, wrong keys %d", s.Published, s.Delivered,
		s.SlowClientsClosed, s.WrongKeys)
}

func secured(s wire.ServerInfo) string {
	if !s.TLS {
		return "TLS off"
	}
	return "TLS on: " + overRestart(s)
}

// overRestart says what a restart does to the connections of a server with TLS.
func overRestart(s wire.ServerInfo) string {
	if s.TLSKeptOverRestart {
		return "a restart keeps its connections"
	}
	return "a restart ends its connections, and clients come back"
}

func lists(s settings, i wire.Info) string {
	var clients, events [][]string
	heading := []string{"CLIENT", "ADDRESS", "CONNECTED"}
	if i.Server.TLS {
		heading = append(heading, "TLS")
	}
	for n, c := range i.AllConnections {
		r := row(c, i.CreatedAt)
		if i.Server.TLS && n < len(i.Server.ConnectionTraffic) { // the first PiCloud has no such list
			r = append(r, cell(cmp.Or(i.Server.ConnectionTraffic[n].TLSVersion, "-")))
		}
		clients = append(clients, r)
	}
	for _, sub := range i.Subscriptions {
		for _, c := range sub.Connections {
			events = append(events, append([]string{cell(sub.Name)}, row(c, i.CreatedAt)...))
		}
	}
	var part string
	if i.Server.Truncated {
		part = fmt.Sprintf("\nshown are %d of %d connections, %d of %d events, %d of %d subscriptions\n", len(clients),
			i.Server.Connections, len(i.Subscriptions), i.Server.Events, len(events), i.Server.Subscriptions)
	}
	return part + columns(s, heading, clients) +
		columns(s, []string{"EVENT", "CLIENT", "ADDRESS", "CONNECTED"}, events)
}

// columns is an empty line, the heading and the rows, or nothing if there are no rows.
func columns(s settings, heading []string, rows [][]string) string {
	if len(rows) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	first, rest, _ := strings.Cut(b.String(), "\n")
	return "\n" + s.paint(bold, first) + "\n" + rest
}

func row(c wire.Connection, now time.Time) []string {
	return []string{cell(c.ClientName), cell(c.IPAddress), duration(now.Sub(c.ConnectedAt)) + " ago"}
}

// cell makes s fit for one cell of a table.
func cell(s string) string { return strings.ReplaceAll(visible(s), "\t", `\t`) }

// duration shows two units at most.
func duration(d time.Duration) string {
	s := int64(max(0, d) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm %ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh %dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd %dh", s/(24*3600), s/3600%24)
}
