package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "picloud"
	root   = "../.."
)

// arrows says which packages of the module each package may import. A package that is listed need not exist yet; one
// that exists must be listed.
var arrows = map[string][]string{
	"cmd/picloudd": {
		"internal/certs", "internal/client", "internal/config", "internal/wsconn", "internal/dashboard",
		"internal/handover",
		"internal/hub", "internal/led", "internal/server", "internal/systemd", "internal/takeover", "internal/wire",
	},
	"cmd/picloud":     {"internal/client", "internal/config", "internal/discover", "internal/utf", "internal/wire"},
	"docs":            {},
	"internal/arch":   {},
	"internal/certs":  {"internal/utf"},
	"internal/client": {"internal/wire"},
	"internal/config": {"internal/utf"},
	"internal/wsconn": {"internal/handover", "internal/poll", "internal/quota", "internal/tlsconn",
		"internal/tlsrecord"},
	"internal/dashboard": {},
	"internal/handover":  {},
	"internal/discover":  {},
	"internal/hub":       {},
	"internal/leak":      {"test/wait"},
	"internal/led":       {},
	"internal/httpconn":  {"internal/poll", "internal/quota", "internal/tlsconn", "internal/tlsrecord"},
	"internal/quota":     {},
	"internal/poll":      {},
	"internal/server": {"internal/wsconn", "internal/dashboard", "internal/httpconn", "internal/handover",
		"internal/hub", "internal/poll", "internal/quota", "internal/tlsconn", "internal/wire"},
	"internal/systemd":   {},
	"internal/takeover":  {},
	"internal/tlsconn":   {"internal/handover", "internal/poll", "internal/tlsrecord"},
	"internal/tlsrecord": {},
	"internal/utf":       {},
	"internal/wire":      {"internal/utf"},
	"test":               {},
	"test/benchmarks":    {},
	"test/browser":       {},
	"test/alone":         {},
	"test/certified":     {},
	"test/daemon":        {"test/wait"},
	"test/hostile":       {},
	"test/load":          {"internal/client", "test/certified", "test/daemon", "test/peer"},
	"test/others":        {},
	"test/peer":          {"test/wait"},
	"test/recipes":       {},
	"test/snippet":       {},
	"test/restart":       {"test/others", "test/peer"},
	"test/sandbox":       {},
	"test/torture":       {},
	"test/wait":          {},
}

// owners says which packages may import each external dependency: one, except for those in shared.
var owners = map[string][]string{
	"github.com/coreos/go-systemd":        {"internal/systemd"},
	"github.com/godbus/dbus":              {"internal/systemd"},
	"github.com/gorilla/websocket":        {"internal/client", "internal/wsconn"},
	"github.com/julienschmidt/httprouter": {"internal/server"},
	"golang.org/x/crypto":                 {"internal/tlsrecord"},
	"golang.org/x/net":                    {"internal/discover"},
	"golang.org/x/sync":                   {"cmd/picloudd"},
	"golang.org/x/sys": {"cmd/picloud", "internal/wsconn", "internal/httpconn", "internal/handover",
		"internal/poll"},
	"golang.org/x/term": {"cmd/picloud"},
	"golang.org/x/time": {"internal/server"},
	"periph.io/x":       {"internal/led"},
	"rsc.io/qr":         {"cmd/picloud"},
}

// shared is what more than one package may own: gorilla speaks for both ends of a connection, and x/sys is the kernel's
// own interface, for packages that hold descriptors.
var shared = []string{"github.com/gorilla/websocket", "golang.org/x/sys"}

// refusal says why pkg may not import path; empty: it may. Both packages of the module and its imports are named
// without the module's own name in front.
func refusal(pkg, path string) string {
	allowed, known := arrows[pkg]
	if !known {
		return fmt.Sprintf("%s is not in the layout: give it its arrows in internal/arch and its sentence in docs/architecture.md", pkg)
	}
	if inner, ok := strings.CutPrefix(path, module+"/"); ok || path == module {
		if !slices.Contains(allowed, inner) {
			return fmt.Sprintf("%s imports %s: it may import %s", pkg, inner, list(allowed))
		}
		return ""
	}
	if first, _, _ := strings.Cut(path, "/"); path != "C" && !strings.Contains(first, ".") {
		return "" // the standard library
	}
	for dependency, by := range owners {
		if path != dependency && !strings.HasPrefix(path, dependency+"/") {
			continue
		}
		if !slices.Contains(by, pkg) {
			return fmt.Sprintf("%s imports %s: it belongs to %s", pkg, path, list(by))
		}
		return ""
	}
	return fmt.Sprintf("%s imports %s: nobody owns it; see whether the standard library will do, else give it an owner in internal/arch", pkg, path)
}

