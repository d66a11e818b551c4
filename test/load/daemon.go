package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"picloud/internal/client"
	picloudd "picloud/test/daemon"
)

const key = "a-key-for-load"

// placement says where a daemon runs. On one processor only, the cost of a delivery depends least on the machine's
// other work.
type placement bool

const (
	oneProcessor  placement = true
	allProcessors placement = false
)

// daemon is a picloudd that runs as a process of its own.
type daemon struct {
	*picloudd.Process
	lab   *lab
	addr  string // 127.0.0.1 and its port
	c     *client.Client
	tight bool // connections to it have buffers as small as can be, as if the clients were on other machines
}

// with runs the daemon with settings besides those that every load needs, and hands it to use.
func (l *lab) with(where placement, settings []string, use func(*daemon) error) (err error) {
	command := []string{filepath.Join(l.bin, "picloudd")}
	if where == oneProcessor {
		command = append([]string{"taskset", "-c", firstProcessor()}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PORT=0", "API_KEY="+key, "MAX_CONNECTIONS=15000", "LOG_LEVEL=warn")
	cmd.Env = append(cmd.Env, settings...)
	cmd.Stderr = l.log
	p, err := picloudd.Begin(cmd)
	if err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	defer func() {
		if ended := p.End(); ended != nil && err == nil {
			err = ended
		}
	}()
	d := &daemon{Process: p, lab: l, addr: "127.0.0.1:" + p.Port()}
	if strings.HasPrefix(p.URL, "http:") {
		if d.c, err = client.New(client.Options{URL: "http://" + d.addr, Key: key, Name: "load"}); err != nil {
			return err
		}
	}
	return use(d)
}

// firstProcessor is the first processor that this process may use: Cpus_allowed_list of proc_pid_status(5), as in
// "0-3,8".
func firstProcessor() string {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "Cpus_allowed_list:")
	list := strings.Fields(rest + " 0")[0]
	return list[:len(list)-len(strings.TrimLeft(list, "0123456789"))]
}

// reading is what the daemon has used so far, and what it holds.
type reading struct {
	cpu         float64 // seconds
	resident    float64 // MiB
	peak        float64 // MiB resident, since the start
	shared      float64 // MiB resident, in memory that outlives it
	goroutines  float64
	descriptors float64
}

func (d *daemon) reading(ctx context.Context) (r reading, err error) {
	m, err := d.c.Metrics(ctx)
	if err != nil {
		return r, err
	}
	r.cpu = m["process_cpu_seconds_total"]
	r.resident = m["process_resident_memory_bytes"] / (1 << 20)
	r.goroutines = m["go_goroutines"]
	proc := fmt.Sprintf("/proc/%d/", d.Cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		return r, err
	}
	r.descriptors = float64(len(fds))
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return r, err
	}
	for name, mib := range map[string]*float64{"VmHWM:": &r.peak, "RssShmem:": &r.shared} {
		_, rest, _ := strings.Cut(string(status), name)
		var kib float64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return r, fmt.Errorf("%sstatus: %s %w", proc, name, err)
		}
		*mib = kib / 1024
	}
	return r, nil
}

// traffic is what picloud bench reports about one scenario.
type traffic struct {
	Deliveries int64   `json:"deliveries"`
	Seconds    float64 `json:"seconds"`
	CPU        float64 `json:"server_cpu_us"` // for each delivery
	Lost       int64   `json:"lost"`
	Doubled    int64   `json:"doubled"`
	OutOfOrder int64   `json:"out_of_order"`
}

// bench runs the fan-out of picloud bench against the daemon. A delivery that is lost, doubled or out of order is an
// error.
func (d *daemon) bench(ctx context.Context, flags ...string) (t traffic, err error) {
	args := append([]string{"bench", "--json", "--url", d.URL, "--duration", d.lab.measure.String()}, flags...)
	cmd := exec.CommandContext(ctx, filepath.Join(d.lab.bin, "picloud"), append(args, "fanout")...)
	cmd.Env = append(d.Cmd.Env, "PICLOUD_URL=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return t, fmt.Errorf("picloud bench %s: %w: %s", strings.Join(flags, " "), err, &stderr)
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return t, fmt.Errorf("picloud bench: %w in %q", err, out)
	}
	if t.Deliveries == 0 || t.CPU == 0 {
		return t, errors.New("picloud bench delivered nothing")
	}
	return t, nil
}
