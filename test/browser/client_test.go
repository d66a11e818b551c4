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
	"picloud/test/snippet"
	"picloud/test/wait"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
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

// counted counts a page's WebSockets and the timers that are still to run, and keeps what it logs.
func counted(ctx context.Context, t *chromedp.Target) error {
	_, err := cdp.Call(ctx, t, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{
		Source: `
			globalThis.sockets = 0;
			globalThis.timers = new Set();
			globalThis.logged = '';
			globalThis.WebSocket = class extends WebSocket {
				constructor(...args) { super(...args); sockets++; }
			};
			const {setTimeout: begin, clearTimeout: end} = globalThis;
			globalThis.setTimeout = (f, ms) => {
				const timer = begin(() => { timers.delete(timer); f(); }, ms);
				if (/http:/.test(new Error().stack)) timers.add(timer); // those of the page: chromedp has some, too
				return timer;
			};
			globalThis.clearTimeout = (timer) => { timers.delete(timer); end(timer); };
			const text = (word) => typeof word === 'string' ? word : JSON.stringify(word);
			console.log = (...words) => { logged += words.map(text).join(': ') + '\n'; };`,
	})
	return err
}

// The pages in the documents, from an origin other than the server's.
func TestPagesFromElsewhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, html, server, client string
		shown                      string // what the page shows, as JavaScript
		open, away, refused        string // what it says of the connection; empty: nothing
	}{
		{"README", snippet.Of(t, "README.md", "<!doctype html>"), "http://localhost:9000", "Page",
			`document.querySelector('#now').textContent`, "open", "away", "The server does not know this key."},
		{"web-page", snippet.Of(t, "docs/recipes/web-page.md", "<!doctype html>"), "http://raspberrypi.local:9000",
			"Page", `document.querySelector('#now').textContent`, "connected", "trying again",
			"The server does not know this key."},
		{"browser", snippet.Of(t, "docs/browser.md", "<script"), "http://raspberrypi.local:9000", "Hall display",
			`logged`, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			from := func(key string) string {
				html := snippet.Put(t, c.html, c.server, s.url, "PUT THE KEY HERE", key)
				elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/html; charset=utf-8")
					if r.URL.Path == "/" {
						io.WriteString(w, html)
					}
				}))
				t.Cleanup(elsewhere.Close)
				return elsewhere.URL + "/"
			}
			p := open(t, from(key), chromedp.Func(counted))
			says := func(p *page, text string) {
				t.Helper()
				if text != "" {
					p.shows("#state", text)
				}
			}
			for i := range 2 { // the second time after a restart
				says(p, c.open)
				s.hasSubscriber("temperature", c.client)
				for _, m := range []struct{ data, text string }{
					{`"76.5 F"`, "76.5 F"},
					{`{"on": true, "level": 40}`, `{"on":true,"level":40}`},
					{`"two\nlines, <b>24 °C</b>, it's \"quoted\""`, "two\nlines, <b>24 °C</b>, it's \"quoted\""},
					{`null`, "null"},
					{`18.5`, "18.5"},
				} {
					s.post("Porch", "temperature", m.data)
					p.until(c.shown + `.includes(` + quote("Porch: "+m.text) + `)`)
				}
				if i == 0 {
					s.stop()
					says(p, c.away)
					s.again()
				}
			}
			if c.open != "" {
				eval[any](p, `void document.querySelector('#publish').click()`)
				p.until(c.shown + `.includes("Page: 76.5 F")`)
			}

			q := open(t, from("wrong"), chromedp.Func(counted))
			says(q, c.refused)
			if c.refused == "" {
				wait.Until(t, "the console says that the key is wrong", func() bool {
					return q.showed("The server does not know this key.")
				})
			}
			if n := eval[int](q, `sockets`); n != 1 {
				t.Errorf("with a wrong key it has tried %d times", n)
			}
			if n := eval[int](q, `timers.size`); n != 0 {
				t.Errorf("with a wrong key it will try again: %d timers run", n)
			}
			for _, p := range []*page{p, q} {
				p.do(chromedp.Navigate("about:blank")) // else it would notice that the server stops
				p.forgive("WebSocket")
				p.forgive("426 (Upgrade Required)")
				p.forgive("ERR_CONNECTION_REFUSED")
				p.forgive("401 (Unauthorized)")
				p.forgive("The server does not know this key.")
				p.mu.Lock()
				p.foreign = nil // the server is another host here
				p.mu.Unlock()
			}
		})
	}
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