func list(packages []string) string {
	if len(packages) == 0 {
		return "the standard library only"
	}
	return strings.Join(packages, ", ")
}

func TestArrowsHold(t *testing.T) {
	packages := goList(t)
	if len(packages) == 0 {
		t.Fatal("go list knows no package")
	}
	for _, p := range packages {
		pkg := strings.TrimPrefix(p.ImportPath, module+"/")
		if _, known := arrows[pkg]; !known {
			t.Error(refusal(pkg, ""))
			continue
		}
		// Ignored files are for another system or under a build tag.
		for _, file := range slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, path := range imports(t, filepath.Join(p.Dir, file)) {
				if why := refusal(pkg, path); why != "" {
					t.Errorf("%s: %s", file, why)
				}
			}
		}
	}
	readFolders(t)
}

type goPackage struct {
	Dir, ImportPath                   string
	GoFiles, CgoFiles, IgnoredGoFiles []string
}

func goList(t *testing.T) []goPackage {
	t.Helper()
	// -e: a package that does not build has arrows too; the compiler reports that it does not build.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=Dir,ImportPath,GoFiles,CgoFiles,IgnoredGoFiles",
		"./...")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		packages = append(packages, p)
	}
}

func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return nil
	}
	var paths []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		paths = append(paths, path)
	}
	return paths
}

// readFolders shows go test which folders this test depends on. A result is cached until a file or folder changes that
// the test itself read; what go list reads does not count, so a new package would go unnoticed.
func readFolders(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // what another test made may disappear meanwhile
			return nil
		case err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRefusedAndAllowedImports(t *testing.T) {
	for _, tt := range []struct{ pkg, path, why string }{
		{"cmd/picloudd", module + "/internal/config", ""},
		{"cmd/picloudd", "golang.org/x/sync/errgroup", ""},
		{"internal/server", module + "/internal/wire", ""},
		{"internal/hub", "sync/atomic", ""},
		{"internal/wsconn", "github.com/gorilla/websocket", ""},
		{"internal/client", "github.com/gorilla/websocket", ""},
		{"internal/systemd", "github.com/coreos/go-systemd/v22/daemon", ""},
		{"internal/led", "periph.io/x/conn/v3/gpio", ""},

		{"internal/server", module + "/internal/config",
			"internal/server imports internal/config: it may import internal/wsconn, internal/dashboard, internal/httpconn, internal/handover, internal/hub, internal/poll, internal/quota, internal/tlsconn, internal/wire"},
		{"internal/server", module + "/internal/certs",
			"internal/server imports internal/certs: it may import internal/wsconn, internal/dashboard, internal/httpconn, internal/handover, internal/hub, internal/poll, internal/quota, internal/tlsconn, internal/wire"},
		{"cmd/picloud", module + "/internal/server",
			"cmd/picloud imports internal/server: it may import internal/client, internal/config, internal/discover, internal/utf, internal/wire"},
		{"internal/utf", module + "/internal/hub",
			"internal/utf imports internal/hub: it may import the standard library only"},
		{"internal/utf", module, "internal/utf imports picloud: it may import the standard library only"},
		{"internal/server", "github.com/gorilla/websocket",
			"internal/server imports github.com/gorilla/websocket: it belongs to internal/client, internal/wsconn"},
		{"internal/server", "golang.org/x/sys/unix",
			"internal/server imports golang.org/x/sys/unix: it belongs to cmd/picloud, internal/wsconn, internal/httpconn, internal/handover, internal/poll"},
		{"internal/wire", "github.com/gorilla/websocketextra",
			"internal/wire imports github.com/gorilla/websocketextra: nobody owns it; see whether the standard library will do, else give it an owner in internal/arch"},
		{"internal/wsconn", "C", "internal/wsconn imports C: nobody owns it; see whether the standard library will do, else give it an owner in internal/arch"},
		{"internal/util", "fmt", "internal/util is not in the layout: give it its arrows in internal/arch and its sentence in docs/architecture.md"},
	} {
		if got := refusal(tt.pkg, tt.path); got != tt.why {
			t.Errorf("%s -> %s:\ngot  %q\nwant %q", tt.pkg, tt.path, got, tt.why)
		}
	}
}

func TestOneDependencyHasOneOwner(t *testing.T) {
	for dependency, by := range owners {
		if len(by) != 1 && !slices.Contains(shared, dependency) {
			t.Errorf("%s has %d owners: %s", dependency, len(by), list(by))
		}
	}
}
