package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

var completionCommand = command{
	name: "completion", args: []string{"SHELL"},
	line:    "print the completion for bash, zsh or fish",
	ignores: generalFlags,
	words:   []word{{what: "shell", offers: these("bash", "zsh", "fish")}},
	help: `Prints what makes bash, zsh or fish complete commands, flags and what goes with them. The
Debian package installs it for all three; this is for a picloud that you have built yourself.

  source <(picloud completion bash)
  picloud completion zsh >"${fpath[1]}/_picloud"
  picloud completion fish >~/.config/fish/completions/picloud.fish
`,
	run: func(_ context.Context, c invocation) error {
		return completion(c.stdout, c.commands, c.words)
	},
}

func completion(stdout io.Writer, commands []command, words []string) error {
	shells := map[string]func([]command) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	if len(words) != 1 || shells[words[0]] == nil {
		return usageError{"for which shell? bash, zsh or fish, as in: picloud completion bash"}
	}
	_, err := io.WriteString(stdout, shells[words[0]](commands))
	return err
}

// topFlags stand where there is no command yet.
var topFlags = slices.Concat(generalFlags, []option{helpFlag, versionFlag})

// offered are the flags that are of use to a command.
func (c command) offered() []option { return slices.Concat(c.flags, c.general, []option{helpFlag}) }

// offers are what the words of a command can be, where that is known.
func (c command) offers(commands []command) []string {
	var list []string
	for _, w := range c.words {
		if w.offers != nil {
			list = append(list, w.offers(commands)...)
		}
	}
	return list
}

func namesOf(commands []command) []string {
	var list []string
	for _, c := range commands {
		list = append(list, c.name)
	}
	return list
}

func written(flags []option) []string {
	var list []string
	for _, o := range flags {
		list = append(list, o.String())
	}
	return list
}

func bashCompletion(commands []command) string {
	// The package flag takes one dash as well as two.
	bothWays := func(o option) string {
		if len(o.name) == 1 {
			return o.String()
		}
		return "-" + o.name + " | " + o.String()
	}
	var b, cases strings.Builder
	var valued []string
	for _, o := range allFlags(commands) {
		if o.value == "" {
			continue
		}
		valued = append(valued, bothWays(o))
		if o.offers != nil {
			fmt.Fprintf(&cases, "\t%s)\n\t\toffers=%s\n\t\tcompopt -o nospace\n\t\t;;\n", bothWays(o),
				shellQuote(strings.Join(o.offers, " ")))
		}
	}
	all := strings.Join(valued, " | ")
	fmt.Fprintf(&b, `# bash completion for picloud(1), printed by picloud completion bash

_picloud() {
	local cur prev words cword
	_init_completion -n : || return

	# The first word that is neither a flag nor a flag's value is the command.
	local command='' flags='' offers='' i
	for ((i = 1; i < cword; i++)); do
		case ${words[i]} in
		%[1]s) ((i++)) ;;
		-*) ;;
		*)
			command=${words[i]}
			break
			;;
		esac
	done

	case $command in
	'') flags=%[2]s offers=%[3]s ;;
`, all, shellQuote(strings.Join(written(topFlags), " ")), shellQuote(strings.Join(namesOf(commands), " ")))
	for _, c := range commands {
		fmt.Fprintf(&b, "\t%s) flags=%s offers=%s ;;\n", c.name,
			shellQuote(strings.Join(written(c.offered()), " ")), shellQuote(strings.Join(c.offers(commands), " ")))
	}
	fmt.Fprintf(&b, `	esac
	[[ $cur != -* ]] || offers=$flags

	case $prev in
%[2]s	%[1]s) return ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$offers" -- "$cur")
	__ltrim_colon_completions "$cur"
} &&
	complete -F _picloud picloud
`, all, cases.String())
	return b.String()
}

