package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeSystemctl puts a fake systemctl into the PATH and returns its directory. The file listen there holds Listen= of
// picloud.socket, reloaded what it becomes with a daemon-reload, and asked the calls made.
func fakeSystemctl(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	script := `#!/bin/sh
cd ` + dir + `
echo "$1" >>asked
case $1 in
show) while read -r address; do echo "Listen=$address (Stream)"; done <listen ;;
daemon-reload) cp reloaded listen ;;
try-restart) [ ! -e refuses ] || { echo 'Job failed.' >&2; exit 1; } ;;
esac
`
	if err := os.WriteFile(dir+"/systemctl", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	before := []string{otherPort, generated, notMoved}
	otherPort, generated, notMoved = dir+"/other-port", dir+"/10-port.conf", dir+"/not-moved"
	t.Cleanup(func() { otherPort, generated, notMoved = before[0], before[1], before[2] })
	return dir
}

func TestPortIsFollowedOnceAndNotToWhereTheServerWouldBeLost(t *testing.T) {
	busy, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	other, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	free := strconv.Itoa(other.Addr().(*net.TCPAddr).Port)
	other.Close()

	const local, preset, override = "/run/picloud/picloud.sock\n", "[::]:9000\n", "192.0.2.1:7000\n"
	for name, test := range map[string]struct {
		port      string
		generated string // the port in systemd's memory; empty: the unit's own
		listen    string
		reloaded  string
		files     []string
		asked     string
		err, said string
	}{
		"nothing to do":  {port: free, listen: preset, asked: ""},
		"well again":     {port: free, listen: preset, files: []string{"not-moved"}, asked: ""},
		"no port at all": {port: "0", listen: preset, files: []string{"other-port"}, asked: ""},
		"not to be used": {port: "x", listen: preset, files: []string{"other-port"}, asked: ""},
		"changed": {port: free, listen: preset, reloaded: "[::]:" + free + "\n",
			files: []string{"other-port"}, asked: "show daemon-reload show try-restart", said: "has been moved"},
		"changed again": {port: free, generated: "9001", listen: "[::]:9001\n",
			reloaded: "[::]:" + free + "\n", files: []string{"other-port"},
			asked: "show daemon-reload show try-restart"},
		"reloaded": {port: free, generated: free, listen: "[::]:" + free + "\n",
			files: []string{"other-port"}, asked: "show try-restart"},
		"override": {port: free, generated: free, listen: override, files: []string{"other-port"},
			asked: "show", said: "an override of picloud.socket"},
		"override, not reloaded": {port: free, listen: override, reloaded: override, files: []string{"other-port"},
			asked: "show daemon-reload show", said: "an override of picloud.socket"},
		"override of the same": {port: free, listen: "127.0.0.1:" + free + "\n", files: []string{"other-port"},
			asked: "show try-restart"},
		"taken": {port: taken, listen: preset, files: []string{"other-port"}, asked: "show",
			err: "another program has port " + taken},
		"reloaded and taken": {port: taken, generated: taken, listen: "[::]:" + taken + "\n",
			files: []string{"other-port"}, asked: "show", err: "another program has port " + taken},
		"no address of this machine": {port: free, listen: "192.0.2.1:" + free + "\n", files: []string{"other-port"},
			asked: "show", err: "PORT cannot be listened on"},
		"the sockets are stopped": {port: free, listen: "[::]:" + free + "\n", files: []string{"other-port", "refuses"},
			asked: "show try-restart", err: "systemctl try-restart: Job failed."},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fakeSystemctl(t)
			write := func(file, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("listen", test.listen+local)
			write("reloaded", test.reloaded+local)
			if test.generated != "" {
				write("10-port.conf", "[Socket]\nListenStream=\nListenStream="+test.generated+"\nListenStream="+local)
			}
			for _, file := range test.files {
				write(file, "")
			}
			var said strings.Builder
			err := followPort(t.Context(), env{"PORT": test.port, "LED": "x"}.get,
				slog.New(slog.NewTextHandler(&said, nil)))
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
			if _, left := os.Stat(notMoved); (left == nil) != (err != nil) {
				t.Errorf("error %v, and its note is left: %v", err, left)
			}
			if !strings.Contains(said.String(), test.said) {
				t.Errorf("it said %q, want %q", said.String(), test.said)
			}
			asked, err := os.ReadFile(dir + "/asked")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(string(asked)), " "); got != test.asked {
				t.Errorf("systemctl was asked %q, want %q", got, test.asked)
			}
		})
	}
}

// handed starts the real binary as systemd does: with the sockets, a runtime directory, and a notify socket. It returns
// the first notification.
func handed(t *testing.T, port, runtime string, sockets ...interface{ File() (*os.File, error) }) (*daemon, string) {
	t.Helper()
	notify := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	d := newDaemon(testKey)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, binary)
	cmd.Env = []string{"PORT=" + port, "API_KEY=" + testKey, "RUNTIME_DIRECTORY=" + runtime, "NOTIFY_SOCKET=" + notify,
		fmt.Sprint("LISTEN_FDS=", len(sockets))}
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Stdout, cmd.Stderr = io.Discard, d.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	manager.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 4096); ; {
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatalf("%v; it said\n%s", err, d.stderr)
		}
		if text := string(buf[:n]); strings.HasPrefix(text, "READY=1") {
			return d, text
		}
	}
}

func TestDaemonThatIsNotOnPORTSaysSoAndLeavesWord(t *testing.T) {
	runtime := t.TempDir()
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "local")})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	public, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer public.Close()
	tcp := public.(*net.TCPListener)
	port := strconv.Itoa(public.Addr().(*net.TCPAddr).Port)

	for _, test := range []struct {
		name         string
		port         string
		sockets      []interface{ File() (*os.File, error) }
		says, status string
	}{
		{"none", "8081", []interface{ File() (*os.File, error) }{local}, "no TCP socket was handed over",
			", on no port, not on PORT=8081: journalctl -u picloud-port"},
		{"another", "8081", []interface{ File() (*os.File, error) }{tcp, local}, "the socket's port is not PORT",
			", on port " + port + ", not on PORT=8081: journalctl -u picloud-port"},
		{"the right one", port, []interface{ File() (*os.File, error) }{tcp, local}, "", "0 clients, 0 events"},
		{"any", "0", []interface{ File() (*os.File, error) }{tcp}, "", "0 clients, 0 events"},
		{"none of any", "0", []interface{ File() (*os.File, error) }{local}, "no TCP socket was handed over",
			"on no port"},
	} {
		d, notification := handed(t, test.port, runtime, test.sockets...)
		if !strings.HasSuffix(notification, test.status) && test.name != "none of any" ||
			!strings.Contains(notification, test.status) {
			t.Errorf("%s: the status is %q, want %q", test.name, notification, test.status)
		}
		d.stderr.Await(t, "msg=listening")
		if said := d.stderr.String(); !strings.Contains(said, test.says) ||
			test.says == "" && strings.Contains(said, "PORT") {
			t.Errorf("%s: it said\n%s\nwant %q", test.name, said, test.says)
		}
		_, err := os.Stat(filepath.Join(runtime, otherPortFile))
		if hasWord := err == nil; hasWord != (test.says != "") {
			t.Errorf("%s: word is left: %t (%v)", test.name, hasWord, err)
		}
	}
}
