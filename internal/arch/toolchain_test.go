package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A machine whose Go is another, and which cannot fetch the one that builds PiCloud, is told so before anything is
// built.
func TestOtherGoBuildsNothing(t *testing.T) {
	bin, dist := t.TempDir(), filepath.Join(t.TempDir(), "dist")
	const other = `#!/bin/sh
[ "$GOTOOLCHAIN:$1" = local:version ] && exec echo 'go version go1.99.1 linux/arm'
[ "$GOTOOLCHAIN:$1" = local:env ] && exec echo go1.99.1
echo 'no network' >&2
exit 1
`
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(other), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"toolchain", "build", "cross"} {
		cmd := exec.Command(filepath.Join(root, "scripts", script), dist)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "builds PiCloud, and this machine has go1.99.1") {
			t.Errorf("%s: %v:\n%s", script, err, out)
		}
		if _, err := os.Stat(dist); err == nil {
			t.Errorf("%s has built something", script)
		}
	}
}

// What users get is built by scripts that ask for that Go.
func TestBuildsForUsersAskForTheirGo(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(root, "scripts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before, _, builds := strings.Cut(string(text), "-X main.version=")
		if !builds {
			continue
		}
		found++
		if !strings.Contains(before, "\nGOTOOLCHAIN=$(scripts/toolchain)\nexport GOTOOLCHAIN\n") {
			t.Errorf("%s builds by any Go", name)
		}
	}
	if found == 0 {
		t.Error("no script builds anything")
	}
}
