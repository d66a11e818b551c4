// Package dashboard is the web page that PiCloud serves to people; it holds the files and knows nothing of the server
// behind them.
package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// The page is served as it is here: no build step, nothing from another host.
//
//go:embed page
var embedded embed.FS

// A file is one of the page's files. It is not read from the program until it is requested.
type file struct {
	name        string
	contentType string
	etag        func() string
}

// Paths lists what [Handler] serves, sorted: "/" and each file that the page loads. Each is for GET and HEAD.
func Paths() []string {
	return slices.Sorted(maps.Keys(files()))
}

// Handler serves the page to anyone: it holds no secret, it asks for the key and sends it like any client. The router
// checks methods; a path that is not in [Paths] gets a 404.
func Handler() http.Handler {
	served := files()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := served[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy(r.Host))
		h.Set("Content-Type", f.contentType)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		// The files name each other without a version: a browser that used a cached one without asking would mix two
		// versions of the page after an upgrade. So it may cache them but asks each time, and the usual answer is an
		// empty 304.
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", f.etag())
		body, err := embedded.Open(f.name)
		if err != nil { // list has seen it
			panic("dashboard: " + err.Error())
		}
		http.ServeContent(w, r, "", time.Time{}, body.(io.ReadSeeker))
	})
}

// files returns the embedded files by the path they are served at, listed once.
var files = sync.OnceValue(list)

// list lists them. An error here is a fault of the build, not of the machine, so it panics: any test that calls it will
// see it.
func list() map[string]file {
	served := make(map[string]file)
	err := fs.WalkDir(embedded, "page", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		kind, ok := contentTypes[path.Ext(name)]
		if !ok {
			return fmt.Errorf("%s: no content type for this kind of file", name)
		}
		at := strings.TrimPrefix(name, "page")
		if at == "/index.html" {
			at = "/"
		}
		served[at] = file{name, kind, sync.OnceValue(func() string { return etag(name) })}
		return nil
	})
	if err != nil {
		panic("dashboard: " + err.Error())
	}
	return served
}

// etag tells one version of a file from another, RFC 9110 §8.8.3.
func etag(name string) string {
	body, err := embedded.ReadFile(name)
	if err != nil {
		panic("dashboard: " + err.Error())
	}
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// contentTypes is needed because package mime also reads the machine's own tables, and a machine that calls .js
// text/plain would leave the page without its scripts.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy is the page's Content-Security-Policy for a request to that host: it runs only its own files, talks only to
// its own server, and no text becomes markup, even by mistake.
func policy(host string) string {
	connect := "'self'"
	// Browsers before about 2022 do not take ws: and wss: to the same host for 'self'. The Host header comes from the
	// client and may contain a ';', and CSP has no way to write an IPv6 address: hence the check.
	if isPlain(host) {
		connect += " ws://" + host + " wss://" + host
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + connect +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

// isPlain reports whether host is a name or an IPv4 address, with or without a port, and nothing else. (For this alone,
// package regexp would make up a hundredth of the daemon.)
func isPlain(host string) bool {
	const digits, letters = "0123456789", "-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	name, port, hasPort := strings.Cut(host, ":")
	if hasPort && (port == "" || len(port) > 5 || strings.Trim(port, digits) != "") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, letters+digits) != "" {
			return false
		}
	}
	return true
}
