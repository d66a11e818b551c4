package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// residentBytes reads statm, proc(5).
func residentBytes() (int, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var total, resident int
	if _, err := fmt.Sscan(string(text), &total, &resident); err != nil {
		return 0, err
	}
	return resident * os.Getpagesize(), nil
}

// tcpBytes is how much memory the kernel holds for all TCP connections of the machine, whose network namespace ever. It
// can be read where nothing of /proc but processes is to be seen, as in the service's sandbox.
func tcpBytes() (int, error) {
	const file = "/proc/self/net/sockstat"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, "mem"); i > 0 && fields[0] == "TCP:" && i+1 < len(fields) {
			pages, err := strconv.Atoi(fields[i+1])
			return pages * os.Getpagesize(), err
		}
	}
	return 0, fmt.Errorf("%s does not tell how much memory TCP takes", file)
}

// cpuSeconds is user and system time together.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("server: getrusage: " + err.Error()) // fails for wrong arguments only, getrusage(2)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// openFiles is how many files the process has open.
func openFiles() (int, error) {
	const folder = "/proc/self/fd"
	if info, err := os.Stat(folder); err == nil && info.Size() > 0 {
		return int(info.Size()), nil // since Linux 6.2, without listing them
	}
	return countEntries(folder)
}

// countEntries counts what is in a folder of open files, without the one that it opens itself.
func countEntries(folder string) (int, error) {
	f, err := os.Open(folder)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for n := -1; ; {
		names, err := f.Readdirnames(1024)
		n += len(names)
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return 0, err
		}
	}
}

// mostFiles is how many files the process may open.
func mostFiles() (uint64, error) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return l.Cur, err
}

// startTime returns when something began, by the wall clock as it is set now. began and now are what that clock showed,
// and elapsed is the time in between by a clock that is never set: most Pis learn the time some seconds after their
// start, and what they assumed before is of no use. If the clock has not been set since, the result is began, the same
// each time; otherwise it is exact to a second.
func startTime(began, now time.Time, elapsed time.Duration) time.Time {
	set := now.Sub(began) - elapsed
	return began.Add(set.Round(time.Second))
}

// sinceEpoch is t in seconds, as Prometheus expects times.
func sinceEpoch(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
