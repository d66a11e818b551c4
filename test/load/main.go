// Command load puts loads on the built daemon that need a process of its own, and prints what they cost it:
//
//	go run ./test/load [-bin DIR] [-json] [LOAD...]
//
// It stays on this machine's loopback. Traffic comes from the built client (picloud bench), the rest from this program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// size is how large the loads are.
type size struct {
	subscribers int           // of an event that has many
	crowd       int           // connections of a crowd, and subscribers of the largest event
	events      int           // of other clients, a thousand per connection
	own         int           // events on one connection
	rounds      int           // of each comparison
	measure     time.Duration // of each round
	settle      time.Duration // until the daemon has released ended connections and their memory
	churn       int           // connections per second
	churnFor    time.Duration
	greedy      int // of each kind of client that makes the daemon keep what it can
}

var full = size{
	subscribers: 1000,
	crowd:       10_000,
	events:      100_000,
	own:         1000,
	rounds:      3,
	measure:     2 * time.Second,
	settle:      7 * time.Second,
	churn:       5000,
	churnFor:    time.Minute,
	greedy:      300,
}

type load struct {
	name, about string
	run         func(context.Context, *lab) error
}

var loads = []load{
	{"growth", "what a delivery costs with 1,000 and 10,000 subscribers", growth},
	{"others", "what a publish costs beside 100,000 other events, and beside 10,000 idle connections", others},
	{"own", "1,000 events on one connection", own},
	{"large", "messages of 64 KiB to 1,000 subscribers", large},
	{"tls", "what a delivery costs with TLS", overTLS},
	{"wake", "10,000 connections that wake within a second, and leave within a second", wake},
	{"churn", "5,000 connections a second that subscribe and leave, for a minute", churn},
	{"sums", "all that clients can make the daemon keep, at once", sums},
}

// A figure is one line of what was measured.
type figure struct {
	Load  string   `json:"load"`
	What  string   `json:"what"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Most  *float64 `json:"most,omitempty"` // the goal, where there is one
}

func (f figure) met() bool { return f.Most == nil || f.Value <= *f.Most }

// lab is what a load works with, and where it records its figures.
type lab struct {
	size
	bin     string    // folder of the built commands
	log     io.Writer // for the daemons' logs
	load    string
	figures []figure
}

func (l *lab) note(value float64, unit, what string, args ...any) {
	l.figures = append(l.figures, figure{Load: l.load, What: fmt.Sprintf(what, args...), Value: value, Unit: unit})
}

// hold records a figure that has a goal.
func (l *lab) hold(most, value float64, unit, what string, args ...any) {
	l.note(value, unit, what, args...)
	l.figures[len(l.figures)-1].Most = &most
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	bin := flags.String("bin", "bin", "folder of the built picloudd and picloud")
	asJSON := flags.Bool("json", false, "print an object on a line of its own for each figure")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: load [flags] [LOAD...]")
		flags.PrintDefaults()
		for _, l := range loads {
			fmt.Fprintf(stderr, "  %-8s %s\n", l.name, l.about)
		}
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen := loads
	if flags.NArg() > 0 {
		chosen = nil
		for _, name := range flags.Args() {
			i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
			if i < 0 {
				return fmt.Errorf("there is no load %q: load -h lists them", name)
			}
			chosen = append(chosen, loads[i])
		}
	}
	dir, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	l := &lab{size: full, bin: dir, log: stderr}
	for _, load := range chosen {
		fmt.Fprintf(stderr, "load: %s: %s\n", load.name, load.about)
		noted := len(l.figures)
		l.load = load.name
		if err := load.run(ctx, l); err != nil {
			// It is recorded as a figure, so that it cannot be overlooked where figures are kept; the other loads go
			// on.
			l.hold(0, 1, "errors", "%s", strings.Join(strings.Fields(err.Error()), " "))
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err := report(stdout, *asJSON, l.figures[noted:]); err != nil {
			return err
		}
	}
	return missed(l.figures)
}

func report(w io.Writer, asJSON bool, figures []figure) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		for _, f := range figures {
			if err := encoder.Encode(f); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range figures {
		goal := ""
		if f.Most != nil {
			goal = fmt.Sprintf("at most %.4g", *f.Most)
			if !f.met() {
				goal += ": NOT MET"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%.4g\t%s\t%s\n", f.Load, f.What, f.Value, f.Unit, goal)
	}
	return table.Flush()
}

// missed returns an error for the goals that are not met.
func missed(figures []figure) error {
	var list []string
	for _, f := range figures {
		if !f.met() {
			list = append(list, fmt.Sprintf("%s: %s: %.4g %s, at most %.4g", f.Load, f.What, f.Value, f.Unit, *f.Most))
		}
	}
	if list == nil {
		return nil
	}
	return fmt.Errorf("goals not met:\n  %s", strings.Join(list, "\n  "))
}
