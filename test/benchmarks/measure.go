package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// facts say what was measured, and on what, as the programs and the kernel report it.
type facts struct {
	Date      string            `json:"date"`
	Processor string            `json:"processor"`
	Count     int               `json:"processors"`
	MemoryMiB int               `json:"memory_mib"`
	Kernel    string            `json:"kernel"`
	Go        string            `json:"go"`
	Versions  map[string]string `json:"versions"`        // by peer, picloud among them
	Loads     string            `json:"loads,omitempty"` // if they were measured later: when, and with which PiCloud
}

// A stage is one call of the harness.
type stage struct {
	scenarios string
	mode      string
	duration  string // of the measurement; empty: the scenario has none
	extra     string // flags for its program
	without   string // peers that cannot do it, or that would show nothing by it
	times     int    // multiplies the repetitions asked for; 0 is 1
}

// CPU figures are taken on one processor, which is the most repeatable; latencies and times with a processor for each
// side.
var stages = []stage{
	{scenarios: "S1 S1w1 S3", mode: "onecore", duration: "2s"},
	// Against the floors a few percent matter, and each start of a server shifts it by up to 20, depending on where its
	// memory lies.
	{scenarios: "S1w1 S3", mode: "onecore", duration: "2s", without: "nats centrifugo mosquitto mochi nodews uws",
		times: 4},
	{scenarios: "S4n1", mode: "onecore", duration: "2s", without: "floor-cb floor-goraw nats mosquitto mochi"},
	{scenarios: "S2", mode: "pinned", duration: "4s", without: "floor-cb floor-goraw"},
	{scenarios: "S5", mode: "pinned", extra: "-counts 10000 -idle 5s", without: "floor-cb floor-goraw"},
	{scenarios: "S6", mode: "pinned", duration: "10s", without: "floor-c floor-cb floor-go floor-goraw"},
	{scenarios: "S7", mode: "pinned", without: "floor-c floor-cb floor-goraw"},
}

type measurement struct {
	harness, bin, peers string
	reps                int
	quick               bool
	stderr              io.Writer
}

// take measures everything and returns the lines: the facts, the harness's results, the loads' figures.
func (m measurement) take(ctx context.Context) ([]byte, error) {
	var all bytes.Buffer
	encoder := json.NewEncoder(&all)
	f, err := m.facts(ctx)
	if err != nil {
		return nil, err
	}
	if err := encoder.Encode(f); err != nil {
		return nil, err
	}
	daemon, err := filepath.Abs(filepath.Join(m.bin, "picloudd"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "picloud-benchmarks")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`)
	script, err := os.ReadFile(filepath.Join(m.harness, "run.sh"))
	if err != nil {
		return nil, err
	}
	url := regexp.MustCompile(`PICLOUD_URL:-(ws://127\.0\.0\.1:\d+)`).FindSubmatch(script)
	if url == nil {
		return nil, errors.New("the harness's run.sh has no address for picloud")
	}
	start := time.Now()
	for i, s := range stages {
		reps := m.reps * max(1, s.times)
		out := filepath.Join(dir, fmt.Sprintf("%d.jsonl", i))
		duration := s.duration
		if m.quick && duration != "" {
			duration = "300ms"
		}
		args := []string{"-p", m.peersOf(s), "-s", s.scenarios, "-m", s.mode, "-r", fmt.Sprint(reps), "-o", out, "-d",
			duration, "-x", s.extra}
		fmt.Fprintf(m.stderr, "benchmarks: %v: %s, %s, %d times, stage %d of %d\n",
			time.Since(start).Round(time.Second), s.scenarios, m.peersOf(s), reps, i+1, len(stages)+1)
		cmd := exec.CommandContext(ctx, "./run.sh", args...)
		cmd.Dir = m.harness
		cmd.Env = append(os.Environ(), "PICLOUD_BIN="+daemon, "PICLOUD_URL="+string(url[1]),
			"PICLOUD_ENV=API_KEY=K MAX_CONNECTIONS=15000 LOG_LEVEL=error PORT="+string(port.FindSubmatch(url[1])[1]))
		if m.quick {
			cmd.Env = append(cmd.Env, "NOGATE=1")
		} else {
			cmd.Env = append(cmd.Env, "GATE_TRIES=5")
		}
		cmd.Stdout, cmd.Stderr = m.stderr, m.stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%v: %w", cmd, err)
		}
		results, err := os.ReadFile(out)
		if err != nil {
			return nil, err
		}
		all.Write(results)
	}

	fmt.Fprintf(m.stderr, "benchmarks: %v: test/load, stage %[2]d of %[2]d\n", time.Since(start).Round(time.Second),
		len(stages)+1)
	figures, err := m.loads(ctx)
	return append(all.Bytes(), figures...), err
}

// takeLoads returns lines with new figures of the loads in place of the old ones, and with the version they are of.
func (m measurement) takeLoads(ctx context.Context, lines []byte) ([]byte, error) {
	first, rest, _ := bytes.Cut(lines, []byte("\n"))
	var f facts
	if err := json.Unmarshal(first, &f); err != nil {
		return nil, err
	}
	f.Loads = time.Now().UTC().Format("2006-01-02") + ", PiCloud " + m.version(ctx, "picloud")
	first, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	all := append(first, '\n')
	for line := range bytes.Lines(rest) {
		var l runLine
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, err
		}
		if l["load"] == nil {
			all = append(all, line...)
		}
	}
	figures, err := m.loads(ctx)
	return append(all, figures...), err
}

