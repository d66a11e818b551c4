package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// commands are all that there are.
func commands() []string {
	return append(slices.Collect(maps.Keys(helpOn)), "help")
}

// flagsOf are the flags that a command takes, as they are written.
func flagsOf(command string) []string {
	list := []string{"--help"}
	for name, takers := range takes {
		switch {
		case !slices.Contains(takers, command) || command == "version" || command == "help":
		case len(name) == 1:
			list = append(list, "-"+name)
		default:
			list = append(list, "--"+name)
		}
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
	for _, command := range commands() {
		if !strings.Contains(mainHelp, "picloud "+command) {
			t.Errorf("picloud help does not have %s", command)
		}
		text := does(t, nil, "help", command)
		for _, flag := range flagsOf(command) {
			if flag != "--help" && !strings.Contains(text, flag) {
				t.Errorf("picloud help %s does not have %s", command, flag)
			}
		}
		if command != "version" && command != "help" && !strings.Contains(text, "\n  picloud "+command) && !strings.Contains(text, "\n  sudo picloud "+command) {
			t.Errorf("picloud help %s has no example", command)
		}
	}
}

func TestManualNamesEachCommandFlagAndVariable(t *testing.T) {
	manual := strings.ReplaceAll(readPackaging(t, "man/picloud.1"), `\-`, "-")
	_, synopsis, _ := strings.Cut(manual, ".SH SYNOPSIS")
	synopsis, rest, _ := strings.Cut(synopsis, ".SH DESCRIPTION")
	for _, command := range commands() {
		if !strings.Contains(synopsis, ".B picloud "+command) {
			t.Errorf("picloud.1: the synopsis has no %s", command)
		}
		if !regexp.MustCompile(`(?m)^\.B[I]? "?` + command + `\b`).MatchString(rest) {
			t.Errorf("picloud.1 does not describe %s", command)
		}
	}
	for flag := range takes {
		if len(flag) > 1 {
			flag = "-" + flag
		}
		if !regexp.MustCompile(`(?m)^\.BI? -` + flag + `( |$)`).MatchString(rest) {
			t.Errorf("picloud.1: the options have no -%s", flag)
		}
	}
	for _, variable := range []string{"PICLOUD_URL", "API_KEY", "PICLOUD_NAME", "NO_COLOR", "TERM"} {
		if _, environment, _ := strings.Cut(rest, ".SH ENVIRONMENT"); !strings.Contains(environment, variable) {
			t.Errorf("picloud.1: the environment has no %s", variable)
		}
	}
}

// What a status means is said in two places, and exitStatus gives it.
func TestExitStatusesAreThoseOfTheCode(t *testing.T) {
	_, help, _ := strings.Cut(mainHelp, "exit status: ")
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
		if i := slices.IndexFunc(inHelp, func(m []string) bool { return m[1]+" "+m[2] == want }); i < 0 || !strings.HasPrefix(want, strconv.Itoa(status)+" ") {
			t.Errorf("%v: exit status %d, want %q, which the help has: %t", err, status, want, i >= 0)
		}
	}
}

// inBash returns what bash offers for the last word.
func inBash(t *testing.T, words ...string) []string {
	t.Helper()
	script := `
. /usr/share/bash-completion/bash_completion
. ../../packaging/completion/picloud.bash
compopt() { :; }
COMP_WORDS=(picloud "$@") COMP_CWORD=$# COMP_LINE="picloud $*" COMP_POINT=${#COMP_LINE}
_picloud
printf '%s\n' "${COMPREPLY[@]}"`
	out, err := exec.Command("bash", append([]string{"--norc", "-c", script, "bash"}, words...)...).Output()
	if err != nil {
		t.Fatalf("bash: %v", err)
	}
	return strings.Fields(string(out))
}

func inFish(t *testing.T, words ...string) []string {
	t.Helper()
	cmd := exec.Command("fish", "--no-config", "-c", "source ../../packaging/completion/picloud.fish; complete -C \"picloud $argv\"", "--", strings.Join(words, " "))
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
			sameSet(t, "commands", complete(t, ""), commands())
			sameSet(t, "help", complete(t, "help", ""), slices.DeleteFunc(commands(), func(c string) bool { return c == "help" }))
			sameSet(t, "help, begun", complete(t, "help", "d"), []string{"discover", "doctor"})
			sameSet(t, "key", complete(t, "key", ""), []string{"show", "new"})
			sameSet(t, "scenarios", complete(t, "bench", "fanout", ""), scenarioNames())
			sameSet(t, "flags first", complete(t, "--url", "pi", "sub", "--j"), []string{"--json"})
			for _, command := range commands() {
				want := slices.DeleteFunc(flagsOf(command), func(f string) bool { return !strings.HasPrefix(f, "--") })
				sameSet(t, command, complete(t, command, "--"), want)
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

func scenarioNames() (list []string) {
	for _, s := range scenarios {
		list = append(list, s.name)
	}
	return list
}

// zsh completes only at a terminal, so it gets one.
func TestZshCompletesWhatThereIs(t *testing.T) {
	zsh := exec.Command("zsh", "-f", "-i")
	zsh.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TERM=dumb", "LANG=C.UTF-8"}
	s := onTerminal(t, zsh)
	resize(t, s.outside, 120, 60)
	enter := func(text string) { s.outside.Write([]byte(text)) }
	folder, err := filepath.Abs("../../packaging/completion")
	if err != nil {
		t.Fatal(err)
	}
	enter("PS1=; unsetopt zle_bracketed_paste list_beep; LISTMAX=0; fpath=(" + folder + " $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n")
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
	offers("picloud ", "bench", "discover", "doctor", "help", "info", "key", "open", "pub", "sub", "version")
	for _, command := range commands() {
		if command == "version" || command == "help" {
			continue
		}
		flags := flagsOf(command)
		slices.Sort(flags)
		offers("picloud "+command+" --", flags...)
	}
}
