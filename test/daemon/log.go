package daemon

import (
	"strings"
	"sync"
	"testing"
	"time"

	"picloud/test/wait"
)

// A Log is what a daemon prints, to be read while it runs.
type Log struct {
	mu    sync.Mutex
	text  string
	grown chan struct{} // closed when text grows; nil when nobody waits for that
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
	return len(p), nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// Await returns the first complete line that contains part, without its line end.
func (l *Log) Await(t testing.TB, part string) string {
	t.Helper()
	bound := time.After(wait.Patience)
	for {
		l.mu.Lock()
		text := l.text
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			if strings.Contains(line, part) && strings.HasSuffix(line, "\n") {
				return strings.TrimSuffix(line, "\n")
			}
		}
		select {
		case <-grown:
		case <-bound:
			t.Fatalf("no line with %q in\n%s", part, text)
		}
	}
}
