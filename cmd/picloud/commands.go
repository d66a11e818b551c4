package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// commands are all that picloud can do, in the order in which the help lists them. A command's entry stands in the
// command's own file; the dispatch, the help and the completions are made from it, and a test holds the manual to it.
var commands = []command{
	pubCommand,
	subCommand,
	infoCommand,
	benchCommand,
	openCommand,
	doctorCommand,
	discoverCommand,
	keyCommand,
	completionCommand,
	versionCommand,
	helpCommand,
}

// A command is a verb of picloud.
type command struct {
	name    string
	args    []string // what follows the name, one for each line of usage, the usual one first; nil when nothing may
	line    string   // what it does, in a few words
	flags   []option // its own
	general []option // those of the general flags that it uses
	ignores []option // flags that it accepts, from an alias for one, and does not use
	words   []word   // what its words are, for the completions
	help    string   // what it does in full, with its flags and examples
	run     func(context.Context, invocation) error
}

// An option is a flag as one command has it.
type option struct {
	name  string // without its dashes
	value string // what its value is called; a switch has none
	line  string // what it does, in a few words
	// offers are how a value can begin; nil where there is nothing to offer.
	offers []string
	// to is where its value goes: a *string, a *bool, a *time.Duration, or an *int, which takes 1 or more.
	to func(*settings) any
}

// A word is what one word behind a command's name is.
type word struct {
	what   string                   // what it is called
	many   bool                     // so may be all that follow
	offers func([]command) []string // what it can be; nil where that is not known
}

// these are always the same offers.
func these(offers ...string) func([]command) []string {
	return func([]command) []string { return offers }
}

// String is the flag as it is written.
func (o option) String() string {
	if len(o.name) == 1 {
		return "-" + o.name
	}
	return "--" + o.name
}

// An invocation is a command line that has been understood, with all that a command may use.
type invocation struct {
	settings
	words          []string // behind the command's name
	stdin          io.Reader
	stdout, stderr io.Writer
	screen         *screen // nil where nothing can be drawn in place
	commands       []command
}

// settings are what the flags and the environment say.
type settings struct {
	url, key, name string
	ca             string // a file of certificates to trust
	json, watch    bool
	count          int
	help, version  bool
	bench          load

	chosen   bool // url was given, and is not only this machine's
	terminal bool // stdout is one
	watched  bool // stderr is one, and it can move its cursor
	colour   bool // stdout is a terminal that has colours, and they are wanted
}

var (
	urlFlag = option{
		name: "url", value: "ADDRESS", line: "the server",
		offers: []string{"http://", "https://", "unix:" + localSocket},
		to:     func(s *settings) any { return &s.url },
	}
	keyFlag  = option{name: "key", value: "KEY", line: "its key", to: func(s *settings) any { return &s.key }}
	nameFlag = option{name: "name", value: "NAME", line: "what this client is called",
		to: func(s *settings) any { return &s.name }}

	caFlag = option{name: "ca", value: "FILE", line: "a certificate to trust",
		to: func(s *settings) any { return &s.ca }}

	generalFlags = []option{urlFlag, keyFlag, nameFlag, caFlag}

	// These go with every command, and with none.
	helpFlag    = option{name: "help", line: "say how to use it", to: func(s *settings) any { return &s.help }}
	hFlag       = option{name: "h", line: helpFlag.line, to: helpFlag.to}
	versionFlag = option{name: "version", line: "print the version", to: func(s *settings) any { return &s.version }}
)

func jsonFlag(line string) option {
	return option{name: "json", line: line, to: func(s *settings) any { return &s.json }}
}

// otherNames are what other programs call such commands.
var otherNames = map[string]string{
	"publish": "pub", "send": "pub", "subscribe": "sub", "listen": "sub",
	"ls": "info", "list": "info", "ps": "info", "status": "info", "top": "info --watch", "watch": "info --watch",
}

func find(commands []command, name string) (command, error) {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		advice := "picloud help lists them"
		if meant := cmp.Or(otherNames[name], nearest(name, namesOf(commands))); meant != "" {
			advice = fmt.Sprintf("did you mean picloud %s?", meant)
		}
		return command{}, usageError{fmt.Sprintf("there is no command %q: %s", name, advice)}
	}
	return commands[i], nil
}

// accepts says whether the command may be given the flag.
func (c command) accepts(flag string) bool {
	return slices.ContainsFunc(slices.Concat(c.flags, c.general, c.ignores, []option{helpFlag, hFlag, versionFlag}),
		func(o option) bool { return o.name == flag })
}

// usage has a line for each way to call the command.
func (c command) usage() string {
	flags := ""
	if len(c.flags) > 2 {
		flags = " [flags]"
	} else {
		for _, o := range c.flags {
			flags += " [" + strings.TrimSpace(o.String()+" "+o.value) + "]"
		}
	}
	args := c.args
	if args == nil {
		args = []string{""}
	}
	var b strings.Builder
	before := "usage:"
	for _, words := range args {
		fmt.Fprintf(&b, "%s picloud %s\n", before, strings.TrimSpace(c.name+flags+" "+words))
		before = "      "
	}
	return b.String()
}
