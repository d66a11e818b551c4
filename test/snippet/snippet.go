// Package snippet takes the code of the documents out of them, for tests that run it as it stands there.
package snippet

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A Block is a piece of code in a document.
type Block struct {
	Page     string // such as docs/recipes/shell.md
	Language string // of fenced code; empty for code that is indented
	Code     string
}

// Of returns the code of the one block of a page that contains the words. Page and words must be literals: that is how
// the test of this package finds out which blocks are tried.
func Of(t testing.TB, page, words string) string {
	t.Helper()
	var found []Block
	for _, b := range in(t, page) {
		if strings.Contains(b.Code, words) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks with %q, want one", page, len(found), words)
	}
	return found[0].Code
}

// Put replaces what a reader would replace in code: pairs of what stands there, which must be there, and what to put in
// its place.
func Put(t testing.TB, code string, pairs ...string) string {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(code, pair[0]) {
			t.Fatalf("there is no %q to be replaced in\n%s", pair[0], code)
		}
		code = strings.ReplaceAll(code, pair[0], pair[1])
	}
	return code
}

// in returns the blocks of a page.
func in(t testing.TB, page string) []Block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), page))
	if err != nil {
		t.Fatal(err)
	}
	return parse(page, string(text))
}

// root is the folder of the repository.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../..")
}

// parse finds what is fenced, and what is indented by four or more behind an empty line.
func parse(page, text string) []Block {
	const fence = "```"
	var blocks []Block
	var b *Block
	empty := 0 // empty lines since the last other one
	for line := range strings.Lines(text) {
		fenced := b != nil && b.Language != ""
		indented := strings.TrimPrefix(line, "    ")
		switch {
		case fenced && strings.HasPrefix(line, fence):
			b = nil
		case fenced:
			b.Code += line
		case strings.HasPrefix(line, fence):
			language := strings.TrimSpace(strings.TrimPrefix(line, fence))
			if language == "" {
				language = "text"
			}
			blocks = append(blocks, Block{Page: page, Language: language})
			b = &blocks[len(blocks)-1]
			empty = 0
		case indented != line && (b != nil || empty > 0):
			if b == nil {
				blocks = append(blocks, Block{Page: page})
				b, empty = &blocks[len(blocks)-1], 0
			}
			b.Code += strings.Repeat("\n", empty) + indented
			empty = 0
		case strings.TrimSpace(line) == "":
			empty++
		default:
			b, empty = nil, 0
		}
	}
	return blocks
}
