package test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picloud/test/daemon"
	ws "picloud/test/peer"
)

// arrivals, in the environment, is how often a client publishes right behind its subscribe to a daemon as users get it;
// otherwise it does so some times to one that has the race detector in it.
var arrivals = os.Getenv("ARRIVALS")

// A publish on one connection does not overtake the subscribe that has arrived before on another, or at most once in a
// hundred: clients of others wait for the message, and hang when it does not come. The connections have been used
// before, or are fresh from the handshake.
func TestPublishFindsTheSubscribeBeforeIt(t *testing.T) {
	tries := 60
	if arrivals != "" {
		var err error
		if tries, err = strconv.Atoi(arrivals); err != nil {
			t.Fatalf("ARRIVALS: %v", err)
		}
	}
	clients := map[string]func(t *testing.T, url string, tries int, fresh bool) (lost int){
		"Python": arrivalsOfPython, "raw": arrivalsOfPeers}
	for what, loops := range map[string]int{"quiet": 0, "beside busy loops": max(2, runtime.NumCPU())} {
		for which, fresh := range map[string]bool{"used": false, "fresh": true} {
			for who, client := range clients {
				t.Run(fmt.Sprintf("%s %s %s", who, which, what), func(t *testing.T) {
					url := daemon.Start(t, bin, "API_KEY="+apiKey).URL
					defer burn(loops)()
					lost := client(t, url, tries, fresh)
					t.Logf("%d of %d messages published right behind a subscribe are lost", lost, tries)
					// With the race detector a look may last longer than the next in line waits for it.
					if most := max(2, tries/100); lost > most {
						t.Errorf("%d of %d messages are lost, want at most %d", lost, tries, most)
					}
				})
			}
		}
	}
}

func arrivalsOfPython(t *testing.T, url string, tries int, fresh bool) (lost int) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "testdata/arrival.py", url, strconv.Itoa(tries))
	if fresh {
		cmd.Args = append(cmd.Args, "fresh")
	}
	cmd.Env = append(os.Environ(), "API_KEY="+apiKey)
	out, err := cmd.CombinedOutput()
	var of int
	if _, serr := fmt.Sscanf(string(out), "%d of %d\n", &lost, &of); err != nil || serr != nil || of != tries {
		t.Fatalf("%v\n%s", err, out)
	}
	return lost
}

// arrivalsOfPeers wastes no time: the subscribe comes right behind the answer to the last message, or to the handshake.
func arrivalsOfPeers(t *testing.T, url string, tries int, fresh bool) (lost int) {
	dial := func(target string) *ws.Peer {
		p := ws.Dial(t, "tcp", strings.TrimPrefix(url, "http://"))
		if a, err := p.Upgrade(target, "X-API-Key", apiKey); err != nil || a.Status != http.StatusSwitchingProtocols {
			t.Fatalf("%s: status %d %q, error %v", target, a.Status, a.Body, err)
		}
		return p
	}
	untilAck := func(p *ws.Peer) (messages int) {
		for {
			op, text, err := p.Next()
			switch {
			case err != nil:
				t.Fatal(err)
			case op == ws.Text && strings.Contains(string(text), `"ack"`):
				return messages
			case op == ws.Text:
				messages++
			}
		}
	}
	say := func(p *ws.Peer, format string, a ...any) { p.Raw(ws.Frame(ws.Fin|ws.Text, fmt.Sprintf(format, a...))) }
	lost = tries
	var subscriber, publisher *ws.Peer
	for n := range tries {
		if fresh || n == 0 {
			subscriber, publisher = dial("/subscribe?clientName=raw-sub"), dial("/publish?clientName=raw-pub")
		}
		say(subscriber, `{"action":"subscribe","event":"event %d"}`, n)
		say(publisher, `{"event":"event %d","id":1}`, n)
		untilAck(publisher)
		if fresh || n == tries-1 {
			say(subscriber, `{"action":"unsubscribe:all","id":1}`)
			lost -= untilAck(subscriber)
			subscriber.Close()
			publisher.Close()
		}
	}
	return lost
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
