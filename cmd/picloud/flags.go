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
// so are -, which is the standard input, negative numbers, and whatever cannot be a flag, as ---.
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
		name, _, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		f := flags.Lookup(name)
		if f != nil && !isSwitch(f) && !hasValue {
			n = min(2, len(args))
		}
		if err := flags.Parse(args[:n]); err != nil {
			if f == nil {
				return s, nil, unknownFlag(arg, append(words, args[1:]...), commands)
			}
			see := "picloud help"
			if c, ok := meantIn(append(words, args[n:]...), commands); ok {
				see += " " + c.name
			}
			return s, nil, usageError{err.Error() + ": see " + see}
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
	if !strings.HasPrefix(arg, "-") {
		return true
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return name == "" || !strings.Contains(letters, name[:1]) || strings.Trim(name, letters+"-_0123456789") != ""
}

// unknownFlag is the error of an argument that looks like a flag; rest are the words before it and all behind it.
func unknownFlag(arg string, rest []string, commands []command) error {
	written, _, _ := strings.Cut(arg, "=")
	name := strings.TrimLeft(written, "-")
	options, see := allFlags(commands), "picloud help"
	if c, ok := meantIn(rest, commands); ok {
		options = slices.Concat(c.flags, c.general, []option{helpFlag, hFlag, versionFlag})
		see += " " + c.name
	}
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	advice := "see " + see
	if meant := nearest(name, names); meant != "" {
		advice = fmt.Sprintf("did you mean %s?", option{name: meant})
	}
	return usageError{fmt.Sprintf("there is no flag %s: %s; data that begins with - goes behind --", written, advice)}
}

// meantIn returns the first command that is named.
func meantIn(args []string, commands []command) (command, bool) {
	for _, arg := range args {
		if i := slices.IndexFunc(commands, func(c command) bool { return c.name == arg }); i >= 0 {
			return commands[i], true
		}
	}
	return command{}, false
}

// nearest returns the one that was perhaps meant: the only one that begins so, or the one with the fewest letters
// wrong, which are a third at most. It is empty if there is none.
func nearest(typed string, names []string) string {
	if len(typed) > 32 {
		return "" // no name is that long
	}
	var begins []string
	best, fewest := "", len(typed)/3+1
	for _, name := range names {
		if typed != "" && strings.HasPrefix(name, typed) {
			begins = append(begins, name)
		}
		if d := distance(typed, name); d < fewest && d < len(name) {
			best, fewest = name, d
		}
	}
	if len(begins) == 1 {
		return begins[0]
	}
	return best
}

// distance is how many letters have to be added, removed, changed or swapped with their neighbours to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
