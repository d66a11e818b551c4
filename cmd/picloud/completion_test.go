package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func commandNames() []string { return namesOf(commands) }

// flagsOf are the flags that a command heeds, as they are written.
func flagsOf(c command) []string {
	list := []string{"--help"}
	for _, o := range slices.Concat(c.flags, c.general) {
		list = append(list, o.String())
	}
	return list
}

func readPackaging(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../packaging", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func sameSet(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
	}
}

func TestHelpNamesEachCommandAndFlag(t *testing.T) {
	general := does(t, nil, "help")
	for _, o := range generalFlags {
		if !strings.Contains(general, "\n  "+o.String()+" "+o.value+" ") {
			t.Errorf("picloud help does not have %s", o)
		}
	}
	for _, c := range commands {
		if !regexp.MustCompile(`(?m)^(usage:|      ) picloud ` + c.name + `\b.* ` + regexp.QuoteMeta(c.line) +
			`$`).MatchString(general) {
			t.Errorf("picloud help does not have %s", c.name)
		}
		text := does(t, nil, "help", c.name)
		for _, o := range c.flags {
			if !strings.Contains(text, "\n  "+strings.TrimSpace(o.String()+" "+o.value)+" ") {
				t.Errorf("picloud help %s does not say what %s is", c.name, o)
			}
		}
		if c.name != "version" && c.name != "help" &&
			!regexp.MustCompile(`(?m)^  (sudo )?picloud `+c.name+`\b`).MatchString(text) {
			t.Errorf("picloud help %s has no example", c.name)
		}
	}
}

// The manual's synopsis has the usage of every command, and its text describes each command and flag, and no others.
func TestManualNamesEachCommandFlagAndVariable(t *testing.T) {
	manual := readPackaging(t, "man/picloud.1")
	_, synopsis, _ := strings.Cut(manual, ".SH SYNOPSIS\n")
	synopsis, rest, _ := strings.Cut(synopsis, ".SH DESCRIPTION\n")
	var usage []string
	for _, c := range commands {
		for line := range strings.Lines(c.usage()) {
			_, line, _ = strings.Cut(line, "picloud ")
			usage = append(usage, "picloud "+strings.TrimSpace(line))
		}
	}
	var inManual []string
	for entry := range strings.SplitSeq(synopsis, ".br\n") {
		inManual = append(inManual, plainRoff(entry))
	}
	sameSet(t, "picloud.1: synopsis", inManual, usage)

	var described, want []string
	for entry := range strings.SplitSeq(stretch(manual, ".SH COMMANDS\n", ".SH "), ".TP\n") {
		if first, _, ok := strings.Cut(entry, "\n"); ok {
			described = append(described, strings.Fields(plainRoff(first))[0])
		}
	}
	sameSet(t, "picloud.1: commands", described, commandNames())

	described = nil
	options := stretch(manual, ".SH OPTIONS\n", ".SH ")
	for entry := range strings.SplitSeq(options, ".TP\n") {
		if first, text, _ := strings.Cut(entry, "\n"); strings.HasPrefix(first, ".B") {
			described = append(described, plainRoff(first))
			for _, c := range commands {
				isOf := slices.ContainsFunc(c.flags,
					func(o option) bool { return o.String() == strings.Fields(plainRoff(first))[0] })
				if isOf && c.name != "bench" && !strings.Contains(text, ".BR "+c.name+" :") {
					t.Errorf("picloud.1: %s does not say what it is for %s", plainRoff(first), c.name)
				}
			}
		}
	}
	for _, o := range allFlags(commands) {
		if o.name != "h" {
			want = append(want, strings.TrimSpace(o.String()+" "+o.value))
		}
	}
	sameSet(t, "picloud.1: options", described, want)

	for _, variable := range []string{"PICLOUD_URL", "API_KEY", "PICLOUD_NAME", "PICLOUD_CA", "NO_COLOR", "TERM"} {
		if !strings.Contains(stretch(rest, ".SH ENVIRONMENT\n", ".SH "), variable) {
			t.Errorf("picloud.1: the environment has no %s", variable)
		}
	}
}

// stretch is what stands in text behind one mark and before the next other one.
func stretch(text, behind, before string) string {
	_, text, _ = strings.Cut(text, behind)
	text, _, _ = strings.Cut(text, before)
	return text
}

// plainRoff takes the fonts away from lines of a manual.
func plainRoff(text string) string {
	var words []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		macro, arguments, isMacro := strings.Cut(line, " ")
		switch {
		case !isMacro || !strings.HasPrefix(macro, "."):
		case len(macro) == len(".BR"): // two fonts in turn, put together without a space
			var joined strings.Builder
			for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(arguments, -1) {
				joined.WriteString(m[1] + m[2])
			}
			line = joined.String()
		default:
			line = strings.ReplaceAll(arguments, `"`, "")
		}
		words = append(words, strings.NewReplacer(`\-`, "-", `\fR`, "", `\fI`, "").Replace(line))
	}
	return strings.Join(words, " ")
}

