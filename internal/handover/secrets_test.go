package handover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// storedCopy is what a service manager holds of a store's files.
func storedCopy(t *testing.T, files []*os.File) []*os.File {
	t.Helper()
	var held []*os.File
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, os.NewFile(uintptr(fd), f.Name()))
	}
	return held
}

// secretive is a store that keeps secrets, with n sockets that have one each, and a record.
func secretive(t *testing.T, n int) (*Store, []*Kept) {
	t.Helper()
	s, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.KeepSecrets(true, func(*os.File) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var all []*Kept
	for i := range n {
		k, err := s.Keep(socketOf(t))
		if err != nil {
			t.Fatal(err)
		}
		secret := k.Secret()
		if secret == nil || k.Secret() != secret || !k.IsSecret() {
			t.Fatal("it has no secret")
		}
		secret.SetKey(Reading, fmt.Appendf(nil, "reading key %d", i))
		secret.SetKey(Writing, fmt.Appendf(nil, "writing key %d", i))
		secret.SetNumber(Reading, 1<<40+uint64(i))
		secret.SetNumber(Writing, 1<<50+uint64(i))
		k.Set('c', "", fmt.Append(nil, i))
		all = append(all, k)
	}
	return s, all
}

// socketOf returns a connected socket's descriptor, which the test closes.
func socketOf(t *testing.T) int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(pair[0])
		unix.Close(pair[1])
	})
	return pair[0]
}

