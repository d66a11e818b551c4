package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"picloud/internal/client"
	"picloud/internal/utf"
	"picloud/internal/wire"
)

const (
	maxLineBytes = 32 << 20
	window       = 1024 // messages in flight at a time
)

var pubCommand = command{
	name: "pub", args: []string{"EVENT DATA", "EVENT -"},
	line:    "publish",
	flags:   []option{jsonFlag("the data is JSON")},
	general: generalFlags,
	words:   []word{{what: "event"}, {what: "data, or - for the standard input"}},
	help: `Publishes DATA, as a JSON string of exactly what is typed. When it returns, the message is
in the queue of everyone who is subscribed at that moment.

  -        read the standard input: each line is a message (its \n or \r\n is not part of
           it), in order, over one connection. A line that fails, as one longer than the
           server takes, is named and the others are published. When the connection breaks
           it connects again; lines that were in flight may or may not have been delivered,
           and are named.
  --       what follows is no flag: picloud pub door -- --json. Data such as -5 and '--- x'
           needs it not
  --json   DATA, or each line, is JSON and is published as that

  picloud pub temperature '76.5 F'
  picloud pub temperature -5
  picloud pub --json lamp '{"on": true, "level": 40}'
  tail -f /var/log/syslog | picloud pub log -
`,
	run: func(ctx context.Context, c invocation) error {
		return pub(ctx, c.settings, c.words, c.stdin, c.stderr)
	},
}

func pub(ctx context.Context, s settings, words []string, stdin io.Reader, stderr io.Writer) error {
	switch {
	case len(words) < 2:
		return usageError{"which event, and what data? As in: picloud pub temperature '76.5 F'"}
	case len(words) > 2:
		return usageError{"there is more than an event and its data: put quotes around data that has spaces"}
	}
	event, text := words[0], words[1]
	var data json.RawMessage
	if text != "-" {
		var err error
		if data, err = encode([]byte(text), s.json); err != nil {
			return usageError{"the data is " + err.Error()}
		}
	}
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	if text == "-" {
		return pubLines(ctx, c, event, s.json, stdin, stderr)
	}
	return oneRequest(ctx, func(ctx context.Context) error { return c.Post(ctx, event, data) })
}

// encode turns what was typed into data: a JSON string, or the JSON itself.
func encode(text []byte, isJSON bool) (json.RawMessage, error) {
	switch {
	case !utf8.Valid(text):
		return nil, errors.New("not UTF-8")
	case !isJSON:
		return wire.AppendString(nil, string(text)), nil
	case !json.Valid(text):
		return nil, errors.New("not JSON, which --json asks for")
	}
	return append(json.RawMessage(nil), text...), nil
}

// sent is a line of the input that is in flight, or the reason why it is not.
type sent struct {
	line    int
	receipt *client.Receipt
	err     error
}

// pubLines publishes each line of stdin. Lines that fail are named, and the others are published.
func pubLines(ctx context.Context, c *client.Client, event string, isJSON bool, stdin io.Reader,
	stderr io.Writer) error {
	err := withConnection(ctx, c, func(ctx context.Context) error {
		inFlight := make(chan sent, window)
		var failed int
		var settling sync.WaitGroup
		settling.Go(func() { failed = settle(inFlight, stderr) })
		n, err := sendLines(ctx, c, event, isJSON, stdin, inFlight)
		close(inFlight)
		settling.Wait()
		if err != nil {
			return err
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d messages failed", failed, n)
		}
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// sendLines returns the number of lines. An error means that not all were sent.
func sendLines(ctx context.Context, c *client.Client, event string, isJSON bool, stdin io.Reader,
	inFlight chan<- sent) (int, error) {
	lines := make(chan line)
	read := make(chan error, 1)
	// Nothing can interrupt a read of the standard input, so this goroutine may outlive its caller, until the read
	// returns or the program ends.
	go func() { read <- readLines(ctx, stdin, lines) }()
	for n := 1; ; n++ {
		select {
		case l, ok := <-lines:
			if !ok {
				if err := <-read; err != nil {
					return n - 1, fmt.Errorf("line %d: %w: it and what follows was not sent", n, err)
				}
				return n - 1, nil
			}
			s := sent{line: n, err: l.err}
			var data json.RawMessage
			if s.err == nil {
				data, s.err = encode(l.text, isJSON)
			}
			if s.err == nil {
				var err error
				s.receipt, err = c.Send(ctx, event, data)
				if errors.Is(err, client.ErrTooBig) {
					s.err = err
				} else if err != nil {
					return n - 1, fmt.Errorf("line %d and what follows was not sent: %w", n, err)
				}
			}
			inFlight <- s
		case <-ctx.Done():
			return n - 1, context.Cause(ctx)
		}
	}
}

// line is one of the input, or why it cannot be used.
type line struct {
	text []byte
	err  error
}

var errLongLine = fmt.Errorf("longer than %d MiB", maxLineBytes>>20)

// readLines sends each line, without its line ending and a byte order mark before the first, and closes lines.
func readLines(ctx context.Context, stdin io.Reader, lines chan<- line) error {
	defer close(lines)
	r := bufio.NewReaderSize(stdin, 64<<10)
	for first := true; ; first = false {
		text, err := readLine(r)
		if first {
			text = bytes.TrimPrefix(text, utf.Mark)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, errLongLine):
			return err
		}
		select {
		case lines <- line{text, err}:
		case <-ctx.Done():
			return context.Cause(ctx) // not everything was read, whichever of the two sendLines sees first
		}
	}
}

// readLine returns a line that is the caller's, without its line ending. After errLongLine the next one can be read.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	length := 0
	for {
		part, err := r.ReadSlice('\n')
		length += len(part)
		if length <= maxLineBytes {
			text = append(text, part...)
		} else {
			text = nil
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && length > 0:
		case err != nil:
			return nil, err
		}
		if length > maxLineBytes {
			return nil, errLongLine
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), nil
	}
}

// settle waits for the answers, names the lines that failed and returns how many did. Consecutive lines that failed for
// the same reason are named together.
func settle(inFlight <-chan sent, stderr io.Writer) int {
	var failed, first, last int
	var reason string
	name := func() {
		switch {
		case reason == "":
		case first == last:
			fmt.Fprintf(stderr, "picloud: line %d: %s\n", first, visible(reason))
		default:
			fmt.Fprintf(stderr, "picloud: lines %d to %d: %s\n", first, last, visible(reason))
		}
		reason = ""
	}
	for s := range inFlight {
		err := s.err
		if err == nil {
			// Every wait ends with the connection.
			err = s.receipt.Wait(context.Background())
		}
		if err != nil {
			failed++
			if reason == err.Error() && s.line == last+1 {
				last++
			} else {
				name()
				first, last, reason = s.line, s.line, err.Error()
			}
		}
		if err == nil || len(inFlight) == 0 {
			name()
		}
	}
	name()
	return failed
}
