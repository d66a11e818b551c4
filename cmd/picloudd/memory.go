package main

import (
	"math"
	"runtime/debug"
	"syscall"
)

// limitMemory makes the garbage collector work harder before the process has half of the machine's memory, so that a Pi
// with 512 MB does not swap: a burst of handshakes leaves garbage that could otherwise grow to the size of what is in
// use. It is a soft limit, runtime/debug.SetMemoryLimit, and far above what the server usually needs, so that it costs
// nothing then: a tight one halves the rate of new connections. GOMEMLIMIT wins. GOGC stays at 100: a lower one saves
// little here, since what is in use is small, and a higher one leaves twice as much garbage. What can be given back to
// the system is given back once a burst is over, wsconn.Set.
func limitMemory(getenv func(string) string) {
	if getenv("GOMEMLIMIT") != "" {
		return // the runtime has read it
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return // the kernel does not say
	}
	debug.SetMemoryLimit(memoryLimit(uint64(info.Totalram) * uint64(info.Unit)))
}

// memoryLimit is half of ram bytes.
func memoryLimit(ram uint64) int64 { return int64(min(ram/2, math.MaxInt64)) }
