package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestMakeKeyWritesOneKeyAndNeverReplacesIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api-key")
	if err := makeKey(path); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if key, rest, _ := strings.Cut(string(first), "\n"); len(key) < 20 || rest != "" {
		t.Errorf("got %q, want one line with a long key", first)
	}
	if err := makeKey(path); err != nil {
		t.Errorf("again: %v", err)
	}
	if again, _ := os.ReadFile(path); string(again) != string(first) {
		t.Error("the key was replaced")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("got mode %v, %v; want nothing for others", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	other := filepath.Join(t.TempDir(), "api-key")
	if err := makeKey(other); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(other); string(second) == string(first) {
		t.Error("two keys are the same")
	}
}

func TestMakeKeyInAMissingFolderSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "api-key")
	if err := makeKey(path); err == nil || !strings.Contains(err.Error(), "make key: ") {
		t.Errorf("got %v, want an error that says what was tried", err)
	}
}

// Two services that start at the same time agree on one key.
func TestMakeKeyTwiceAtOnceLeavesOneWholeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api-key")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := makeKey(path); err != nil {
				t.Error(err)
				return
			}
			if p, err := os.ReadFile(path); err != nil || len(p) < 20 || p[len(p)-1] != '\n' {
				t.Errorf("got %q, %v; want a whole key", p, err)
			}
		})
	}
	wg.Wait()
}

func TestJournalLinesBeginWithTheirLevel(t *testing.T) {
	var out strings.Builder
	log := newLog(&out, slog.LevelDebug, true)
	log.Debug("a", "name", "x\n<0>forged")
	log.Info("b")
	log.Warn("c")
	log.Error("d e")
	want := `<7>msg=a name="x\n<0>forged"
<6>msg=b
<4>msg=c
<3>msg="d e"
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTerminalLinesHaveTimeAndLevel(t *testing.T) {
	var out strings.Builder
	newLog(&out, slog.LevelInfo, false).Info("b")
	if line := out.String(); !strings.HasPrefix(line, "time=") || !strings.Contains(line, " level=INFO msg=b\n") {
		t.Errorf("got %q", line)
	}
}
