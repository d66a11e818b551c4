package main

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"picloud/internal/config"
	"picloud/internal/server"
)

func TestMemoryLimitIsLessThanHalfOfTheMachine(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)

	debug.SetMemoryLimit(math.MaxInt64)
	limitMemory(func(string) string { return "100MiB" })
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("GOMEMLIMIT is set, and the limit was set to %d all the same", got)
	}
	limitMemory(func(string) string { return "" })
	if got := debug.SetMemoryLimit(-1); got <= 0 || got == math.MaxInt64 {
		t.Errorf("the limit is %d bytes", got)
	}
	for ram, want := range map[int64][4]int{ // waiting, subscriptions, unsent, TCP
		480 << 20: {60 << 20, 30 << 20, 32 << 10, 20 << 20},
		960 << 20: {64 << 20, 60 << 20, 60 << 10, 40 << 20},
		24 << 30:  {64 << 20, 64 << 20, 8 << 20, 1 << 30},
	} {
		if got := [4]int{waitingBytes(ram), subscriptionBytes(ram), unsentBytes(ram), tcpBytes(ram)}; got != want {
			t.Errorf("of %d bytes: %v, want %v", ram, got, want)
		}
	}
	if low, all := lowMemory(), memory(); low <= 0 || low > all {
		t.Errorf("%d bytes of %d are low", low, all)
	}
	if got := memoryLimit(512 << 20); got != 224<<20 {
		t.Errorf("of 512 MB it is %d bytes", got)
	}
}

// idleBytes is what an idle WebSocket takes, docs/benchmarks.md.
const idleBytes = 1690

// The table of docs/operations.md is that of the code, in MiB.
func TestMemoryInTheDocumentsIsThatOfTheCode(t *testing.T) {
	cfg, err := config.Parse(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][]string)
	for _, ram := range []int64{512 << 20, 1 << 30, 8 << 30} {
		together := 0.0
		add := func(name string, bytes int, counts bool) {
			mib := float64(bytes) / (1 << 20)
			if mib > 1 {
				mib = math.Ceil(mib)
			}
			if counts {
				together += mib
			}
			want[name] = append(want[name], strconv.FormatFloat(mib, 'g', -1, 64))
		}
		add("what waits", waitingBytes(ram), true)
		add("of it, without the key", waitingBytes(ram)/server.KeylessShare, false)
		add("subscriptions", subscriptionBytes(ram), true)
		add("idle connections", cfg.MaxConnections*idleBytes, true)
		add("wrong keys", server.WrongKeysBytes, true)
		add("the info", server.InfoBytes, true)
		add("lines of the log", spoolBytes, true)
		add("what the kernel holds for TCP", tcpBytes(ram), true)
		add("together", int(together*(1<<20)), false)
		add("where Go's memory is held down", int(memoryLimit(ram)), false)
	}

	operations := document(t, "operations.md")
	_, memory, _ := strings.Cut(operations, "\n## Memory\n")
	memory, _, _ = strings.Cut(memory, "\n## ")
	for line := range strings.Lines(memory) {
		cells := strings.Split(line, "|")
		if len(cells) != 8 {
			continue
		}
		name := strings.TrimSpace(cells[1])
		if columns, ok := want[name]; ok {
			delete(want, name)
			if got := strings.Fields(strings.Join(cells[3:6], "")); !slices.Equal(got, columns) {
				t.Errorf("operations.md: %s: %v, want %v", name, got, columns)
			}
		}
	}
	for name := range want {
		t.Errorf("operations.md: Memory has no line %q", name)
	}
	inBase64 := fmt.Sprintf("up to %d MiB more for a moment", (waitingBytes(1<<40)*4/3)>>20+1)
	if !strings.Contains(memory, inBase64) {
		t.Errorf("operations.md: Memory does not say %q", inBase64)
	}

	// A machine that is small enough not to meet the bound tells the share.
	const small = 16 << 20
	share := map[int64]string{2: "half", 4: "a quarter", 8: "an eighth", 16: "a sixteenth"}
	for what, bytes := range map[string]func(int64) int{"what waits in all connections together": waitingBytes,
		"the subscriptions of all connections together": subscriptionBytes} {
		line := fmt.Sprintf("| %s | | %s of the machine's memory, at most %d MiB |", what,
			share[small/int64(bytes(small))], bytes(1<<40)>>20)
		if !strings.Contains(document(t, "protocol.md"), line) {
			t.Errorf("protocol.md does not say %q", line)
		}
	}
	if line := fmt.Sprintf("have not shown the key | | %s of that |", share[server.KeylessShare]); !strings.Contains(
		document(t, "protocol.md"), line) {
		t.Errorf("protocol.md does not say %q", line)
	}
}

func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
