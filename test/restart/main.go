// Command restart is a load whose clients notice whether their server restarts: scripts/test-restart runs it against the
// installed service. It connects clients of every kind, runs the given commands one after another while they publish and
// receive, and counts what a client could see of them: connections closed, messages lost, doubled or out of order, acks
// missing, posts failed, newcomers refused.
//
//	restart -key KEY [option…] ADDRESS 'COMMAND'…
//
// The commands are the shell's. What it counts stands in a table and, in JSON, in the last line; the exit status is 1 if
// anything is not as it should be.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Errors that have been told.
var (
	errUsage = errors.New("usage")
	errFound = errors.New("a client has noticed")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var p plan
	flags := flag.NewFlagSet("restart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	key := flags.String("key", "", "the server's key")
	flags.StringVar(&p.unix.address, "unix", "", "the server's Unix socket, for some of the clients")
	flags.BoolVar(&p.tcp.secure, "tls", false, "ADDRESS speaks TLS; posts go over the Unix socket")
	flags.IntVar(&p.clients, "clients", 200, "WebSockets that stay open")
	flags.IntVar(&p.subscribers, "subscribers", 200, "so many of them at most have traffic, beside those of special kinds")
	flags.IntVar(&p.posters, "posters", 16, "publishers over HTTP")
	flags.IntVar(&p.posts, "posts", 0, "go on until there have been so many posts")
	flags.DurationVar(&p.pause, "pause", 5*time.Millisecond, "between two messages of a publisher")
	flags.IntVar(&p.told, "told", 0, "the commands end every WebSocket with this close code; with -tls those over TLS")
	flags.BoolVar(&p.crash, "crash", false, "the commands kill the server: what is under way then may be lost")
	flags.BoolVar(&p.shut, "shut", false, "the commands close the server's sockets for a moment")
	pid := flags.Int("pid", 0, "a process whose processor time is told")
	timeout := flags.Duration("timeout", 5*time.Minute, "for everything")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() == 0 || p.tcp.secure && p.unix.address == "" {
		fmt.Fprintln(stderr, "restart: give ADDRESS and commands, and with -tls -unix PATH too")
		return errUsage
	}
	p.tcp.network, p.tcp.address, p.tcp.key = "tcp", flags.Arg(0), *key
	p.unix.network = "unix"
	var steps []step
	for _, command := range flags.Args()[1:] {
		steps = append(steps, step{command, func(ctx context.Context) error { return shell(ctx, command) }})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not done within %v", *timeout))
	defer cancel()
	return drive(ctx, p, steps, *pid, stdout, stderr)
}

func shell(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return nil
}

// A step is what is done to the server.
type step struct {
	name string
	do   func(context.Context) error
}

// A report is what came of a load, in milliseconds and seconds.
type report struct {
	OK           bool           `json:"ok"`
	Clients      int            `json:"clients"`
	Steps        int            `json:"steps"`
	Seconds      float64        `json:"seconds"`
	Closed       map[string]int `json:"closed"` // by code
	Told         int            `json:"told"`
	Lost         int            `json:"lost"`
	Doubled      int            `json:"doubled"`
	Disordered   int            `json:"out_of_order"`
	Unacked      int            `json:"acks_missing"`
	Failed       int            `json:"posts_failed"`
	Refused      int            `json:"refused"`
	Strange      int            `json:"strange"`
	Cut          int            `json:"cut_by_crash"`
	Published    int            `json:"published"`
	Posts        int            `json:"posts"`
	Newcomers    int64          `json:"newcomers"`
	Silent       []int64        `json:"silent_ms"` // the longest time without an ack in each step
	SilentMedian int64          `json:"silent_ms_median"`
	SilentWorst  int64          `json:"silent_ms_worst"`
	SilentElse   int64          `json:"silent_ms_otherwise"`
	CPU          float64        `json:"process_seconds"` // of the process that is looked at
}

// drive runs the steps under the load and tells what came of it.
func drive(ctx context.Context, p plan, steps []step, pid int, stdout, stderr io.Writer) error {
	began := time.Now()
	l, err := begin(ctx, p, stderr)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer l.end()
	cpu, err := processorTime(pid)
	if err != nil {
		return err
	}
	r := report{Clients: p.clients, Steps: len(steps)}
	l.pulse.silence()
	l.between()
	for _, s := range steps {
		l.before()
		r.SilentElse = max(r.SilentElse, l.pulse.silence().Milliseconds())
		if err := s.do(ctx); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		l.after()
		r.Silent = append(r.Silent, l.pulse.silence().Milliseconds())
		if !l.toldAll() {
			l.between()
		}
	}
	if pid != 0 && !l.toldAll() {
		after, err := processorTime(pid)
		if err != nil {
			return err
		}
		r.CPU = (after - cpu).Seconds()
	}
	finished := l.finish()
	if ctx.Err() != nil {
		finished = context.Cause(ctx)
	}
	r.fill(l)
	r.Seconds = time.Since(began).Seconds()
	r.OK = finished == nil && r.faults(p) == 0
	if err := r.write(stdout); err != nil {
		return err
	}
	if finished == nil && !r.OK {
		finished = errFound
	}
	return finished
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
	t := &l.tally
	r.Closed = make(map[string]int)
	for code, n := range t.closed {
		r.Closed[fmt.Sprint(code)] = n
	}
	r.Told, r.Lost, r.Doubled, r.Disordered, r.Unacked = t.told, t.lost, t.doubled, t.disordered, t.unacked
	r.Failed, r.Refused, r.Strange, r.Cut = t.failed, t.refused, t.strange, t.cut
}

// faults is how much is not as it should be.
func (r *report) faults(p plan) int {
	n := r.Lost + r.Doubled + r.Disordered + r.Unacked + r.Refused + r.Strange
	for _, of := range r.Closed {
		n += of
	}
	if !p.crash {
		n += r.Failed
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
		{"closed", fmt.Sprintf("%d%s", closed, codes)},
		{"closed as told", r.Told},
		{"lost", r.Lost},
		{"doubled", r.Doubled},
		{"out of order", r.Disordered},
		{"acks missing", r.Unacked},
		{"posts failed", r.Failed},
		{"refused", r.Refused},
		{"strange", r.Strange},
		{"cut by a crash", r.Cut},
		{"silent", fmt.Sprintf("median %d ms, worst %d ms (otherwise %d ms): %s", r.SilentMedian, r.SilentWorst, r.SilentElse,
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

// processorTime is what a process has used, proc_pid_stat(5); none for 0.
func processorTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Behind the name, which may have anything in it, are state and ten more fields.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	const perSecond = 100 // USER_HZ, the same on every Linux that Go knows
	return time.Duration(user+system) * time.Second / perSecond, nil
}
