// Command picloud publishes to a PiCloud server, subscribes to its events, shows who is connected, measures it, and
// looks after the one on this machine.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"picloud/internal/client"
	"picloud/internal/utf"
)

// version is set by the build.
var version = "dev"

const (
	localSocket = "/run/picloud/picloud.sock" // of this machine's own service: whoever may write to it needs no key
	localURL    = "http://localhost:9000"
)

// defaultURL is this machine's server.
func defaultURL(socket string) string {
	const writable = 2 // W_OK, access(2)
	if syscall.Access(socket, writable) == nil {
		return "unix:" + socket
	}
	return localURL
}

// usageError is a command line that cannot be understood.
type usageError struct{ string }

func (e usageError) Error() string { return e.string }

// errInterrupted means that a signal came before the command was done.
var errInterrupted = errors.New("interrupted")

// outputError is a failure to write the output.
type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

func main() {
	// Writing to a closed pipe (picloud sub x | head -1) is then an error, and does not kill the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	os.Exit(exitStatus(err, os.Stderr))
}

// exitStatus prints err, once, and returns the exit status for it.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errInterrupted) {
		return 130 // what a shell gives for a program that SIGINT killed
	}
	fmt.Fprintf(stderr, "picloud: %s\n", visible(err.Error()))
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// run does what args ask for. If ctx ends before that is done, the error is errInterrupted.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer,
	getenv func(string) string) error {
	s, words, err := parse(args, commands)
	if err != nil {
		return err
	}
	s.url = cmp.Or(s.url, getenv("PICLOUD_URL"))
	s.chosen = s.url != ""
	s.url = cmp.Or(s.url, defaultURL(at(localSocket)))
	s.key = cmp.Or(s.key, getenv("API_KEY"))
	s.name = cmp.Or(s.name, getenv("PICLOUD_NAME"))
	s.ca = cmp.Or(s.ca, getenv("PICLOUD_CA"))
	s.terminal, s.watched = isTerminal(stdout), isTerminal(stderr) && !isDumb(getenv)
	s.colour = s.terminal && !isPlain(getenv)
	err = dispatch(ctx, invocation{
		settings: s, words: words, commands: commands,
		stdin: stdin, stdout: output{stdout}, stderr: &lines{w: stderr}, screen: screenOn(stdout, isDumb(getenv)),
	})
	if _, ok := errors.AsType[outputError](err); ok && errors.Is(err, syscall.EPIPE) {
		return nil // whoever reads has had enough
	}
	return err
}

// dispatch runs the command that the first word names.
func dispatch(ctx context.Context, c invocation) error {
	name := ""
	if len(c.words) > 0 {
		name, c.words = c.words[0], c.words[1:]
	}
	switch {
	case c.version:
		return printVersion(c.stdout)
	case c.help:
		return help(c.stdout, c.commands, name)
	case name == "":
		return usageError{"which command? pub, sub and info are the usual ones; picloud help lists all"}
	}
	command, err := find(c.commands, name)
	switch {
	case err != nil:
		return err
	case command.args == nil && len(c.words) > 0:
		return usageError{fmt.Sprintf("%s takes no %q: see picloud help %[1]s", name, c.words[0])}
	}
	return command.run(ctx, c)
}

// patience is how long one request may take, including the waits that a busy server asks for.
const patience = 30 * time.Second

// oneRequest runs ask, which makes one request, for no longer than patience.
func oneRequest(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("gave up after %s", patience))
	defer cancel()
	err := ask(limited)
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// connect makes a client that reports on stderr when its connection is lost and back.
func connect(s settings, stderr io.Writer, options client.Options) (*client.Client, error) {
	options.URL, options.Key, options.Name = s.url, s.key, s.name
	options.LookUp = lookUp
	if s.ca != "" {
		trusted, err := trust(s.ca)
		if err != nil {
			return nil, err
		}
		options.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trusted}
	}
	var lost time.Time
	options.OnState = func(state client.State) {
		switch {
		case !state.Connected && lost.IsZero():
			lost = time.Now()
			fmt.Fprintf(stderr, "picloud: %s: trying again\n", visible(state.Err.Error()))
		case state.Connected && !lost.IsZero():
			fmt.Fprintf(stderr, "picloud: connected after %s\n", time.Since(lost).Round(100*time.Millisecond))
			lost = time.Time{}
		}
	}
	c, err := client.New(options)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	return c, nil
}

// trust returns what this machine trusts, and the certificates of a file.
func trust(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificate to trust (--ca, PICLOUD_CA): %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any
	}
	if !pool.AppendCertsFromPEM(bytes.TrimPrefix(text, utf.Mark)) {
		return nil, fmt.Errorf("%s (--ca, PICLOUD_CA) holds no PEM certificate: that has a line that begins with -----BEGIN CERTIFICATE", file)
	}
	return pool, nil
}

// withConnection keeps c connected while f runs, and ends f's context if that cannot be done.
func withConnection(ctx context.Context, c *client.Client, f func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := c.Run(ctx)
		stop(err)
		ended <- err
	}()
	err := f(ctx)
	stop(nil)
	return cmp.Or(<-ended, err)
}
