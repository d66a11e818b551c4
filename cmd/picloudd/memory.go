package main

import (
	"math"
	"runtime/debug"
	"syscall"
)

// limitMemory makes the garbage collector work harder before the process has half of the machine's memory, so that a Pi
// of 512 MB does not swap: a crowd of handshakes leaves garbage that may else grow to the size of what is in use. It is
// a soft limit, runtime/debug.SetMemoryLimit, and far from what the server usually has, so that it costs nothing then:
// a tight one halves the rate of new connections. GOMEMLIMIT wins. GOGC stays at 100: less saves little here, since
// what is in use is small, and more has twice of it. What can be given back is given back once a crowd has settled,
// wsconn.Set.
func limitMemory(getenv func(string) string) {
	if getenv("GOMEMLIMIT") != "" {
		return // the runtime has read it
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return // a kernel that does not say
	}
	debug.SetMemoryLimit(memoryLimit(uint64(info.Totalram) * uint64(info.Unit)))
}

// memoryLimit is half of ram bytes.
func memoryLimit(ram uint64) int64 { return int64(min(ram/2, math.MaxInt64)) }
