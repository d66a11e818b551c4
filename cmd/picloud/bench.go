package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"
)

var benchCommand = command{
	name: "bench", args: []string{"[SCENARIO...]"},
	line: "measure the server",
	flags: []option{
		{name: "subscribers", value: "N", line: "how many subscribers",
			to: func(s *settings) any { return &s.bench.subscribers }},
		{name: "size", value: "BYTES", line: "bytes of data in each message",
			to: func(s *settings) any { return &s.bench.size }},
		{name: "window", value: "N", line: "messages in flight at a time",
			to: func(s *settings) any { return &s.bench.window }},
		{name: "rate", value: "N", line: "messages a second", to: func(s *settings) any { return &s.bench.rate }},
		{name: "duration", value: "TIME", line: "how long a scenario sends", offers: []string{"10s", "1m"},
			to: func(s *settings) any { return &s.bench.duration }},
		{name: "messages", value: "N", line: "how many messages it sends instead",
			to: func(s *settings) any { return &s.bench.messages }},
		jsonFlag("print an object for each scenario"),
	},
	general: []option{urlFlag, keyFlag, caFlag},
	words:   []word{{what: "scenario", many: true, offers: scenarioNames}},
	help: `Measures the server: all scenarios, or those named. Each makes its own clients, with events
and names that nobody else has (bench-...), and closes them. It puts load on the server,
which other clients may notice, and leaves a quarter of the free connections to them.

  memory    idle subscribers: what each costs the server in memory; most accurate after
            a restart of the server, which keeps memory that it once had
  connect   connections made, each with a subscription
  fanout    one publisher, all subscribers on one event, as fast as it goes
  pairs     one publisher, each subscriber on an event of its own, as fast as it goes
  latency   like fanout, at a fixed rate: the time from the publisher to the subscriber

  --subscribers N   500 for memory and connect, 100 for the others; fewer on a small server
  --size BYTES      of each message's data, 128
  --window N        messages in flight at a time in fanout and pairs, 32
  --rate N          messages a second in latency, 20
  --duration TIME   of fanout, pairs and latency each, 10s
  --messages N      send so many instead, however long it takes
  --json            an object on a line of its own for each scenario. latency_ms is in
                    milliseconds, server_cpu_us in microseconds for each delivery or
                    connection, memory_bytes for each subscriber, client_cpu
                    from 0 to 1; bottleneck is client or shared if a line would say so

The figure to compare is "server CPU, each": the server's processor time for each delivery
or connection. It hardly depends on the network, but includes what the server does for
others meanwhile. If the client's processors, or those of the one machine that both run on,
were fully used, a line says so: the rates are not the server's then.

Each message has a number, and each subscriber checks it. If one is lost, doubled or out of
order, the exit status is 1. Ctrl-C ends it and shows what has been measured.

  picloud bench
  picloud bench --url http://raspberrypi.local:9000 fanout latency
  picloud bench --subscribers 20 --size 4096 --window 8 --duration 1m fanout
  picloud bench --json pairs | jq .server_cpu_us
`,
	run: func(ctx context.Context, c invocation) error {
		return bench(ctx, c.settings, c.words, c.stdout, c.stderr)
	},
}

// load is what a benchmark does.
type load struct {
	subscribers int // 0 for the scenario's default
	size        int // bytes of data
	window      int // messages in flight, where rate does not set the pace
	rate        int // messages a second
	messages    int // 0 for as many as there is time for
	duration    time.Duration
}

var defaultLoad = load{size: 128, window: 32, rate: 20, duration: 10 * time.Second}

const (
	minSize  = 48      // a number and a time
	maxQueue = 1 << 20 // MAX_QUEUE_BYTES by default
	envelope = 256     // roughly the bytes of a delivery that are not its data
)

type scenario struct {
	name        string
	subscribers int
	run         func(*benchmark, context.Context, *result) error
}

// scenarios are in the order in which they run: memory comes before those that leave the server with memory to reuse.
var scenarios = []scenario{
	{"memory", 500, (*benchmark).memory},
	{"connect", 500, (*benchmark).connect},
	{"fanout", 100, (*benchmark).fanout},
	{"pairs", 100, (*benchmark).pairs},
	{"latency", 100, (*benchmark).latency},
}

func scenarioNames([]command) []string {
	var list []string
	for _, s := range scenarios {
		list = append(list, s.name)
	}
	return list
}

