package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// codeIn returns the code in the answer to POST /sign-in/codes, which must be for its reader alone.
func codeIn(t *testing.T, a answer) string {
	t.Helper()
	var made struct {
		Code    string `json:"code"`
		Seconds int    `json:"expires_in_seconds"`
	}
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != http.StatusCreated {
		t.Fatalf("status %d %q (%v), want 201 and a code", a.status, a.body, err)
	}
	if len(made.Code) < 22 || made.Seconds != 300 { // 128 bits take 22 characters of base 64
		t.Errorf("got %q for %d s, want 128 bits for 300 s", made.Code, made.Seconds)
	}
	wantUnstored(t, a)
	return made.Code
}

func wantUnstored(t *testing.T, a answer) {
	t.Helper()
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"Content-Type": "application/json"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("status %d has %s %q, want %q", a.status, name, got, want)
		}
	}
}

// newCode asks for a code over the network.
func (sv *service) newCode(t *testing.T) string {
	t.Helper()
	return codeIn(t, sv.request(t, "POST", "/sign-in/codes", "", "X-API-Key", testKey))
}

func exchange(code string) string { return fmt.Sprintf(`{"code":%q}`, code) }

// signsIn checks that an answer to POST /sign-in has the key.
func (a answer) signsIn(t *testing.T) {
	t.Helper()
	if want := `{"key":"` + testKey + "\"}\n"; a.status != http.StatusOK || a.body != want {
		t.Errorf("status %d %q, want 200 %q", a.status, a.body, want)
	}
	wantUnstored(t, a)
}

const badCode = "wrong, used or out of date"

func TestCodeSignsInOnce(t *testing.T) {
	sv := start(t)
	first, second := sv.newCode(t), sv.newCode(t)
	if first == second {
		t.Fatal("two codes are the same")
	}
	for _, code := range []string{second, first} {
		sv.request(t, "POST", "/sign-in", exchange(code)).signsIn(t)
		a := sv.request(t, "POST", "/sign-in", exchange(code))
		a.refuses(t, http.StatusUnauthorized, badCode)
		if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
			t.Errorf("WWW-Authenticate %q, want Bearer", got)
		}
	}
	for _, code := range []string{first, second} {
		if strings.Contains(sv.log.String(), code) {
			t.Error("a code is in the log")
		}
	}
}

func TestByteOrderMarkBeforeACodeIsSkipped(t *testing.T) {
	sv := start(t)
	sv.request(t, "POST", "/sign-in", "\ufeff"+exchange(sv.newCode(t))).signsIn(t)
}

