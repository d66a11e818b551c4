// Package alone runs a test again in a network of its own.
package alone

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// inside is set in the test's own network.
const inside = "PICLOUD_TEST_NETWORK"

// Inside reports whether the test runs in a network and with mounts of its own, where it is root. If not, it runs it
// so, which needs no root where the kernel lets users create namespaces, and fails the test if that fails: then the
// caller returns.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network of its own: %v\n%s", err, out)
	}
	return false
}

// Path is PATH for a command's environment, in which it also finds what is for root.
func Path() string { return "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin" }

// Must runs commands, one a line.
func Must(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Env = append(os.Environ(), Path())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
