package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
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

// visible returns s as one line in which a terminal shows all there is: whatever would move the cursor, change colours,
// begin a line, turn the direction of writing or not be seen at all is escaped as in JSON, so that JSON stays the same
// JSON. Tabs are left alone, and emojis whole.
func visible(s string) string {
	if !strings.ContainsFunc(s, isHidden) && utf8.ValidString(s) {
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
		case isHidden(r) && !joinsEmoji(s[:i], r, s[i+utf8.RuneLen(r):]):
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isHidden reports whether r has no looks of its own, or is one that a terminal obeys.
func isHidden(r rune) bool {
	const emptyBraille = '\u2800'
	return r != '\t' && (r == emptyBraille || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector))
}

// joinsEmoji reports whether r makes one emoji of what is before and after it, as a zero-width joiner between two does,
// and a variation selector after one or in a keycap (Unicode's UTS #51).
func joinsEmoji(before string, r rune, after string) bool {
	const joiner, selector, keycap = '\u200d', '\ufe0f', "\u20e3"
	switch r {
	case joiner:
		next, _ := utf8.DecodeRuneInString(after)
		last, _ := utf8.DecodeLastRuneInString(strings.TrimSuffix(before, string(selector)))
		return isEmoji(last) && isEmoji(next)
	case selector:
		last, _ := utf8.DecodeLastRuneInString(before)
		return isEmoji(last) || strings.ContainsRune("#*0123456789", last) && strings.HasPrefix(after, keycap)
	}
	return false
}

// isEmoji reports whether r may be an emoji or a skin tone: package unicode does not tell them from other symbols.
func isEmoji(r rune) bool {
	switch {
	case r == utf8.RuneError || isHidden(r):
		return false
	case unicode.Is(unicode.So, r):
		return r >= '\u2100' // before it there are signs like °
	}
	return r >= '\U0001f3fb' && r <= '\U0001f3ff' || strings.ContainsRune("‼⁉ℹ↔⤴⤵◽◾〰", r)
}
