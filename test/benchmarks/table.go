package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// names of the peers, in the order of the tables.
var names = []struct{ peer, name string }{
	{"floor-c", "floor in C"},
	{"floor-cb", "floor in C, one write for a burst"},
	{"floor-go", "floor in Go"},
	{"floor-goraw", "floor in Go, bare system calls"},
	{"picloud", "PiCloud"},
	{"nats", "nats-server"},
	{"centrifugo", "Centrifugo"},
	{"mosquitto", "Mosquitto"},
	{"mochi", "mochi"},
	{"nodews", "ws"},
	{"uws", "µWebSockets"},
}

func nameOf(peer string) string {
	for _, n := range names {
		if n.peer == peer {
			return n.name
		}
	}
	return peer
}

// write puts the tables of the measurements between their marks in the page.
func write(page, measured []byte) ([]byte, error) {
	r, err := parse(measured)
	if err != nil {
		return nil, err
	}
	for name, table := range map[string]string{"machine": r.machine(), "goals": r.goalTable(), "peers": r.peerTable(),
		"runs": r.runTable(), "loads": r.loadTable()} {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
		before, rest, ok := bytes.Cut(page, []byte(begin))
		_, behind, ok2 := bytes.Cut(rest, []byte(end))
		if !ok || !ok2 {
			return nil, fmt.Errorf("the page lacks the marks of %s", name)
		}
		page = slices.Concat(before, []byte(begin+"\n"+table+"\n"+end), behind)
	}
	return page, nil
}

func (r results) machine() string {
	line := fmt.Sprintf("%s: %s, %d processors, %d MiB, Linux %s, %s; PiCloud %s.\n",
		r.Date, r.Processor, r.Count, r.MemoryMiB, r.Kernel, r.Go, r.Versions["picloud"])
	if r.Loads != "" {
		line += fmt.Sprintf("The loads of our own on the same machine: %s.\n", r.Loads)
	}
	return line
}

// of returns a peer's runs of a scenario that ended well: those that the rest of the machine left undisturbed, if there
// are two or more, otherwise the three that it disturbed least.
func (r results) of(scenario, peer string) []runLine {
	var good []runLine
	for _, run := range r.runs {
		if run["scenario"] == scenario && run["peer"] == peer && run["error"] == nil {
			good = append(good, run)
		}
	}
	disturbed := func(run runLine) float64 { return run.number("other_util") } // a processor's share taken by others
	slices.SortStableFunc(good, func(a, b runLine) int { return cmp.Compare(disturbed(a), disturbed(b)) })
	const calm = 0.15
	if n := slices.IndexFunc(good, func(run runLine) bool { return disturbed(run) >= calm }); n >= 2 {
		return good[:n]
	} else if n >= 0 {
		return good[:min(3, len(good))]
	}
	return good
}

// number returns 0 where there is none.
func (run runLine) number(key string) float64 {
	n, _ := run[key].(float64)
	return n
}

// primary is the figure that a scenario is about.
var primary = map[string]string{
	"S1": "cpu_us_per_delivery", "S1w1": "cpu_us_per_delivery", "S2": "p50_us", "S3": "cpu_us_per_msg",
	"S4n1": "cpu_us_per_req",
	"S5":   "rss_kib_per_conn_10000", "S6": "max_gap_ms", "S7": "tcp_accept_ms",
}

// growth is calculated from two of the harness's figures: MiB at the peak above those before.
const growth = "growth_mib"

