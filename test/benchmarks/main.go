// Command benchmarks takes the measurements of docs/benchmarks.md and writes its tables:
//
//	go run ./test/benchmarks -harness DIR [-reps N] [-peers "…"]   measure, then write
//	go run ./test/benchmarks -loads                                measure our own loads again, then write
//	go run ./test/benchmarks                                       write again from the lines kept
//
// DIR is a built copy of the side-by-side harness. Every result is kept as a line of JSON in docs/benchmarks.jsonl.
// With -quick, page and lines are written to dist instead, and are worth nothing: it only shows that everything runs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const (
	page  = "docs/benchmarks.md"
	lines = "docs/benchmarks.jsonl" // a line of JSON for each result
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	m := measurement{stderr: stderr}
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&m.harness, "harness", "", "folder of the built harness; without it nothing is measured")
	loads := flags.Bool("loads", false, "without a harness: measure the loads of our own, and keep the lines of the others")
	flags.StringVar(&m.bin, "bin", "bin", "folder of the built picloudd and picloud")
	flags.StringVar(&m.peers, "peers", "picloud floor-go floor-goraw floor-cb nats centrifugo mosquitto nodews",
		"whom to measure")
	flags.IntVar(&m.reps, "reps", 3, "how often each is measured, in turn")
	flags.BoolVar(&m.quick, "quick", false, "measure for a moment only, and write to dist: to see that everything runs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? benchmarks takes flags only", flags.Arg(0))
	}
	text, kept := page, lines
	if m.quick {
		text, kept = filepath.Join("dist", filepath.Base(page)), filepath.Join("dist", filepath.Base(lines))
		if err := os.MkdirAll("dist", 0o755); err != nil {
			return err
		}
	}
	var measured []byte
	var err error
	switch {
	case m.harness != "":
		measured, err = m.take(ctx)
	default:
		if measured, err = os.ReadFile(kept); err == nil && *loads {
			measured, err = m.takeLoads(ctx, measured)
		}
	}
	if err != nil {
		return err
	}
	if m.harness != "" || *loads {
		if err := os.WriteFile(kept, measured, 0o644); err != nil {
			return err
		}
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	written, err := write(old, measured)
	if err != nil || text == page && bytes.Equal(written, old) {
		return err
	}
	return os.WriteFile(text, written, 0o644)
}
