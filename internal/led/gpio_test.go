package led

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const readOnly = syscall.EROFS

// The lines themselves are tried on an emulated Pi: scripts/test-pi.
func TestMachineWithoutGPIOSaysSo(t *testing.T) {
	g := &GPIO{number: 17}
	if err := g.take(t.TempDir()); err == nil || !strings.Contains(err.Error(), "has no GPIO") {
		t.Errorf("no chip: %v", err)
	}
	if g.String() != "GPIO17" {
		t.Errorf("its name is %q", g)
	}
}

func TestChipThatMayNotBeOpenedSaysSo(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open everything; scripts/test-systemd does it as another user")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gpiochip0"), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := (&GPIO{number: 17}).take(dir); err == nil || !strings.Contains(err.Error(), "group gpio") {
		t.Errorf("a chip of others: %v", err)
	}
}
