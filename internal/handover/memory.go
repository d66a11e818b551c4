package handover

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A memory is a memfd, memfd_create(2), that is mapped and stored. Its size never changes, so that no access can fail,
// but writing where no memory has been allocated can crash the process.
type memory struct {
	file *os.File
	mem  []byte // all of file
}

const memorySeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newMemory makes a memory of that many bytes, of which the first are allocated.
func newMemory(name string, size, allocated int) (memory, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return memory{}, err
	}
	f := os.NewFile(uintptr(fd), name)
	m, err := func() (memory, error) {
		if err := f.Truncate(int64(size)); err != nil {
			return memory{}, err
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, memorySeals); err != nil {
			return memory{}, err
		}
		m, err := mapMemory(f, size)
		if err != nil {
			return memory{}, err
		}
		if err := m.allocate(0, allocated); err != nil {
			return memory{}, errors.Join(err, unix.Munmap(m.mem))
		}
		return m, nil
	}()
	if err != nil {
		f.Close()
	}
	return m, err
}

// openMemory maps what another process has left in f, whose size must be from least to most bytes. After an error f is
// still the caller's.
func openMemory(f *os.File, least, most int) (memory, error) {
	// A file that can shrink could crash the process that reads its mapping.
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return memory{}, fmt.Errorf("%w: it is not a sealed memfd", errDamaged)
	}
	info, err := f.Stat()
	if err != nil {
		return memory{}, err
	}
	size := info.Size()
	if size < int64(least) || size > int64(most) {
		return memory{}, fmt.Errorf("%w: it has %d bytes", errDamaged, size)
	}
	return mapMemory(f, int(size))
}

func mapMemory(f *os.File, size int) (memory, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return memory{}, fmt.Errorf("map it: %w", err)
	}
	return memory{f, mem}, nil
}

// allocate makes sure that there is memory for n bytes from an offset on.
func (m memory) allocate(from, n int) error {
	for {
		err := unix.Fallocate(int(m.file.Fd()), 0, int64(from), int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("find %d bytes of memory: %w", n, err)
		}
		return nil
	}
}

// Close ends the use of the memory. What is in it lives on where the file is stored.
func (m memory) Close() error { return errors.Join(unix.Munmap(m.mem), m.file.Close()) }
