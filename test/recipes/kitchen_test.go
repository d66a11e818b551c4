package recipes

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"
	"picloud/test/daemon"
	"picloud/test/wait"
)

var bin string // folder of the built picloudd and picloud

func TestMain(m *testing.M) {
	os.Exit(daemon.Built(daemon.Raced, func(built string) int {
		bin = built
		return m.Run()
	}))
}

const (
	apiKey        = "a-key-for-tests"
	readmesServer = "http://localhost:9000"
	late          = 30 * time.Second // long after anything here should have happened
)

// wrong is for the environment of a program that has a wrong key.
var wrong = []string{"API_KEY=wrong"}

// file writes a program or configuration, and returns its path.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// picloudd is a real daemon, and a client of it.
type picloudd struct {
	t        *testing.T
	process  *daemon.Process
	url      string
	address  string // host:port
	client   *client.Client
	messages chan wire.Delivery
}

func serve(t *testing.T) *picloudd {
	t.Helper()
	p := &picloudd{t: t, address: "127.0.0.1:0"}
	p.begin()
	p.run()
	return p
}

// run starts the client.
func (p *picloudd) run() {
	p.t.Helper()
	p.messages, p.client = connect(p.t, client.Options{URL: p.url, Key: apiKey, Name: "test"})
}

// connect returns a client that runs until the end of the test.
func connect(t *testing.T, options client.Options) (chan wire.Delivery, *client.Client) {
	t.Helper()
	messages := make(chan wire.Delivery, 1000)
	options.OnMessage = func(d wire.Delivery) { messages <- d }
	c, err := client.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return messages, c
}

// begin starts the daemon, a second time on the same port.
func (p *picloudd) begin() {
	p.t.Helper()
	_, port, _ := net.SplitHostPort(p.address)
	p.process = daemon.Start(p.t, bin, "PORT="+port, "API_KEY="+apiKey)
	p.address = "127.0.0.1:" + p.process.Port()
	p.url = "http://" + p.address
}

func (p *picloudd) end() { p.process.Stop(p.t) }

// subscribe returns when the test is subscribed to the event.
func (p *picloudd) subscribe(event string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), late)
	defer cancel()
	if err := p.client.Subscribe(ctx, event); err != nil {
		p.t.Fatal(err)
	}
}

// publish publishes JSON.
func (p *picloudd) publish(event, data string) {
	p.t.Helper()
	if err := p.client.Post(p.t.Context(), event, json.RawMessage(data)); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next message.
func (p *picloudd) next() wire.Delivery {
	p.t.Helper()
	return wait.For(p.t, p.messages, "nobody publishes")
}

// gets checks the next message: its event, its data as JSON and who published it.
func (p *picloudd) gets(event, data, from string) {
	p.t.Helper()
	if m := p.next(); m.Event != event || string(m.Data) != data || m.ClientName != from {
		p.t.Errorf("%s published %.100s as %q, want %s publishing %.100s as %q", m.ClientName, m.Data, m.Event, from,
			data, event)
	}
}

// hasSubscriber waits until the client with that name is subscribed.
func (p *picloudd) hasSubscriber(event, name string) {
	p.t.Helper()
	wait.Until(p.t, name+" subscribes to "+event, func() bool {
		info, err := p.client.Info(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		for _, s := range info.Subscriptions {
			if s.Name == event && slices.ContainsFunc(s.Connections,
				func(c wire.Connection) bool { return c.ClientName == name }) {
				return true
			}
		}
		return false
	})
}

// dish is a running program of a recipe.
type dish struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	ended chan error
}

// cook starts a program with the server and its key in its environment, and picloud in its PATH.
func cook(t *testing.T, p *picloudd, env []string, name string, args ...string) *dish {
	t.Helper()
	return cookWith(t, p, nil, env, name, args...)
}

// cookWith is cook with an input.
func cookWith(t *testing.T, p *picloudd, input *os.File, env []string, name string, args ...string) *dish {
	t.Helper()
	d := &dish{t, exec.Command(name, args...), make(chan string, 1000), make(chan error, 1)}
	d.cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin", "API_KEY="+apiKey,
		"PYTHONDONTWRITEBYTECODE=1", daemon.AtOnce)
	if p != nil {
		d.cmd.Env = append(d.cmd.Env, "PICLOUD_URL="+p.url)
	}
	d.cmd.Env = append(d.cmd.Env, env...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stdout, d.cmd.Stderr = w, w
	if input != nil {
		d.cmd.Stdin = input
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(d.lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			d.lines <- s.Text()
		}
		r.Close()
	}()
	go func() { d.ended <- d.cmd.Wait() }()
	// A shell's pipeline is more than one process, all in one group.
	t.Cleanup(func() { syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) })
	return d
}

// line returns the next line.
func (d *dish) line() string {
	d.t.Helper()
	return wait.For(d.t, d.lines, d.cmd.String()+" prints nothing")
}

// prints waits for a line that contains the words, whatever comes before it.
func (d *dish) prints(words string) {
	d.t.Helper()
	timeout := time.After(late)
	var before []string
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("%s ended and printed no %q, but\n%s", d.cmd, words, strings.Join(before, "\n"))
			}
			if strings.Contains(line, words) {
				return
			}
			before = append(before, line)
		case <-timeout:
			d.t.Fatalf("%s prints no %q, but\n%s", d.cmd, words, strings.Join(before, "\n"))
		}
	}
}

// ends waits for the end, and checks whether it is a good one.
func (d *dish) ends(good bool) {
	d.t.Helper()
	select {
	case err := <-d.ended:
		if (err == nil) != good {
			var all []string
			for line := range d.lines {
				all = append(all, line)
			}
			d.t.Errorf("%s: %v\n%s", d.cmd, err, strings.Join(all, "\n"))
		}
	case <-time.After(late):
		d.t.Fatalf("%s does not end", d.cmd)
	}
}
