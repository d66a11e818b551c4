package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picloud/test/daemon"
)

// arrivals, in the environment, is how often a client publishes right behind its subscribe to a daemon as users get it;
// otherwise it does so some times to one that has the race detector in it.
var arrivals = os.Getenv("ARRIVALS")

// A publish on one connection does not overtake the subscribe that has arrived before on another, or at most once in a
// hundred: clients of others wait for the message, and hang when it does not come. Both
// connections have been used before.
func TestPublishFindsTheSubscribeBeforeIt(t *testing.T) {
	tries := 60
	if arrivals != "" {
		var err error
		if tries, err = strconv.Atoi(arrivals); err != nil {
			t.Fatalf("ARRIVALS: %v", err)
		}
	}
	for name, loops := range map[string]int{"quiet": 0, "beside busy loops": max(2, runtime.NumCPU())} {
		t.Run(name, func(t *testing.T) {
			url := daemon.Start(t, bin, "API_KEY="+apiKey).URL
			defer burn(loops)()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "/usr/bin/python3", "testdata/arrival.py", url, strconv.Itoa(tries))
			cmd.Env = append(os.Environ(), "API_KEY="+apiKey)
			out, err := cmd.CombinedOutput()
			var lost, of int
			if _, serr := fmt.Sscanf(string(out), "%d of %d\n", &lost, &of); err != nil || serr != nil || of != tries {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%d of %d messages published right behind a subscribe are lost", lost, of)
			if most := max(1, of/100); lost > most {
				t.Errorf("%d of %d messages are lost, want at most %d", lost, of, most)
			}
		})
	}
}

// burn keeps processors busy with loops until it is told to stop.
func burn(loops int) (stop func()) {
	var stopped atomic.Bool
	var burning sync.WaitGroup
	for range loops {
		burning.Go(func() {
			for !stopped.Load() {
			}
		})
	}
	return func() {
		stopped.Store(true)
		burning.Wait()
	}
}
