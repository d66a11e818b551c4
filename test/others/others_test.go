package others

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"picloud/internal/leak"
	"picloud/test/certified"
	"picloud/test/wait"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

// echo listens, and sends what it gets back to each client, behind the version of TLS, until that shuts down.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", certified.Server())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := nc.(*tls.Conn)
			if c.Handshake() == nil {
				io.WriteString(c, tls.VersionName(c.ConnectionState().Version)+"\n")
			}
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadString('\n')
				if err != nil || line == "bye\n" {
					break
				}
				io.WriteString(c, line)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		wait.For(t, ended, "the end of the server")
	})
	return l.Addr().String()
}

func TestProgramsAreConnections(t *testing.T) {
	addr := echo(t)
	for _, p := range append(Each(), OpenSSL("1.3", TakesCommands)) {
		t.Run(p.Name, func(t *testing.T) {
			c, err := p.Dial(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			want := func(line string) {
				t.Helper()
				wait.Within(t, "a line", func() {
					if got, err := r.ReadString('\n'); err != nil || got != line+"\n" {
						t.Errorf("got %q, %v, want %.40q", got, err, line)
					}
				})
			}
			version := "TLS 1.3"
			if strings.Contains(p.Name, "1_2") {
				version = "TLS 1.2"
			}
			want(version)
			for _, line := range []string{"hello", strings.Repeat("long", 100_000)} {
				go io.WriteString(c, line+"\n")
				want(line)
			}
			if strings.Contains(p.Name, TakesCommands) {
				for _, both := range []bool{true, false} {
					wait.Within(t, "a change of keys", func() {
						if err := c.ChangeKeys(both); err != nil {
							t.Error(err)
						}
					})
					io.WriteString(c, "after that\n")
					want("after that")
				}
			}
			io.WriteString(c, "bye\n")
			wait.Within(t, "the end", func() {
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("at the end: %v", err)
				}
			})
		})
	}
}

func TestProgramThatCannotConnectSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, p := range Each() {
		c, err := p.Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wait.Within(t, "the end", func() {
			if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "onnection refused") {
				t.Errorf("%s: %v", p.Name, err)
			}
		})
	}
}

func TestProgramEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := OpenSSL("1.3").Dial(ctx, echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	wait.Within(t, "the end", func() {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it lives on")
		}
	})
}