// values returns the runs' values of a figure, sorted.
func values(runs []runLine, key string) []float64 {
	var list []float64
	for _, run := range runs {
		if n, ok := run[key].(float64); ok {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// median is NaN where nothing was measured.
func (r results) median(scenario, peer, key string) float64 {
	list := values(r.of(scenario, peer), key)
	switch n := len(list); {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return list[n/2]
	default:
		return (list[n/2-1] + list[n/2]) / 2
	}
}

// most is the largest value of all runs, calm or not; NaN where there is none.
func (r results) most(scenario, peer, key string) float64 {
	worst := math.NaN()
	for _, run := range r.runs {
		if n, ok := run[key].(float64); ok && run["scenario"] == scenario && run["peer"] == peer &&
			(math.IsNaN(worst) || n > worst) {
			worst = n
		}
	}
	return worst
}

// ratio is a peer's median over a floor's in the same scenario.
func (r results) ratio(scenario, peer, floor string) float64 {
	return r.median(scenario, peer, primary[scenario]) / r.median(scenario, floor, primary[scenario])
}

func known(v float64, format string, args ...any) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf(format, args...)
}

// short writes a number with three digits, or all those before its point.
func short(v float64) string {
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// table is a table of Markdown.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("|")
		for _, cell := range cells {
			b.WriteString(" " + strings.ReplaceAll(cell, "|", "/") + " |")
		}
		b.WriteString("\n")
	}
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// goalTable compares the measurements with the goals. A goal for which a measurement is missing is not met.
func (r results) goalTable() string {
	var rows [][]string
	verdict := func(met bool) string {
		if met {
			return "met"
		}
		return "**not met**"
	}
	goal := func(what string, value, most float64, unit string) {
		rows = append(rows, []string{what, known(value, "%s%s", short(value), unit), "at most " + short(most) + unit,
			verdict(value <= most)})
	}
	const us = "picloud"
	goal("1,000 subscribers, window 32: CPU for each delivery, to the floor in Go", r.ratio("S1", us, "floor-go"), 0.06,
		"")
	goal("the same, window 1", r.ratio("S1w1", us, "floor-go"), 0.95, "")
	goal("the same, window 1, to the floor of bare system calls", r.ratio("S1w1", us, "floor-goraw"), 1.05, "")
	goal("one to one over 1,000 events: CPU for each message, to the floor in Go", r.ratio("S3", us, "floor-go"), 1, "")
	for _, q := range []string{"p50", "p99"} {
		for _, peer := range []string{"nats", "centrifugo"} {
			goal("latency "+q+", 100 subscribers, 100 messages a second: to "+nameOf(peer)+"'s",
				r.median("S2", us, q+"_us")/r.median("S2", peer, q+"_us"), 1, "")
		}
	}
	goal("`POST /publish`, one subscriber: CPU for each, to the floor in Go", r.ratio("S4n1", us, "floor-go"), 1.6, "")
	goal("10,000 idle connections: memory for each", r.median("S5", us, primary["S5"]), 2, " KiB")
	goal("one stalled reader of 100: lost by the others", r.most("S6", us, "lost_healthy"), 0, "")
	goal("the same: others that were closed", r.most("S6", us, "healthy_closed"), 0, "")
	rows = append(rows, []string{"the same: the stalled one is closed", r.closedAfter(us), "closed",
		verdict(r.closedAfter(us) != "no" && r.closedAfter(us) != "–")})
	goal("the same: memory over that before; the queue's limit", r.median("S6", us, growth), 1, " MiB")
	goal("start to first accepted connection", r.median("S7", us, "tcp_accept_ms"), 10, " ms")
	goal("memory of an idle server", r.median("S7", us, "idle_rss_kib")/1024, 8, " MiB")
	for _, f := range r.figures {
		if f.Most != nil {
			goal("`test/load`, "+f.Load+": "+f.What, f.Value, *f.Most, " "+f.Unit)
		}
	}
	return table([]string{"", "measured", "goal", ""}, rows)
}

// closedAfter says how a peer closed its stalled reader.
func (r results) closedAfter(peer string) string {
	said := "–"
	for _, run := range r.of("S6", peer) {
		end, _ := run["slow_end"].(string)
		switch at := run.number("slow_closed_by_server_at_s"); {
		case at >= 0:
			said = fmt.Sprintf("after %.1f s", at)
		case end != "":
			said = "yes"
		default:
			return "no"
		}
	}
	return said
}

func (r results) peerTable() string {
	var rows [][]string
	for _, n := range names {
		if !slices.ContainsFunc(r.runs, func(run runLine) bool { return run["peer"] == n.peer }) {
			continue
		}
		row := []string{strings.TrimSpace(n.name + " " + r.Versions[n.peer])}
		for _, scenario := range []string{"S1", "S1w1", "S3", "S4n1"} {
			ratio := r.ratio(scenario, n.peer, "floor-go")
			row = append(row, known(ratio, "%.2f (%s)", ratio, short(r.median(scenario, n.peer, primary[scenario]))))
		}
		p50, p99 := r.median("S2", n.peer, "p50_us")/1000, r.median("S2", n.peer, "p99_us")/1000
		memory := r.median("S5", n.peer, primary["S5"])
		start, idle := r.median("S7", n.peer, "tcp_accept_ms"), r.median("S7", n.peer, "idle_rss_kib")/1024
		lost := r.most("S6", n.peer, "lost_healthy")
		rows = append(rows, append(row,
			known(p50, "%.2f / %.2f", p50, p99),
			known(memory, "%.1f", memory),
			known(start, "%.0f / %.1f", start, idle),
			known(lost, "%.0f / +%.0f / %s", lost, r.median("S6", n.peer, growth), r.closedAfter(n.peer))))
	}
	return table([]string{"", "bursts", "one at a time", "one to one", "`POST`", "latency p50 / p99, ms",
		"idle connection, KiB",
		"start, ms / idle, MiB", "stalled reader: others lost / MiB / closed"}, rows)
}

// runTable shows what the medians are taken from.
func (r results) runTable() string {
	var rows [][]string
	for _, scenario := range []string{"S1", "S1w1", "S2", "S3", "S4n1", "S5", "S6", "S7"} {
		for _, n := range names {
			all := 0
			var wrong []string
			for _, run := range r.runs {
				if run["scenario"] == scenario && run["peer"] == n.peer {
					all++
					if text, failed := run["error"].(string); failed {
						wrong = append(wrong, text)
					}
				}
			}
			if all == 0 {
				continue
			}
			used := values(r.of(scenario, n.peer), primary[scenario])
			row := []string{scenario, nameOf(n.peer), fmt.Sprintf("%d of %d", len(used), all), "–", "–", "–"}
			if len(used) > 0 {
				middle := r.median(scenario, n.peer, primary[scenario])
				least, most := used[0], used[len(used)-1]
				row[3] = fmt.Sprintf("%s (%s to %s)", short(middle), short(least), short(most))
				spread := (most - least) / middle * 100
				row[4] = known(spread, "%.0f%%", spread)
			}
			var faults []string
			for _, key := range []string{"lost", "gaps", "out_of_order", "subs_closed", "closed_10000", "lost_healthy",
				"healthy_closed", "bad_status"} {
				// POSTs over 16 connections have no common order.
				if n := r.most(scenario, n.peer, key); n > 0 &&
					!(scenario == "S4n1" && (key == "gaps" || key == "out_of_order")) {
					faults = append(faults, fmt.Sprintf("%s %.0f", key, n))
				}
			}
			faults = append(faults, wrong...)
			if faults == nil {
				faults = []string{"none"}
			}
			row[5] = strings.Join(faults, ", ")
			rows = append(rows, row)
		}
	}
	return table([]string{"scenario", "", "runs used", "median (least to most)", "spread", "lost, closed, failed"},
		rows)
}

func (r results) loadTable() string {
	var rows [][]string
	for _, f := range r.figures {
		goal := ""
		if f.Most != nil {
			goal = "at most " + short(*f.Most)
		}
		rows = append(rows, []string{f.Load, f.What, short(f.Value) + " " + f.Unit, goal})
	}
	return table([]string{"load", "", "measured", "goal"}, rows)
}
