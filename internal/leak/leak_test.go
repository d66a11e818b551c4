package leak

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// asLeaky, in the environment, makes the test binary act as tests that leave something behind.
const asLeaky = "PICLOUD_TEST_LEAK"

func TestMain(m *testing.M) {
	what := os.Getenv(asLeaky)
	if what == "" {
		os.Exit(Check(m.Run))
	}
	os.Exit(Check(func() int {
		switch what {
		case "descriptor":
			kept, _ = os.Open(os.DevNull)
		case "failure":
			kept, _ = os.Open(os.DevNull)
			return 3
		}
		return 0
	}))
}

// kept keeps the file from the garbage collector, which would close it.
var kept *os.File

func TestDescriptorThatIsLeftBehindFailsTheTests(t *testing.T) {
	for what, status := range map[string]int{"nothing": 0, "descriptor": 1, "failure": 3} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), asLeaky+"="+what)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != status {
			t.Errorf("%s: status %d, want %d; it says %q", what, got, status, out)
		}
		if named := strings.HasPrefix(string(out), "descriptors are left behind: "); named != (status == 1) {
			t.Errorf("%s: it says %q", what, out)
		}
	}
}

func TestGoroutineThatIsLeftBehindIsFound(t *testing.T) {
	end, ended := make(chan struct{}), make(chan struct{})
	go sit(end, ended)
	end <- struct{}{} // it has started
	left := leftovers(0)
	// TestMain's goroutine is waiting for this test.
	if n := len(left); n != 2 {
		t.Errorf("%d goroutines, want TestMain's and one:\n%s", n, strings.Join(left, "\n\n"))
	}
	if n := len(Goroutines("picloud/internal/leak.sit")); n != 1 {
		t.Errorf("%d goroutines sit, want 1", n)
	}
	if n := len(Goroutines("leak.sit")); n != 0 {
		t.Errorf("%d goroutines are found by the end of a name", n)
	}
	close(end)
	<-ended
}

func sit(end <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	<-end
	<-end
}
