package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// numbered returns a socket from which the number can be read: it has sent it to itself. It is not a Unix socket, for
// which the kernel would collect garbage.
func numbered(number uint64) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		return -1, err
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, self); err != nil {
		return -1, err
	}
	_, err = unix.Write(fd, binary.BigEndian.AppendUint64(nil, number))
	return fd, err
}

func socket(t testing.TB, number uint64) int {
	t.Helper()
	fd, err := numbered(number)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// numberOf looks at the socket's number.
func numberOf(t testing.TB, fd int) uint64 {
	t.Helper()
	var b [8]byte
	if n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); n != len(b) || err != nil {
		t.Errorf("read the socket's number: %d bytes, %v", n, err)
	}
	return binary.BigEndian.Uint64(b[:])
}

func newTestDescriptors(t testing.TB) *descriptors {
	t.Helper()
	d, err := newDescriptors()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// put puts n sockets into d and returns their numbers by identity. They are closed when the test ends.
func put(t testing.TB, d *descriptors, n int) map[uint64]uint64 {
	t.Helper()
	numbers := map[uint64]uint64{}
	for range n {
		number := rand.Uint64()
		fd := socket(t, number)
		t.Cleanup(func() { unix.Close(fd) })
		id, err := d.Put(fd)
		if err != nil {
			t.Fatal(err)
		}
		numbers[id] = number
	}
	return numbers
}

// stored returns copies of the files, as the manager would have them.
func stored(t testing.TB, d *descriptors) []*os.File { return copies(t, d.Files()...) }

func copies(t testing.TB, files ...*os.File) []*os.File {
	t.Helper()
	var all []*os.File
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, os.NewFile(uintptr(fd), f.Name()))
	}
	return all
}

func all(uint64) bool { return true }

// found opens what d has stored, closes it again, and returns the numbers of what was there.
func found(t testing.TB, files []*os.File, keep func(uint64) bool) map[uint64]uint64 {
	t.Helper()
	d, fds, err := openDescriptors(files, keep)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	numbers := map[uint64]uint64{}
	for id, fd := range fds {
		numbers[id] = numberOf(t, fd)
		unix.Close(fd)
	}
	return numbers
}

