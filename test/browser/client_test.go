package browser

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"picloud/test/daemon"
	"picloud/test/wait"

	"github.com/chromedp/chromedp"
)

// client fetches the browser client as the server serves it, into a file that Node takes for a module.
func client(t *testing.T, s *server) string {
	t.Helper()
	answer, err := http.Get(s.url + "/picloud.js")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	module, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET /picloud.js: %s, %v", answer.Status, err)
	}
	file := filepath.Join(t.TempDir(), "picloud.mjs")
	if err := os.WriteFile(file, module, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBrowserClient(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "testdata/client.test.mjs")
	cmd.Env = append(os.Environ(), "CLIENT="+client(t, start(t)), "PICLOUDD="+filepath.Join(bin, "picloudd"),
		"NODE_PATH=/usr/share/nodejs")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if passed := regexp.MustCompile(`(?m)^# pass ([1-9]\d)$`); !passed.Match(out) {
		t.Errorf("not all of it ran:\n%s", out)
	}
}

func TestScriptsAreTyped(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "node", "testdata/node_modules/typescript/bin/tsc", "--project",
		"testdata").CombinedOutput()
	if err != nil {
		t.Errorf("%v (scripts/setup installs it)\n%s", err, out)
	}
}

// The page in the README, from an origin other than the server's.
func TestPageFromElsewhere(t *testing.T) {
	t.Parallel()
	s := start(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```html\n(.*?)```").FindSubmatch(readme)
	if example == nil {
		t.Fatal("the README has no page")
	}
	html := strings.NewReplacer("http://localhost:9000", s.url, "PUT THE KEY HERE", key).Replace(string(example[1]))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.URL.Path == "/" {
			io.WriteString(w, html)
		}
	}))
	defer elsewhere.Close()
	p := open(t, elsewhere.URL+"/")
	eval[any](p, `void document.querySelector('#publish').click()`)
	p.shows("#now", "Page: 76.5 F")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.foreign = nil // the server is another host here
}

// Each line that the page shows works exactly as shown.
func TestLinesForElsewhereWorkAsWritten(t *testing.T) {
	t.Parallel()
	const event, text, json = `--it's "quoted" $HOME`, `24 °C, isn't it? \n "$PATH"`,
		`{"big": 12345678901234567890, "text": "it's"}`
	s := start(t)
	p := signedIn(t, s)
	p.do(chromedp.SetValue(`#name`, "Pörch 1"), chromedp.SetValue(`#watch-event`, event),
		chromedp.SetValue(`#publish-event`, event),
		chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)

	module := client(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(code, language, key string) *exec.Cmd {
		var cmd *exec.Cmd
		switch language {
		case "python":
			cmd = exec.CommandContext(ctx, "/usr/bin/python3", "-c", code)
		case "javascript":
			// Node does not load modules over HTTP, and older versions have no WebSocket.
			code = strings.NewReplacer(s.url+"/picloud.js", module, "PUT THE KEY HERE", key).Replace(code)
			code = "import {createRequire} from 'node:module';\nglobalThis.WebSocket ??= createRequire('/')('ws');\n" +
				code
			cmd = exec.CommandContext(ctx, "node", "--input-type=module", "--eval", code)
		default:
			// Without exec the shell would be killed, not what it runs.
			cmd = exec.CommandContext(ctx, "sh", "-c", strings.Replace(code, "picloud --url", "exec picloud --url", 1))
		}
		cmd.Env = append(os.Environ(), "API_KEY="+key, "NODE_PATH=/usr/share/nodejs", "PATH="+bin+":"+os.Getenv("PATH"),
			daemon.AtOnce)
		cmd.Stderr = t.Output()
		cmd.WaitDelay = time.Second
		return cmd
	}

	languages := map[string]string{ // and what each says of a wrong key
		"curl":       `{"error":"wrong key"}`,
		"picloud":    "the server refuses this key",
		"python":     "401 Unauthorized",
		"javascript": "The server does not know this key.",
	}
	// refused checks that a line says so when the key is wrong, and ends.
	refused := func(code, language string) {
		t.Helper()
		cmd := run(code, language, "wrong")
		cmd.Stderr = nil
		out, err := cmd.CombinedOutput()
		said := strings.Replace(string(out), "Error 401: ", "401 ", 1) // as urllib says it
		if !strings.Contains(said, languages[language]) || (err != nil) != (language != "curl") {
			t.Errorf("with a wrong key: %v\n%s\n%s", err, code, out)
		}
	}
	for language := range languages {
		p.do(chromedp.Click(`#languages input[value="` + language + `"]`))
		for _, kind := range []struct{ button, data, shown string }{
			{"#as-text", text, text},
			{"#as-text", "two\nlines", "two\nlines"},
			{"#as-text", "76.5 F", "76.5 F"},
			{"#as-text", "--json", "--json"},
			{"#as-text", "-", "-"},
			{"#as-json", json, `{"big":12345678901234567890,"text":"it's"}`},
			{"#as-json", "-5", "-5"},
		} {
			if language == "javascript" && kind.data == json {
				kind.shown = "it's" // its numbers have 16 digits
			}
			p.do(chromedp.Click(`#clear`), chromedp.Click(kind.button), chromedp.SetValue(`#publish-data`, kind.data))
			eval[any](p, `void document.querySelector('#publish-data').dispatchEvent(new Event('input', {bubbles: true}))`)
			if eval[bool](p, `document.querySelector('#pretty').checked`) {
				p.do(chromedp.Click(`#pretty`))
			}
			code := eval[string](p, `document.querySelector('#publish-code').textContent`)
			if kind.data == text {
				refused(code, language)
			}
			cmd := run(code, language, key)
			if language == "javascript" {
				cmd = run(code+"\nprocess.exit();", language, key) // it would otherwise stay connected
			}
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, code)
			}
			p.shows("#messages pre", kind.shown)
			p.shows("#messages li", "Pörch 1")
		}
	}

	hearing := make(map[string]*bufio.Reader)
	for language := range languages {
		p.do(chromedp.Click(`#languages input[value="` + language + `"]`))
		code := eval[string](p, `document.querySelector('#watch-code').textContent`)
		refused(code, language)
		cmd := run(code, language, key)
		if language == "curl" {
			out, err := cmd.Output()
			if err != nil || !strings.Contains(string(out), `"Pörch 1"`) {
				t.Errorf("%v\n%s\n%s", err, code, out)
			}
			continue
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		hearing[language] = bufio.NewReader(stdout)
	}
	hear := func(text string) {
		t.Helper()
		wait.Until(t, "these and the page are subscribed", func() bool {
			all := s.info().Subscriptions
			return len(all) == 1 && len(all[0].Connections) == len(hearing)+1
		})
		s.post("x", event, quote(text))
		for language, out := range hearing {
			if line, err := out.ReadString('\n'); err != nil || strings.TrimSpace(line) != text {
				t.Errorf("%s heard %q, %v", language, line, err)
			}
		}
	}
	hear("do you hear me?")
	s.stop()
	if line, err := hearing["python"].ReadString('\n'); err != io.EOF {
		t.Errorf("python heard %q, %v, and ends with the server", line, err)
	}
	delete(hearing, "python")
	s.again()
	hear("do you hear me again?")
	p.forgive("WebSocket")
	p.forgive("426 (Upgrade Required)")
	p.forgive("ERR_CONNECTION_REFUSED")
}
