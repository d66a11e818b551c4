package main

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
)

func TestMemoryLimitIsHalfOfTheMachine(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)

	debug.SetMemoryLimit(math.MaxInt64)
	limitMemory(func(string) string { return "100MiB" })
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("GOMEMLIMIT is set, and the limit was set to %d all the same", got)
	}
	limitMemory(func(string) string { return "" })
	if got := debug.SetMemoryLimit(-1); got <= 0 || got == math.MaxInt64 || got%(int64(os.Getpagesize())/2) != 0 {
		t.Errorf("the limit is %d bytes", got)
	}
	for ram, want := range map[int64][3]int{ // waiting, subscriptions, unsent
		512 << 20: {64 << 20, 32 << 20, 256 << 10},
		256 << 20: {32 << 20, 16 << 20, 128 << 10},
		24 << 30:  {64 << 20, 64 << 20, 4 << 20},
	} {
		if got := [3]int{waitingBytes(ram), subscriptionBytes(ram), unsentBytes(ram)}; got != want {
			t.Errorf("of %d bytes: %v, want %v", ram, got, want)
		}
	}
	if got := memoryLimit(512 << 20); got != 256<<20 {
		t.Errorf("of 512 MB it is %d bytes", got)
	}
}
