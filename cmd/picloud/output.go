package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// output marks errors of writing to it as outputErrors.
type output struct{ io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		err = outputError{fmt.Errorf("write the output: %w", err)}
	}
	return n, err
}

// lines keeps apart what several goroutines write. Each Write must be whole lines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// isPlain says that the user or the terminal wants text only, without colours (https://no-color.org).
func isPlain(getenv func(string) string) bool { return getenv("NO_COLOR") != "" || isDumb(getenv) }

// isDumb says that the terminal cannot move its cursor; an editor's built-in one is an example.
func isDumb(getenv func(string) string) bool { return getenv("TERM") == "dumb" || getenv("TERM") == "" }

const (
	bold  = "1"
	red   = "31"
	green = "32"
	amber = "33"
)

// paint returns text in a colour if colours are wanted.
func (s settings) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[m"
}

// visible returns s as one line that a terminal shows as it is: whatever would move the cursor, change colours, begin a
// line or turn the direction of writing is escaped as in JSON, so that JSON stays the same JSON. Tabs are left alone.
func visible(s string) string {
	if !strings.ContainsFunc(s, needsEscape) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case needsEscape(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func needsEscape(r rune) bool {
	return r != '\t' && unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}
