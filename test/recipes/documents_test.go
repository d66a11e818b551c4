package recipes

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"picloud/test/daemon"
	"picloud/test/snippet"
)

// commands returns the commands of a block, without their comments.
func commands(block string) []string {
	var list []string
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, "  #")
		list = append(list, strings.TrimSpace(command))
	}
	return list
}

// What a newcomer does first. On the Pi it takes sudo, and no key.
func TestFirstMessageOfTheReadme(t *testing.T) {
	t.Parallel()
	p := serve(t)
	line := func(block string) string { return "exec " + snippet.Put(t, block, "sudo ", "") }
	d := cook(t, p, []string{"PICLOUD_NAME=first"}, "sh", "-c", line(snippet.Of(t, "README.md", "sudo picloud sub")))
	p.hasSubscriber("temperature", "first")
	for range 2 { // the second time after a restart
		cook(t, p, nil, "sh", "-c", line(snippet.Of(t, "README.md", "sudo picloud pub"))).ends(true)
		d.prints("76.5 F")
		p.end()
		p.begin()
		p.hasSubscriber("temperature", "first")
	}
	for _, data := range messages(t) {
		p.publish("temperature", data)
		d.prints(shown(t, data))
	}
}

func TestCurlOfTheReadme(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.subscribe("temperature")
	lines := commands(snippet.Put(t, snippet.Of(t, "README.md", "curl http://localhost:9000/healthz"), readmesServer,
		p.url))
	for range 2 { // the second time after a restart
		for i, says := range []string{"", `"client_name":"test"`, `{"status":"ok"}`} {
			d := cook(t, p, nil, "sh", "-c", lines[i])
			if says != "" {
				d.prints(says)
			}
			d.ends(true)
		}
		p.gets("temperature", `"76.5 F"`, "Porch")
		p.end()
		p.begin()
		p.hasSubscriber("temperature", "test")
	}
	for _, line := range lines[:2] {
		cook(t, p, wrong, "sh", "-c", line).prints(`{"error":"wrong key"}`)
	}
	if len(lines) != 3 {
		t.Errorf("nothing tries %q", lines[3:])
	}
}

func TestCommandLineOfTheReadme(t *testing.T) {
	t.Parallel()
	p := serve(t)
	lines := commands(snippet.Of(t, "README.md", "vmstat 5"))
	// run starts a line of the block, as a client of that name, and takes it off the list.
	run := func(name, line string) *dish {
		t.Helper()
		i := slices.Index(lines, line)
		if i < 0 {
			t.Fatalf("README has no line %q", line)
		}
		lines = slices.Delete(lines, i, i+1)
		d := cook(t, p, append([]string{"PICLOUD_NAME=" + name}, wrong...), "bash", "-c", line)
		if strings.HasPrefix(line, "picloud") {
			d.prints("refuses this key")
			d.ends(false)
		}
		return cook(t, p, []string{"PICLOUD_NAME=" + name}, "bash", "-c", line)
	}
	text := run("text", "picloud sub temperature")
	whole := run("whole", "picloud sub --json temperature lamp")
	once := run("once", "picloud sub -n 1 door")
	table := run("table", "picloud info --watch")
	table.prints("connections ")
	for range 2 { // the second time after a restart
		p.hasSubscriber("temperature", "text")
		p.hasSubscriber("lamp", "whole")
		p.hasSubscriber("door", "once")
		for _, data := range messages(t) {
			p.publish("temperature", data)
			text.prints(shown(t, data))
			if !strings.HasPrefix(data, `"`) { // a string may be escaped in another way
				whole.prints(`"data":` + shown(t, data) + `,`)
			}
		}
		p.end()
		p.begin()
	}
	p.hasSubscriber("temperature", "text")
	p.hasSubscriber("lamp", "whole")
	p.hasSubscriber("door", "once")
	run("a", "picloud pub temperature '76.5 F'").ends(true)
	text.prints("76.5 F")
	whole.prints(`"data":"76.5 F"`)
	run("b", `picloud pub --json lamp '{"on": true, "level": 40}'`).ends(true)
	whole.prints(`"data":{"on":true,"level":40}`)
	p.publish("door", `"open"`)
	once.prints("open")
	once.ends(true)
	table.prints("connections ")
	d := run("c", "picloud info")
	d.prints("text")
	d.ends(true)

	p.subscribe("load")
	run("vmstat", "vmstat 5 | picloud pub load -")
	if m := p.next(); m.Event != "load" || !strings.Contains(string(m.Data), "memory") {
		t.Errorf("vmstat's first line came as %+v", m)
	}
	run("", "source <(picloud completion bash)").ends(true)

	// These need an installed service or a network of one's own; cmd/picloud tests them.
	lines = slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "sudo ") || line == "picloud discover" || line == "picloud bench"
	})
	if len(lines) > 0 {
		t.Errorf("nothing tries %q", lines)
	}
}

