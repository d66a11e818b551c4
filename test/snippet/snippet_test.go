package snippet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// elsewhere says what tries the blocks that no test takes with Of, and with which words, or why nothing does. Empty
// words stand for all blocks of the page.
var elsewhere = []struct{ page, words, by, with string }{
	{"README.md", "make deploy", "scripts/test-deploy", "scripts/deploy"},
	{"README.md", "make deb\n", "scripts/test-package", "scripts/deb"},
	{"README.md", "sudo apt install ./", "scripts/test-package", "apt install picloud"},
	{"README.md", "make apt-repo", "scripts/package-lib", "scripts/apt-repo"},
	{"README.md", "sudo curl", "scripts/test-package", "picloud.list"},
	{"README.md", "sudo adduser", notHere, "it changes the machine's accounts"},
	{"README.md", "key show\n", "scripts/test-systemd", "picloud key show"},
	{"README.md", "sudo nano", notHere, "it is an editor"},
	{"README.md", "echo PORT=8080", "scripts/test-package", "PORT=8080"},
	{"README.md", "systemctl status", notHere, "it only shows the service"},
	{"README.md", "sudo apt remove", "scripts/test-package", "purge"},
	{"README.md", "sudo picloud doctor\n", "cmd/picloud/doctor_test.go", "doctor"},
	{"README.md", "apt-get install git", "scripts/test-clean", "git,make"},
	{"README.md", "make run\n", "scripts/test-run", "make run"},
	{"README.md", "/etc/picloud && sudo picloudd -make-cert", "scripts/test-systemd", "KEY_FILE=/etc/picloud/key.pem"},
	{"docs/architecture.md", "", notHere, "these are drawings"},
	{"docs/benchmarks.md", "", notHere, "these look into a server that somebody has put under load"},
	{"docs/led.md", "picloudd -led-test", "cmd/picloudd/led_test.go", "-led-test"},
	{"docs/led.md", "systemctl start", "scripts/test-systemd", "systemctl start"},
	{"docs/led.md", "ReadWritePaths", notHere, "it takes a LED of the kernel's"},
	{"docs/restart.md", "", notHere, "these only show what a restart has kept"},
	{"docs/operations.md", "sudo useradd", "scripts/test-systemd", "useradd"},
	{"docs/operations.md", "systemctl stop", "scripts/test-systemd", "systemctl stop"},
	{"docs/operations.md", "-check", "cmd/picloudd/process_test.go", "-check"},
	{"docs/operations.md", "LimitNOFILE", "scripts/test-restart", "LimitNOFILE"},
	{"docs/operations.md", "key show\n", "scripts/test-systemd", "picloud key show"},
	{"docs/operations.md", "key new\n", "scripts/test-systemd", "picloud key new"},
	{"docs/operations.md", "picloud discover", "cmd/picloud/discover_test.go", "discover"},
	{"docs/operations.md", "-make-cert pi.example.org", "internal/certs/make_test.go", "pi.example.org"},
	{"docs/operations.md", "rm key.pem cert.pem", "cmd/picloudd/cert_test.go", "is there already"},
	{"docs/operations.md", "openssl req", "scripts/service-lib", "openssl req -x509 -newkey ec"},
	{"docs/operations.md", "ProtectHome", notHere, "it takes certificates in somebody's home"},
	{"docs/operations.md", "journalctl", notHere, "it only shows the log"},
	{"docs/operations.md", "scrape_configs", notHere, "it takes Prometheus"},
	{"docs/operations.md", "GOMEMLIMIT", notHere, "it is what a setting looks like"},
	{"docs/operations.md", "--allow-downgrades", "scripts/test-package", "--allow-downgrades"},
	{"docs/recipes/home-assistant.md", "enable --now", notHere, "it takes a machine that has the units"},
	{"docs/protocol.md", `"action": "subscribe"`, "docs/docs_test.go", "### What a client sends"},
	{"docs/protocol.md", `"created_at":"2015`, "docs/docs_test.go", "### What a subscriber gets"},
	{"docs/protocol.md", `"action":"ack"`, "docs/docs_test.go", "### Acks and errors"},
	{"docs/protocol.md", `"action":"error"`, "docs/docs_test.go", "### Acks and errors"},
	{"docs/protocol.md", `"subscriptions": [`, "docs/docs_test.go", "## Info"},
}

