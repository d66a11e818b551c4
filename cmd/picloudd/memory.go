package main

import (
	"math"
	"runtime/debug"
	"syscall"
)

// assumedMemory is that of the machine where the kernel does not tell.
const assumedMemory = 512 << 20

// memory is how many bytes the machine has, sysinfo(2).
func memory() int64 {
	return bytesOf(func(info *syscall.Sysinfo_t) uint64 { return uint64(info.Totalram) })
}

// lowMemory is how many of them a 32-bit kernel reaches everywhere: only those count when it says what TCP may take.
func lowMemory() int64 {
	return bytesOf(func(info *syscall.Sysinfo_t) uint64 { return uint64(info.Totalram - info.Totalhigh) })
}

func bytesOf(units func(*syscall.Sysinfo_t) uint64) int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return assumedMemory
	}
	return int64(min(units(&info)*uint64(info.Unit), math.MaxInt64))
}

// waitingBytes is what may wait in all connections together on a machine with ram bytes. A hand-over carries that much.
func waitingBytes(ram int64) int { return int(min(ram/8, 64<<20)) }

// unsentBytes is what the kernel may take for one client that takes nothing, besides its queue here. By itself it goes
// up to 4 MiB (net.ipv4.tcp_wmem), which a small machine has no room for: all its TCP sockets together have some 9 % of
// the memory (net.ipv4.tcp_mem), and past that none of them gets on. With 4 GiB and more it may do as it likes.
func unsentBytes(ram int64) int {
	if ram >= 4<<30 {
		return 8 << 20 // tcp(7) reports room only below the half of it
	}
	return int(max(ram/16384, 32<<10))
}

// tcpBytes is what the kernel may hold for all TCP connections: less than half of what it has for them at most, and
// less than makes it save (a sixteenth of what is free at boot, tcp(7)).
func tcpBytes(ram int64) int { return int(min(ram/24, math.MaxInt32)) }

// subscriptionBytes is what all subscriptions together may take.
func subscriptionBytes(ram int64) int { return int(min(ram/16, 64<<20)) }

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
	debug.SetMemoryLimit(memoryLimit(memory()))
}

// memoryLimit is a little less than half of ram bytes: what Go does not count, the program and what outlives it, comes
// on top.
func memoryLimit(ram int64) int64 { return ram / 16 * 7 }
