package dashboard

import (
	"bytes"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func get(t *testing.T, method, target string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestEveryEmbeddedFileIsServedWithItsType(t *testing.T) {
	types := map[string]string{
		".html": "text/html; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".svg":  "image/svg+xml",
	}
	paths := Paths()
	seen := 0
	for name, body := range pageFiles(t) {
		seen++
		at := "/" + name
		if at == "/index.html" {
			at = "/"
		}
		if !slices.Contains(paths, at) {
			t.Errorf("Paths() = %q, without %s", paths, at)
		}
		w := get(t, http.MethodGet, at, nil)
		if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), body) {
			t.Errorf("GET %s = %d and %d bytes, want 200 and the %d bytes of the file", at, w.Code, w.Body.Len(),
				len(body))
		}
		if got, want := w.Header().Get("Content-Type"), types[path.Ext(name)]; got != want {
			t.Errorf("GET %s: Content-Type %q, want %q", at, got, want)
		}
	}
	if seen != len(paths) {
		t.Errorf("%d files, but Paths() = %q", seen, paths)
	}
}

func TestEveryAnswerCarriesTheSecurityHeaders(t *testing.T) {
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
			"connect-src 'self' ws://pi.local:9000 wss://pi.local:9000; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
			"require-trusted-types-for 'script'; trusted-types 'none'",
		"X-Content-Type-Options": "nosniff",
		"Referrer-Policy":        "no-referrer",
		"Cache-Control":          "no-cache",
	}
	for _, at := range Paths() {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			w := get(t, method, "http://pi.local:9000"+at, nil)
			for name, value := range want {
				if got := w.Header().Get(name); got != value {
					t.Errorf("%s %s: %s: %q, want %q", method, at, name, got, value)
				}
			}
		}
	}
}

func TestPolicyNamesTheHostOnlyWhenItIsPlain(t *testing.T) {
	for host, want := range map[string]string{
		"raspberrypi.local:9000": "connect-src 'self' ws://raspberrypi.local:9000 wss://raspberrypi.local:9000;",
		"192.168.1.7":            "connect-src 'self' ws://192.168.1.7 wss://192.168.1.7;",
		"[fe80::1]:9000":         "connect-src 'self';", // CSP cannot write it
		"":                       "connect-src 'self';",
		"*":                      "connect-src 'self';",
		"*.example":              "connect-src 'self';",
		"a;script-src *":         "connect-src 'self';",
		"a,b":                    "connect-src 'self';",
		"a b":                    "connect-src 'self';",
		"a/b":                    "connect-src 'self';",
		"a\r\nSet-Cookie: b":     "connect-src 'self';",
		"a:":                     "connect-src 'self';",
		"a:1\n":                  "connect-src 'self';",
		"a:1:2":                  "connect-src 'self';",
		"a:123456":               "connect-src 'self';",
		"a:12345":                "connect-src 'self' ws://a:12345 wss://a:12345;",
		"a..b":                   "connect-src 'self';",
		"a.":                     "connect-src 'self';",
		"ä.local":                "connect-src 'self';",
		"My-Pi-4.local":          "connect-src 'self' ws://My-Pi-4.local wss://My-Pi-4.local;",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		Handler().ServeHTTP(w, r)
		got := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(got, want) || strings.Count(got, ";") != 9 {
			t.Errorf("host %q: policy %q, want %q in it and nothing added", host, got, want)
		}
	}
}

func TestKnownETagIsAnsweredWithoutABody(t *testing.T) {
	etags := make(map[string]string)
	for _, at := range Paths() {
		etag := get(t, http.MethodGet, at, nil).Header().Get("ETag")
		if len(etag) < 16 || etag[0] != '"' {
			t.Errorf("GET %s: ETag %q, want a quoted hash", at, etag)
		}
		if other, taken := etags[etag]; taken {
			t.Errorf("%s and %s have the same ETag", at, other)
		}
		etags[etag] = at

		w := get(t, http.MethodGet, at, http.Header{"If-None-Match": {etag}})
		if w.Code != http.StatusNotModified || w.Body.Len() != 0 {
			t.Errorf("GET %s with its ETag = %d and %d bytes, want an empty 304", at, w.Code, w.Body.Len())
		}
		if got := w.Header().Get("ETag"); got != etag {
			t.Errorf("GET %s: the 304 has ETag %q, want %q", at, got, etag)
		}
		w = get(t, http.MethodGet, at, http.Header{"If-None-Match": {`"an older version"`}})
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("GET %s with an older ETag = %d and %d bytes, want the file", at, w.Code, w.Body.Len())
		}
	}
}

