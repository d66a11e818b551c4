// Package handover keeps connections over the end of the process: their descriptors in a Vault, what is known of them in a Journal.
//
// Both live in a few descriptors that the service manager stores, and both are whole whenever the process ends, however it
// ends. The package knows neither the manager nor what the records mean.
package handover

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFiles is how many descriptors the kernel takes in one message: its SCM_MAX_FD.
const maxFiles = 253

// vaultVersion stands first in each message. Another version's messages are not touched.
const vaultVersion = 1

// The names of a vault's two files. Each is the end at which the messages of that kind are received.
const (
	singlesName = "vault-singles"
	batchesName = "vault-batches"
)

var (
	// ErrFull: there is no room. What was already kept stays.
	ErrFull = errors.New("full")
	// ErrDamaged: what was stored is not whole.
	ErrDamaged = errors.New("damaged")
	// ErrVersion: what was stored was written by a version that this one does not know.
	ErrVersion = errors.New("unknown version")
)

// Vault keeps connections' descriptors where they outlive the process: in the queues of a pair of Unix sockets, unix(7), whose
// two ends are stored. So the manager has two descriptors, whatever the number of connections.
//
// A queue holds some hundred messages of up to 253 descriptors, and only its first message can be taken out. So Put
// sends a message with one descriptor through one end; when 253 have gathered, one message with those still held goes through the
// other end. When much of that is waste, the batches are packed anew. A descriptor is taken out of the queue only after it has been
// sent on: whenever the process ends, each is there at least once.
//
// Its methods may be called at the same time. They never wait for anything but each other.
type Vault struct {
	limit int // RLIMIT_NOFILE: so many descriptors may an unprivileged user have under way

	// mu is held across system calls, which do not wait: between looking up a descriptor's number and sending it nobody may
	// close it.
	mu               sync.Mutex
	singles, batches queue
	held             map[uint64]place
}

// queue is one direction of the pair.
type queue struct {
	send, receive *os.File
	messages      []*message // what is in the kernel's queue, in order
}

// message has the identities of its descriptors: 0 for one that is of no use.
type message struct{ ids []uint64 }

// place is where a held descriptor's newest copy is.
type place struct {
	fd int
	in *message
}

// ID returns a socket's identity, SO_COOKIE: no other socket has it until the machine starts again, and it stays the same in
// every process that has the socket.
func ID(fd int) (uint64, error) {
	id, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for the socket's identity: %w", err)
	}
	return id, nil
}

// NewVault returns an empty vault.
func NewVault() (*Vault, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the vault's sockets: %w", err)
	}
	return newVault(os.NewFile(uintptr(pair[0]), singlesName), os.NewFile(uintptr(pair[1]), batchesName))
}

func newVault(singles, batches *os.File) (*Vault, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	return &Vault{
		limit:   int(min(limit.Cur, 1<<30)),
		singles: queue{send: batches, receive: singles},
		batches: queue{send: singles, receive: batches},
		held:    map[uint64]place{},
	}, nil
}

// OpenVault takes over the vault that another process has left in files, in any order. It returns a descriptor for each
// connection that keep wants, by its identity; they are the caller's to close, and kept as if they had been put in. The others are
// shut down. What is queued is only looked at: should this process end at any moment, the next one finds the same.
//
// An error with a Vault says that some descriptors could not be received, for want of open files: those connections are ended. The vault can be used. After an error without one the
// files are still the caller's; closing the last of their copies ends the connections.
func OpenVault(files []*os.File, keep func(id uint64) bool) (*Vault, map[uint64]int, error) {
	singles, batches, err := ends(files)
	if err != nil {
		return nil, nil, fmt.Errorf("open the vault: %w", err)
	}
	v, err := newVault(singles, batches)
	if err != nil {
		return nil, nil, err
	}
	// Singles come last: of two copies of one connection they have the newer, or the one that is about to be taken out.
	lost := 0
	for _, q := range []*queue{&v.batches, &v.singles} {
		n, err := v.look(q, keep)
		if err != nil {
			for _, p := range v.held {
				unix.Close(p.fd)
			}
			return nil, nil, fmt.Errorf("open the vault: %s: %w", q.receive.Name(), err)
		}
		lost += n
	}
	fds := make(map[uint64]int, len(v.held))
	for id, p := range v.held {
		fds[id] = p.fd
	}
	if lost > 0 {
		err = fmt.Errorf("open the vault: %d of its descriptors could not be received: is LimitNOFILE= too low?", lost)
		err = errors.Join(err, v.shed())
	}
	return v, fds, err
}

