package main

import (
	"bufio"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"picloud/internal/leak"
	picloudd "picloud/test/daemon"
	"picloud/test/peer"
)

var built string // folder of the commands

func TestMain(m *testing.M) {
	os.Exit(leak.Check(func() int {
		return picloudd.Built(picloudd.Raced, func(bin string) int {
			built = bin
			return m.Run()
		})
	}))
}

func small(t *testing.T) *lab {
	return &lab{bin: built, log: t.Output(), size: size{
		subscribers: 5, crowd: 20, events: 2000, own: 10, rounds: 1, measure: 100 * time.Millisecond, churn: 200,
		churnFor: time.Second, greedy: 6,
	}}
}

func TestEveryLoadHasFigures(t *testing.T) {
	for _, load := range loads {
		t.Run(load.name, func(t *testing.T) {
			t.Parallel()
			l := small(t)
			if err := load.run(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			if len(l.figures) < 3 {
				t.Errorf("%d figures, want 3 or more", len(l.figures))
			}
			for _, f := range l.figures {
				if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) || f.Unit == "µs" && f.Value <= 0 {
					t.Errorf("%s: %v %s", f.What, f.Value, f.Unit)
				}
			}
		})
	}
}

func TestAWrongMessageEndsTheLoad(t *testing.T) {
	const first = `{"action":"publish","event":"e","data":"00000000000000000000xx"}`
	for name, second := range map[string]string{
		"doubled":          first,
		"passed over":      strings.Replace(first, "0xx", "2xx", 1),
		"of another event": strings.Replace(strings.Replace(first, "0xx", "1xx", 1), `"e"`, `"f"`, 1),
	} {
		ours, theirs := pair(t)
		for _, text := range []string{first, second} {
			if _, err := theirs.Write(append([]byte{peer.Fin | peer.Text, byte(len(text))}, text...)); err != nil {
				t.Fatal(err)
			}
		}
		s := &socket{in: bufio.NewReader(ours)}
		if err := s.due("e", 0); err != nil {
			t.Errorf("%s: the first: %v", name, err)
		}
		if err := s.due("e", 1); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func pair(t *testing.T) (ours, theirs net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

func TestAGoalThatIsMissedIsAnError(t *testing.T) {
	l := &lab{load: "growth"}
	l.hold(1.3, 1.3, "times", "of %d", 1000)
	if err := missed(l.figures); err != nil {
		t.Errorf("a goal that is met: %v", err)
	}
	l.hold(0, 2, "goroutines", "left behind")
	l.note(99, "µs", "without a goal")
	err := missed(l.figures)
	if err == nil || !strings.Contains(err.Error(), "growth: left behind: 2 goroutines, at most 0") ||
		strings.Contains(err.Error(), "of 1000") {
		t.Errorf("got %v, want the one that is missed", err)
	}

	var table strings.Builder
	if err := report(&table, false, l.figures); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(table.String()), "\n") {
		if got, want := strings.Contains(line, "NOT MET"), i == 1; got != want {
			t.Errorf("line %q: NOT MET is %v, want %v", line, got, want)
		}
	}
}

func TestALoadThatFailsIsAFigure(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), []string{"-json", "-bin", t.TempDir(), "own", "churn"}, &out, io.Discard)
	if err == nil {
		t.Error("no error")
	}
	for _, name := range []string{"own", "churn"} {
		if !strings.Contains(out.String(), `{"load":"`+name+`","what":"`) ||
			strings.Count(out.String(), `"most":0`) != 2 {
			t.Errorf("%s: got %s", name, &out)
		}
	}
}

func TestAnUnknownLoadIsRefused(t *testing.T) {
	if err := run(t.Context(), []string{"churn", "chrun"}, io.Discard, io.Discard); err == nil ||
		!strings.Contains(err.Error(), `"chrun"`) {
		t.Errorf("got %v", err)
	}
}
