package tlsrecord

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picloud/test/wait"
)

// openSSL is what OpenSSL calls the suites of TLS 1.2.
var openSSL = map[uint16]string{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
}

// A client that has nothing in common with crypto/tls: s_client sends what it is given, and takes a line of "K" or "k"
// for a wish to change its key, and of "Q" for one to end (openssl-s_client(1)).
func TestOpenSSLsClient(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		server, _ := s.only(t)
		session := filepath.Join(t.TempDir(), "session")
		for _, what := range []string{"full", "resumed", "resumed again"} {
			t.Run(what, func(t *testing.T) {
				args := []string{"-sess_out", session}
				if what != "full" {
					args = append(args, "-sess_in", session)
				}
				c := dialOpenSSL(t, s, server, args...)
				c.echo("hello")
				c.echo(strings.Repeat("long", 2_000))
				if s.tls13 {
					for _, tt := range []struct {
						command string
						changes int // both keys, or one
					}{{"k", 1}, {"K", 2}, {"K", 2}} {
						before := c.server.changes
						io.WriteString(c.stdin, tt.command+"\n")
						c.await(c.stderr, "KEYUPDATE")
						c.echo("after " + tt.command)
						if n := c.server.changes - before; n != tt.changes {
							t.Errorf("after %s %d keys have changed, want %d", tt.command, n, tt.changes)
						}
					}
				}
				io.WriteString(c.stdin, "Q\n")
				if _, err := c.server.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("at the end: %v", err)
				}
				c.server.bye(nil)
				reused := strings.Contains(c.rest(), "Reused, ")
				if reused != (what != "full") {
					t.Error("resumed:", reused)
				}
			})
		}
	})
}

// A renegotiation is refused, and s_client, which is told "R", says so.
func TestOpenSSLMayNotRenegotiate(t *testing.T) {
	s := suiteOf(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	server, _ := s.only(t)
	c := dialOpenSSL(t, s, server)
	c.echo("hello")
	io.WriteString(c.stdin, "R\n")
	_, err := c.server.Read(make([]byte, 1))
	if err != noRenegotiation {
		t.Error("the server:", err)
	}
	c.server.bye(err)
	c.await(c.stderr, "no renegotiation")
}

// openSSLsClient is a running s_client, and the server's end of its connection.
type openSSLsClient struct {
	t              *testing.T
	server         *end
	stdin          io.WriteCloser
	stdout, stderr *bufio.Reader
	cmd            *exec.Cmd
	said           strings.Builder
}

func dialOpenSSL(t *testing.T, s *suite, server *tls.Config, args ...string) *openSSLsClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.(*net.TCPListener).SetDeadline(time.Now().Add(wait.Patience))
	args = append([]string{"s_client", "-connect", l.Addr().String()}, args...)
	if s.tls13 {
		args = append(args, "-tls1_3", "-ciphersuites", s.String())
	} else {
		args = append(args, "-tls1_2", "-cipher", openSSL[s.id])
	}
	c := &openSSLsClient{t: t, cmd: exec.CommandContext(t.Context(), "openssl", args...)}
	stdout, err1 := c.cmd.StdoutPipe()
	stderr, err2 := c.cmd.StderrPipe()
	stdin, err3 := c.cmd.StdinPipe()
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	c.stdin, c.stdout, c.stderr = stdin, bufio.NewReader(stdout), bufio.NewReader(stderr)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	nc, err := l.Accept()
	if err != nil {
		c.await(c.stderr, "a connection")
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(wait.Patience))
	link, err := Handshake(nc, server)
	if err != nil {
		t.Fatal(err)
	}
	c.server = &end{t: t, nc: nc, Link: link, renew: true}
	return c
}

// await reads until a line has text in it.
func (c *openSSLsClient) await(r *bufio.Reader, text string) {
	c.t.Helper()
	wait.Within(c.t, text, func() {
		for {
			line, err := r.ReadString('\n')
			c.said.WriteString(line)
			if strings.Contains(line, text) {
				return
			}
			if err != nil {
				c.t.Errorf("s_client has not said %.20q, but\n%s", text, c.said.String())
				return
			}
		}
	})
}

// echo has s_client send a line, and sends it back.
func (c *openSSLsClient) echo(line string) {
	c.t.Helper()
	io.WriteString(c.stdin, line+"\n")
	got := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c.server, got); err != nil || string(got) != line+"\n" {
		c.t.Fatalf("got %.40q, %v", got, err)
	}
	io.WriteString(c.server, "back: "+line+"\n")
	c.await(c.stdout, "back: "+line)
}

// rest returns all that s_client has said, when it has ended by itself.
func (c *openSSLsClient) rest() string {
	wait.Within(c.t, "the end of s_client", func() {
		b, _ := io.ReadAll(c.stdout)
		c.said.Write(b)
		b, _ = io.ReadAll(c.stderr)
		c.said.Write(b)
		if err := c.cmd.Wait(); err != nil {
			c.t.Errorf("s_client: %v\n%s", err, c.said.String())
		}
	})
	return c.said.String()
}
