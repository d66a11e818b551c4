package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
)

var helpCommand = command{
	name: "help", args: []string{"[COMMAND]"},
	line:    "say more about a command",
	ignores: generalFlags,
	words:   []word{{what: "command", offers: allButHelp}},
	run: func(_ context.Context, c invocation) error {
		return help(c.stdout, c.commands, strings.Join(c.words, " "))
	},
}

var versionCommand = command{
	name:    "version",
	line:    "print the version of this client",
	ignores: generalFlags,
	help:    "Prints the version of this client.\n",
	run: func(_ context.Context, c invocation) error {
		return printVersion(c.stdout)
	},
}

func printVersion(stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "picloud %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

const mainHelp = `picloud publishes to a PiCloud server, subscribes to its events, shows who is connected,
measures it, and looks after the one on this machine.

`

const generalHelp = `
flags, before or after the words:
  --url ADDRESS   the server: http://host:9000, https://host:9000, host, host:port or
                  unix:/path. Without it PICLOUD_URL counts, then this machine's server:
                  ` + localSocket + ` if this user may (group picloud: no key is
                  needed), otherwise ` + localURL + `
  --key KEY       its key. Without it API_KEY counts, which other users of this machine
                  cannot see. A line that picloudd prints when it starts sets it.
  --ca FILE       a PEM certificate to trust, the server's own or its authority's, besides
                  those that this machine trusts. Without it PICLOUD_CA counts
  --name NAME     what this client is called. Without it PICLOUD_NAME counts, then user@host

Colours, and what moves on the screen, are for terminals only; NO_COLOR and TERM=dumb
turn them off there too.

exit status: 0 done, 1 it failed, 2 the command line is wrong, 130 interrupted before the end
`

// help says how to use a command, or picloud where none is named.
func help(stdout io.Writer, commands []command, name string) error {
	var text string
	if name == "" || name == "help" {
		text = mainHelp + overview(commands) + generalHelp
	} else {
		c, err := find(commands, name)
		if err != nil {
			return err
		}
		text = c.usage() + "\n" + c.help
		if len(c.general) > 0 {
			text += "\n" + series(c.general) + ": see picloud help.\n"
		}
	}
	_, err := io.WriteString(stdout, text)
	return err
}

func allButHelp(commands []command) []string {
	return slices.DeleteFunc(namesOf(commands), func(name string) bool { return name == "help" })
}

// overview is a line for each command.
func overview(commands []command) string {
	usual := func(c command) string {
		if c.args == nil {
			return c.name
		}
		return c.name + " " + c.args[0]
	}
	width := 0
	for _, c := range commands {
		width = max(width, len(usual(c)))
	}
	var b strings.Builder
	before := "usage:"
	for _, c := range commands {
		fmt.Fprintf(&b, "%s picloud %-*s   %s\n", before, width, usual(c), c.line)
		before = "      "
	}
	return b.String()
}

// series is flags in a sentence: --url, --key and --name.
func series(flags []option) string {
	var b strings.Builder
	for i, o := range flags {
		switch {
		case i == 0:
		case i == len(flags)-1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(o.String())
	}
	return b.String()
}
