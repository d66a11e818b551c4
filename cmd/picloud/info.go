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

func info(ctx context.Context, s settings, words []string, stdout, stderr io.Writer) error {
	if len(words) > 0 {
		return usageError{fmt.Sprintf("info takes no %q: see picloud help info", words[0])}
	}
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	var text string
	err = oneRequest(ctx, func(ctx context.Context) error {
		if !s.json {
			info, err := c.Info(ctx)
			text = table(info)
			return err
		}
		raw, err := c.InfoJSON(ctx)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return err
		}
		text = b.String()
		if s.terminal {
			text = visible(text)
		}
		text += "\n"
		return nil
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// table shows a snapshot. Times are as long ago as the server's clock has it.
func table(i wire.Info) string {
	var b strings.Builder
	s := i.Server
	fmt.Fprintf(&b, "PiCloud %s, up %s\n", cell(cmp.Or(s.Version, "?")), duration(time.Duration(s.UptimeSeconds)*time.Second))
	fmt.Fprintf(&b, "connections %d of %d, events %d, subscriptions %d\n", s.Connections, s.MaxConnections, s.Events, s.Subscriptions)
	fmt.Fprintf(&b, "published %d, delivered %d, let go %d, wrong keys %d\n", s.Published, s.Delivered, s.LetGo, s.WrongKeys)

	columns := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	if len(i.AllConnections) > 0 {
		fmt.Fprintln(columns, "\nCLIENT\tADDRESS\tCONNECTED")
	}
	for _, c := range i.AllConnections {
		fmt.Fprintln(columns, row(c, i.CreatedAt))
	}
	columns.Flush()
	if len(i.Subscriptions) > 0 {
		fmt.Fprintln(columns, "\nEVENT\tCLIENT\tADDRESS\tCONNECTED")
	}
	for _, sub := range i.Subscriptions {
		for _, c := range sub.Connections {
			fmt.Fprintf(columns, "%s\t%s\n", cell(sub.Name), row(c, i.CreatedAt))
		}
	}
	columns.Flush()
	return b.String()
}

func row(c wire.Connection, now time.Time) string {
	return fmt.Sprintf("%s\t%s\t%s ago", cell(c.ClientName), cell(c.IPAddress), duration(now.Sub(c.ConnectedAt)))
}

// cell makes s one cell of one line, on paper as on a terminal.
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
