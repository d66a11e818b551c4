package torture

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"picloud/test/wait"

	"golang.org/x/sys/unix"
)

// memory is all that is stored besides descriptors.
func (m *manager) memory(t *testing.T) []byte {
	t.Helper()
	var all []byte
	m.Stored(func(files map[string]*os.File) {
		for _, f := range files {
			if to, _ := os.Readlink(fmt.Sprint("/proc/self/fd/", f.Fd())); strings.HasPrefix(to, "/memfd:") {
				all = append(all, contents(t, f)...)
			}
		}
	})
	return all
}

// contents returns what has been written to a memfd.
func contents(t *testing.T, f *os.File) (all []byte) {
	t.Helper()
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return all
		}
		if err == nil {
			at, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		}
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, at-from)
		if _, err := f.ReadAt(b, from); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
}

// stale returns the secrets that nobody needs any more: of those who have gone, of keys that have been changed, and of
// HTTP connections, which are kept only from one process to the next.
func (f *field) stale() (all [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.dead {
		now, before := c.had()
		all = append(append(all, now...), before...)
	}
	for c := range f.here {
		now, before := c.had()
		all = append(all, before...)
		if c.role == posts {
			all = append(all, now...)
		}
	}
	return all
}

// left returns those of secrets that are stored.
func (f *field) left(t *testing.T, secrets [][]byte) [][]byte {
	t.Helper()
	text := f.memory(t)
	return slices.DeleteFunc(secrets, func(s []byte) bool { return !bytes.Contains(text, s) })
}

// Whatever a process dies of, the next one soon has wiped what nobody needs any more.
func TestEndedConnectionsLeaveNoSecret(t *testing.T) {
	f := newField(t, seedOf(t))
	rng := rand.New(rand.NewPCG(f.seed, 0))
	f.populate(3, listens)
	f.populate(2, talks)
	f.populate(3, posts)
	wiped := 0
	for range 1 + rounds {
		for _, step := range []string{"", "before a secret is wiped", "in the middle of the wiping of a secret",
			"in the middle of the note of a key", "after the secrets are left", "after a secret has its owner",
			"after an ended connection's mark is given back", "while the secrets are claimed",
			"after the hand-over is complete", "before the connections are taken over"} {
			f.live(t, rng, anyTime(rng, plan{step: step, pass: 1 + rng.IntN(3), kill: -1}))
			l := f.calm(t)
			wiped = f.wiped(t)
			p := plan{kill: -1}
			if rng.IntN(2) == 0 {
				p.kill = 0
			}
			f.ends(t, p, l)
		}
	}
	t.Logf("%d secrets are wiped", wiped)
	if wiped == 0 {
		t.Error("there was nothing to be wiped")
	}
	l := f.settle(t)
	f.wiped(t)
	f.ends(t, plan{kill: -1}, l)
	if text := f.findings.String(); text != "" {
		t.Error(text)
	}
	if n := len(f.left(t, f.stale())); n > 0 {
		t.Errorf("%d secrets have come back", n)
	}
}

// wiped waits until nothing that is stale is stored, and returns how much that is.
func (f *field) wiped(t *testing.T) int {
	t.Helper()
	all := f.stale()
	secrets := slices.Clone(all)
	wait.Until(t, "what nobody needs is wiped", func() bool {
		secrets = f.left(t, secrets)
		return len(secrets) == 0
	})
	return len(all)
}

// Secrets of those who are connected are found, and so are those that are not wiped.
func TestSecretsThatAreStoredAreFound(t *testing.T) {
	for _, lock := range []string{"", "wiping"} {
		f := newField(t, seedOf(t))
		l, err := f.start(f.certs[0], 256<<10, "FAULT_WITHOUT="+lock)
		if err != nil {
			t.Fatal(err)
		}
		var all []*client
		for n, s := range suites {
			c, err := f.come(listens, int64(n), s)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		for _, c := range all {
			wait.Until(t, "it is subscribed", func() bool { return !c.isNew() })
			now, _ := c.had()
			if n := len(f.left(t, slices.Clone(now))); n != 2 {
				t.Errorf("%s: %d of its secrets are stored, want both", c, n)
			}
			c.goes()
		}
		f.reading.Wait()
		if lock == "" {
			f.wiped(t)
		}
		f.ends(t, plan{kill: -1}, l)
		if n := len(f.left(t, f.stale())); n > 0 != (lock != "") {
			t.Errorf("without %q: %d secrets are left", lock, n)
		}
	}
}
