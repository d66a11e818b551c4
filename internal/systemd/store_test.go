package systemd

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nextWith returns the next notification and the file that came with it, or nil.
func (m manager) nextWith(t *testing.T) (string, *os.File) {
	t.Helper()
	var buf, oob [512]byte
	n, oobn, _, _, err := m.ReadMsgUnix(buf[:], oob[:])
	if err != nil {
		t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	if len(messages) == 0 {
		return string(buf[:n]), nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 || len(messages) != 1 {
		t.Fatalf("got %v in %d messages, %v; want one file", fds, len(messages), err)
	}
	f := os.NewFile(uintptr(fds[0]), "got")
	t.Cleanup(func() { f.Close() })
	return string(buf[:n]), f
}

func TestStoredFileReachesTheManager(t *testing.T) {
	m := newManager(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := errors.Join(Store("journal", r), Forget("vault-1")); err != nil {
		t.Fatal(err)
	}
	state, f := m.nextWith(t)
	if want := "FDSTORE=1\nFDPOLL=0\nFDNAME=journal"; state != want || f == nil {
		t.Fatalf("got %q and %v, want %q and a file", state, f, want)
	}
	if state, f := m.nextWith(t); state != "FDSTOREREMOVE=1\nFDNAME=vault-1" || f != nil {
		t.Errorf("got %q and %v, want that vault-1 is removed", state, f)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.Read(b); err != nil || b[0] != 'x' {
		t.Errorf("the stored file is another one: %q, %v", b, err)
	}
	// Our own file has not become blocking, which would make SetDeadline fail.
	if err := r.SetDeadline(time.Now()); err != nil {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestNamesThatTheManagerWouldNotTake(t *testing.T) {
	newManager(t)
	for _, name := range []string{"", "a:b", "a b", "a\nFDSTORE=1", "ü", strings.Repeat("x", 256)} {
		if err := Store(name, os.Stdin); err == nil {
			t.Errorf("%q was sent", name)
		}
	}
}