// benchmark is a measurement of a server.
type benchmark struct {
	load
	c    *client.Client
	name string // begins the names of its events and clients, and of nobody else's
	bar  bar
}

func bench(ctx context.Context, s settings, words []string, stdout, stderr io.Writer) error {
	chosen, err := choose(words)
	if err != nil {
		return err
	}
	if err := s.bench.check(); err != nil {
		return err
	}
	s.name = "bench-" + strings.ToLower(rand.Text()[:8])
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	var info wire.Info
	err = oneRequest(ctx, func(ctx context.Context) (err error) {
		info, err = c.Info(ctx)
		return err
	})
	if err != nil {
		return err
	}
	room, err := roomFor(s.bench.subscribers, info.Server)
	if err != nil {
		return err
	}
	for i := range chosen {
		chosen[i].subscribers = min(room, cmp.Or(s.bench.subscribers, chosen[i].subscribers))
	}
	most := slices.MaxFunc(chosen, func(a, b scenario) int { return a.subscribers - b.subscribers }).subscribers
	fmt.Fprintf(stderr, "picloud: this puts load on %s, with up to %d connections; its other clients may notice. Ctrl-C ends it\n",
		visible(s.url), most+1)

	b := &benchmark{load: s.bench, c: c, name: s.name, bar: bar{stderr, s.watched}}
	var results []result
	for _, scenario := range chosen {
		b.subscribers = scenario.subscribers
		r := result{Scenario: scenario.name, Subscribers: scenario.subscribers}
		err = scenario.run(b, ctx, &r)
		if r.Seconds > 0 {
			r.Interrupted = ctx.Err() != nil
			results = append(results, r)
		}
		if ctx.Err() != nil {
			err = errInterrupted
		}
		if err != nil {
			break
		}
	}
	if err := report(stdout, s.json, results); err != nil {
		return err
	}
	if wrong := faults(results); wrong != nil && (err == nil || errors.Is(err, errInterrupted)) {
		return wrong
	}
	return err
}

func choose(names []string) ([]scenario, error) {
	for _, name := range names {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			return nil, usageError{fmt.Sprintf("there is no scenario %q: picloud help bench lists them", name)}
		}
	}
	return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool {
		return len(names) > 0 && !slices.Contains(names, s.name)
	}), nil
}

func (l load) check() error {
	switch inFlight := int64(l.window) * int64(l.size+envelope); {
	case l.size < minSize:
		return usageError{fmt.Sprintf("--size is %d at least: each message has its number and time in it", minSize)}
	case l.duration <= 0:
		return usageError{"--duration is more than 0, as in 10s or 2m"}
	case inFlight > maxQueue:
		return usageError{fmt.Sprintf("--window %d of --size %d is %d KiB, and a server keeps 1024 KiB for a client (MAX_QUEUE_BYTES) before it lets it go: take less of one",
			l.window, l.size, inFlight>>10)}
	}
	return nil
}

