// Command restart is a load whose clients notice whether their server restarts: scripts/test-restart runs it against
// the installed service. It connects clients of every kind, runs the given commands one after another while they
// publish, receive, come, leave, stall and change their minds, and counts what a client could see of them: connections
// closed, messages lost, doubled or out of order, subscriptions forgotten or wrongly kept, acks missing, posts failed,
// newcomers refused.
//
//	restart -key KEY [option…] ADDRESS 'COMMAND'…
//
// The commands are the shell's. During one that begins with "gently: " no client leaves, overflows, is idle or has a
// long post half sent: for a server that is known not to cope with that. The command "kill" is not the shell's: it
// kills the process of -victim just when a publisher has its ack, or soon after.
//
// What it counts is printed as a table and, in the last line, as JSON; the exit status is 1 if anything is not as it
// should be. What its clients do at random follows from the seed, which is printed too; the timing also depends on the
// machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Errors that have already been reported.
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
	flags.IntVar(&p.subscribers, "subscribers", 200,
		"so many of them at most have traffic, beside those of special kinds")
	flags.IntVar(&p.posters, "posters", 16, "publishers over HTTP")
	flags.IntVar(&p.posts, "posts", 0, "go on until there have been so many posts")
	flags.DurationVar(&p.pause, "pause", 5*time.Millisecond, "between two messages of a publisher")
	flags.IntVar(&p.told, "told", 0, "the commands end every WebSocket with this close code; with -tls those over TLS")
	flags.BoolVar(&p.crash, "crash", false, "the commands kill the server: what is under way then may be lost")
	flags.BoolVar(&p.shut, "shut", false, "the commands close the server's sockets for a moment")
	flags.BoolVar(&p.ends, "ends", false,
		"the commands leave the server no room for all: it may end clients and refuse newcomers")
	flags.IntVar(&p.fill, "fill", 0, "so many clients at most take as many long subscriptions as they may, until one is refused")
	flags.DurationVar(&p.idleFor, "idle", 0,
		"the longest pause of posters that keep an idle connection; 0: there are none")
	flags.StringVar(&p.tcp.moved, "moved", "", "another address at which the server may be found after a command")
	flags.Uint64Var(&p.seed, "seed", uint64(time.Now().UnixNano()), "of what is at random")
	flags.BoolVar(&p.plain, "plain", false,
		"nobody leaves, overflows, changes its mind or has a long post half in: to measure")
	victim := flags.String("victim", "", "a command that prints the number of the process that the command kill kills")
	journal := flags.String("journal", "", "a command that prints the server's log, in which panics are looked for")
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
		s := step{name: command, do: func(ctx context.Context, _ *load) error {
			_, err := shell(ctx, command)
			return err
		}}
		if command == "kill" {
			s.do = func(ctx context.Context, l *load) error { return l.kill(ctx, *victim) }
		}
		steps = append(steps, s)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not done within %v", *timeout))
	defer cancel()
	return drive(ctx, p, steps, watched{*pid, *journal}, stdout, stderr)
}

// shell runs a shell command and returns what it prints.
func shell(ctx context.Context, command string) (string, error) {
	out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return string(out), nil
}

// A step is what is done to the server.
type step struct {
	name string
	do   func(context.Context, *load) error
}

// kill kills the process whose PID a command prints, when a publisher has just received an ack or soon after.
func (l *load) kill(ctx context.Context, command string) error {
	out, err := shell(ctx, command)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	of := l.crowd
	if l.rand.IntN(3) == 0 {
		of = l.posted[0]
	}
	// At once, or soon after: what has been acked may still be waiting in the server.
	later := time.Duration(l.rand.IntN(4)/3*l.rand.IntN(2000)) * time.Microsecond
	killed := make(chan error, 1)
	of.atNext(func() {
		if later > 0 {
			time.Sleep(later)
		}
		killed <- syscall.Kill(pid, syscall.SIGKILL)
	})
	select {
	case err := <-killed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// What is watched besides the clients.
type watched struct {
	pid     int    // a process, 0: none
	journal string // a command, may be empty
}

// panics returns how many times the server has panicked.
func (w watched) panics(ctx context.Context) (int, error) {
	if w.journal == "" {
		return 0, nil
	}
	log, err := shell(ctx, w.journal)
	n := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, "panic: ") || strings.Contains(line, "fatal error: ") {
			n++
		}
	}
	return n, err
}

// drive runs the steps under the load and reports the outcome.
func drive(ctx context.Context, p plan, steps []step, w watched, stdout, stderr io.Writer) error {
	began := time.Now()
	panics, err := w.panics(ctx)
	if err != nil {
		return err
	}
	l, err := begin(ctx, p, stderr)
	if err != nil {
		return fmt.Errorf("begin, seed %d: %w", p.seed, err)
	}
	defer l.end()
	cpu, err := processorTime(w.pid)
	if err != nil {
		return err
	}
	r := report{Clients: p.clients, Steps: len(steps), Seed: p.seed}
	l.pulse.silence()
	l.between()
	took := make(map[string]*durations)
	for i, s := range steps {
		halves := i%3 != 1
		l.before(halves)
		r.SilentElse = max(r.SilentElse, l.pulse.silence().Milliseconds())
		stepped := time.Now()
		if err := s.do(ctx, l); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if l.unhurt() && !l.plain {
			if took[s.name] == nil {
				took[s.name] = new(durations)
			}
			took[s.name].add(halves, time.Since(stepped))
		}
		l.after()
		r.Silent = append(r.Silent, l.pulse.silence().Milliseconds())
		if !l.toldAll() {
			l.between()
		}
	}
	if w.pid != 0 && !l.toldAll() {
		after, err := processorTime(w.pid)
		if err != nil {
			return err
		}
		r.CPU = (after - cpu).Seconds()
	}
	finished := l.finish()
	if ctx.Err() != nil {
		finished = context.Cause(ctx)
	}
	if !l.toldAll() {
		after, err := w.panics(ctx)
		finished = errors.Join(finished, err)
		r.Panics = after - panics
	}
	for name, d := range took {
		if held := d.held(); held > 0 {
			r.Held++
			fmt.Fprintf(stderr, "restart: %s takes %v longer at least when posts are half in\n", name,
				held.Round(time.Millisecond))
		}
	}
	r.fill(l)
	r.Seconds = time.Since(began).Seconds()
	r.OK = finished == nil && r.faults() == 0
	if err := r.write(stdout); err != nil {
		return err
	}
	if finished == nil && !r.OK {
		finished = errFound
	}
	return finished
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
	// After the name, which may contain anything, come the state and ten more fields.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	const perSecond = 100 // USER_HZ, the same on every Linux that Go knows
	return time.Duration(user+system) * time.Second / perSecond, nil
}
