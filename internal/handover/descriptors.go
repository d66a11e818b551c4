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

// queueVersion stands first in each message. Another version's messages are not touched.
const queueVersion = 1

// The names of the two files, by which every version finds them. Each is the end at which the messages of that kind are
// received.
const (
	singlesName = "vault-singles"
	batchesName = "vault-batches"
)

var (
	// errFull: there is no room. What was already kept stays.
	errFull = errors.New("full")
	// errDamaged: what was stored is not whole.
	errDamaged = errors.New("damaged")
	// errVersion: what was stored was written by a version that this one does not know.
	errVersion = errors.New("unknown version")
)

// descriptors keeps the descriptors of connections where they outlive the process: in the queues of a pair of Unix
// sockets, unix(7), whose two ends are stored. So the service manager has two descriptors, whatever the number of
// connections.
//
// A queue holds a few hundred messages of up to 253 descriptors, and only its first message can be taken out. So Put
// sends a message with one descriptor through one end; when 253 have gathered, one message with those still held goes
// through the other end. When much of that is waste, the batches are repacked. A descriptor is taken out of the queue
// only after it has been sent on: whenever the process ends, each is there at least once.
//
// Its methods are safe for concurrent use, and block only on each other.
type descriptors struct {
	limit int // RLIMIT_NOFILE: how many descriptors an unprivileged user may have in flight

	// mu is held across system calls, which do not block: a descriptor must not be closed between looking up its number
	// and sending it.
	mu               sync.Mutex
	singles, batches queue
	held             map[uint64]place
}

// queue is one direction of the pair.
type queue struct {
	send, receive *os.File
	messages      []*message // what is in the kernel's queue, in order
}

// message lists the identities of its descriptors: 0 for one that is of no use.
type message struct{ ids []uint64 }

// place is where a held descriptor's newest copy is.
type place struct {
	fd int
	in *message
}

// identity returns a socket's identity, SO_COOKIE: no other socket has it until the machine restarts, and it is the
// same in every process that has the socket.
func identity(fd int) (uint64, error) {
	id, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for the socket's identity: %w", err)
	}
	return id, nil
}

// newDescriptors returns empty queues.
func newDescriptors() (*descriptors, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the sockets for descriptors: %w", err)
	}
	return between(os.NewFile(uintptr(pair[0]), singlesName), os.NewFile(uintptr(pair[1]), batchesName))
}

func between(singles, batches *os.File) (*descriptors, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	return &descriptors{
		limit:   int(min(limit.Cur, 1<<30)),
		singles: queue{send: batches, receive: singles},
		batches: queue{send: singles, receive: batches},
		held:    map[uint64]place{},
	}, nil
}

// openDescriptors takes over what another process has left in files, in any order. It returns a descriptor for each
// connection that keep wants, by its identity; they are the caller's to close, and kept as if they had been put in. The
// others are shut down. The queues are only looked into: whenever this process ends, the next one finds the same.
//
// An error returned with descriptors says that some could not be received, since too many files are open: those
// connections are ended. The others can be used. After an error without descriptors the files are still the caller's;
// closing the last of their copies ends the connections.
func openDescriptors(files []*os.File, keep func(id uint64) bool) (*descriptors, map[uint64]int, error) {
	singles, batches, err := ends(files)
	if err != nil {
		return nil, nil, fmt.Errorf("open the descriptors: %w", err)
	}
	d, err := between(singles, batches)
	if err != nil {
		return nil, nil, err
	}
	// Singles come last: of two copies of one connection they have the newer, or the one that is about to be taken out.
	lost := 0
	for _, q := range []*queue{&d.batches, &d.singles} {
		n, err := d.look(q, keep)
		if err != nil {
			for _, p := range d.held {
				unix.Close(p.fd)
			}
			return nil, nil, fmt.Errorf("open the descriptors: %s: %w", q.receive.Name(), err)
		}
		lost += n
	}
	fds := make(map[uint64]int, len(d.held))
	for id, p := range d.held {
		fds[id] = p.fd
	}
	if lost > 0 {
		err = fmt.Errorf("open the descriptors: %d could not be received: is LimitNOFILE= too low?", lost)
		err = errors.Join(err, d.shed())
	}
	return d, fds, err
}

// shed ends the connections whose descriptors could not be received: only the queues have them, and taking them out of
// there closes them, which their clients notice. Messages are taken out before what is held of them is sent again,
// since so many may be in flight that the kernel takes no more. If the process ends in between, those are lost too.
func (d *descriptors) shed() error {
	var ids []uint64
	for _, q := range []*queue{&d.singles, &d.batches} {
		for range len(q.messages) {
			m := q.messages[0]
			if err := q.takeOut(); err != nil {
				return err
			}
			for _, id := range m.ids {
				if p, ok := d.held[id]; ok && p.in == m {
					ids = append(ids, id)
				}
			}
		}
	}
	for batch := range slices.Chunk(ids, maxFiles) {
		if err := d.send(&d.batches, batch); err != nil {
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
			return nil, nil, fmt.Errorf("%w: two files are named %q", errDamaged, f.Name())
		}
		kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil || kind != unix.SOCK_SEQPACKET {
			return nil, nil, fmt.Errorf("%w: %q is no such socket", errDamaged, f.Name())
		}
		*end = f
	}
	if singles == nil || batches == nil {
		return nil, nil, fmt.Errorf("%w: it has two files, %s and %s, and one is missing", errDamaged, singlesName,
			batchesName)
	}
	return singles, batches, nil
}