func TestTLSOfTheReadme(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	in := func(line string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		return cmd
	}
	make, serve, _ := strings.Cut(snippet.Of(t, "README.md", "bin/picloudd -make-cert"), "\n")
	if out, err := in(make).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	begin := func(port string) *daemon.Process {
		cmd := in("exec env " + serve)
		cmd.Env = append(os.Environ(), "PORT="+port, "API_KEY="+apiKey)
		return daemon.Launch(t, cmd)
	}
	p := begin("0")
	lines := commands(snippet.Put(t, snippet.Of(t, "README.md", "--cacert cert.pem"), "https://raspberrypi.local:9000", p.URL))
	for range 2 { // the second time after a restart
		for i, line := range lines {
			if i == 0 { // scp: the file is here
				continue
			}
			d := cook(t, nil, nil, "sh", "-c", "cd "+dir+" && "+line)
			d.prints([]string{"", "published", "connections"}[i])
			d.ends(true)
			cook(t, nil, wrong, "sh", "-c", "cd "+dir+" && "+line).prints("key")
		}
		p.Stop(t)
		p = begin(p.Port())
	}
}

func TestVariablesOfTheRecipes(t *testing.T) {
	t.Parallel()
	p := serve(t)
	dir := t.TempDir()
	if err := os.Symlink(bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	variables := snippet.Put(t, snippet.Of(t, "docs/recipes/README.md", "export PICLOUD_URL"),
		"http://raspberrypi.local:9000", p.url, "...", apiKey)
	path := snippet.Of(t, "docs/recipes/README.md", "export PATH")
	cmd := exec.Command("sh", "-euc", variables+path+"picloud pub hello world")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", daemon.AtOnce}
	p.subscribe("hello")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if m := p.next(); string(m.Data) != `"world"` {
		t.Errorf("got %+v", m)
	}
}

func TestSocketBehindAProxyIsAUnit(t *testing.T) {
	t.Parallel()
	verify(t, "", "no program", map[string]string{
		"picloud.socket":  snippet.Of(t, "docs/recipes/reverse-proxy.md", "[Socket]"),
		"picloud.service": "[Service]\nExecStart=/bin/true\n",
	})
}

// local starts a daemon that has the local socket as systemd would pass it, and returns a server and its socket's path.
func local(t *testing.T) (*picloudd, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "picloud-local-") // a Unix socket's address may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	public, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer public.Close()
	path := filepath.Join(dir, "picloud.sock")
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	socket.SetUnlinkOnClose(false)
	defer socket.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0"`, filepath.Join(bin, "picloudd"))
	cmd.Env = []string{"API_KEY=" + apiKey, "LISTEN_FDS=2"}
	for _, l := range []interface{ File() (*os.File, error) }{public.(*net.TCPListener), socket} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	p := &picloudd{t: t, address: public.Addr().String()}
	p.process = daemon.Launch(t, cmd)
	p.url = "http://" + p.address
	p.run()
	return p, path
}

func TestCurlOfTheProtocol(t *testing.T) {
	t.Parallel()
	p, socket := local(t)
	p.subscribe("temperature")
	curl := func(block string) string {
		t.Helper()
		block = strings.NewReplacer(readmesServer, p.url, "/run/picloud/picloud.sock", socket).Replace(block)
		cmd := exec.Command("sh", "-c", strings.Replace(block, "curl ", "curl -sS ", 1))
		cmd.Env = append(os.Environ(), "API_KEY="+apiKey)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, block, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, block := range []string{snippet.Of(t, "docs/protocol.md", "http://localhost/info"),
		snippet.Of(t, "docs/protocol.md", "http://localhost:9000/info")} {
		if out := curl(block); !strings.Contains(out, `"client_name":"test"`) {
			t.Errorf("%s: %s", block, out)
		}
	}
	post := snippet.Of(t, "docs/protocol.md", "http://localhost:9000/publish")
	for _, block := range []string{post, snippet.Of(t, "docs/operations.md", "http://localhost/publish")} {
		if out := curl(block); out != "" {
			t.Errorf("%s: %s", block, out)
		}
		p.gets("temperature", `"76.5 F"`, "Porch")
	}
	if out := curl(snippet.Of(t, "docs/protocol.md", "localhost:9000/healthz")); out != `{"status":"ok"}` {
		t.Errorf("the health is %s", out)
	}
	if out, want := curl(snippet.Put(t, post, `"event": "temperature", `, "")),
		strings.TrimSpace(snippet.Of(t, "docs/protocol.md", "event is required")); out != want {
		t.Errorf("without an event: %s, want %s", out, want)
	}

	// The page's code is another each time.
	shape := regexp.MustCompile(`"code":"[A-Z2-7]{26}"`)
	made := curl(snippet.Of(t, "docs/protocol.md", "sign-in/codes"))
	want := strings.TrimSpace(snippet.Of(t, "docs/protocol.md", "expires_in_seconds"))
	if shape.ReplaceAllString(made, "") != shape.ReplaceAllString(want, "") || !shape.MatchString(made) {
		t.Errorf("a code is %s, want it like %s", made, want)
	}
	var its, pages struct{ Code string }
	if err := json.Unmarshal([]byte(made), &its); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &pages); err != nil {
		t.Fatal(err)
	}
	signIn := snippet.Put(t, snippet.Of(t, "docs/protocol.md", "http://localhost:9000/sign-in -d"), pages.Code,
		its.Code)
	answer := snippet.Put(t, snippet.Of(t, "docs/protocol.md", "THE_KEY"), "THE_KEY", apiKey)
	if out, want := curl(signIn), strings.TrimSpace(answer); out != want {
		t.Errorf("the code gives %s, want %s", out, want)
	}
	if out := curl(signIn); !strings.Contains(out, `"error"`) {
		t.Errorf("a used code gives %s", out)
	}
}