// roomFor returns the largest number of subscribers: a quarter of the free connections is left for others.
func roomFor(asked int, s wire.ServerInfo) (int, error) {
	const own = 64 // files that are not subscribers
	room := (s.MaxConnections-s.Connections)*3/4 - 1
	if asked > room || room < 1 {
		return 0, fmt.Errorf("the server has %d of %d connections open (MAX_CONNECTIONS), and bench leaves a quarter of the others free: %d subscribers are the most",
			s.Connections, s.MaxConnections, max(0, room))
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur < uint64(room+own) {
		room = max(1, int(files.Cur)-own)
	}
	if asked > room {
		return 0, fmt.Errorf("this program may open %d files (ulimit -n), which is too few for %d subscribers: take %d or fewer", files.Cur, asked, room)
	}
	return room, nil
}

// memory measures by how much the server's process grows.
func (b *benchmark) memory(ctx context.Context, r *result) error {
	return b.gather(ctx, r, func(before, after reading, _ []time.Duration, _ bool) {
		const resident = "process_resident_memory_bytes"
		if bytes, ok := after.server[resident]; ok {
			each := (bytes - before.server[resident]) / float64(b.subscribers)
			r.MemoryBytes = &each
		} else {
			r.unreported = true
		}
	})
}

func (b *benchmark) connect(ctx context.Context, r *result) error {
	return b.gather(ctx, r, func(before, after reading, took []time.Duration, local bool) {
		r.Latency = newLatency(took)
		r.account(before, after, b.subscribers, local)
	})
}

// gather connects the subscribers and, while they are connected, has figures work out what that took.
func (b *benchmark) gather(ctx context.Context, r *result,
	figures func(before, after reading, took []time.Duration, local bool)) error {
	before, err := b.reading(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	subscribers, took, err := b.open(ctx, r.Scenario, b.events(b.subscribers))
	defer hangUp(subscribers)
	if err != nil {
		return err
	}
	r.Seconds = time.Since(start).Seconds()
	after, err := b.reading(ctx)
	if err != nil {
		return err
	}
	figures(before, after, took, subscribers[0].conn.Local())
	return nil
}

func (b *benchmark) fanout(ctx context.Context, r *result) error {
	r.Window = b.window
	return b.traffic(ctx, r, 1)
}

func (b *benchmark) pairs(ctx context.Context, r *result) error {
	r.Window = b.window
	return b.traffic(ctx, r, b.subscribers)
}

func (b *benchmark) latency(ctx context.Context, r *result) error {
	r.Rate = b.rate
	return b.traffic(ctx, r, 1)
}

func (b *benchmark) traffic(ctx context.Context, r *result, events int) error {
	r.Size = b.size
	t := &traffic{load: b.load, events: b.events(events), paced: r.Rate > 0}
	var err error
	t.subscribers, _, err = b.open(ctx, r.Scenario, t.events)
	defer hangUp(t.subscribers)
	if err != nil {
		return err
	}
	if t.publisher, err = b.c.Dial(ctx); err != nil {
		return err
	}
	before, err := b.reading(ctx)
	if err != nil {
		t.publisher.Close()
		return err
	}
	start := time.Now()
	hide := b.bar.follow(r.Scenario, func() float64 {
		if b.messages > 0 {
			return float64(t.sent.Load()) / float64(b.messages)
		}
		return float64(time.Since(start)) / float64(b.duration)
	})
	var broken error
	r.Lost, broken = t.flow(ctx)
	r.Seconds = time.Since(start).Seconds()
	hide()
	after, err := b.reading(ctx)

	var took []time.Duration
	for _, s := range t.subscribers {
		r.Deliveries += s.got
		r.Doubled += s.doubled
		r.OutOfOrder += s.late
		took = append(took, s.took...)
	}
	r.Messages = t.sent.Load()
	r.Latency = newLatency(took)
	if r.Deliveries > 0 {
		r.account(before, after, int(r.Deliveries), t.publisher.Local())
	}
	return cmp.Or(broken, err)
}

func (b *benchmark) events(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", b.name, i)
	}
	return list
}

func (b *benchmark) open(ctx context.Context, title string, events []string) ([]*subscriber, []time.Duration, error) {
	var opened atomic.Int64
	hide := b.bar.follow(title, func() float64 { return float64(opened.Load()) / float64(b.subscribers) })
	defer hide()
	return open(ctx, b.c, b.subscribers, events, &opened)
}

// A reading is the processor time, and the server's metrics, up to now.
type reading struct {
	client time.Duration
	server map[string]float64
}

// reading takes one, even after an interrupt.
func (b *benchmark) reading(ctx context.Context) (reading, error) {
	var r reading
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return r, fmt.Errorf("getrusage: %w", err)
	}
	r.client = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	err := oneRequest(context.WithoutCancel(ctx), func(ctx context.Context) (err error) {
		r.server, err = b.c.Metrics(ctx)
		return err
	})
	return r, err
}

// account works out what n deliveries or connections between the readings cost, and which side was the bottleneck.
func (r *result) account(before, after reading, n int, local bool) {
	processors := float64(runtime.GOMAXPROCS(0))
	client := (after.client - before.client).Seconds()
	r.PerSecond = float64(n) / r.Seconds
	r.ClientCPU = client / r.Seconds / processors

	const cpu = "process_cpu_seconds_total"
	server, known := after.server[cpu]
	if known {
		server -= before.server[cpu]
		each := server / float64(n) * 1e6
		r.ServerCPUMicroseconds = &each
	}
	r.unreported = after.server != nil && !known
	switch {
	case r.ClientCPU > 0.8:
		r.Bottleneck = "client"
	case local && known && (client+server)/r.Seconds/processors > 0.9:
		r.Bottleneck = "shared"
	}
}
