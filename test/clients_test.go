package test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"picloud/test/daemon"
)

const apiKey = "a-key-for-tests"

var bin string // folder of the built commands

func TestMain(m *testing.M) {
	mode := daemon.Raced
	if arrivals != "" {
		mode = daemon.Plain
	}
	os.Exit(daemon.Built(mode, func(built string) int {
		bin = built
		return m.Run()
	}))
}

// Each client subscribes, publishes in every way, receives every message in order, unsubscribes, and receives no more.
func TestClientsOfOthers(t *testing.T) {
	for name, command := range map[string][]string{
		"Python websocket-client and requests": {"/usr/bin/python3", "testdata/client.py"},
		"Node ws and fetch":                    {"node", "testdata/client.js"},
		"curl and bash":                        {"bash", "testdata/client.sh"},
	} {
		t.Run(name, func(t *testing.T) {
			url := daemon.Start(t, bin, "API_KEY="+apiKey, "LOG_LEVEL=debug").URL
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
