package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

const micro = 1e6

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// compare measures two costs in turn, so that the machine's other work affects both, and returns their medians.
func (l *lab) compare(one, other func() (float64, error)) (float64, float64, error) {
	var costs [2][]float64
	for range l.rounds {
		for i, measure := range []func() (float64, error){one, other} {
			cost, err := measure()
			if err != nil {
				return 0, 0, err
			}
			costs[i] = append(costs[i], cost)
		}
	}
	return median(costs[0]), median(costs[1]), nil
}

func growth(ctx context.Context, l *lab) error {
	return l.with(oneProcessor, nil, func(d *daemon) error {
		for _, window := range []int{1, 32} {
			few, many, err := l.compare(d.fanOut(ctx, l.subscribers, window), d.fanOut(ctx, l.crowd, window))
			if err != nil {
				return err
			}
			l.note(few, "µs", "CPU for each delivery, window %d, %d subscribers", window, l.subscribers)
			l.note(many, "µs", "the same, %d subscribers", l.crowd)
			l.hold(1.3, many/few, "times", "growth, window %d", window)
		}
		return nil
	})
}

func overTLS(ctx context.Context, l *lab) error {
	dir, err := os.MkdirTemp("", "picloud-load")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	settings, err := certificate(dir)
	if err != nil {
		return err
	}
	return l.with(oneProcessor, nil, func(plain *daemon) error {
		return l.with(oneProcessor, settings, func(secure *daemon) error {
			for _, window := range []int{1, 32} {
				without, with, err := l.compare(plain.fanOut(ctx, l.subscribers, window),
					secure.fanOut(ctx, l.subscribers, window))
				if err != nil {
					return err
				}
				l.note(without, "µs", "CPU for each delivery, window %d, %d subscribers, plain", window, l.subscribers)
				l.note(with, "µs", "the same with TLS")
				l.note(with/without, "times", "TLS over plain, window %d", window)
			}
			return nil
		})
	})
}

// fanOut measures the daemon's CPU for each delivery, in microseconds.
func (d *daemon) fanOut(ctx context.Context, subscribers, window int) func() (float64, error) {
	return func() (float64, error) {
		t, err := d.bench(ctx, "--subscribers", strconv.Itoa(subscribers), "--window", strconv.Itoa(window))
		return t.CPU, err
	}
}

// others compares two daemons, one of which has many other events.
func others(ctx context.Context, l *lab) error {
	const of = 1000 // events of a connection
	events := func(i int) []string { return names(fmt.Sprintf("other-%d", i), of) }
	if err := l.beside(ctx, fmt.Sprintf("%d other events", l.events), l.events/of, events); err != nil {
		return err
	}
	return l.beside(ctx, fmt.Sprintf("%d idle connections", l.crowd), l.crowd,
		func(i int) []string { return []string{fmt.Sprintf("idle-%d", i)} })
}

func (l *lab) beside(ctx context.Context, what string, n int, events func(i int) []string) error {
	return l.with(oneProcessor, nil, func(empty *daemon) error {
		return l.with(oneProcessor, nil, func(busy *daemon) error {
			c, err := busy.gather(n, events)
			defer c.disperse()
			if err != nil {
				return err
			}
			alone, beside, err := l.compare(empty.exchange(ctx, 1), busy.exchange(ctx, 1))
			if err != nil {
				return err
			}
			l.note(alone, "µs", "CPU for each message to one subscriber, in bursts of 32, alone")
			l.note(beside, "µs", "the same, beside %s", what)
			l.hold(1.3, beside/alone, "times", "growth beside %s", what)
			return nil
		})
	})
}

// own compares one event with many, all subscribed to by one connection.
func own(ctx context.Context, l *lab) error {
	return l.with(oneProcessor, nil, func(d *daemon) error {
		one, many, err := l.compare(d.exchange(ctx, 1), d.exchange(ctx, l.own))
		if err != nil {
			return err
		}
		l.note(one, "µs", "CPU for each message, in bursts of 32, one event on the connection")
		l.note(many, "µs", "the same, %d events on the connection in turn", l.own)
		l.note(many/one, "times", "growth")
		return nil
	})
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return list
}

// exchange measures the daemon's CPU for each message, in microseconds: bursts are published to so many events in turn
// over one connection and received over another. Every message must arrive, in order.
func (d *daemon) exchange(ctx context.Context, n int) func() (float64, error) {
	const burst = 32
	events := names("own", n)
	return func() (float64, error) {
		pair, err := d.gather(2, func(i int) []string {
			if i == 0 {
				return nil
			}
			return events
		})
		defer pair.disperse()
		if err != nil {
			return 0, err
		}
		publisher, subscriber, sent := pair[0], pair[1], 0
		exchange := func(lasts time.Duration) error {
			for start := time.Now(); time.Since(start) < lasts; sent += burst {
				var p []byte
				for k := sent; k < sent+burst; k++ {
					p = appendText(p, publish(events[k%n], k))
				}
				if _, err := publisher.Write(p); err != nil {
					return err
				}
				for k := sent; k < sent+burst; k++ {
					if err := subscriber.due(events[k%n], k); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		}
		if err := exchange(d.lab.measure / 10); err != nil {
			return 0, err
		}
		warm := sent
		before, err := d.reading(ctx)
		if err != nil {
			return 0, err
		}
		if err := exchange(d.lab.measure); err != nil {
			return 0, err
		}
		after, err := d.reading(ctx)
		return (after.cpu - before.cpu) / float64(sent-warm) * micro, err
	}
}

func large(ctx context.Context, l *lab) error {
	const data, window = 65_400, 4 // with the rest of the message, just under MAX_MESSAGE_BYTES
	return l.with(oneProcessor, nil, func(d *daemon) error {
		before, err := d.reading(ctx)
		if err != nil {
			return err
		}
		t, err := d.bench(ctx, "--subscribers", strconv.Itoa(l.subscribers), "--size", strconv.Itoa(data), "--window",
			strconv.Itoa(window))
		if err != nil {
			return err
		}
		after, err := d.reading(ctx)
		if err != nil {
			return err
		}
		mib := float64(data) / (1 << 20)
		l.note(t.CPU, "µs", "CPU for each delivery to %d subscribers", l.subscribers)
		l.note(t.CPU/mib, "µs", "CPU for each MiB")
		l.note(float64(t.Deliveries)*mib/t.Seconds, "MiB/s", "delivered")
		l.hold(0, float64(t.Lost), "deliveries", "lost")
		l.hold(float64(window*l.subscribers)*mib, after.peak-before.resident, "MiB",
			"memory at the peak, over that before")
		return nil
	})
}