func zshCompletion(commands []command) string {
	escape := func(s string) string {
		return strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(s)
	}
	flag := func(o option) string {
		spec := o.String()
		switch {
		case o.name == helpFlag.name || o.name == versionFlag.name:
			spec = "(- *)" + spec
		case o.value != "" && len(o.name) > 1:
			spec += "=" // the value is in the same word or in the next
		}
		spec += "[" + escape(o.line) + "]"
		if o.value == "" {
			return spec
		}
		spec += ":" + escape(strings.ToLower(o.value)) + ":"
		if o.offers != nil {
			spec += ` compadd -S "" -- ` + escape(strings.Join(o.offers, " "))
		}
		return spec
	}
	var b strings.Builder
	b.WriteString(`#compdef picloud
# zsh completion for picloud(1), printed by picloud completion zsh

local curcontext=$curcontext state line ret=1
local -a commands
commands=(
`)
	for _, c := range commands {
		fmt.Fprintf(&b, "  %s\n", shellQuote(c.name+":"+escape(c.line)))
	}
	b.WriteString(")\n\n_arguments -C \\\n")
	for _, o := range topFlags {
		fmt.Fprintf(&b, "  %s \\\n", shellQuote(flag(o)))
	}
	b.WriteString(`  '1: :->command' \
  '*:: :->words' && ret=0

case $state in
command) _describe -t commands command commands && ret=0 ;;
words)
  curcontext=${curcontext%:*}-$line[1]:
  case $line[1] in
`)
	for _, c := range commands {
		fmt.Fprintf(&b, "  %s)\n    _arguments", c.name)
		for _, o := range c.offered() {
			fmt.Fprintf(&b, " \\\n      %s", shellQuote(flag(o)))
		}
		for i, w := range c.words {
			at := fmt.Sprint(i + 1)
			if w.many {
				at = "*"
			}
			offers := ""
			if w.offers != nil {
				offers = "(" + strings.Join(w.offers(commands), " ") + ")"
			}
			fmt.Fprintf(&b, " \\\n      %s", shellQuote(at+":"+escape(w.what)+":"+offers))
		}
		b.WriteString(" && ret=0\n    ;;\n")
	}
	b.WriteString("  esac\n  ;;\nesac\nreturn ret\n")
	return b.String()
}

func fishCompletion(commands []command) string {
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" }
	about := func(line string) string {
		r := []rune(line)
		r[0] = unicode.ToUpper(r[0])
		return quote(string(r))
	}
	var b strings.Builder
	flag := func(when string, o option) {
		fmt.Fprintf(&b, "complete -c picloud -n %s", when)
		if len(o.name) == 1 {
			fmt.Fprintf(&b, " -s %s", o.name)
		} else {
			fmt.Fprintf(&b, " -l %s", o.name)
		}
		if o.value != "" {
			b.WriteString(" -x")
		}
		if o.offers != nil {
			fmt.Fprintf(&b, " -a %s", quote(strings.Join(o.offers, " ")))
		}
		fmt.Fprintf(&b, " -d %s\n", about(o.line))
	}
	const none = `"not __fish_seen_subcommand_from $commands"`
	fmt.Fprintf(&b, `# fish completion for picloud(1), printed by picloud completion fish

set -l commands %s
complete -c picloud -f

`, strings.Join(namesOf(commands), " "))
	for _, c := range commands {
		fmt.Fprintf(&b, "complete -c picloud -n %s -a %s -d %s\n", none, c.name, about(c.line))
	}
	for _, o := range topFlags {
		flag(none, o)
	}
	for _, c := range commands {
		b.WriteByte('\n')
		seen := "__fish_seen_subcommand_from " + c.name
		for _, w := range c.words {
			if w.offers == nil {
				continue
			}
			offers, when := strings.Join(w.offers(commands), " "), seen
			if !w.many {
				when += "; and not __fish_seen_subcommand_from " + offers
			}
			fmt.Fprintf(&b, "complete -c picloud -n %s -a %s\n", quote(when), quote(offers))
		}
		for _, o := range c.offered() {
			flag(quote(seen), o)
		}
	}
	return b.String()
}

// shellQuote makes s one word of bash or zsh.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