// look reads what is in q without taking it out, and returns how many descriptors could not be received.
func (d *descriptors) look(q *queue, keep func(id uint64) bool) (lost int, err error) {
	from := int(q.receive.Fd())
	// With an offset each peek sees the next message, unix(7).
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
		if err == nil && (n != len(head) || head[0] != queueVersion) {
			err = errVersion
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
			id, err := identity(fd)
			if err != nil || !keep(id) {
				unix.Shutdown(fd, unix.SHUT_RDWR)
				unix.Close(fd)
				continue
			}
			m.ids[i] = id
			p, twice := d.held[id]
			if twice {
				unix.Close(fd)
				fd = p.fd
			}
			d.held[id] = place{fd, m}
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

// Files returns the files that have to be stored, under their names. They still belong to the descriptors.
func (d *descriptors) Files() []*os.File { return []*os.File{d.singles.receive, d.batches.receive} }

// Close closes the files. What is queued lives on where they are stored.
func (d *descriptors) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.singles.receive.Close(), d.batches.receive.Close())
}

// Put is Store.Keep, and returns the socket's identity.
func (d *descriptors) Put(fd int) (uint64, error) {
	id, err := identity(fd)
	if err != nil {
		return 0, fmt.Errorf("keep a connection: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.held[id]; ok {
		d.held[id] = place{fd, p.in}
		return id, nil
	}
	if err := d.put(id, fd); err != nil {
		return 0, fmt.Errorf("keep connection %d: %w", id, err)
	}
	return id, nil
}

// Room is how many sockets a Store can keep for sure in a process that may have that many files open: packing needs
// some room, and half as many again may be waste, see tidy.
func Room(files int) int { return max(0, (files-4*maxFiles)*2/3) }

func (d *descriptors) put(id uint64, fd int) error {
	if queued := d.queued(); queued > d.limit-2*maxFiles { // packing needs room too
		return fmt.Errorf("%w: it has %d descriptors, and LimitNOFILE= is %d", errFull, queued, d.limit)
	}
	if err := d.tidy(); err != nil {
		return err
	}
	d.held[id] = place{fd: fd}
	err := d.send(&d.singles, []uint64{id})
	if errors.Is(err, unix.EAGAIN) { // the kernel takes fewer singles than maxFiles
		if err = d.pack(&d.singles); err == nil {
			err = d.send(&d.singles, []uint64{id})
		}
	}
	if err != nil {
		delete(d.held, id)
	}
	return err
}

// Drop stops keeping a socket, whose descriptor may be closed after that. Dropping what is not kept does nothing.
func (d *descriptors) Drop(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.held[id]; !ok {
		return
	}
	delete(d.held, id)
	d.tidy() // Put will meet the same error, and report it
}

// Len returns how many sockets are kept.
func (d *descriptors) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.held)
}

// queued is how many descriptors are in the queues.
func (d *descriptors) queued() int {
	n := len(d.singles.messages)
	for _, m := range d.batches.messages {
		n += len(m.ids)
	}
	return n
}

// tidy makes room for the next single, and repacks the batches when they have grown half as large again as what is
// held. The cost of packing is proportional to what is held, and so is the waste that has to gather before the next
// time: on average, a few system calls for 253 connections.
func (d *descriptors) tidy() error {
	if len(d.singles.messages) >= maxFiles {
		if err := d.pack(&d.singles); err != nil {
			return err
		}
	}
	waste := len(d.singles.messages) + len(d.batches.messages)*maxFiles - len(d.held)
	if waste > len(d.held)/2+2*maxFiles {
		return d.pack(&d.batches)
	}
	return nil
}

// pack sends what is held of q's messages once more, as full batches, and takes the messages out. A message is taken
// out once all that is held of it has been sent.
func (d *descriptors) pack(q *queue) error {
	var ids []uint64 // to be sent
	old := slices.Clone(q.messages)
	done := 0
	for i, m := range old {
		for _, id := range m.ids {
			if p, ok := d.held[id]; ok && p.in == m {
				ids = append(ids, id)
			}
		}
		last := i == len(old)-1
		if len(ids) < maxFiles && !last {
			continue
		}
		for len(ids) >= maxFiles || last && len(ids) > 0 {
			n := min(len(ids), maxFiles)
			if err := d.send(&d.batches, ids[:n]); err != nil {
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
func (d *descriptors) send(q *queue, ids []uint64) error {
	m := &message{slices.Clone(ids)}
	fds := make([]int, len(ids))
	for i, id := range ids {
		fds[i] = d.held[id].fd
	}
	head := []byte{queueVersion, byte(len(ids))}
	if err := unix.Sendmsg(int(q.send.Fd()), head, unix.UnixRights(fds...), nil,
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		if err == unix.EAGAIN || err == unix.ETOOMANYREFS {
			return fmt.Errorf("%w: queue %d descriptors: %w", errFull, len(ids), err)
		}
		return fmt.Errorf("queue %d descriptors: %w", len(ids), err)
	}
	q.messages = append(q.messages, m)
	for i, id := range ids {
		d.held[id] = place{fds[i], m}
	}
	return nil
}

// takeOut takes the first message out of the queue. Its descriptors are not asked for, so the kernel closes them.
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
