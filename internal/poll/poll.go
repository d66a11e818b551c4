// Package poll wakes the owners of sockets that have become readable or writable, and lends them a goroutine while they
// are awake.
//
// A Poller is one epoll set, nested in Go's own poller: waiting costs no thread, and a socket at rest no goroutine. A
// socket has one Place in it from its beginning to its end, whoever owns it at the time.
package poll

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Watcher owns a descriptor. Ready is called by the goroutine in Run and must not block. It reports only changes, as
// edge-triggered epoll(7) does: the Watcher reads or writes until the kernel returns EAGAIN.
type Watcher interface {
	Ready(read, write bool)
}

// A Poller is safe for concurrent use. Release frees it.
type Poller struct {
	epoll   *os.File
	raw     syscall.RawConn // of epoll
	probe   int             // an eventfd that is watched along with the sockets
	answers chan struct{}   // the probe has been seen
	workers Workers         // run those that it wakes

	mu    sync.Mutex
	slots []entry
	free  []int32
}

// An entry's generation tells a late event from one for the slot's next owner.
type entry struct {
	watcher    Watcher
	generation int32
}

// A Place is where a Watcher is registered. The zero Place is nowhere.
type Place struct {
	slot int32 // counted from 1
	fd   int32
}

// IsNowhere reports whether p is the zero Place.
func (p Place) IsNowhere() bool { return p.slot == 0 }

// probeSlot marks an event of the probe's eventfd, where a watcher's event has its slot.
const probeSlot = -1

// New makes a Poller, which wakes no Watcher before Run.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll non-blocking: %w", err)
	}
	p := &Poller{epoll: os.NewFile(uintptr(fd), "epoll"), answers: make(chan struct{}, 1)}
	if p.raw, err = p.epoll.SyscallConn(); err != nil {
		p.epoll.Close()
		return nil, err
	}
	if p.probe, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		p.epoll.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	err = p.control(unix.EPOLL_CTL_ADD, p.probe, &unix.EpollEvent{Events: unix.EPOLLIN | edge, Fd: probeSlot})
	if err != nil {
		p.Release()
		return nil, err
	}
	return p, nil
}

const edge = unix.EPOLLET & 0xffffffff

// Add watches fd for w, once and for all: coming to rest costs no system call. Input that is there already is an event.
// Ready may be called before Add returns.
func (p *Poller) Add(fd int, w Watcher) (Place, error) {
	p.mu.Lock()
	var slot int32
	if n := len(p.free); n > 0 {
		slot = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		slot = int32(len(p.slots))
		p.slots = append(p.slots, entry{})
	}
	e := &p.slots[slot]
	e.watcher = w
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | edge,
		Fd:     slot,
		Pad:    e.generation,
	}
	p.mu.Unlock()
	place := Place{slot: slot + 1, fd: int32(fd)}
	if err := p.control(unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		p.vacate(slot)
		return Place{}, err
	}
	return place, nil
}

// Hand gives a place to the next owner of its descriptor, without a system call. A call of the previous owner's Ready
// may still be under way when Hand returns, but Ready is not called again. What happened before may have been reported
// to the previous owner, so w must see for itself, once, whether there is something to read, or to write.
func (p *Poller) Hand(place Place, w Watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[place.slot-1].watcher = w
}

// Remove stops watching. It must be called before the descriptor is closed or given away, since its file may live on
// elsewhere. A call of Ready may still be under way when Remove returns, but Ready is not called again. Removing the
// zero Place does nothing.
func (p *Poller) Remove(place Place) {
	if place.IsNowhere() {
		return
	}
	p.control(unix.EPOLL_CTL_DEL, int(place.fd), nil) // fails only for what is not watched
	p.vacate(place.slot - 1)
}

func (p *Poller) vacate(slot int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[slot].watcher = nil
	p.slots[slot].generation++
	p.free = append(p.free, slot)
}

func (p *Poller) control(op, fd int, event *unix.EpollEvent) error {
	var err error
	cerr := p.raw.Control(func(ep uintptr) { err = unix.EpollCtl(int(ep), op, fd, event) })
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("watch descriptor: %w", err)
	}
	return nil
}

// NewCrew makes a Crew for the watchers of one room. What all of them wake stands in one line.
func (p *Poller) NewCrew() *Crew { return p.workers.NewCrew() }

// Trim ends the goroutines that have had nothing to do since the last Trim.
func (p *Poller) Trim() { p.workers.Trim() }

// Run wakes watchers until ctx ends. It may be called again after that.
func (p *Poller) Run(ctx context.Context) error {
	p.epoll.SetReadDeadline(time.Time{})
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		p.epoll.SetReadDeadline(time.Unix(1, 0))
		close(told)
	})
	defer func() {
		if !stop() {
			<-told // or the next Run would have this one's deadline
		}
	}()
	var events [128]unix.EpollEvent
	var n int
	var err error
	wait := func(ep uintptr) bool { // made once, not in each turn of the loop
		n, err = unix.EpollWait(int(ep), events[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	}
	for {
		rerr := p.raw.Read(wait)
		if ctx.Err() != nil {
			return nil
		}
		if err := errors.Join(rerr, err); err != nil {
			return fmt.Errorf("wait for connections: %w", err)
		}
		for _, e := range events[:n] {
			if e.Fd == probeSlot {
				p.answer()
			} else if w := p.lookup(e.Fd, e.Pad); w != nil {
				w.Ready(e.Events&^unix.EPOLLOUT != 0, e.Events&unix.EPOLLOUT != 0)
			}
		}
	}
}

func (p *Poller) lookup(slot, generation int32) Watcher {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.slots[slot]; e.generation == generation {
		return e.watcher
	}
	return nil
}

// Probe returns nil when Run answers, and an error when it does not in time. Calls must not overlap, and must have
// returned before Release.
func (p *Poller) Probe(ctx context.Context) error {
	select {
	case <-p.answers: // from a probe that gave up
	default:
	}
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	if _, err := unix.Write(p.probe, one[:]); err != nil && err != unix.EAGAIN {
		return fmt.Errorf("wake the poller: %w", err)
	}
	select {
	case <-p.answers:
		return nil
	case <-ctx.Done():
		return errors.New("the poller does not answer")
	}
}

func (p *Poller) answer() {
	var count [8]byte
	unix.Read(p.probe, count[:])
	select {
	case p.answers <- struct{}{}:
	default:
	}
}

// Release frees the Poller after Run has returned, if it was called, and all that was woken has ended. It is called
// once.
func (p *Poller) Release() error {
	p.workers.release()
	return errors.Join(p.epoll.Close(), unix.Close(p.probe))
}
