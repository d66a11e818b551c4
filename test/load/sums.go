package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"picloud/test/peer"
)

// mostAtOnce is how much the daemon may take for all that sums makes it keep where Go's memory is held down as on the
// smallest Pi, in MiB: half of that one's.
const mostAtOnce = 256

// sums has clients of every kind make the daemon keep as much as they can, all at once, while a bystander is to be
// served: with the limit that Go's memory has on this machine, and with that of one with 512 MB.
func sums(ctx context.Context, l *lab) error {
	dir, err := os.MkdirTemp("", "picloud-load")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, limit := range []string{"", "GOMEMLIMIT=224MiB"} {
		socket := filepath.Join(dir, "manager"+limit)
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			return err
		}
		go io.Copy(io.Discard, manager) // as a service it also keeps what it would hand over
		settings := []string{"NOTIFY_SOCKET=" + socket, "HEADER_TIMEOUT=1m", "MAX_WRONG_KEYS=100", "LOG_LEVEL=error"}
		if limit != "" {
			settings = append(settings, limit)
		}
		err = l.with(allProcessors, settings, func(d *daemon) error { return d.sums(ctx, limit) })
		manager.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// The sizes of what is sent: most of what one client may have the daemon keep.
const (
	longest    = 60_000 // of a message, under MAX_MESSAGE_BYTES
	ofLongest  = longest - 1000
	ofHeaders  = 15_000
	flooding   = 7000 // each message to those who never read
	floods     = 800
	askedFor   = 64   // answers that nobody reads, on one connection
	wrongKeys  = 70   // of one address, more than are remembered
	subscribed = 1024 // MAX_SUBSCRIPTIONS
)

// greed is a kind of client that opens a connection and leaves the daemon with something.
type greed struct {
	what  string
	times int  // as many of them as of others
	deaf  bool // it reads nothing of what it gets
	begin func(d *daemon, i int) (*net.TCPConn, error)
}

// keyless have not shown the key, and come first. keyed are to be served although those have taken what they can.
var (
	keyless = []greed{
		{what: "headers without the key, half sent", times: 3,
			begin: request("GET /info HTTP/1.1\r\nHost: load\r\nX-Long: " + strings.Repeat("x", ofHeaders))},
		{what: "bodies without the key, half sent", times: 3,
			begin: request("POST /sign-in HTTP/1.1\r\nHost: load\r\nContent-Length: 1000\r\n\r\n" +
				strings.Repeat("x", 500))},
		{what: "connections without the key that read no answer", times: 3, deaf: true,
			begin: request(strings.Repeat("GET / HTTP/1.1\r\nHost: load\r\n\r\n", askedFor))},
	}
	keyed = []greed{
		{what: "posts with the key, half sent", times: 1, begin: request(fmt.Sprintf(
			"POST /publish?clientName=load&apiKey=%s HTTP/1.1\r\nHost: load\r\nContent-Length: %d\r\n\r\n%s", key,
			longest, strings.Repeat("x", ofLongest)))},
		{what: "WebSocket messages, half sent", times: 1, begin: func(d *daemon, i int) (*net.TCPConn, error) {
			s, err := d.dial(i)
			if err != nil {
				return nil, err
			}
			s.Write(append(peer.Header(peer.Fin|peer.Text, longest), make([]byte, ofLongest)...))
			return s.TCPConn, nil
		}},
	}
)

// request begins by sending text and reads nothing. The daemon may end the connection meanwhile: closed will tell.
func request(text string) func(*daemon, int) (*net.TCPConn, error) {
	return func(d *daemon, i int) (*net.TCPConn, error) {
		c, err := d.open(i)
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, text)
		return c, nil
	}
}

// closed reports whether the daemon has ended a connection. It reads what is at hand.
func closed(c *net.TCPConn) (ended bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	p := make([]byte, 4096)
	err = raw.Read(func(fd uintptr) bool {
		n, err := 1, error(nil)
		for n > 0 && err == nil {
			n, err = syscall.Read(int(fd), p)
		}
		ended = err != syscall.EAGAIN
		return true
	})
	return ended || err != nil
}