func TestHeadTellsTheLengthAndSendsNothing(t *testing.T) {
	for _, at := range Paths() {
		length := get(t, http.MethodGet, at, nil).Header().Get("Content-Length")
		w := get(t, http.MethodHead, at, nil)
		if w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("HEAD %s = %d and %d bytes, want 200 and none", at, w.Code, w.Body.Len())
		}
		if got := w.Header().Get("Content-Length"); got != length || got == "" {
			t.Errorf("HEAD %s: Content-Length %q, want %q as for GET", at, got, length)
		}
	}
}

func TestPathsOutsideThePageAreNotFound(t *testing.T) {
	for _, at := range []string{"/index.html", "/page/", "/page/index.html", "/dashboard.go", "/../dashboard.go", "/.",
		"//", "/key.js/"} {
		if w := get(t, http.MethodGet, "http://pi.local"+at, nil); w.Code != http.StatusNotFound {
			t.Errorf("GET %s = %d, want 404", at, w.Code)
		}
	}
}

// What the page loads must be there, or a browser shows a dead page and an error in its console.
func TestEveryFileThePageNamesIsThere(t *testing.T) {
	named := regexp.MustCompile(`(?:src|href)="([^"#][^"]*)"|from '\./([^']+)'`)
	paths := Paths()
	loaded := map[string]bool{"/": true}
	for name, body := range pageFiles(t) {
		for _, match := range named.FindAllStringSubmatch(string(body), -1) {
			at := "/" + match[1] + match[2]
			loaded[at] = true
			if !slices.Contains(paths, at) {
				t.Errorf("%s names %s, which is not served", name, at)
			}
		}
	}
	for _, at := range paths {
		if !loaded[at] {
			t.Errorf("%s is served but nothing loads it", at)
		}
	}
}

func TestNothingComesFromAnotherHost(t *testing.T) {
	comment := regexp.MustCompile(`(?m)^\s*(//|/?\*).*$`)
	for name, body := range pageFiles(t) {
		// SVG's namespace is a URL that nobody fetches.
		text := strings.ReplaceAll(string(body), `http://www.w3.org/2000/svg`, "")
		if path.Ext(name) == ".js" {
			text = comment.ReplaceAllString(text, "")
		}
		for _, foreign := range []string{"http://", "https://", "ws://", "wss://", `"//`, `'//`, "`//", "(//",
			"@import", "url("} {
			if at := strings.Index(text, foreign); at >= 0 {
				t.Errorf("%s refers to elsewhere: %q", name, text[at:min(at+40, len(text))])
			}
		}
	}
}

// The policy makes browsers refuse these; they would be dead weight at best.
func TestMarkupHasNoInlineScriptOrStyle(t *testing.T) {
	inline := map[string]*regexp.Regexp{
		"an inline script":      regexp.MustCompile(`(?is)<script(?:\s[^>]*)?>\s*[^<\s]`),
		"a script without src":  regexp.MustCompile(`(?i)<script(?:\s+type="[^"]*")?\s*>`),
		"a style element":       regexp.MustCompile(`(?i)<style`),
		"a style attribute":     regexp.MustCompile(`(?i)<[^>]*\sstyle\s*=`),
		"an event attribute":    regexp.MustCompile(`(?i)<[^>]*\son[a-z]+\s*=`),
		"a javascript: address": regexp.MustCompile(`(?i)javascript:`),
	}
	for name, body := range pageFiles(t) {
		if ext := path.Ext(name); ext != ".html" && ext != ".svg" {
			continue
		}
		for what, pattern := range inline {
			if found := pattern.Find(body); found != nil {
				t.Errorf("%s has %s: %q", name, what, found)
			}
		}
	}
}

// Names and payloads come from anyone who has the key: as markup they would be a stranger's page in front of the
// owner's key.
func TestScriptsWriteTextNeverMarkup(t *testing.T) {
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|createContextualFragment|` +
		`DOMParser|srcdoc|\beval\(|new Function|setAttribute\('(?:on|style|href|src)`)
	for name, body := range pageFiles(t) {
		if path.Ext(name) != ".js" {
			continue
		}
		if found := markup.Find(body); found != nil {
			t.Errorf("%s uses %s", name, found)
		}
	}
}

func pageFiles(t *testing.T) map[string][]byte {
	t.Helper()
	page, err := fs.Sub(embedded, "page")
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(map[string][]byte)
	err = fs.WalkDir(page, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		bodies[name], err = fs.ReadFile(page, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(bodies) == 0 {
		t.Fatal("no file is embedded")
	}
	return bodies
}
