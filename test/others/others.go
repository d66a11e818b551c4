// Package others runs TLS clients that others wrote, each as a connection: what is written to it goes to a server over
// TLS, and what the server sends is read from it.
package others

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// A Program is one of them, with a version of TLS. It checks no certificate.
type Program struct {
	Name    string
	command func(host, port string) []string
}

// OpenSSL is its s_client, with a version such as "1.3" and further arguments, openssl-s_client(1).
func OpenSSL(version string, args ...string) Program {
	args = append([]string{"-tls" + strings.Replace(version, ".", "_", 1), "-quiet"}, args...)
	return Program{
		Name: "openssl " + strings.Join(args, " "),
		command: func(host, port string) []string {
			return append([]string{"openssl", "s_client", "-connect", net.JoinHostPort(host, port)}, args...)
		},
	}
}

// TakesCommands lets OpenSSL take what begins with some letters, such as a k, for a command to itself.
const TakesCommands = "-no_ign_eof" // which -quiet has changed

//go:embed tls.py
var python string

// Python is its ssl, with a version such as "1.3".
func Python(version string) Program {
	version = "TLSv" + strings.Replace(version, ".", "_", 1)
	return Program{
		Name: "python " + version,
		command: func(host, port string) []string {
			return []string{"/usr/bin/python3", "-c", python, version, host, port}
		},
	}
}

// Each is one of each kind and version.
func Each() []Program {
	return []Program{OpenSSL("1.3"), OpenSSL("1.2"), Python("1.3"), Python("1.2")}
}

// A Conn is a connection of a Program, and ends with it.
type Conn struct {
	net.Conn // to its standard input and output
	name     string
	cmd      *exec.Cmd
	said     *bufio.Reader // its standard error
	end      func() error
}

// Dial starts the program, which connects to an address. Whether it could shows when something is read. When ctx ends
// the connection does.
func (p Program) Dial(ctx context.Context, addr string) (*Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ours, its, err := pair()
	if err != nil {
		return nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	defer its.Close()
	args := p.command(host, port)
	c := &Conn{Conn: ours, name: p.Name, cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	c.cmd.Stdin, c.cmd.Stdout = its, its
	said, err := c.cmd.StderrPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	c.said = bufio.NewReader(said)
	c.end = sync.OnceValue(func() error {
		err := c.Conn.Close()
		c.cmd.Process.Kill()
		c.cmd.Wait()
		return err
	})
	return c, nil
}

// pair returns two ends of one stream, the second for another process.
func pair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, its := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "its")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		its.Close()
	}
	return c, its, err
}

// Read says why the program has ended, if it has.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		said, _ := io.ReadAll(c.said)
		err = fmt.Errorf("%s has ended, and said %q: %w", c.name, said, io.EOF)
	}
	return n, err
}

// ChangeKeys makes an OpenSSL of TLS 1.3 that TakesCommands change the key with which it seals, and, if both, ask the
// server to change its own. Everything written must have reached the server, and nothing may be written meanwhile.
func (c *Conn) ChangeKeys(both bool) error {
	command := "k\n"
	if both {
		command = "K\n"
	}
	if _, err := io.WriteString(c.Conn, command); err != nil {
		return err
	}
	for {
		line, err := c.said.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%s changes no key: %w", c.name, err)
		}
		if line == "KEYUPDATE\n" {
			return nil
		}
	}
}

// Close ends the program.
func (c *Conn) Close() error { return c.end() }
