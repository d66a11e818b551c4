package server

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// metrics serves the counters, and what Prometheus expects of any process, under the names that its official client
// libraries use.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(w, r) {
		return
	}
	st, now := s.state(), time.Now()
	var e exposition
	e.add("picloud_build_info", gauge, "Which version this is: always 1.", 1, label{"version", st.Version},
		label{"goversion", runtime.Version()})
	e.add("picloud_connections", gauge, "WebSocket connections, info connections included.", float64(st.Connections))
	e.add("picloud_max_connections", gauge, "The connection limit.", float64(st.MaxConnections))
	e.add("picloud_connection_limit_reached_total", counter, "Times that the last free connection was taken.",
		float64(st.ConnectionLimitReached))
	requests := s.httpConns.Usage()
	e.add("picloud_http_connections", gauge, "Connections that are HTTP, not WebSockets.", float64(requests.Open))
	e.add("picloud_max_http_connections", gauge, "The limit of those.", float64(requests.Bound))
	e.add("picloud_http_connections_evicted_total", counter, "HTTP connections closed to make room for new ones.",
		float64(requests.Evicted))
	e.add("picloud_http_connections_waited_total", counter,
		"New HTTP connections that had to wait because all others were busy.", float64(requests.Waited))
	if n, err := tcpBytes(); err == nil {
		e.add("picloud_kernel_tcp_bytes", gauge,
			"Memory that the kernel holds for all TCP connections of the machine.", float64(n))
		e.add("picloud_max_kernel_tcp_bytes", gauge, "Past this, the connections that hold most of it are closed.",
			float64(s.cfg.TCPBytes))
	}
	e.add("picloud_events", gauge, "Events that have subscribers.", float64(st.Events))
	e.add("picloud_subscriptions", gauge, "Subscriptions of all connections.", float64(st.Subscriptions))
	e.add("picloud_published_total", counter, "Messages accepted from publishers.", float64(st.Published))
	e.add("picloud_delivered_total", counter, "Messages put into subscribers' queues.", float64(st.Delivered))
	e.add("picloud_slow_clients_closed_total", counter, "Connections closed because they read too slowly.",
		float64(st.SlowClientsClosed))
	e.add("picloud_wrong_keys_total", counter, "Requests with a wrong key.", float64(st.WrongKeys))
	e.add("picloud_kept_over_restart", gauge, "Connections that came from the process before this one.",
		float64(st.KeptOverRestart))
	e.add("picloud_lost_over_restart", gauge, "Connections of the process before this one that had to be ended.",
		float64(st.LostOverRestart))
	e.add("picloud_log_lines_dropped_total", counter, "Lines that the log has not taken.",
		float64(s.about().LogLinesDropped))
	e.add("picloud_uptime_seconds", gauge, "Time since the start, also where no clock is set.",
		float64(st.UptimeSeconds))

	e.add("process_start_time_seconds", gauge, "Start time of the process since the Unix epoch.",
		sinceEpoch(startTime(s.began.Round(0), now.Round(0), now.Sub(s.began)))) // Round: without the monotonic clock
	e.add("process_cpu_seconds_total", counter, "User and system CPU time of the process.", st.CPUSeconds)
	if st.ResidentMemoryBytes > 0 {
		e.add("process_resident_memory_bytes", gauge, "Memory of the process that is in RAM.",
			float64(st.ResidentMemoryBytes))
	}
	if n, err := openFiles(); err == nil {
		e.add("process_open_fds", gauge, "File descriptors that the process has open.", float64(n))
	}
	if n, err := mostFiles(); err == nil {
		e.add("process_max_fds", gauge, "File descriptors that the process may open.", float64(n))
	}

	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e.add("go_goroutines", gauge, "Goroutines that there are.", float64(runtime.NumGoroutine()))
	e.add("go_memstats_sys_bytes", gauge, "Memory that the Go runtime has taken from the system.", float64(mem.Sys))
	e.add("go_memstats_heap_released_bytes", gauge, "Memory of the heap that it has given back since.",
		float64(mem.HeapReleased))
	e.add("go_memstats_heap_alloc_bytes", gauge, "Memory of the heap that is in use.", float64(mem.HeapAlloc))

	unstored(w.Header(), "text/plain; version=0.0.4; charset=utf-8")
	w.Write([]byte(e.String()))
}

// An exposition is Prometheus' text format, version 0.0.4.
type exposition struct{ strings.Builder }

// The kinds of metrics.
const (
	gauge   = "gauge"
	counter = "counter" // its name ends in _total
)

type label struct{ name, value string }

// What is escaped in a help text, and in a label's value.
var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// add adds a metric that has one sample.
func (e *exposition) add(name, kind, help string, value float64, labels ...label) {
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n%s", name, escapeHelp.Replace(help), name, kind, name)
	for i, l := range labels {
		e.WriteByte("{,"[min(i, 1)])
		e.WriteString(l.name + `="` + escapeLabel.Replace(strings.ToValidUTF8(l.value, "\ufffd")) + `"`)
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	e.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}