func (d *daemon) sums(ctx context.Context, limit string) error {
	l, with := d.lab, ""
	d.tight = true
	if limit != "" {
		with = ", with " + limit
	}
	before, err := d.reading(ctx)
	if err != nil {
		return err
	}
	greeds := slices.Concat(keyless, keyed)
	begun := make([][]*net.TCPConn, len(greeds))
	defer func() {
		for _, c := range slices.Concat(begun...) {
			if c != nil {
				c.Close()
			}
		}
	}()
	bystand, err := d.bystand()
	if err != nil {
		return err
	}
	defer bystand() // the first call counts

	stalled, err := d.gather(l.greedy, func(int) []string { return []string{"flood"} })
	defer stalled.disperse()
	if err != nil {
		return err
	}
	refused, subscribers, err := d.subscribeMuch(l.greedy / 3)
	defer subscribers.disperse()
	if err != nil {
		return err
	}
	if err := d.guess(ctx, 4*l.greedy); err != nil {
		return err
	}
	for k, g := range greeds {
		begun[k] = make([]*net.TCPConn, g.times*l.greedy)
		err := each(len(begun[k]), func(i int) (err error) {
			begun[k][i], err = g.begin(d, i)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", g.what, err)
		}
	}

	sizes := make([]int64, 4)
	var asking sync.WaitGroup
	for i := range sizes {
		asking.Go(func() {
			if n, err := d.info(ctx); err == nil { // otherwise its answer was the largest that waited
				sizes[i] = n
			}
		})
	}
	err = d.flood()
	asking.Wait()
	if err != nil {
		return err
	}
	held, err := d.rest(ctx)
	if err != nil {
		return err
	}
	figures, err := d.c.Metrics(ctx)
	if err != nil {
		return err
	}
	served, slowest, err := bystand()
	if err != nil {
		return fmt.Errorf("the bystander: %w", err)
	}

	l.note(figures["picloud_subscriptions"], "subscriptions", "kept, of %d asked for%s", l.greedy/3*subscribed, with)
	l.note(float64(refused), "subscriptions", "refused%s", with)
	l.note(figures["picloud_slow_clients_closed_total"], "connections",
		"closed as too slow: %d never read, and those with what waits most%s", l.greedy, with)
	for k, g := range greeds {
		n := len(slices.DeleteFunc(slices.Clone(begun[k]), func(c *net.TCPConn) bool { return !closed(c) }))
		if g.deaf { // the end is behind more than it has at hand
			l.note(float64(len(begun[k])), "opened", "%s%s", g.what, with)
		} else {
			l.note(float64(n), "closed", "of %d %s%s", len(begun[k]), g.what, with)
		}
	}
	l.note(figures["picloud_http_connections"], "open",
		"of %d connections without the key, and %d posts%s", 9*l.greedy, l.greedy, with)
	l.note(figures["picloud_wrong_keys_total"], "wrong keys", "from %d addresses%s", 4*l.greedy, with)
	whole := slices.DeleteFunc(slices.Clone(sizes), func(n int64) bool { return n == 0 })
	l.note(float64(len(whole)), "infos", "of %d asked for at once came whole%s", len(sizes), with)
	l.note(float64(slices.Max(sizes))/(1<<20), "MiB", "the longest of them%s", with)
	l.note(float64(served), "messages", "to a bystander, each compared with what was sent%s", with)
	l.note(slowest.Seconds(), "s", "the longest of them took%s", with)
	l.note(before.resident, "MiB", "memory before%s", with)
	l.note(held.resident, "MiB", "memory with all of it held%s", with)
	l.note(held.shared, "MiB", "of it in what is kept for a restart%s", with)
	if limit == "" {
		l.note(held.peak, "MiB", "memory at the peak")
	} else {
		l.hold(mostAtOnce, held.peak, "MiB", "memory at the peak%s", with)
	}
	return nil
}

// bystand has a client publish to another, a hundred times a second, until stop is called, which reports how many
// messages have arrived and how long the slowest of them took. Only the first call of stop counts.
func (d *daemon) bystand() (stop func() (served int, slowest time.Duration, err error), err error) {
	const event = "bystander"
	pair, err := d.gather(2, func(i int) []string { return []string{event}[:i] })
	if err != nil {
		pair.disperse()
		return nil, err
	}
	var (
		served  int
		slowest time.Duration
		failed  error
	)
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer pair.disperse()
		for beat := time.NewTicker(10 * time.Millisecond); ; served++ {
			select {
			case <-end:
				beat.Stop()
				return
			case <-beat.C:
			}
			start := time.Now()
			for _, s := range pair {
				s.SetDeadline(start.Add(patience))
			}
			if failed = errors.Join(pair[0].send(publish(event, served)), pair[1].due(event, served)); failed != nil {
				return
			}
			slowest = max(slowest, time.Since(start))
		}
	}()
	stopped := false
	return func() (int, time.Duration, error) {
		if !stopped {
			stopped = true
			close(end)
		}
		<-ended
		return served, slowest, failed
	}, nil
}

