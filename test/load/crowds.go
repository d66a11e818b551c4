package main

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// rest waits until the daemon has released what has ended, and takes a reading.
func (d *daemon) rest(ctx context.Context) (reading, error) {
	select {
	case <-time.After(d.lab.settle):
	case <-ctx.Done():
	}
	return d.reading(ctx)
}

// spread calls do for 0 to n-1, evenly over a time or, if it is too short, as fast as possible, and returns how long
// that took.
func spread(n int, over time.Duration, do func(i int) error) (time.Duration, error) {
	start := time.Now()
	err := each(n, func(i int) error {
		time.Sleep(time.Until(start.Add(over * time.Duration(i) / time.Duration(n))))
		return do(i)
	})
	return time.Since(start), err
}

// wake makes half of an idle crowd publish to the other half within a second, and then all of it leave within a second.
func wake(ctx context.Context, l *lab) error {
	return l.with(allProcessors, nil, func(d *daemon) error {
		before, err := d.reading(ctx)
		if err != nil {
			return err
		}
		event := func(i int) string { return fmt.Sprintf("wake-%d", i) }
		c, err := d.gather(l.crowd, func(i int) []string { return []string{event(i)} })
		defer c.disperse()
		if err != nil {
			return err
		}
		idle, err := d.rest(ctx)
		if err != nil {
			return err
		}
		half := l.crowd / 2
		waking, err := spread(half, time.Second, func(i int) error { return c[i].send(publish(event(half+i), i)) })
		if err != nil {
			return err
		}
		arrived := 0
		for i := range half {
			if err := c[half+i].due(event(half+i), i); err != nil {
				return err
			}
			arrived++
		}
		woken, err := d.reading(ctx)
		if err != nil {
			return err
		}
		leaving, err := spread(l.crowd, time.Second, func(i int) error { return c[i].leave(i%2 == 0) })
		if err != nil {
			return err
		}
		after, err := d.rest(ctx)
		if err != nil {
			return err
		}
		l.note(waking.Seconds(), "s", "%d connections wake: half publish, half are published to", l.crowd)
		l.note(float64(arrived), "messages", "arrived, each compared with what was sent")
		l.note((woken.cpu-idle.cpu)/float64(half)*micro, "µs", "CPU for each message, with waking two connections")
		l.note(leaving.Seconds(), "s", "all leave, half by a close frame and half by a reset")
		l.note(before.resident, "MiB", "memory before")
		l.note(idle.resident, "MiB", "memory with all of them at rest")
		l.note(max(woken.peak, after.peak), "MiB", "memory at the peak")
		l.note(after.resident, "MiB", "memory %.0f s after they have left", l.settle.Seconds())
		l.hold(0, after.descriptors-before.descriptors, "descriptors", "left behind")
		l.hold(0, after.goroutines-before.goroutines, "goroutines", "left behind")
		return nil
	})
}

// churn makes clients connect, subscribe and leave, by a close frame or by a reset, at the rate asked for or as fast as
// processor time allows.
func churn(ctx context.Context, l *lab) error {
	return l.with(allProcessors, nil, func(d *daemon) error {
		var made atomic.Int64
		half := l.churnFor / 2
		round := func() (time.Duration, error) {
			deadline := time.Now().Add(half)
			return spread(int(float64(l.churn)*half.Seconds()), half, func(i int) error {
				if ctx.Err() != nil || time.Now().After(deadline) {
					return ctx.Err()
				}
				s, err := d.dial(i)
				if err != nil {
					return err
				}
				if err := s.subscribe(fmt.Sprintf("churn-%d", i%l.own)); err != nil {
					s.Close()
					return err
				}
				made.Add(1)
				return s.leave(i%2 == 0)
			})
		}
		// Once a crowd has come and gone the daemon gives free memory back: what is left is what it holds.
		held := func() (reading, error) {
			c, err := d.gather(l.crowd, func(int) []string { return []string{"crowd"} })
			if err == nil {
				_, err = d.rest(ctx)
			}
			c.disperse()
			if err != nil {
				return reading{}, err
			}
			return d.rest(ctx)
		}
		start, err := d.reading(ctx)
		if err != nil {
			return err
		}
		// What the daemon allocates once and keeps is there after the first half: the second half shows what grows.
		client := ownCPU()
		took, err := round()
		if err != nil {
			return err
		}
		client = ownCPU() - client
		done, err := d.reading(ctx)
		if err != nil {
			return err
		}
		n, server := float64(made.Load()), done.cpu-start.cpu
		middle, err := held()
		if err != nil {
			return err
		}
		if _, err := round(); err != nil {
			return err
		}
		end, err := held()
		if err != nil {
			return err
		}
		processors := took.Seconds() * float64(runtime.NumCPU()) / 100
		l.note(n/took.Seconds(), "a second", "connections made, subscribed and ended, of %d asked for", l.churn)
		l.note(server/n*micro, "µs", "the daemon's CPU for each")
		l.note(server/processors, "%", "of all processors, taken by the daemon")
		l.note(client.Seconds()/processors, "%", "of all processors, taken by the clients")
		l.note(float64(made.Load()), "connections", "in two halves of %.0f s", took.Seconds())
		l.note(middle.resident, "MiB", "memory held after the first half")
		l.note(end.resident, "MiB", "memory held after the second half")
		l.note(done.peak, "MiB", "memory at the peak of the first half")
		l.hold(32, (end.resident-middle.resident)*(1<<20)/(float64(made.Load())-n), "bytes",
			"growth for each connection of the second half")
		l.hold(0, end.descriptors-start.descriptors, "descriptors", "left behind")
		l.hold(0, end.goroutines-start.goroutines, "goroutines", "left behind")
		return nil
	})
}

// ownCPU is the CPU time that this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // getrusage(2): only for wrong arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