// notHere is for what cannot be tried, and the reason.
const notHere = ""

// A block that no test takes, and that is not in the list above, fails this one. So does an entry of the list that is
// about nothing.
func TestEveryBlockIsTried(t *testing.T) {
	tried := taken(t)
	used := make([]bool, len(elsewhere))
	for _, page := range pages(t) {
		for _, b := range in(t, page) {
			by := tried[b]
			for i, e := range elsewhere {
				if e.page == page && strings.Contains(b.Code, e.words) {
					by, used[i] = append(by, e.by), true
				}
			}
			if len(by) == 0 {
				t.Errorf("%s: nothing tries\n%s", page, b.Code)
			}
		}
	}
	for i, e := range elsewhere {
		if !used[i] {
			t.Errorf("%s has no block with %q", e.page, e.words)
		}
		if e.by == notHere {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(), e.by))
		if err != nil || !strings.Contains(string(text), e.with) {
			t.Errorf("%s, %q: %s has no %q: %v", e.page, e.words, e.by, e.with, err)
		}
	}
}

// The table of the recipes says how each was tried.
func TestTheTableOfRecipesIsTrue(t *testing.T) {
	table, err := os.ReadFile(filepath.Join(root(), "docs/recipes/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string) // what the last column says, by page
	for line := range strings.Lines(string(table)) {
		_, link, ok := strings.Cut(line, "](")
		cells := strings.Split(line, " | ")
		if ok && strings.HasPrefix(line, "| [") && len(cells) == 3 {
			name, _, _ := strings.Cut(link, ")")
			rows["docs/recipes/"+name] = strings.TrimSuffix(cells[2], " |\n")
		}
	}
	tried := taken(t)
	for _, page := range pages(t) {
		if !strings.HasPrefix(page, "docs/recipes/") || page == "docs/recipes/README.md" {
			continue
		}
		says := rows[page]
		if says == "" {
			t.Errorf("the table does not list %s", page)
		}
		delete(rows, page)
		languages := make(map[string]bool)
		inBrowser := false
		for _, b := range in(t, page) {
			languages[b.Language] = true
			inBrowser = inBrowser || slices.Contains(tried[b], "browser")
		}
		for words, when := range map[string]bool{
			"Chromium":        inBrowser,
			"Python":          languages["python"],
			"systemd-analyze": languages["ini"],
			"nginx":           languages["nginx"],
			"Caddy":           languages["caddyfile"],
			"not compiled":    languages["cpp"],
			"YAML is read":    languages["yaml"],
		} {
			if strings.Contains(says, words) != when {
				t.Errorf("%s is tried: %q. That it says %q should be %v", page, says, words, when)
			}
		}
	}
	for page := range rows {
		t.Errorf("the table lists %s, which is not there", page)
	}
}

// pages returns all documents with code that a reader may copy.
func pages(t *testing.T) []string {
	t.Helper()
	list := []string{"README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root(), pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(found), err)
		}
		for _, path := range found {
			page, err := filepath.Rel(root(), path)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, page)
		}
	}
	return list
}

// taken returns in which folders of test a test takes a block with Of.
func taken(t *testing.T) map[Block][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(), "test/*/*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	by := make(map[Block][]string)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "Of" {
				return true
			}
			if from, ok := fun.X.(*ast.Ident); !ok || from.Name != "snippet" {
				return true
			}
			page, words := literal(t, call.Args[1]), literal(t, call.Args[2])
			for _, b := range in(t, page) {
				if strings.Contains(b.Code, words) {
					by[b] = append(by[b], filepath.Base(filepath.Dir(name)))
				}
			}
			return true
		})
	}
	if len(by) == 0 {
		t.Fatal("no test takes a block")
	}
	return by
}

func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	basic, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("snippet.Of has an argument that is no literal: %v", e)
	}
	text, err := strconv.Unquote(basic.Value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBlocksAreFencedOrIndented(t *testing.T) {
	const text = "# Title\n\n    one\n\n      two\n\nText\n    no: a paragraph goes on\n\n" +
		"```sh\n    three\n\nfour\n```\n\n```\nfive\n```\n"
	want := []Block{{"p", "", "one\n\n  two\n"}, {"p", "sh", "    three\n\nfour\n"},
		{"p", "text", "five\n"}}
	if got := parse("p", text); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
