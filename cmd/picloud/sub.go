package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"picloud/internal/client"
	"picloud/internal/wire"
)

var subCommand = command{
	name: "sub", args: []string{"EVENT..."},
	line: "print what is published, as it comes",
	flags: []option{
		jsonFlag("print whole messages"),
		{name: "n", value: "COUNT", line: "end after so many messages", to: func(s *settings) any { return &s.count }},
	},
	general: generalFlags,
	words:   []word{{what: "event", many: true}},
	help: `Prints the data of every message that is published from now on, each at once and on one
line: a string as its text, with \n and \r for its line breaks, anything else as JSON. On a
terminal, what would change colours or not be seen is escaped, too. When the connection breaks
it connects again; what was published in between is missed. SIGINT (Ctrl-C) ends it, with exit
status 0 unless -n asked for more. It also ends when nobody reads what it prints any more.

  --json     the whole message: event, data, created_at and client_name, as JSON on one line
  -n COUNT   end after so many messages

  picloud sub temperature
  picloud sub --json door bell | jq .client_name
  picloud sub -n 1 door && notify-send 'Somebody is at the door'
`,
	run: func(ctx context.Context, c invocation) error {
		return sub(ctx, c.settings, c.words, c.stdout, c.stderr)
	},
}

var errEnough = errors.New("as many messages as were asked for have been printed")

func sub(ctx context.Context, s settings, events []string, stdout, stderr io.Writer) error {
	if len(events) == 0 {
		return usageError{"which event? As in: picloud sub temperature"}
	}
	printing, done := context.WithCancelCause(ctx)
	defer done(nil)
	defer whenReaderGone(stdout, func() { done(outputError{syscall.EPIPE}) })()
	left := s.count
	c, err := connect(s, stderr, client.Options{OnMessage: func(d wire.Delivery) {
		line, err := format(d, s)
		if err == nil {
			_, err = stdout.Write(line)
		}
		if err != nil {
			done(err)
		} else if left--; left == 0 {
			done(errEnough)
		}
	}})
	if err != nil {
		return err
	}
	err = withConnection(printing, c, func(ctx context.Context) error {
		for _, event := range events {
			if err := c.Subscribe(ctx, event); err != nil {
				return err
			}
		}
		fmt.Fprintln(stderr, "picloud: subscribed")
		<-ctx.Done()
		return nil
	})
	switch cause := context.Cause(printing); {
	case errors.Is(cause, errEnough):
		return nil
	case ctx.Err() != nil && s.count == 0:
		return nil // it does not end in any other way
	case ctx.Err() != nil:
		return errInterrupted
	case cause != nil:
		return cause
	}
	return err
}

// lineBreaks escapes what would make several lines of a text, as visible does.
var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// format returns a message as one line.
func format(d wire.Delivery, s settings) ([]byte, error) {
	var b bytes.Buffer
	if s.json {
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(d); err != nil {
			return nil, err
		}
		b.Truncate(b.Len() - 1) // the encoder's newline
	} else if len(d.Data) > 0 && d.Data[0] == '"' {
		var text string
		if err := json.Unmarshal(d.Data, &text); err != nil {
			return nil, err
		}
		lineBreaks.WriteString(&b, text)
	} else if err := json.Compact(&b, d.Data); err != nil {
		return nil, err
	}
	if s.terminal {
		return append([]byte(visible(b.String())), '\n'), nil
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
