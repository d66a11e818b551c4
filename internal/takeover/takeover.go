// Package takeover has a new process of a program take over the work of the one that runs: its files, one after the
// other, in a conversation at whose every step the old process knows whether it goes on itself.
//
// The old process listens (Open). A new one asks (Ask) and is told the Terms. When it is ready for the work, it says so
// (Ready), and only then the old one lays the work down and gives its files (Give). As soon as the new one has said
// that it begins (Begin), the work is its own; until then the old one can end it (End), and take the work up again. It
// leaves with Leave.
package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A message is one of the conversation: a packet of a unix(7) socket of the type SOCK_SEQPACKET.
type message struct {
	Kind  kind            `json:"kind"`
	Terms json.RawMessage `json:"terms,omitempty"`
	Why   string          `json:"why,omitempty"`
	Names []string        `json:"names,omitempty"` // of the files that come with it
}

type kind string

// In the order in which they are said.
const (
	terms   kind = "terms"   // the old one's
	ready   kind = "ready"   // the new one's
	restart kind = "restart" // the new one's, instead of ready
	files   kind = "files"   // the old one's
	begins  kind = "begins"  // the new one's
	leaves  kind = "leaves"  // the old one's
)

// mostBytes and mostFiles are what a message has at most; unix(7) allows 253 files.
const (
	mostBytes = 64 << 10
	mostFiles = 64
)

func say(c *net.UnixConn, m message, with ...*os.File) error {
	p, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(p) > mostBytes || len(with) > mostFiles {
		return fmt.Errorf("a message of %d bytes and %d files is too large", len(p), len(with))
	}
	var fds []int
	for _, f := range with {
		raw, err := f.SyscallConn() // File.Fd would make the file blocking for everybody
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(p, rights, nil)
	return err
}

// hear returns the next message, io.EOF when the other process is gone, and the files that came with it.
func hear(c *net.UnixConn) (m message, with []*os.File, err error) {
	p, oob := make([]byte, mostBytes), make([]byte, syscall.CmsgSpace(4*mostFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(p, oob)
	switch {
	case err == nil && n == 0, errors.Is(err, syscall.ECONNRESET):
		return m, nil, io.EOF
	case err != nil:
		return m, nil, err
	}
	fds, err := received(oob[:oobn]) // closed on exec: net.UnixConn has asked for that
	if err == nil {
		err = json.Unmarshal(p[:n], &m)
	}
	if err == nil && len(m.Names) != len(fds) {
		err = fmt.Errorf("%d files came, and %d names", len(fds), len(m.Names))
	}
	for i, fd := range fds {
		if err != nil {
			syscall.Close(fd)
			continue
		}
		with = append(with, os.NewFile(uintptr(fd), m.Names[i]))
	}
	return m, with, err
}

func received(oob []byte) (fds []int, err error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		got, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

// until has conversations end with ctx: what is said and heard then fails. The caller calls stop.
func until(ctx context.Context, c *net.UnixConn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}

// expect is hear for the message that is due.
func expect(c *net.UnixConn, want kind) (message, []*os.File, error) {
	m, with, err := hear(c)
	switch {
	case errors.Is(err, io.EOF):
		return m, nil, errGone
	case err != nil:
		return m, nil, err
	case m.Kind != want:
		closeAll(with)
		return m, nil, fmt.Errorf("the other process says %q, want %q", m.Kind, want)
	}
	return m, with, nil
}

var errGone = errors.New("the other process is gone")