// shed ends those whose descriptors could not be received: nobody has them but the queues, and to be taken out of there is an end that
// their clients notice. Messages are taken out before what is held of them is sent again, since so many may be under way that the
// kernel takes no more. Should the process end in between, those are lost too.
func (v *Vault) shed() error {
	var ids []uint64
	for _, q := range []*queue{&v.singles, &v.batches} {
		for range len(q.messages) {
			m := q.messages[0]
			if err := q.takeOut(); err != nil {
				return err
			}
			for _, id := range m.ids {
				if p, ok := v.held[id]; ok && p.in == m {
					ids = append(ids, id)
				}
			}
		}
	}
	for batch := range slices.Chunk(ids, maxFiles) {
		if err := v.send(&v.batches, batch); err != nil {
			return err
		}
	}
	return nil
}

// ends finds the two ends in files.
func ends(files []*os.File) (singles, batches *os.File, err error) {
	for _, f := range files {
		end := &singles
		switch f.Name() {
		case batchesName:
			end = &batches
		case singlesName:
		default:
			return nil, nil, fmt.Errorf("%q is none of its files", f.Name())
		}
		if *end != nil {
			return nil, nil, fmt.Errorf("%w: two files are named %q", ErrDamaged, f.Name())
		}
		kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil || kind != unix.SOCK_SEQPACKET {
			return nil, nil, fmt.Errorf("%w: %q is no such socket", ErrDamaged, f.Name())
		}
		*end = f
	}
	if singles == nil || batches == nil {
		return nil, nil, fmt.Errorf("%w: it has two files, %s and %s, and one is missing", ErrDamaged, singlesName, batchesName)
	}
	return singles, batches, nil
}

// look reads what is in q without taking it out, and returns how many descriptors could not be had.
func (v *Vault) look(q *queue, keep func(id uint64) bool) (lost int, err error) {
	from := int(q.receive.Fd())
	// With an offset each look sees the next message, unix(7).
	if err := unix.SetsockoptInt(from, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
		return 0, err
	}
	defer unix.SetsockoptInt(from, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	var head [2]byte
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(from, head[:], oob, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return lost, nil
		case err != nil:
			return 0, err
		}
		fds, err := rights(oob[:oobn])
		if err == nil && (n != len(head) || head[0] != vaultVersion) {
			err = ErrVersion
		}
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return 0, err
		}
		m := &message{ids: make([]uint64, head[1])}
		lost += max(0, len(m.ids)-len(fds))
		q.messages = append(q.messages, m)
		for i, fd := range fds {
			id, err := ID(fd)
			if err != nil || !keep(id) {
				unix.Shutdown(fd, unix.SHUT_RDWR)
				unix.Close(fd)
				continue
			}
			m.ids[i] = id
			p, twice := v.held[id]
			if twice {
				unix.Close(fd)
				fd = p.fd
			}
			v.held[id] = place{fd, m}
		}
	}
}

func rights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // something else, which has no descriptors
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// Files returns what has to be stored, under the files' names. They stay the vault's.
func (v *Vault) Files() []*os.File { return []*os.File{v.singles.receive, v.batches.receive} }

// Close closes the vault's files. What is in it lives on where they are stored.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.singles.receive.Close(), v.batches.receive.Close())
}

