package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Durations are how long one command took, with and without long posts that are half sent.
type durations struct{ with, without []time.Duration }

func (d *durations) add(with bool, took time.Duration) {
	if with {
		d.with = append(d.with, took)
	} else {
		d.without = append(d.without, took)
	}
}

// heldFor is how much longer a step may take with them, comparing the best of at least heldOf runs, since the machine
// has other work.
const (
	heldFor = 1500 * time.Millisecond
	heldOf  = 3
)

// held is how long the posts have held up a command, or 0.
func (d *durations) held() time.Duration {
	if len(d.with) < heldOf || len(d.without) < heldOf {
		return 0
	}
	if held := slices.Min(d.with) - slices.Min(d.without); held > heldFor {
		return held
	}
	return 0
}

// A report is what came of a load, in milliseconds and seconds.
type report struct {
	OK           bool             `json:"ok"`
	Clients      int              `json:"clients"`
	Steps        int              `json:"steps"`
	Seconds      float64          `json:"seconds"`
	Seed         uint64           `json:"seed"`
	Left         map[string]int64 `json:"left"` // leavers, by their way
	Panics       int              `json:"panics"`
	Closed       map[string]int   `json:"closed"` // by code
	Told         int              `json:"told"`
	Lost         int              `json:"lost"`
	Doubled      int              `json:"doubled"`
	Disordered   int              `json:"out_of_order"`
	Deaf         int              `json:"deaf_though_acked"`
	Kept         int              `json:"wrongly_kept"`
	Unacked      int              `json:"acks_missing"`
	Failed       int              `json:"posts_failed"`
	Held         int              `json:"held_up"` // commands, by posts that were half sent
	Refused      int              `json:"refused"`
	Strange      int              `json:"strange"`
	Cut          int              `json:"cut_by_crash"`
	SlowClosed   int              `json:"slow_clients_closed"` // slow readers that were told so
	Dropped      int              `json:"slow_clients_untold"`
	Full         int              `json:"subscriptions_refused"`
	Published    int              `json:"published"`
	Posts        int              `json:"posts"`
	Newcomers    int64            `json:"newcomers"`
	Silent       []int64          `json:"silent_ms"` // the longest time without an ack in each step
	SilentMedian int64            `json:"silent_ms_median"`
	SilentWorst  int64            `json:"silent_ms_worst"`
	SilentElse   int64            `json:"silent_ms_otherwise"`
	CPU          float64          `json:"process_seconds"` // of the process that is watched
}

func (r *report) fill(l *load) {
	for _, e := range l.sources {
		r.Published += e.count()
	}
	for _, e := range l.posted {
		r.Posts += e.count()
	}
	r.Newcomers = l.newcomers.Load()
	sorted := slices.Sorted(slices.Values(r.Silent))
	if n := len(sorted); n > 0 {
		r.SilentMedian, r.SilentWorst = sorted[n/2], sorted[n-1]
	}
	r.Left = make(map[string]int64)
	for way := range waysToLeave {
		r.Left[way.String()] = l.left[way].Load()
	}
	t := &l.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Closed = make(map[string]int)
	for code, n := range t.closed {
		r.Closed[fmt.Sprint(code)] = n
	}
	r.Told, r.Lost, r.Doubled, r.Disordered, r.Unacked = t.told, t.lost, t.doubled, t.disordered, t.unacked
	r.Failed, r.Refused, r.Strange, r.Deaf, r.Kept = t.failed, t.refused, t.strange, t.deaf, t.kept
	r.Cut, r.SlowClosed, r.Dropped, r.Full = t.cut, t.slow, t.dropped, t.full
}

// faults counts what is not as it should be.
func (r *report) faults() int {
	n := r.Panics + r.Held + r.Lost + r.Doubled + r.Disordered + r.Deaf + r.Kept + r.Unacked + r.Failed + r.Refused +
		r.Strange
	for _, of := range r.Closed {
		n += of
	}
	return n
}

func (r *report) write(w io.Writer) error {
	closed, codes := 0, ""
	for code, n := range r.Closed {
		closed += n
		codes += fmt.Sprintf("  %s: %d", code, n)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		what string
		is   any
	}{
		{"clients", r.Clients},
		{"commands", fmt.Sprintf("%d, in %.1f s", r.Steps, r.Seconds)},
		{"published", fmt.Sprintf("%d, %d of them over HTTP", r.Published, r.Posts)},
		{"newcomers", r.Newcomers},
		{"left", fmt.Sprintf("%d by reset, %d by half close, %d by close frame, %d by silence",
			r.Left["reset"], r.Left["half close"], r.Left["close frame"], r.Left["silence"])},
		{"seed", r.Seed},
		{"panics", r.Panics},
		{"closed", fmt.Sprintf("%d%s", closed, codes)},
		{"closed as told", r.Told},
		{"lost", r.Lost},
		{"doubled", r.Doubled},
		{"out of order", r.Disordered},
		{"deaf though acked", r.Deaf},
		{"wrongly kept", r.Kept},
		{"acks missing", r.Unacked},
		{"posts failed", r.Failed},
		{"refused", r.Refused},
		{"held up", r.Held},
		{"strange", r.Strange},
		{"cut by a crash", r.Cut},
		{"slow clients closed", fmt.Sprintf("%d, and %d that were not told", r.SlowClosed, r.Dropped)},
		{"subscriptions refused", r.Full},
		{"silent", fmt.Sprintf("median %d ms, worst %d ms (otherwise %d ms): %s", r.SilentMedian, r.SilentWorst,
			r.SilentElse,
			strings.Trim(fmt.Sprint(r.Silent), "[]"))},
		{"the process's CPU", fmt.Sprintf("%.2f s", r.CPU)},
	} {
		fmt.Fprintf(t, "%s\t%v\n", row.what, row.is)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(r)
}
