package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var daemon string // the built binary

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "picloud-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		daemon = filepath.Join(dir, "picloudd")
		if out, err := exec.Command("go", "build", "-race", "-o", daemon, "picloud/cmd/picloudd").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build picloudd: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

const apiKey = "a-key-for-tests"

// start runs the daemon for one test and returns its address. At the end it must stop by itself, with status 0.
func start(t *testing.T) (url string) {
	t.Helper()
	cmd := exec.Command(daemon)
	cmd.Env = append(os.Environ(), "PORT=0", "API_KEY="+apiKey, "LOG_LEVEL=debug")
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("read the daemon's first line: %v", err)
	}
	go io.Copy(io.Discard, lines)
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	_, url, ok := strings.Cut(strings.TrimSpace(first), " listens on ")
	if !ok {
		t.Fatalf("no address in the daemon's first line %q", first)
	}
	return url
}

// Each client subscribes, publishes by each way, receives every message in order, unsubscribes, and receives no more.
func TestClientsOfOthers(t *testing.T) {
	for name, command := range map[string][]string{
		"Python websocket-client and requests": {"/usr/bin/python3", "testdata/client.py"},
		"Node ws and fetch":                    {"node", "testdata/client.js"},
		"curl and bash":                        {"bash", "testdata/client.sh"},
	} {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], append(command[1:], url)...)
			cmd.Env = append(os.Environ(), "API_KEY="+apiKey, "NODE_PATH=/usr/share/nodejs")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "all messages came") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
