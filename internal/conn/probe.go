package conn

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// probeSlot stands for the probe's eventfd where connections have their slot.
const probeSlot = -1

func (s *Set) addProbe() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	s.probe, s.answers = fd, make(chan struct{}, 1)
	err = s.control(fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: probeSlot})
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// Probe shows that connections are served: every connection's lock can be had, and the poller answers. It returns
// nil then, and an error when the poller does not answer in time; it hangs when a connection does. Calls must not
// overlap, and must have returned before Release.
func (s *Set) Probe(ctx context.Context) error {
	s.mu.Lock()
	conns := s.conns()
	s.mu.Unlock()
	for _, c := range conns {
		c.Idle()
	}
	select {
	case <-s.answers: // of a probe that gave up
	default:
	}
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	if _, err := unix.Write(s.probe, one[:]); err != nil && err != unix.EAGAIN {
		return fmt.Errorf("wake the poller: %w", err)
	}
	select {
	case <-s.answers:
		return nil
	case <-ctx.Done():
		return errors.New("the poller does not answer")
	}
}

func (s *Set) answer() {
	var count [8]byte
	unix.Read(s.probe, count[:])
	select {
	case s.answers <- struct{}{}:
	default:
	}
}
