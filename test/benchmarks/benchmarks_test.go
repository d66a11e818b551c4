package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// The page in the repository shows the results in the repository.
func TestThePageHasWhatWasMeasured(t *testing.T) {
	old, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	measured, err := os.ReadFile("../../" + lines)
	if err != nil {
		t.Fatal(err)
	}
	written, err := write(old, measured)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, old) {
		t.Errorf("%s does not have the tables of %s: go run ./test/benchmarks writes them", page, lines)
	}
}

const sample = `{"date":"2026-01-02","processor":"Test","processors":2,"memory_mib":512,"kernel":"6","go":"go1","versions":{"picloud":"v1","nats":"2.15.2"}}
{"scenario":"S1","peer":"floor-go","cpu_us_per_delivery":10,"other_util":0.01,"lost":0}
{"scenario":"S1","peer":"floor-go","cpu_us_per_delivery":10,"other_util":0.02,"lost":0}
{"scenario":"S1","peer":"floor-go","cpu_us_per_delivery":90,"other_util":0.9,"lost":0}
{"scenario":"S1","peer":"picloud","cpu_us_per_delivery":0.5,"other_util":0.4,"lost":0}
{"scenario":"S1","peer":"picloud","cpu_us_per_delivery":0.4,"other_util":0.3,"lost":0}
{"scenario":"S1","peer":"picloud","cpu_us_per_delivery":0.6,"other_util":0.5,"lost":7}
{"scenario":"S1","peer":"picloud","error":"bench failed"}
{"scenario":"S2","peer":"picloud","p50_us":500,"p99_us":900}
{"scenario":"S2","peer":"nats","p50_us":400,"p99_us":1000}
{"scenario":"S6","peer":"picloud","lost_healthy":0,"healthy_closed":0,"rss_before_kib":1024,"rss_max_kib":3072,"slow_closed_by_server_at_s":2.5,"max_gap_ms":3}
{"scenario":"S6","peer":"nats","lost_healthy":1,"healthy_closed":0,"rss_before_kib":1024,"rss_max_kib":2048,"slow_closed_by_server_at_s":-1,"slow_end":"","max_gap_ms":3}
{"load":"churn","what":"left behind","value":2,"unit":"goroutines","most":0}
`

// rowOf returns the cells of the row that begins with begin.
func rowOf(t *testing.T, table string, begin ...string) []string {
	t.Helper()
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, "| "+strings.Join(begin, " | ")); ok {
			return strings.Split(strings.TrimSuffix(strings.TrimPrefix(rest, " | "), " |\n"), " | ")
		}
	}
	t.Fatalf("no row begins with %q in\n%s", begin, table)
	return nil
}

func TestGoalsAreHeldAgainstWhatWasMeasured(t *testing.T) {
	r, err := parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	goals := r.goalTable()
	for begin, want := range map[string]string{
		"1,000 subscribers, window 32: CPU for each delivery, to the floor in Go": "0.05, at most 0.06, met",
		"the same, window 1": "–, at most 0.95, **not met**",
		"latency p50, 100 subscribers, 100 messages a second: to nats-server's": "1.25, at most 1, **not met**",
		"latency p99, 100 subscribers, 100 messages a second: to nats-server's": "0.9, at most 1, met",
		"latency p99, 100 subscribers, 100 messages a second: to Centrifugo's":  "–, at most 1, **not met**",
		"one stalled reader of 100: lost by the others":                         "0, at most 0, met",
		"the same: the stalled one is closed":                                   "after 2.5 s, closed, met",
		"the same: memory over that before; the queue's limit":                  "2 MiB, at most 1 MiB, **not met**",
		"`test/load`, churn: left behind":                                       "2 goroutines, at most 0 goroutines, **not met**",
	} {
		if got := strings.Join(rowOf(t, goals, begin), ", "); got != want {
			t.Errorf("%s: got %q, want %q", begin, got, want)
		}
	}
}

func TestDisturbedRunsDoNotCount(t *testing.T) {
	r, err := parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	runs := r.runTable()
	for peer, want := range map[string]string{
		"floor in Go": "2 of 3, 10 (10 to 10), 0%, none",
		"PiCloud":     "3 of 4, 0.5 (0.4 to 0.6), 40%, lost 7, bench failed",
	} {
		if got := strings.Join(rowOf(t, runs, "S1", peer), ", "); got != want {
			t.Errorf("%s: got %q, want %q", peer, got, want)
		}
	}
	peers := r.peerTable()
	if got, want := rowOf(t, peers, "nats-server 2.15.2")[7], "1 / +1 / no"; got != want {
		t.Errorf("nats-server's stalled reader: got %q, want %q", got, want)
	}
}

func TestWhatStandsAroundTheTablesStays(t *testing.T) {
	var old strings.Builder
	for _, name := range []string{"machine", "goals", "peers", "runs", "loads"} {
		old.WriteString("before " + name + "\n<!-- begin " + name + " -->\nold\n<!-- end " + name + " -->\nbehind " +
			name + "\n")
	}
	once, err := write([]byte(old.String()), []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(once), "old\n") || strings.Count(string(once), "before ") < 5 ||
		strings.Count(string(once), "behind ") < 5 {
		t.Errorf("got\n%s", once)
	}
	if twice, err := write(once, []byte(sample)); err != nil || !bytes.Equal(twice, once) {
		t.Errorf("a second time it is another page: %v", err)
	}
	if _, err := write([]byte(strings.Replace(old.String(), "<!-- end goals -->", "", 1)), []byte(sample)); err == nil {
		t.Error("a page without a mark: no error")
	}
}
