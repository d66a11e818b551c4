package server

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	metricText = regexp.MustCompile(`^[ -~]+$`)
)

// parseMetrics reads what Prometheus' text format, version 0.0.4, allows for metrics without labels, and takes less than
// Prometheus does: HELP, TYPE and one sample, each once, in this order.
func parseMetrics(text string) (map[string]float64, error) {
	text, ok := strings.CutSuffix(text, "\n")
	if !ok {
		return nil, fmt.Errorf("the last line has no end")
	}
	lines := strings.Split(text, "\n")
	if len(lines)%3 != 0 {
		return nil, fmt.Errorf("%d lines are not three for each metric", len(lines))
	}
	samples := make(map[string]float64)
	for ; len(lines) > 0; lines = lines[3:] {
		help, ok := strings.CutPrefix(lines[0], "# HELP ")
		name, words, _ := strings.Cut(help, " ")
		if !ok || !metricName.MatchString(name) || !metricText.MatchString(words) || strings.Contains(words, `\`) {
			return nil, fmt.Errorf("%q is no HELP line", lines[0])
		}
		kind, ok := strings.CutPrefix(lines[1], "# TYPE "+name+" ")
		if !ok || kind != "gauge" && kind != "counter" {
			return nil, fmt.Errorf("%q is no TYPE line for %s", lines[1], name)
		}
		if (kind == "counter") != strings.HasSuffix(name, "_total") {
			return nil, fmt.Errorf("%s is a %s: the names of counters, and no others, end in _total", name, kind)
		}
		number, ok := strings.CutPrefix(lines[2], name+" ")
		value, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil || kind == "counter" && value < 0 {
			return nil, fmt.Errorf("%q is no sample of %s", lines[2], name)
		}
		if _, twice := samples[name]; twice {
			return nil, fmt.Errorf("%s appears twice", name)
		}
		samples[name] = value
	}
	return samples, nil
}