// Put keeps the socket and returns its identity. An error leaves everything as it was: the socket does not outlive the process.
//
// The descriptor is used until Drop, or until the same socket is put in with another, a duplicate. A socket that is kept stays open
// after the caller's close, and in the caller's epoll sets: to end it, take it out of those, shut both its sides down, Drop it, then
// close it, in this order.
func (v *Vault) Put(fd int) (uint64, error) {
	id, err := ID(fd)
	if err != nil {
		return 0, fmt.Errorf("keep a connection: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if p, ok := v.held[id]; ok {
		v.held[id] = place{fd, p.in}
		return id, nil
	}
	if err := v.put(id, fd); err != nil {
		return 0, fmt.Errorf("keep connection %d: %w", id, err)
	}
	return id, nil
}

// Room is how many sockets a Vault can keep for sure in a process that may have so many files open: packing needs some room, and
// half as many again may be waste, see tidy.
func Room(files int) int { return max(0, (files-4*maxFiles)*2/3) }

func (v *Vault) put(id uint64, fd int) error {
	if queued := v.queued(); queued > v.limit-2*maxFiles { // packing needs room too
		return fmt.Errorf("%w: it has %d descriptors, and LimitNOFILE= is %d", ErrFull, queued, v.limit)
	}
	if err := v.tidy(); err != nil {
		return err
	}
	v.held[id] = place{fd: fd}
	err := v.send(&v.singles, []uint64{id})
	if errors.Is(err, unix.EAGAIN) { // the kernel takes fewer singles than maxFiles
		if err = v.pack(&v.singles); err == nil {
			err = v.send(&v.singles, []uint64{id})
		}
	}
	if err != nil {
		delete(v.held, id)
	}
	return err
}

// Drop ends the keeping of a socket, whose descriptor may be closed after that. Dropping what is not kept does nothing.
func (v *Vault) Drop(id uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.held[id]; !ok {
		return
	}
	delete(v.held, id)
	v.tidy() // an error is Put's to tell: it will meet the same
}

// Len returns how many sockets are kept.
func (v *Vault) Len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.held)
}

// queued is how many descriptors are in the queues.
func (v *Vault) queued() int {
	n := len(v.singles.messages)
	for _, m := range v.batches.messages {
		n += len(m.ids)
	}
	return n
}

// tidy makes room for the next single, and packs the batches anew when they have come to be half as large again as what is
// held. Packing costs as much as there is, and so much waste has to gather before the next time: a few system calls for
// 253 connections, on the average.
func (v *Vault) tidy() error {
	if len(v.singles.messages) >= maxFiles {
		if err := v.pack(&v.singles); err != nil {
			return err
		}
	}
	waste := len(v.singles.messages) + len(v.batches.messages)*maxFiles - len(v.held)
	if waste > len(v.held)/2+2*maxFiles {
		return v.pack(&v.batches)
	}
	return nil
}

// pack sends what is held of q's messages once more, as full batches, and takes the messages out. A message is taken out when all
// that is held of it has been sent.
func (v *Vault) pack(q *queue) error {
	var ids []uint64 // to be sent
	old := slices.Clone(q.messages)
	done := 0
	for i, m := range old {
		for _, id := range m.ids {
			if p, ok := v.held[id]; ok && p.in == m {
				ids = append(ids, id)
			}
		}
		last := i == len(old)-1
		if len(ids) < maxFiles && !last {
			continue
		}
		for len(ids) >= maxFiles || last && len(ids) > 0 {
			n := min(len(ids), maxFiles)
			if err := v.send(&v.batches, ids[:n]); err != nil {
				return err
			}
			ids = ids[n:]
		}
		gone := i + 1
		if len(ids) > 0 {
			gone = i // m has some of those to be sent, and only m
		}
		for ; done < gone; done++ {
			if err := q.takeOut(); err != nil {
				return err
			}
		}
	}
	return nil
}

// send puts a message with held descriptors at q's end.
func (v *Vault) send(q *queue, ids []uint64) error {
	m := &message{slices.Clone(ids)}
	fds := make([]int, len(ids))
	for i, id := range ids {
		fds[i] = v.held[id].fd
	}
	head := []byte{vaultVersion, byte(len(ids))}
	if err := unix.Sendmsg(int(q.send.Fd()), head, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		if err == unix.EAGAIN || err == unix.ETOOMANYREFS {
			return fmt.Errorf("%w: queue %d descriptors: %w", ErrFull, len(ids), err)
		}
		return fmt.Errorf("queue %d descriptors: %w", len(ids), err)
	}
	q.messages = append(q.messages, m)
	for i, id := range ids {
		v.held[id] = place{fds[i], m}
	}
	return nil
}

// takeOut takes the first message out of the queue. Nobody asks for its descriptors, so the kernel lets go of them.
func (q *queue) takeOut() error {
	var head [2]byte
	for {
		_, _, err := unix.Recvfrom(int(q.receive.Fd()), head[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("take out of %s, which somebody else reads: %w", q.receive.Name(), err)
		}
		q.messages = q.messages[1:]
		return nil
	}
}
