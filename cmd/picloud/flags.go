package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

type settings struct {
	url, key, name string
	json, watch    bool
	count          int
	help, version  bool
	bench          load

	chosen   bool // url was given, and is not only this machine's
	terminal bool // the output is one
	watched  bool // stderr is one, and it can move its cursor
	colour   bool // the output is a terminal that has colours, and they are wanted
}

// takes says which flags belong to some commands only.
var takes = map[string][]string{
	"json": {"pub", "sub", "info", "discover", "bench"},
	"n":    {"sub"},
	"name": {"pub", "sub", "info", "version", "help"},
	"url":  {"pub", "sub", "info", "open", "doctor", "bench", "version", "help"},
	"key":  {"pub", "sub", "info", "open", "doctor", "bench", "version", "help"},

	"watch": {"info"},

	"subscribers": {"bench"},
	"size":        {"bench"},
	"window":      {"bench"},
	"rate":        {"bench"},
	"duration":    {"bench"},
	"messages":    {"bench"},
}

// parse takes flags before, between and after the words. After -- all are words, and so are
// -, which is the standard input, and negative numbers.
func parse(args []string) (settings, []string, error) {
	var s settings
	flags := flag.NewFlagSet("picloud", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.url, "url", "", "")
	flags.StringVar(&s.key, "key", "", "")
	flags.StringVar(&s.name, "name", "", "")
	flags.BoolVar(&s.json, "json", false, "")
	flags.BoolVar(&s.watch, "watch", false, "")
	count := func(name string, to *int) {
		flags.Func(name, "", func(text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return errors.New("a count of 1 or more is needed")
			}
			*to = n
			return nil
		})
	}
	count("n", &s.count)
	s.bench = defaultLoad
	count("subscribers", &s.bench.subscribers)
	count("size", &s.bench.size)
	count("window", &s.bench.window)
	count("rate", &s.bench.rate)
	count("messages", &s.bench.messages)
	flags.DurationVar(&s.bench.duration, "duration", s.bench.duration, "")
	flags.BoolVar(&s.version, "version", false, "")
	flags.BoolVar(&s.help, "help", false, "")
	flags.BoolVar(&s.help, "h", false, "")

	var words []string
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			words = append(words, args[1:]...)
			break
		}
		if isWord(arg) {
			words = append(words, arg)
			args = args[1:]
			continue
		}
		// One flag at a time, since the package would stop at the first word.
		n := 1
		f := flags.Lookup(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"))
		if f != nil && !isSwitch(f) {
			n = min(2, len(args))
		}
		if err := flags.Parse(args[:n]); err != nil {
			return s, nil, usageError{err.Error() + ": picloud help lists the flags"}
		}
		args = args[n:]
	}

	if len(words) > 0 && !s.help {
		var err error
		flags.Visit(func(f *flag.Flag) {
			if commands := takes[f.Name]; commands != nil && !slices.Contains(commands, words[0]) {
				err = usageError{fmt.Sprintf("%s takes no -%s: see picloud help %[1]s", words[0], f.Name)}
			}
		})
		if err != nil {
			return s, nil, err
		}
	}
	return s, words, nil
}

func isWord(arg string) bool {
	return len(arg) < 2 || arg[0] != '-' || arg[1] == '.' || '0' <= arg[1] && arg[1] <= '9'
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
