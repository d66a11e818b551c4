package led

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const readOnly = syscall.EROFS

// The lines themselves are tested on an emulated Pi: scripts/test-pi.
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
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gpiochip0"), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	said := make(chan error)
	go func() {
		// Root may open everything, so this thread becomes nobody as far as files are concerned, setfsuid(2); it ends
		// with this goroutine. For other users the call changes nothing.
		runtime.LockOSThread()
		syscall.Setfsuid(65534)
		said <- (&GPIO{number: 17}).take(dir)
	}()
	if err := <-said; err == nil || !strings.Contains(err.Error(), "group gpio") {
		t.Errorf("a chip of others: %v", err)
	}
}
