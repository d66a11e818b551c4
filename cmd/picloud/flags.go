package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parse takes flags before, between and after the words, of which the first is the command. After -- all are words, and
// so are -, which is the standard input, and negative numbers.
func parse(args []string, commands []command) (settings, []string, error) {
	s := settings{bench: defaultLoad}
	flags := flag.NewFlagSet("picloud", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for _, o := range allFlags(commands) {
		o.define(flags, &s)
	}

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

	if len(words) == 0 || s.help || s.version {
		return s, words, nil
	}
	c, err := find(commands, words[0])
	if err != nil {
		return s, nil, err
	}
	flags.Visit(func(f *flag.Flag) {
		if !c.accepts(f.Name) {
			err = usageError{fmt.Sprintf("%s takes no -%s: see picloud help %[1]s", c.name, f.Name)}
		}
	})
	return s, words, err
}

// allFlags are those of all commands, each once.
func allFlags(commands []command) []option {
	list := slices.Concat(generalFlags, []option{helpFlag, hFlag, versionFlag})
	for _, c := range commands {
		list = append(list, c.flags...)
	}
	slices.SortStableFunc(list, func(a, b option) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(list, func(a, b option) bool { return a.name == b.name })
}

// define makes o a flag that sets s.
func (o option) define(flags *flag.FlagSet, s *settings) {
	switch to := o.to(s).(type) {
	case *string:
		flags.StringVar(to, o.name, *to, "")
	case *bool:
		flags.BoolVar(to, o.name, *to, "")
	case *time.Duration:
		flags.DurationVar(to, o.name, *to, "")
	case *int:
		flags.Func(o.name, "", func(text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return errors.New("a count of 1 or more is needed")
			}
			*to = n
			return nil
		})
	default:
		panic(fmt.Sprintf("flag %s: nothing parses a %T", o, to))
	}
}

func isWord(arg string) bool {
	return len(arg) < 2 || arg[0] != '-' || arg[1] == '.' || '0' <= arg[1] && arg[1] <= '9'
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
