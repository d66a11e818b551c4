// Package led shows on one LED whether the server runs and how many clients are connected.
package led

import (
	"context"
	"time"
)

// An LED can be turned on and off.
type LED interface {
	// Set turns it on or off. It does not block.
	Set(lit bool) error
}

// A State is what an LED shows.
type State struct {
	Clients   int    // connected now
	Incidents uint64 // how many times a slow client was closed or the limit was reached; it only grows
}

// Run shows the state until ctx ends or the LED fails, which is the error; then it leaves the LED off. state is called
// when a pattern begins, and at no other time: a change shows after 3 seconds at most, or 4 if an incident comes first.
func Run(ctx context.Context, led LED, state func() State) error {
	defer led.Set(false)
	if err := led.Set(false); err != nil {
		return err
	}
	edge := time.NewTimer(0)
	defer edge.Stop()
	lit, known := false, state().Incidents
	told := true // whether the last pattern was a count
	for {
		now := state()
		pattern := count(now.Clients)
		// Never two incidents in a row: the viewer sees the count too.
		if told = now.Incidents == known || !told; !told {
			pattern, known = incident, now.Incidents
		}
		for _, s := range pattern {
			if s.lit != lit {
				if err := led.Set(s.lit); err != nil {
					return err
				}
				lit = s.lit
			}
			edge.Reset(s.time)
			select {
			case <-edge.C:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// A step is one part of a pattern.
type step struct {
	lit  bool
	time time.Duration
}

// fewest is the smallest number of clients that is not shown as that many blinks.
const fewest = 6

// count is the pattern for a number of clients, once.
func count(clients int) []step { return counts[max(0, min(clients, fewest))] }

var counts = [fewest + 1][]step{
	0:      {{true, 50 * time.Millisecond}, {false, 2950 * time.Millisecond}},
	1:      blinks(1),
	2:      blinks(2),
	3:      blinks(3),
	4:      blinks(4),
	5:      blinks(5),
	fewest: {{true, 2900 * time.Millisecond}, {false, 100 * time.Millisecond}},
}

func blinks(n int) []step {
	var steps []step
	for range n {
		steps = append(steps, step{true, 150 * time.Millisecond}, step{false, 250 * time.Millisecond})
	}
	steps[len(steps)-1].time = 1200 * time.Millisecond
	return steps
}

// incident is five quick flickers, set apart from what comes before and after.
var incident = func() []step {
	steps := []step{{false, 200 * time.Millisecond}}
	for range 5 {
		steps = append(steps, step{true, 50 * time.Millisecond}, step{false, 50 * time.Millisecond})
	}
	steps[len(steps)-1].time = 250 * time.Millisecond
	return steps
}()

// A Pattern is something that an LED can show, with its name for people.
type Pattern struct {
	Name  string
	steps []step
}

// Patterns lists all patterns, each as long as a person needs to recognise it.
func Patterns() []Pattern {
	twice := func(steps []step) []step { return append(append([]step(nil), steps...), steps...) }
	return []Pattern{
		{"running, nobody is connected", twice(counts[0])},
		{"1 client", twice(counts[1])},
		{"2 clients", twice(counts[2])},
		{"3 clients", twice(counts[3])},
		{"4 clients", twice(counts[4])},
		{"5 clients", twice(counts[5])},
		{"6 clients or more", twice(counts[fewest])},
		{"a slow client was closed, or the connection limit is reached", incident},
		{"not running", []step{{false, 2 * time.Second}}},
	}
}

// Show shows the pattern once, and leaves the LED off. The error is the LED's, or ctx's cause when that ends first.
func (p Pattern) Show(ctx context.Context, led LED) error {
	defer led.Set(false)
	for _, s := range p.steps {
		if err := led.Set(s.lit); err != nil {
			return err
		}
		select {
		case <-time.After(s.time):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