// loads returns a line for each figure of our own loads.
func (m measurement) loads(ctx context.Context) ([]byte, error) {
	args := []string{"run", "./test/load", "-json", "-bin", m.bin}
	if m.quick {
		args = append(args, "own", "large")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = m.stderr
	figures, err := cmd.Output()
	if err != nil && len(figures) == 0 { // the page says what is not met, and which loads failed
		return nil, fmt.Errorf("%v: %w", cmd, err)
	}
	return figures, nil
}

func (m measurement) peersOf(s stage) string {
	var list []string
	without := strings.Fields(s.without)
	for peer := range strings.FieldsSeq(m.peers) {
		if !slices.Contains(without, peer) {
			list = append(list, peer)
		}
	}
	return strings.Join(list, " ")
}

func (m measurement) facts(ctx context.Context) (facts, error) {
	f := facts{Date: time.Now().UTC().Format("2006-01-02"), Count: runtime.NumCPU(), Go: runtime.Version(),
		Versions: make(map[string]string)}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return f, err
	}
	f.Processor = strings.TrimSpace(after(string(cpu), `model name\s*:(.*)`))
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return f, err
	}
	var kib int
	fmt.Sscan(after(string(memory), `MemTotal:(.*) kB`), &kib)
	f.MemoryMiB = kib >> 10
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return f, err
	}
	f.Kernel = strings.TrimSpace(string(kernel))
	for peer := range strings.FieldsSeq(m.peers) {
		f.Versions[peer] = m.version(ctx, peer)
	}
	return f, nil
}

// version is what a peer says its version is; empty when it is missing or does not say.
func (m measurement) version(ctx context.Context, peer string) string {
	said := func(pattern string, command ...string) string {
		out, _ := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput() // mosquitto -h ends with 3
		return after(string(out), pattern)
	}
	built := filepath.Join(m.harness, "bin", peer)
	switch peer {
	case "picloud":
		return said(`picloudd (\S+)`, filepath.Join(m.bin, "picloudd"), "-version")
	case "nats":
		return said(`v(\d\S*)`, filepath.Join(m.harness, "bin", "nats-server"), "--version")
	case "centrifugo":
		return moduleIn(built, "github.com/centrifugal/centrifugo/v5") // it says 0.0.0 itself when it was built by go build
	case "mochi":
		return moduleIn(built, "github.com/mochi-mqtt/server/v2")
	case "mosquitto":
		return said(`mosquitto version (\S+)`, "mosquitto", "-h")
	case "nodews":
		var p struct{ Version string }
		text, err := os.ReadFile(filepath.Join(m.harness, "peers", "nodews", "node_modules", "ws", "package.json"))
		if err != nil || json.Unmarshal(text, &p) != nil {
			return ""
		}
		return p.Version + ", Node.js " + said(`v(\d\S*)`, "node", "--version")
	}
	return ""
}

// moduleIn returns the version of a module in a Go program.
func moduleIn(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

// after returns the pattern's group at its first match in text.
func after(text, pattern string) string {
	if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// results are what the lines hold.
type results struct {
	facts
	runs    []runLine
	figures []figure
}

// A runLine is one run of the harness.
type runLine map[string]any

// A figure is one line of test/load.
type figure struct {
	Load  string
	What  string
	Value float64
	Unit  string
	Most  *float64
}

func parse(measured []byte) (r results, err error) {
	scanner := bufio.NewScanner(bytes.NewReader(measured))
	for n := 1; scanner.Scan(); n++ {
		var line runLine
		err := json.Unmarshal(scanner.Bytes(), &line)
		switch {
		case err != nil:
		case n == 1:
			err = json.Unmarshal(scanner.Bytes(), &r.facts)
		case line["load"] != nil:
			var f figure
			err = json.Unmarshal(scanner.Bytes(), &f)
			r.figures = append(r.figures, f)
		default:
			if peak, ok := line["rss_max_kib"].(float64); ok {
				line[growth] = (peak - line.number("rss_before_kib")) / 1024
			}
			r.runs = append(r.runs, line)
		}
		if err != nil {
			return r, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return r, scanner.Err()
}
