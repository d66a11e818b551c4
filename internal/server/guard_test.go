package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

var (
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	porch = netip.MustParseAddr("192.168.99.1")
	shed  = netip.MustParseAddr("192.168.99.2")
)

func wantVerdict(t *testing.T, g *guard, key string, from netip.Addr, after time.Duration, status int) verdict {
	t.Helper()
	v := g.check(key, from, noon.Add(after))
	if v.status != status {
		t.Fatalf("%q from %v after %v: status %d %q, want %d", key, from, after, v.status, v.reason, status)
	}
	return v
}

func TestGuardTakesTheRightKeyOnly(t *testing.T) {
	g := newGuard(testKey, 1000)
	wantVerdict(t, g, testKey, porch, 0, 0)
	for _, key := range []string{"", " ", wrongKey, testKey + "\x00", testKey[1:], " " + testKey} {
		wantVerdict(t, g, key, porch, 0, http.StatusUnauthorized)
	}
	for _, g := range []*guard{newGuard("", 1000), {burst: 1000}} {
		wantVerdict(t, g, "", porch, 0, http.StatusUnauthorized)
	}
}

func TestGuardGivesOneGuessAMinuteBack(t *testing.T) {
	g := newGuard(testKey, 3)
	for i := range 3 {
		if v := wantVerdict(t, g, wrongKey, porch, 0, http.StatusUnauthorized); v.first != (i == 2) {
			t.Errorf("guess %d: first is %t", i+1, v.first)
		}
	}
	for _, key := range []string{wrongKey, testKey, ""} {
		if v := wantVerdict(t, g, key, porch, 0, http.StatusTooManyRequests); v.retryAfter != time.Minute {
			t.Errorf("retry after %v, want a minute", v.retryAfter)
		}
	}
	if v := wantVerdict(t, g, testKey, porch, 45*time.Second,
		http.StatusTooManyRequests); v.retryAfter != 15*time.Second {
		t.Errorf("retry after %v, want 15s", v.retryAfter)
	}
	wantVerdict(t, g, testKey, shed, 0, 0) // another address

	wantVerdict(t, g, testKey, porch, time.Minute, 0) // and costs no guess
	wantVerdict(t, g, wrongKey, porch, time.Minute, http.StatusUnauthorized)
	wantVerdict(t, g, testKey, porch, time.Minute, http.StatusTooManyRequests)
	for range 3 { // never more than the burst
		wantVerdict(t, g, wrongKey, porch, 24*time.Hour, http.StatusUnauthorized)
	}
	wantVerdict(t, g, testKey, porch, 24*time.Hour, http.StatusTooManyRequests)
	if got := g.wrong.Load(); got != 7 {
		t.Errorf("%d wrong keys are counted, want 7", got)
	}
}

func TestGuardDoesNotCountMissingKeys(t *testing.T) {
	g := newGuard(testKey, 3)
	for range 100 {
		wantVerdict(t, g, "", porch, 0, http.StatusUnauthorized)
	}
	wantVerdict(t, g, testKey, porch, 0, 0)
	if n := g.wrong.Load(); n != 0 || len(g.addresses) != 0 {
		t.Errorf("%d wrong keys, %d addresses, want none", n, len(g.addresses))
	}
}

func TestGuardTakesANetworkOfIPv6ForOneAddress(t *testing.T) {
	g := newGuard(testKey, 1)
	addr := netip.MustParseAddr
	wantVerdict(t, g, wrongKey, addr("fd00:1:2:3::1"), 0, http.StatusUnauthorized)
	wantVerdict(t, g, testKey, addr("fd00:1:2:3:4:5:6:7"), 0, http.StatusTooManyRequests)
	wantVerdict(t, g, testKey, addr("fd00:1:2:4::1"), 0, 0)
	wantVerdict(t, g, wrongKey, addr("fe80::1%eth0"), 0, http.StatusUnauthorized)
	wantVerdict(t, g, testKey, addr("fe80::2%wlan0"), 0, http.StatusTooManyRequests)
	wantVerdict(t, g, wrongKey, addr("::ffff:10.0.0.1"), 0, http.StatusUnauthorized)
	wantVerdict(t, g, testKey, addr("10.0.0.1"), 0, http.StatusTooManyRequests)
	wantVerdict(t, g, testKey, addr("10.0.0.2"), 0, 0)
}

func TestGuardRemembersABoundedNumberOfAddresses(t *testing.T) {
	g := newGuard(testKey, 3)
	for range 3 {
		wantVerdict(t, g, wrongKey, porch, 0, http.StatusUnauthorized)
	}
	for i := range maxAddresses + 200 {
		from := netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i>>8, i&0xff))
		wantVerdict(t, g, wrongKey, from, 0, http.StatusUnauthorized)
	}
	if n := len(g.addresses); n > maxAddresses {
		t.Errorf("%d addresses are remembered, want at most %d", n, maxAddresses)
	}
	wantVerdict(t, g, testKey, porch, 0,
		http.StatusTooManyRequests) // an address that has used up its guesses is not forgotten first
}
