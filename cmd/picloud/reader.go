package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// whenReaderGone calls f once nobody can read any more what is written to stdout: a pipe or a socket whose other end is
// closed, or a terminal that hung up. The caller calls stop when it is done, which returns when f neither runs nor
// will. Where that cannot be watched, the next write tells.
func whenReaderGone(stdout io.Writer, f func()) (stop func()) {
	nothing := func() {}
	if o, ok := stdout.(output); ok {
		stdout = o.Writer
	}
	file, ok := stdout.(*os.File)
	if !ok {
		return nothing
	}
	r, w, err := os.Pipe() // closing w ends the wait
	if err != nil {
		return nothing
	}
	// POLLERR and POLLHUP need not be asked for, poll(2).
	fds := []unix.PollFd{{Fd: int32(file.Fd())}, {Fd: int32(r.Fd())}}
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			switch _, err := unix.Poll(fds, -1); {
			case err == unix.EINTR:
				continue
			case err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
				f()
			}
			return
		}
	})
	return func() {
		w.Close()
		watching.Wait()
		r.Close()
	}
}
