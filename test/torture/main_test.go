package torture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"picloud/internal/leak"
)

// tortured is the folder of the picloudd that can be killed at each step.
var tortured string

func TestMain(m *testing.M) {
	os.Exit(leak.Check(func() int {
		dir, err := os.MkdirTemp("", "picloud-tortured-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}))
}

// build builds the tortured daemon into a folder.
func build(dir string) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	list, err := overlay(root, dir)
	if err != nil {
		return err
	}
	tortured = dir
	args := []string{"build", "-overlay", list, "-o", filepath.Join(dir, "picloudd")}
	if rounds == 1 {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "picloud/cmd/picloudd")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the tortured daemon: %v\n%s", err, out)
	}
	return nil
}