// subscribeMuch connects n clients which subscribe to as many events as one may, by names of the greatest length, and
// returns how many subscriptions were refused.
func (d *daemon) subscribeMuch(n int) (refused int, c crowd, err error) {
	if c, err = d.gather(n, func(int) []string { return nil }); err != nil {
		return 0, c, err
	}
	answers := make([]int, n)
	err = each(n, func(i int) error {
		var p []byte
		for k := range subscribed {
			name := fmt.Sprintf("%0250d-%04d", i, k)
			p = appendText(p, `{"action":"subscribe","event":"`+name+`"}`)
		}
		if _, err := c[i].Write(p); err != nil {
			return err
		}
		return c[i].settled(&answers[i])
	})
	for _, k := range answers {
		refused += k
	}
	return refused, c, err
}

// settled waits until the daemon has done all that was sent, and counts what it answers before.
func (s *socket) settled(answers *int) error {
	if err := s.send(`{"action":"unsubscribe","event":"none","id":"done"}`); err != nil {
		return err
	}
	for {
		answer, err := s.read()
		if err != nil || bytes.Contains(answer, []byte(`"done"`)) {
			return err
		}
		*answers++
	}
}

// guess sends wrong keys from n addresses.
func (d *daemon) guess(ctx context.Context, n int) error {
	return each(n, func(i int) error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(i>>8), byte(i))}}
		client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: patience}
		defer client.CloseIdleConnections()
		for k := range wrongKeys {
			if _, err := d.ask(ctx, &client, fmt.Sprint("wrong-", k), http.StatusUnauthorized); err != nil {
				return fmt.Errorf("a wrong key: %w", err)
			}
		}
		return nil
	})
}

// info returns how long the info is.
func (d *daemon) info(ctx context.Context) (int64, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	return d.ask(ctx, &client, key, http.StatusOK)
}

// ask asks for the info, and returns how long the answer is, which must have a status.
func (d *daemon) ask(ctx context.Context, client *http.Client, key string, status int) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.addr+"/info", nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("X-API-Key", key)
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != status {
		return 0, fmt.Errorf("status %s, want %d", resp.Status, status)
	}
	return io.Copy(io.Discard, resp.Body)
}

// flood publishes to those who never read, and waits until the daemon has taken it all.
func (d *daemon) flood() error {
	s, err := d.dial(0)
	if err != nil {
		return err
	}
	defer s.leave(false)
	text := `{"action":"publish","event":"flood","data":"` + strings.Repeat("x", flooding) + `"}`
	for range floods {
		if err := s.send(text); err != nil {
			return fmt.Errorf("flood: %w", err)
		}
	}
	var answers int
	if err := s.settled(&answers); err != nil || answers > 0 {
		return fmt.Errorf("flood: %w, %d answers", err, answers)
	}
	return nil
}
