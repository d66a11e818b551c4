package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/test/wait"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// parseMetrics reads metrics as Prometheus does, and has its linter look at them. Those without labels are in samples.
func parseMetrics(text string) (samples map[string]float64, err error) {
	families, err := parseFamilies(text)
	if err != nil {
		return nil, err
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		return nil, fmt.Errorf("promlint: %v, error %v", problems, err)
	}
	samples = make(map[string]float64)
	for name, f := range families {
		for _, m := range f.GetMetric() {
			if len(m.GetLabel()) == 0 {
				samples[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() // it has one of them
			}
		}
	}
	return samples, nil
}

func parseFamilies(text string) (map[string]*dto.MetricFamily, error) {
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	for name, f := range families {
		if f.GetHelp() == "" || f.GetType() == dto.MetricType_UNTYPED || len(f.GetMetric()) != 1 {
			return nil, fmt.Errorf("%s: %v, want a help text, a type and one sample", name, f)
		}
	}
	return families, nil
}

// What only the owner of the key may see stays in no cache, and is taken for nothing but what it is.
func TestInfoAndMetricsAreNotStored(t *testing.T) {
	sv := start(t)
	for _, path := range []string{"/info", "/metrics"} {
		h := sv.request(t, "GET", path, "", "X-API-Key", testKey).header
		if h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, h)
		}
	}
}

func TestMetricsArePrometheusText(t *testing.T) {
	sv := start(t)
	p := sv.subscriber(t, "A")
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	p.send(`{"action":"publish","event":"e"}`)
	p.delivery()
	sv.request(t, "GET", "/metrics", "", "X-API-Key", wrongKey).refuses(t, http.StatusUnauthorized, "key")
	a := sv.request(t, "GET", "/metrics", "", "Authorization", "Bearer "+testKey)
	if got := a.header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	samples, err := parseMetrics(a.body)
	if err != nil {
		t.Fatalf("%v in\n%s", err, a.body)
	}
	for name, want := range map[string]float64{
		"picloud_connections": 1, "picloud_max_connections": 8192, "picloud_events": 1, "picloud_subscriptions": 1,
		"picloud_published_total": 1, "picloud_delivered_total": 1, "picloud_slow_clients_closed_total": 0,
		"picloud_wrong_keys_total":               1,
		"picloud_connection_limit_reached_total": 0, "picloud_kept_over_restart": 0, "picloud_lost_over_restart": 0,
		"picloud_log_lines_dropped_total": 0,
	} {
		if got, ok := samples[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %t), want %v", name, got, ok, want)
		}
	}
	if _, ok := samples["picloud_uptime_seconds"]; !ok {
		t.Error("picloud_uptime_seconds is missing")
	}
}

// What the dashboards and alerts for any process look for.
func TestMetricsOfTheProcessAreThoseOfTheOfficialClients(t *testing.T) {
	sv := start(t)
	read := func() map[string]float64 {
		samples, err := parseMetrics(sv.request(t, "GET", "/metrics", "", "X-API-Key", testKey).body)
		if err != nil {
			t.Fatal(err)
		}
		return samples
	}
	samples := read()
	for name, least := range map[string]float64{
		"process_resident_memory_bytes": 1 << 20, "process_cpu_seconds_total": 0.001, "process_open_fds": 5,
		"process_max_fds": 256,
		"go_goroutines":   2, "go_memstats_sys_bytes": 1 << 20, "go_memstats_heap_alloc_bytes": 1 << 10,
	} {
		if samples[name] < least {
			t.Errorf("%s is %v, want %v at least", name, samples[name], least)
		}
	}
	if _, ok := samples["go_memstats_heap_released_bytes"]; !ok {
		t.Error("go_memstats_heap_released_bytes is missing")
	}
	const began = "process_start_time_seconds"
	if age := float64(time.Now().UnixMilli())/1000 - samples[began]; age < 0 || age > wait.Patience.Seconds() {
		t.Errorf("it began %v s ago", age)
	}
	if again := read()[began]; again != samples[began] { // monitoring takes a change for a restart
		t.Errorf("%s is %v, and then %v", began, samples[began], again)
	}
}

func TestBuildInfoTellsTheVersionWhateverIsInIt(t *testing.T) {
	const version = "v1 \"beta\"\\n\nü"
	sv := start(t, func(c *Config) { c.Version = version + "\xff" })
	families, err := parseFamilies(sv.request(t, "GET", "/metrics", "", "X-API-Key", testKey).body)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, m := range families["picloud_build_info"].GetMetric() {
		for _, l := range m.GetLabel() {
			got[l.GetName()] = l.GetValue()
		}
		if m.GetGauge().GetValue() != 1 {
			t.Errorf("its value is %v", m.GetGauge().GetValue())
		}
	}
	if len(got) != 2 || got["version"] != version+"\ufffd" || got["goversion"] != runtime.Version() {
		t.Errorf("got %q", got)
	}
}

func TestHelpTextsAndLargeNumbersAreReadAsTheyWereMeant(t *testing.T) {
	var e exposition
	const help = "A \\ and\na second line with \"quotes\"."
	e.add("x_total", counter, help, 1<<53)
	families, err := parseFamilies(e.String())
	if err != nil {
		t.Fatalf("%v in %s", err, e.String())
	}
	if f := families["x_total"]; f.GetHelp() != help || f.GetMetric()[0].GetCounter().GetValue() != 1<<53 {
		t.Errorf("got %v of %s", f, e.String())
	}
}

// A Pi's clock is set once it has reached the network, which is after its start.
func TestStartTimeIsRightOnceTheClockIs(t *testing.T) {
	began := time.Date(2026, 5, 1, 12, 0, 0, 250e6, time.UTC)
	for _, tt := range []struct {
		name    string
		set     time.Duration // by how much, since
		elapsed time.Duration
		want    time.Time
	}{
		{"at once", 0, 0, began},
		{"a clock that nobody has set", 0, time.Hour, began},
		{"two readings are not quite at the same time", 30 * time.Microsecond, time.Hour, began},
		{"a clock that was years behind", 3 * 365 * 24 * time.Hour, time.Minute, began.AddDate(0, 0, 3*365)},
		{"a clock that was ahead", -90 * time.Second, time.Minute, began.Add(-90 * time.Second)},
		{"whatever the fraction of a second", 100*time.Second + 210*time.Millisecond, time.Minute,
			began.Add(100 * time.Second)},
	} {
		if got := startTime(began, began.Add(tt.elapsed+tt.set), tt.elapsed); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Before Linux 6.2 the folder has no size; both ways count the same.
func TestOpenFilesAreCounted(t *testing.T) {
	const more, others = 200, 20 // others: what earlier tests may still be closing
	for range more {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	n, err := openFiles()
	listed, err2 := countEntries("/proc/self/fd")
	if err != nil || err2 != nil || n < more || n > more+2*others || max(n, listed)-min(n, listed) > others {
		t.Errorf("%d are open (%v), %d are listed (%v), want some more than %d", n, err, listed, err2, more)
	}

	dir := t.TempDir()
	for i := range 3000 { // more than are read at once
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := countEntries(dir); err != nil || n != 2999 { // its own is one of them
		t.Errorf("%d of 3000 entries (%v), want all but one", n, err)
	}
}
