package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// result has a scenario's figures. Its JSON leaves out counts of 0 and what does not belong to the scenario.
type result struct {
	Scenario    string `json:"scenario"`
	Subscribers int    `json:"subscribers"`
	Size        int    `json:"size,omitempty"`
	Window      int    `json:"window,omitempty"`
	Rate        int    `json:"rate,omitempty"`

	Seconds    float64 `json:"seconds"`
	Messages   int64   `json:"messages,omitempty"`
	Deliveries int64   `json:"deliveries,omitempty"`
	PerSecond  float64 `json:"per_second,omitempty"` // deliveries or connections

	ServerCPUMicroseconds *float64 `json:"server_cpu_us,omitempty"` // for each of them; nil if the server does not report it
	MemoryBytes           *float64 `json:"memory_bytes,omitempty"`  // for each subscriber
	Latency               *latency `json:"latency_ms,omitempty"`

	Lost       int64 `json:"lost"`
	Doubled    int64 `json:"doubled"`
	OutOfOrder int64 `json:"out_of_order"`

	ClientCPU   float64 `json:"client_cpu,omitempty"` // share of this machine's processors, 0 to 1
	Bottleneck  string  `json:"bottleneck,omitempty"` // client, or shared: client and server on one machine
	Interrupted bool    `json:"interrupted,omitempty"`
	unreported  bool    // the server's metrics lack what the scenario is about
}

// latency is in milliseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func newLatency(took []time.Duration) *latency {
	if len(took) == 0 {
		return nil
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		i := int(math.Ceil(share*float64(len(took)))) - 1
		return float64(took[max(0, i)]) / float64(time.Millisecond)
	}
	return &latency{at(0.5), at(0.99), at(0.999), at(1)}
}

func faults(results []result) error {
	var lost, doubled, late int64
	for _, r := range results {
		lost, doubled, late = lost+r.Lost, doubled+r.Doubled, late+r.OutOfOrder
	}
	if lost+doubled+late == 0 {
		return nil
	}
	return fmt.Errorf("of the deliveries %d are lost, %d doubled and %d out of order, which must not be: see the server's log, and what stands between", lost, doubled, late)
}

// report writes a line of JSON for each result, or a table with a column for each.
func report(w io.Writer, asJSON bool, results []result) error {
	if len(results) == 0 {
		return nil
	}
	var b strings.Builder
	if asJSON {
		encoder := json.NewEncoder(&b)
		for _, r := range results {
			if err := encoder.Encode(r); err != nil {
				return err
			}
		}
	} else {
		benchTable(&b, results)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func benchTable(b *strings.Builder, results []result) {
	count := func(n int64) string {
		if n == 0 {
			return "-"
		}
		return thousands(n)
	}
	ms := func(of func(latency) float64) func(result) string {
		return func(r result) string {
			if r.Latency == nil {
				return "-"
			}
			return fmt.Sprintf("%.2f ms", of(*r.Latency))
		}
	}
	traffic := func(of func(result) int64) func(result) string {
		return func(r result) string {
			if r.Messages == 0 {
				return "-"
			}
			return thousands(of(r))
		}
	}
	each := func(value *float64, unit float64, format string) string {
		if value == nil {
			return "-"
		}
		return fmt.Sprintf(format, *value/unit)
	}
	rows := []struct {
		name string
		cell func(result) string
	}{
		{"", func(r result) string { return r.Scenario }},
		{"subscribers", func(r result) string { return count(int64(r.Subscribers)) }},
		{"messages", func(r result) string { return count(r.Messages) }},
		{"deliveries", func(r result) string { return count(r.Deliveries) }},
		{"seconds", func(r result) string { return fmt.Sprintf("%.1f", r.Seconds) }},
		{"per second", func(r result) string { return count(int64(r.PerSecond)) }},
		{"server CPU, each", func(r result) string { return each(r.ServerCPUMicroseconds, 1, "%.1f µs") }},
		{"memory, each", func(r result) string { return each(r.MemoryBytes, 1024, "%.1f KiB") }},
		{"latency p50", ms(func(l latency) float64 { return l.P50 })},
		{"latency p99", ms(func(l latency) float64 { return l.P99 })},
		{"latency p99.9", ms(func(l latency) float64 { return l.P999 })},
		{"latency max", ms(func(l latency) float64 { return l.Max })},
		{"lost", traffic(func(r result) int64 { return r.Lost })},
		{"doubled", traffic(func(r result) int64 { return r.Doubled })},
		{"out of order", traffic(func(r result) int64 { return r.OutOfOrder })},
		{"client CPU", func(r result) string {
			if r.PerSecond == 0 {
				return "-"
			}
			return fmt.Sprintf("%.0f%%", 100*r.ClientCPU)
		}},
	}
	const first, width = 16, 12
	for _, row := range rows {
		line, empty := fmt.Sprintf("%-*s", first, row.name), true
		for _, r := range results {
			cell := row.cell(r)
			empty = empty && cell == "-"
			line += strings.Repeat(" ", max(1, width-utf8.RuneCountInString(cell))) + cell
		}
		if !empty {
			b.WriteString(line + "\n")
		}
	}
	for _, r := range results {
		switch {
		case r.Bottleneck == "client":
			fmt.Fprintf(b, "%s: the client was the bottleneck, its processors were full: the server can do more than this\n", r.Scenario)
		case r.Bottleneck == "shared":
			fmt.Fprintf(b, "%s: client and server filled this machine's processors together: run bench on another machine to see more\n", r.Scenario)
		}
		if r.Interrupted {
			fmt.Fprintf(b, "%s: interrupted\n", r.Scenario)
		}
		if r.unreported {
			fmt.Fprintf(b, "%s: this server does not tell its CPU time and memory (GET /metrics)\n", r.Scenario)
		}
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// bar shows progress on a terminal.
type bar struct {
	w     io.Writer
	shown bool
}

// follow draws until the function that it returns is called, which clears the line.
func (b bar) follow(title string, fraction func() float64) (hide func()) {
	if !b.shown {
		return func() {}
	}
	const width = 40
	done := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		again := time.NewTicker(200 * time.Millisecond)
		defer again.Stop()
		for {
			f := min(max(fraction(), 0), 1)
			fmt.Fprintf(b.w, "\r%-8s [%-*s] %3.0f%%", title, width, strings.Repeat("#", int(f*width)), 100*f)
			select {
			case <-again.C:
			case <-done:
				fmt.Fprintf(b.w, "\r%*s\r", width+20, "")
				return
			}
		}
	})
	return func() {
		close(done)
		drawing.Wait()
	}
}