// What a status means is said in two places, and exitStatus gives it.
func TestExitStatusesAreThoseOfTheCode(t *testing.T) {
	_, help, _ := strings.Cut(generalHelp, "exit status: ")
	_, manual, _ := strings.Cut(readPackaging(t, "man/picloud.1"), ".SH EXIT STATUS\n")
	manual, _, _ = strings.Cut(manual, ".SH")
	inHelp := regexp.MustCompile(`(\d+) ([^,\n]+)`).FindAllStringSubmatch(help, -1)
	inManual := regexp.MustCompile(`(\d+): ([^.]+)\.`).FindAllStringSubmatch(manual, -1)
	pairs := func(of [][]string) (list []string) {
		for _, m := range of {
			list = append(list, m[1]+" "+m[2])
		}
		return list
	}
	sameSet(t, "picloud.1: exit statuses", pairs(inManual), pairs(inHelp))
	for err, want := range map[error]string{
		nil: "0 done", os.ErrClosed: "1 it failed", usageError{"x"}: "2 the command line is wrong",
		errInterrupted: "130 interrupted before the end",
	} {
		status := exitStatus(err, &strings.Builder{})
		if i := slices.IndexFunc(inHelp, func(m []string) bool { return m[1]+" "+m[2] == want }); i < 0 ||
			!strings.HasPrefix(want, strconv.Itoa(status)+" ") {
			t.Errorf("%v: exit status %d, want %q, which the help has: %t", err, status, want, i >= 0)
		}
	}
}

// completionFile puts what picloud prints for a shell into a file of that name.
func completionFile(t *testing.T, shell, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(does(t, nil, "completion", shell)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// inBash returns what bash offers for the last word.
func inBash(t *testing.T, words ...string) []string {
	t.Helper()
	script := `
. /usr/share/bash-completion/bash_completion
. "$0"
compopt() { :; }
COMP_WORDS=(picloud "$@") COMP_CWORD=$# COMP_LINE="picloud $*" COMP_POINT=${#COMP_LINE}
_picloud
printf '%s\n' "${COMPREPLY[@]}"`
	out, err := exec.Command("bash", append([]string{"--norc", "-c", script, completionFile(t, "bash", "picloud.bash")},
		words...)...).Output()
	if err != nil {
		t.Fatalf("bash: %v", err)
	}
	return strings.Fields(string(out))
}

func inFish(t *testing.T, words ...string) []string {
	t.Helper()
	const script = `source $argv[1]; complete -C "picloud $argv[2]"`
	cmd := exec.Command("fish", "--no-config", "-c", script, "--", completionFile(t, "fish", "picloud.fish"),
		strings.Join(words, " "))
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fish: %v", err)
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		offer, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		list = append(list, offer)
	}
	return list
}

func TestShellsCompleteWhatThereIs(t *testing.T) {
	for shell, complete := range map[string]func(*testing.T, ...string) []string{"bash": inBash, "fish": inFish} {
		t.Run(shell, func(t *testing.T) {
			sameSet(t, "commands", complete(t, ""), commandNames())
			sameSet(t, "help", complete(t, "help", ""),
				slices.DeleteFunc(commandNames(), func(c string) bool { return c == "help" }))
			sameSet(t, "help, begun", complete(t, "help", "d"), []string{"discover", "doctor"})
			sameSet(t, "key", complete(t, "key", ""), []string{"show", "new"})
			sameSet(t, "scenarios", complete(t, "bench", "fanout", ""), scenarioNames(nil))
			sameSet(t, "shells", complete(t, "completion", ""), []string{"bash", "zsh", "fish"})
			sameSet(t, "an event", complete(t, "sub", ""), nil)
			sameSet(t, "flags first", complete(t, "--url", "pi", "sub", "--j"), []string{"--json"})
			for _, command := range commands {
				want := slices.DeleteFunc(flagsOf(command), func(f string) bool { return !strings.HasPrefix(f, "--") })
				sameSet(t, command.name, complete(t, command.name, "--"), want)
			}
			if got := complete(t, "sub", "-"); !slices.Contains(got, "-n") {
				t.Errorf("sub - offers %q", got)
			}
			if got := complete(t, "info", "--url", "unix"); len(got) != 1 || !strings.HasSuffix(got[0], localSocket) {
				t.Errorf("--url unix offers %q", got)
			}
		})
	}
}

// zsh completes only at a terminal, so it gets one.
func TestZshCompletesWhatThereIs(t *testing.T) {
	zsh := exec.Command("zsh", "-f", "-i")
	zsh.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TERM=dumb", "LANG=C.UTF-8"}
	s := onTerminal(t, zsh)
	resize(t, s.outside, 120, 60)
	enter := func(text string) { s.outside.Write([]byte(text)) }
	folder := filepath.Dir(completionFile(t, "zsh", "_picloud"))
	enter("PS1=; unsetopt zle_bracketed_paste list_beep; LISTMAX=0; fpath=(" + folder +
		" $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n")
	s.shows("ready")
	offers := func(line string, want ...string) {
		t.Helper()
		enter(line + "\t")
		got := ""
		for _, w := range want {
			if !strings.Contains(got, w) {
				got += s.shows(w)
			}
		}
		enter("\x15echo don''e\n")
		s.shows("done")
	}
	offers("picloud ", slices.Sorted(slices.Values(commandNames()))...)
	offers("picloud --", written(topFlags)...)
	for _, command := range commands {
		flags := flagsOf(command)
		slices.Sort(flags)
		offers("picloud "+command.name+" --", flags...)
	}
	offers("picloud key ", "new", "show")
	offers("picloud completion ", "bash", "fish", "zsh")
	offers("picloud bench fanout ", slices.Sorted(slices.Values(scenarioNames(nil)))...)
	offers("picloud help d", "discover", "doctor")
	offers("picloud --url pi sub --j", "--json")
	offers("picloud info --url ", "http://", "https://", "unix:"+localSocket)
	offers("picloud info --url=uni", "unix:"+localSocket)
}