// kernelQueue counts the messages that are really there.
func kernelQueue(t testing.TB, q queue) int {
	t.Helper()
	fd := int(q.receive.Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	for n := 0; ; n++ {
		var b [2]byte
		if _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err == unix.EAGAIN {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestNextProcessFindsEveryConnection(t *testing.T) {
	for _, n := range []int{0, 1, maxFiles, maxFiles + 1, 5 * maxFiles, 2000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			d := newTestDescriptors(t)
			want := put(t, d, n)
			files := stored(t, d)
			d.Close()
			again := copies(t, files...)
			if got := found(t, files, all); !maps.Equal(got, want) {
				t.Errorf("%d connections are not those %d that were put in", len(got), len(want))
			}
			// Opening takes nothing out.
			if got := found(t, again, all); !maps.Equal(got, want) {
				t.Errorf("the second time %d connections are not those %d that were put in", len(got), len(want))
			}
		})
	}
}

func TestNextProcessGoesOn(t *testing.T) {
	d := newTestDescriptors(t)
	want := put(t, d, 400)
	for round := range 5 {
		files := stored(t, d)
		d.Close()
		next, fds, err := openDescriptors(files, all)
		if err != nil {
			t.Fatal(err)
		}
		d = next
		defer d.Close()
		for _, fd := range fds {
			defer unix.Close(fd)
		}
		for id := range fds {
			if len(want) < 300 {
				break
			}
			d.Drop(id)
			delete(want, id)
		}
		maps.Copy(want, put(t, d, 300))
		if got := found(t, stored(t, d), func(id uint64) bool { return want[id] != 0 }); !maps.Equal(got, want) {
			t.Fatalf("round %d: %d connections are not those %d that are kept", round, len(got), len(want))
		}
	}
}

// Whatever comes and goes, what is kept can be found, and waste does not pile up, neither in the kernel nor in the
// bookkeeping.
func TestWasteIsBounded(t *testing.T) {
	d := newTestDescriptors(t)
	rng := rand.New(rand.NewPCG(1, 2))
	numbers, fds := map[uint64]uint64{}, map[uint64]int{}
	var ids []uint64
	t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	// The goal moves, so that there are times of growth, of coming and going, and of leaving.
	for step, goal := range []int{1500, 1500, 10, 800, 0} {
		for range 4000 {
			if len(ids) < goal || len(ids) > 0 && goal > 0 && rng.IntN(2) == 0 {
				fd := socket(t, rng.Uint64())
				id, err := d.Put(fd)
				if err != nil {
					t.Fatal(err)
				}
				ids, fds[id], numbers[id] = append(ids, id), fd, numberOf(t, fd)
			}
			if len(ids) > goal {
				i := rng.IntN(len(ids))
				id := ids[i]
				ids = slices.Delete(ids, i, i+1)
				d.Drop(id)
				unix.Close(fds[id])
				delete(fds, id)
				delete(numbers, id)
			}
			if got, most := d.queued(), d.Len()*3/2+3*maxFiles; got > most {
				t.Fatalf("step %d: %d descriptors are queued for %d connections; want at most %d", step, got, d.Len(),
					most)
			}
		}
		for _, q := range []queue{d.singles, d.batches} {
			if got, want := kernelQueue(t, q), len(q.messages); got != want {
				t.Fatalf("step %d: the kernel has %d messages, the books %d", step, got, want)
			}
		}
		if got := found(t, stored(t, d), func(id uint64) bool { return numbers[id] != 0 }); !maps.Equal(got, numbers) {
			t.Fatalf("step %d: %d connections are not those %d that are kept", step, len(got), len(numbers))
		}
	}
}

// With a small limit for messages it is the kernel that says when the singles are too many.
func TestKernelTakesFewerMessages(t *testing.T) {
	d := newTestDescriptors(t)
	if err := unix.SetsockoptInt(int(d.singles.send.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
	want := put(t, d, 50)
	if len(d.batches.messages) < 2 {
		t.Errorf("there are %d batches: the kernel's limit was not met", len(d.batches.messages))
	}
	if got := found(t, stored(t, d), all); !maps.Equal(got, want) {
		t.Errorf("%d connections are not those %d that were put in", len(got), len(want))
	}
}

func TestFullQueuesRefuseAndKeep(t *testing.T) {
	d := newTestDescriptors(t)
	d.limit = 2*maxFiles + 100
	want := put(t, d, 101)
	fd := socket(t, 1)
	defer unix.Close(fd)
	if _, err := d.Put(fd); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "LimitNOFILE=") {
		t.Errorf("got %v, want that it is full and why", err)
	}
	if got := found(t, stored(t, d), all); !maps.Equal(got, want) {
		t.Errorf("%d connections are not those %d that were put in", len(got), len(want))
	}
}

// A process that was killed after it had sent a batch, and before it had taken out the singles, leaves two copies of
// each. They are one connection, and packing leaves one.
func TestTwoCopiesAreOneConnection(t *testing.T) {
	d := newTestDescriptors(t)
	want := put(t, d, 100)
	if err := d.send(&d.batches, slices.Collect(maps.Keys(want))); err != nil {
		t.Fatal(err)
	}
	next, fds, err := openDescriptors(stored(t, d), all)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	for _, fd := range fds {
		defer unix.Close(fd)
	}
	if got := next.Len(); got != 100 || len(fds) != 100 || next.queued() != 200 {
		t.Errorf("%d connections with %d descriptors are kept in %d copies; want 100, 100 and 200", got, len(fds),
			next.queued())
	}
	if err := errors.Join(next.pack(&next.batches), next.pack(&next.singles)); err != nil {
		t.Fatal(err)
	}
	if got := next.queued(); got != 100 {
		t.Errorf("%d copies are left, want 100", got)
	}
	if got := found(t, stored(t, next), all); !maps.Equal(got, want) {
		t.Errorf("%d connections are not those %d that were put in", len(got), len(want))
	}
}

// A process that was killed before it could record a connection leaves one of which nothing is known.
func TestUnwantedConnectionIsEnded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := served.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	d := newTestDescriptors(t)
	if _, err := d.Put(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	f.Close()
	served.Close()
	if got := found(t, stored(t, d), func(uint64) bool { return false }); len(got) != 0 {
		t.Errorf("got %d connections, want none", len(got))
	}
	client.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF { // d still has a copy
		t.Errorf("the peer reads %d bytes, %v; want the end", n, err)
	}
}

// Once a socket has been put in again, its first descriptor may be closed, and its number may even become another
// socket's.
func TestConnectionPutInAgainIsKeptByItsNewDescriptor(t *testing.T) {
	d := newTestDescriptors(t)
	fd := socket(t, 1)
	id, err := d.Put(fd)
	if err != nil {
		t.Fatal(err)
	}
	duplicate, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(duplicate)
	if again, err := d.Put(duplicate); again != id || err != nil {
		t.Errorf("got %d, %v; want %d again", again, err, id)
	}
	other := socket(t, 2)
	defer unix.Close(other)
	if err := unix.Dup3(other, fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want := put(t, d, maxFiles) // the singles become a batch
	want[id] = 1
	if got := found(t, stored(t, d), all); !maps.Equal(got, want) {
		t.Errorf("%d connections are not those %d that were put in", len(got), len(want))
	}
	d.Drop(id)
	d.Drop(id)
	if got, want := d.Len(), maxFiles; got != want {
		t.Errorf("%d connections are kept, want %d", got, want)
	}
}

func TestOnlySocketsAreKept(t *testing.T) {
	d := newTestDescriptors(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := d.Put(int(f.Fd())); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("got %v for a file, want that it is no socket", err)
	}
}

func TestDescriptorsThatAreNotWhole(t *testing.T) {
	open := func(t *testing.T, files []*os.File, want error) {
		t.Helper()
		d, fds, err := openDescriptors(files, all)
		if d != nil || fds != nil || err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("got %v, %v, %v; want %v", d, fds, err, want)
		}
	}
	t.Run("an end is missing", func(t *testing.T) {
		d := newTestDescriptors(t)
		open(t, d.Files()[:1], errDamaged)
		open(t, d.Files()[1:], errDamaged)
		open(t, nil, errDamaged)
	})
	t.Run("an end too many", func(t *testing.T) {
		d, w := newTestDescriptors(t), newTestDescriptors(t)
		open(t, append(d.Files(), w.Files()[0]), errDamaged)
	})
	t.Run("another file", func(t *testing.T) {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), singlesName)
		defer f.Close()
		open(t, []*os.File{f, newTestDescriptors(t).Files()[1]}, errDamaged)
		open(t, []*os.File{os.Stdin}, nil)
	})
	for name, message := range map[string]string{"version": "\x02\x01", "length": "\x01", "empty": ""} {
		t.Run("another "+name, func(t *testing.T) {
			d := newTestDescriptors(t)
			put(t, d, 1)
			fd := socket(t, 1)
			defer unix.Close(fd)
			before := openFiles(t)
			if err := unix.Sendmsg(int(d.singles.send.Fd()), []byte(message), unix.UnixRights(fd), nil, 0); err != nil {
				t.Fatal(err)
			}
			open(t, d.Files(), errVersion)
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open, %d were", after, before)
			}
		})
	}
	t.Run("fewer descriptors than said", func(t *testing.T) {
		d := newTestDescriptors(t)
		want := put(t, d, 1)
		if _, err := unix.Write(int(d.singles.send.Fd()), []byte{queueVersion, 3}); err != nil {
			t.Fatal(err)
		}
		w, fds, err := openDescriptors(d.Files(), all)
		if w == nil || len(fds) != len(want) || err == nil || !strings.Contains(err.Error(), "3 could not") {
			t.Errorf("got %v, %v, %v; want one connection, and that three are missing", w, fds, err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func BenchmarkPutAndDrop(b *testing.B) {
	for _, n := range []int{0, 1000, 8000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := newTestDescriptors(b)
			put(b, d, n)
			fd := socket(b, 1)
			defer unix.Close(fd)
			for b.Loop() {
				id, err := d.Put(fd)
				if err != nil {
					b.Fatal(err)
				}
				d.Drop(id)
			}
		})
	}
}

func BenchmarkOpenDescriptors(b *testing.B) {
	d := newTestDescriptors(b)
	put(b, d, 8000)
	for b.Loop() {
		w, fds, err := openDescriptors(stored(b, d), all)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for _, fd := range fds {
			unix.Close(fd)
		}
		w.Close()
		b.StartTimer()
	}
}

// Connections that could not be received, since too many files are open, are ended by taking them out of the queues,
// and the others are still there.
func TestShedEndsWhomNobodyHolds(t *testing.T) {
	d := newTestDescriptors(t)
	var pairs [][2]int
	far := map[uint64]int{}
	for range 3*maxFiles + 10 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		id, err := d.Put(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		pairs, far[id] = append(pairs, pair), pair[1]
	}
	files := stored(t, d)
	for _, pair := range pairs { // the process has ended
		unix.Close(pair[0])
	}
	w, fds, err := openDescriptors(files, all)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lost := map[uint64]bool{}
	for id, fd := range fds {
		if rand.IntN(3) == 0 { // as if it had not been received
			unix.Close(fd)
			delete(w.held, id)
			lost[id] = true
		}
	}
	if err := w.shed(); err != nil {
		t.Fatal(err)
	}
	x, left, err := openDescriptors(stored(t, w), all)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for id, fd := range far {
		n, err := unix.Read(fd, make([]byte, 1))
		if ended := n == 0 && err == nil; ended != lost[id] {
			t.Errorf("connection %d is ended: %t, want %t (%v)", id, ended, lost[id], err)
		}
		if _, ok := left[id]; ok == lost[id] {
			t.Errorf("connection %d is kept: %t, want %t", id, ok, !lost[id])
		}
	}
	for id, fd := range fds {
		if !lost[id] {
			unix.Close(fd)
			unix.Close(left[id])
		}
	}
}
