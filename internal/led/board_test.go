package led

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// board lays out a directory as the kernel does in /sys/class/leds.
func board(t *testing.T, trigger string) string {
	dir := filepath.Join(t.TempDir(), "ACT")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"trigger": trigger + "\n", "brightness": "255\n",
		"max_brightness": "255\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// wants checks the first word of a file. (The kernel's files forget what was there before.)
func wants(t *testing.T, dir, name, want string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(text)); len(got) == 0 || got[0] != want {
		t.Errorf("%s is %q, want %s", name, text, want)
	}
}

func open(t *testing.T, dir, keep string) *Board {
	t.Helper()
	b, err := OpenBoard(dir, keep)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBoardIsTakenOverAndGivenBack(t *testing.T) {
	dir, keep := board(t, "none rc-feedback kbd-scrolllock [mmc0] timer heartbeat"),
		filepath.Join(t.TempDir(), "trigger")
	b := open(t, dir, keep)
	wants(t, dir, "trigger", "none")
	wants(t, dir, "brightness", "0")
	if b.String() != "ACT" {
		t.Errorf("its name is %q", b)
	}
	for lit, want := range map[bool]string{true: "255", false: "0"} {
		if err := b.Set(lit); err != nil {
			t.Error(err)
		}
		wants(t, dir, "brightness", want)
	}
	b.Set(true)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wants(t, dir, "trigger", "mmc0")
	wants(t, dir, "brightness", "0")
	if _, err := os.Stat(keep); err == nil {
		t.Error("what was kept stays behind")
	}
}

func TestBoardIsGivenBackAfterACrash(t *testing.T) {
	dir, keep := board(t, "none [actpwr] timer"), filepath.Join(t.TempDir(), "trigger")
	crashed := open(t, dir, keep) // and no Close
	defer crashed.brightness.Close()
	wants(t, dir, "trigger", "none")
	b := open(t, dir, keep)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wants(t, dir, "trigger", "actpwr")

	// What was kept before a reboot no longer counts.
	if err := os.WriteFile(keep, []byte("heartbeat\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir = board(t, "none [mmc0]")
	if err := open(t, dir, keep).Close(); err != nil {
		t.Error(err)
	}
	wants(t, dir, "trigger", "mmc0")
}

func TestBoardWithoutATriggerStaysWithout(t *testing.T) {
	dir := board(t, "[none] mmc0 timer")
	if err := open(t, dir, "").Close(); err != nil {
		t.Error(err)
	}
	wants(t, dir, "trigger", "none")
}

func TestBoardThatCannotBeHadIsExplained(t *testing.T) {
	dir := board(t, "[mmc0]")
	_, err := OpenBoard(filepath.Join(filepath.Dir(dir), "PWR"), "")
	if err == nil || !strings.Contains(err.Error(), "LED PWR: ") || !strings.HasSuffix(err.Error(), "there are ACT") {
		t.Errorf("a name that is none: %v", err)
	}
	_, err = OpenBoard("/nonexistent/ACT", "")
	if err == nil || !strings.HasSuffix(err.Error(), "there are none") {
		t.Errorf("a machine without LEDs: %v", err)
	}
	b := &Board{name: "ACT", dir: "/sys/class/leds/ACT"}
	for name, remedy := range map[string]string{"read-only": "ReadWritePaths=/sys/class/leds/ACT",
		"forbidden": "group gpio"} {
		cause := map[string]error{"read-only": readOnly, "forbidden": os.ErrPermission}[name]
		if err := b.explain(cause); !strings.Contains(err.Error(), remedy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