func TestCodeOfManyAtOnceSignsOneIn(t *testing.T) {
	sv := start(t)
	body := exchange(sv.newCode(t))
	var asking sync.WaitGroup
	answers := make([]answer, 8)
	for i := range answers {
		asking.Go(func() {
			var err error
			if answers[i], err = sv.send("POST", "/sign-in", strings.NewReader(body)); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	in := 0
	for _, a := range answers {
		if a.status == http.StatusOK {
			in++
		}
	}
	if in != 1 {
		t.Errorf("one code has signed %d in", in)
	}
}

func TestCodeIsGoodForMinutes(t *testing.T) {
	sv := start(t)
	ask := func(t *testing.T, path, body string) answer {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "POST", path, strings.NewReader(body))
		r.Header.Set("X-API-Key", testKey)
		w := httptest.NewRecorder()
		sv.Server.http.Handler.ServeHTTP(w, r)
		return answer{w.Code, w.Header(), w.Body.String(), false}
	}
	synctest.Test(t, func(t *testing.T) {
		early, late := codeIn(t, ask(t, "/sign-in/codes", "")), codeIn(t, ask(t, "/sign-in/codes", ""))
		time.Sleep(codeLife - time.Second)
		fresh := codeIn(t, ask(t, "/sign-in/codes", ""))
		ask(t, "/sign-in", exchange(early)).signsIn(t)
		time.Sleep(time.Second)
		ask(t, "/sign-in", exchange(late)).refuses(t, http.StatusUnauthorized, badCode)
		ask(t, "/sign-in", exchange(fresh)).signsIn(t)
	})
}

func TestOldestCodeMakesRoom(t *testing.T) {
	sv := start(t)
	oldest, next := sv.newCode(t), sv.newCode(t)
	for range maxCodes - 1 {
		sv.newCode(t)
	}
	sv.codes.mu.Lock()
	kept := len(sv.codes.list)
	sv.codes.mu.Unlock()
	if kept != maxCodes {
		t.Errorf("%d codes are kept, want %d", kept, maxCodes)
	}
	sv.request(t, "POST", "/sign-in", exchange(oldest)).refuses(t, http.StatusUnauthorized, badCode)
	sv.request(t, "POST", "/sign-in", exchange(next)).signsIn(t)
}

func TestLocalSocketMakesCodesWithoutAKey(t *testing.T) {
	sv := start(t)
	local := func(path, body string) answer {
		t.Helper()
		p := sv.dial(t, "unix")
		p.Raw(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: local\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
		return p.response("POST")
	}
	sv.request(t, "POST", "/sign-in", exchange(codeIn(t, local("/sign-in/codes", "")))).signsIn(t)
	local("/sign-in", exchange(codeIn(t, local("/sign-in/codes", "")))).signsIn(t)
	local("/sign-in", exchange("no such code")).refuses(t, http.StatusUnauthorized, badCode)
	sv.request(t, "POST", "/sign-in/codes", "").refuses(t, http.StatusUnauthorized, "key")
	if n := sv.guard.wrong.Load(); n != 0 {
		t.Errorf("%d wrong keys are counted, want none: nothing wrong came over the network", n)
	}
}

func TestWrongCodesAreGuesses(t *testing.T) {
	sv := start(t, func(c *Config) { c.WrongKeys = 3 })
	good := sv.newCode(t)
	for i := range 2 {
		sv.request(t, "POST", "/sign-in", exchange(fmt.Sprint(wrongKey, i))).refuses(t, http.StatusUnauthorized, badCode)
	}
	// Nor is a code another way to send the key.
	sv.request(t, "POST", "/sign-in", exchange(testKey)).refuses(t, http.StatusUnauthorized, badCode)
	if n := sv.guard.wrong.Load(); n != 3 {
		t.Errorf("%d wrong keys are counted, want 3", n)
	}
	a := sv.request(t, "POST", "/sign-in", exchange(good))
	a.refuses(t, http.StatusTooManyRequests, "wrong keys")
	if got := a.header.Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After %q, want 60", got)
	}
	sv.request(t, "GET", "/info", "", "X-API-Key", testKey).refuses(t, http.StatusTooManyRequests, "wrong keys")
	sv.request(t, "POST", "/sign-in/codes", "", "X-API-Key", testKey).refuses(t, http.StatusTooManyRequests, "wrong keys")
	if log := sv.log.String(); strings.Count(log, "too many wrong keys") != 1 || !strings.Contains(log,
		"address=127.0.0.1") {
		t.Errorf("the log does not name the address, or not once:\n%s", log)
	}

	// That has not used the code up: another address signs in with it.
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/sign-in", strings.NewReader(exchange(good)))
	r.RemoteAddr = netip.AddrPortFrom(shed, 1234).String()
	w := httptest.NewRecorder()
	sv.Server.http.Handler.ServeHTTP(w, r)
	answer{w.Code, w.Header(), w.Body.String(), false}.signsIn(t)
}

func TestBadSignInsAreRefused(t *testing.T) {
	sv := start(t)
	for _, tt := range []struct {
		name, body string
		status     int
		reason     string
	}{
		{"nothing", "", http.StatusBadRequest, "one JSON object with a code"},
		{"no JSON", "code=x", http.StatusBadRequest, "one JSON object with a code"},
		{"array", `["x"]`, http.StatusBadRequest, "one JSON object with a code"},
		{"number", `{"code":7}`, http.StatusBadRequest, "one JSON object with a code"},
		{"no code", `{"key":"x"}`, http.StatusBadRequest, "one JSON object with a code"},
		{"empty code", `{"code":""}`, http.StatusBadRequest, "one JSON object with a code"},
		{"two objects", `{"code":"x"}{"code":"x"}`, http.StatusBadRequest, "one JSON object with a code"},
		{"UTF-16", "\xff\xfe{\x00", http.StatusBadRequest, "message is UTF-16: send UTF-8"},
		{"UTF-16 without a mark", "{\x00\"\x00", http.StatusBadRequest, "message is UTF-16: send UTF-8"},
		{"gzip", "\x1f\x8b\x08\x00", http.StatusBadRequest, "message is gzip"},
		{"not UTF-8", exchange("x")[:9] + "\xff\"}", http.StatusBadRequest, "message is not valid UTF-8"},
		{"too long", exchange(strings.Repeat("x", codeBodyBytes)), http.StatusRequestEntityTooLarge, "limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sv.request(t, "POST", "/sign-in", tt.body).refuses(t, tt.status, tt.reason)
		})
	}
	if n := sv.guard.wrong.Load(); n != 0 {
		t.Errorf("%d wrong keys are counted, want none: no code was sent", n)
	}
	sv.stillServes(t)
}

func TestPagesFromElsewhereCannotReadASignIn(t *testing.T) {
	sv := start(t)
	for _, code := range []string{sv.newCode(t), "wrong"} {
		a := sv.request(t, "POST", "/sign-in", exchange(code), "Origin", "http://shed.local:8080")
		if got := a.header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("status %d has Access-Control-Allow-Origin %q", a.status, got)
		}
	}
}

func TestCodesEndWithTheProcess(t *testing.T) {
	l := found(t)
	code := l.newCode(t)
	l.restart()
	l.request(t, "POST", "/sign-in", exchange(code)).refuses(t, http.StatusUnauthorized, badCode)
}