// read returns all that is in the files that lie in memory.
func inMemory(t *testing.T, files []*os.File) []byte {
	t.Helper()
	var all []byte
	for _, f := range files {
		if !slices.Contains([]string{journalName, marksName, secretsName}, f.Name()) {
			continue
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, min(info.Size(), 4<<20)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func TestSecretsOutliveTheProcessAndNothingElseDoes(t *testing.T) {
	s, all := secretive(t, secretsStep+3) // more than get memory at once
	all[1].End()
	all[1].Drop()
	held := storedCopy(t, s.Files())
	s.Close()

	n, conns, _, err := Open(held, func([]Record) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, c := range conns {
		i := string(c.Records[0].Value)
		secret := c.Kept.Secret()
		if secret == nil {
			t.Fatalf("connection %s has no secret", i)
		}
		if string(secret.Key(Reading)) != "reading key "+i || string(secret.Key(Writing)) != "writing key "+i ||
			fmt.Sprint(secret.Number(Reading)-1<<40) != i || fmt.Sprint(secret.Number(Writing)-1<<50) != i {
			t.Errorf("connection %s: %q %q %d %d", i, secret.Key(Reading), secret.Key(Writing),
				secret.Number(Reading), secret.Number(Writing))
		}
		unix.Close(c.FD)
	}
	if len(conns) != len(all)-1 {
		t.Errorf("%d connections, want %d", len(conns), len(all)-1)
	}
	if free := len(n.secrets.free); free == 0 || n.secrets.allocated < len(all) {
		t.Errorf("%d secrets are free of %d", free, n.secrets.allocated)
	}
}

// When a connection is gone, however it goes, nothing of its keys is left in what outlives the process.
func TestSecretsAreClearedWithTheirConnections(t *testing.T) {
	s, all := secretive(t, 3)
	defer s.Close()
	if text := inMemory(t, s.Files()); !bytes.Contains(text, []byte("reading key 0")) {
		t.Fatal("the keys are nowhere")
	}
	long := []byte("a longer key than the others have, that comes first")
	all[0].Secret().SetKey(Reading, long)
	all[0].Secret().SetKey(Reading, []byte("short"))
	if text := inMemory(t, s.Files()); bytes.Contains(text, long[5:]) {
		t.Error("the rest of a key that was replaced is still there")
	}
	all[0].Drop()
	all[1].End()
	all[1].Drop()
	Connection{Kept: all[2], FD: socketOf(t)}.Discard()
	if text := inMemory(t, s.Files()); bytes.Contains(text, []byte("ing key ")) {
		t.Error("a key is still there")
	}
}

// What nobody owns is cleared when the store is opened: the process may have been killed in the middle of anything.
func TestSecretsOfNobodyAreCleared(t *testing.T) {
	s, all := secretive(t, 4)
	all[0].End()                    // and it is killed before Drop
	lost := s.secrets.take(1 << 30) // of a connection whose descriptor is not there
	copy(lost.mem[atNumbers:], all[3].Secret().mem[atNumbers:])
	if err := s.journal.Set(1<<30, 'c', "", []byte("lost")); err != nil {
		t.Fatal(err)
	}
	twin := s.secrets.at(s.secrets.free[0])
	copy(twin.mem, all[1].Secret().mem) // two claim to be one's
	nobody := s.secrets.at(s.secrets.free[1])
	copy(nobody.mem, all[2].Secret().mem)
	nobody.setOwner(0)
	held := storedCopy(t, s.Files())
	s.Close()
	isRoom := func(r []Record) bool { return string(r[0].Value) != "3" } // for the last there is none
	n, conns, _, err := Open(held, isRoom)
	if err == nil || len(conns) != 2 {
		t.Fatalf("%d connections, error %v", len(conns), err)
	}
	defer n.Close()
	for _, c := range conns {
		if i := string(c.Records[0].Value); c.Kept.IsSecret() != (i == "2") {
			t.Errorf("connection %s has a secret: %t", i, c.Kept.IsSecret())
		}
		unix.Close(c.FD)
	}
	if text := inMemory(t, n.Files()); bytes.Count(text, []byte("ing key ")) != 2 {
		t.Errorf("%d keys are there, want two", bytes.Count(text, []byte("ing key ")))
	}
}

func TestSecretsAreKeptOnlyWhereTheyMayBe(t *testing.T) {
	s, err := New(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k, err := s.Keep(socketOf(t))
	if err != nil {
		t.Fatal(err)
	}
	files := len(s.Files())
	if k.Secret() != nil || k.IsSecret() || (*Kept)(nil).Secret() != nil || (*Kept)(nil).IsSecret() {
		t.Error("there is a secret although none may be kept")
	}
	broken := errors.New("nobody stores it")
	err = s.KeepSecrets(true, func(*os.File) error { return broken })
	if !errors.Is(err, broken) || k.Secret() != nil || len(s.Files()) != files {
		t.Errorf("%v, and there is a secret or a file", err)
	}
	var made []string
	keep := func(f *os.File) error { made = append(made, f.Name()); return nil }
	for range 2 {
		if err := s.KeepSecrets(true, keep); err != nil {
			t.Fatal(err)
		}
	}
	if len(made) != 1 || made[0] != secretsName || k.Secret() == nil || len(s.Files()) != files+1 {
		t.Errorf("made %q", made)
	}
	s.KeepSecrets(false, keep)
	if other, err := s.Keep(socketOf(t)); err != nil || other.Secret() != nil || k.Secret() == nil {
		t.Errorf("no new one may have a secret (%v), and who has one keeps it", err)
	}
}

// Secrets that cannot be read cost those who have them, and nobody else.
func TestDamagedSecretsCostNobodyElse(t *testing.T) {
	for name, damage := range map[string]func(f *os.File){
		"another version": func(f *os.File) { f.WriteAt([]byte{99}, 8) },
		"no secrets":      func(f *os.File) { f.WriteAt([]byte("?"), 0) },
	} {
		s, all := secretive(t, 2)
		all[1].forget()
		held := storedCopy(t, s.Files())
		damage(s.secrets.file)
		s.Close()
		n, conns, _, err := Open(held, func([]Record) bool { return true })
		if err == nil || n == nil || len(conns) != 2 {
			t.Fatalf("%s: %d connections, error %v", name, len(conns), err)
		}
		for _, c := range conns {
			if c.Kept.IsSecret() {
				t.Errorf("%s: a connection has a secret", name)
			}
			unix.Close(c.FD)
		}
		if err := n.KeepSecrets(true, func(*os.File) error { return nil }); err != nil {
			t.Error(err)
		}
		n.Close()
	}
}
