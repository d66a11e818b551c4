package recipes

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/internal/wire"
)

func TestShellPublishes(t *testing.T) {
	p := serve(t)
	p.subscribe("disk")
	p.subscribe("log")
	cook(t, p, nil, file(t, "publish-disk", code(t, "shell.md", "sh", 0))).ends(true)
	m := <-p.messages
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\d{1,3}$`).Match(m.Data) || m.Event != "disk" || m.ClientName != host {
		t.Errorf("got %+v", m)
	}
	d := cook(t, p, []string{"API_KEY=wrong"}, file(t, "publish-disk", code(t, "shell.md", "sh", 0)))
	d.prints("error")
	d.ends(false)

	lines := file(t, "publish-lines", code(t, "shell.md", "sh", 1))
	cook(t, p, []string{"PICLOUD_NAME=lines"}, "sh", "-c",
		`printf 'a "quoted" line\nanother\n' | `+lines+" log").ends(true)
	p.gets("log", `"a \"quoted\" line"`, "lines")
	p.gets("log", `"another"`, "lines")
}

func TestShellActsOnMessages(t *testing.T) {
	p := serve(t)
	act := file(t, "on-message", code(t, "shell.md", "sh", 2))
	d := cook(t, p, []string{"PICLOUD_NAME=actor"}, act, "door", "sh", "-c", `[ "$1" != fail ] && echo "acts on <$1>"`,
		"sh")
	p.hasSubscriber("door", "actor")
	p.publish("door", `"  two words"`)
	d.prints("acts on <  two words>")
	p.publish("door", `"fail"`)
	d.prints("on-message: sh failed for: fail")
	p.end()
	p.begin()
	p.hasSubscriber("door", "actor")
	p.publish("door", `"again"`)
	d.prints("acts on <again>")
}

func TestPythonSubscribesAndComesBack(t *testing.T) {
	p := serve(t)
	program := code(t, "python.md", "python", 0)
	if n := strings.Count(program, "\n"); n > 30 {
		t.Errorf("the page says 30 lines: there are %d", n)
	}
	p.subscribe("heating")
	d := cook(t, p, nil, "/usr/bin/python3", file(t, "thermostat.py", program))
	p.hasSubscriber("temperature", "Thermostat")
	p.publish("temperature", "18.5")
	d.prints("test 18.5")
	p.gets("heating", `"on"`, "Thermostat")
	p.end()
	p.begin()
	p.hasSubscriber("heating", "test")
	p.hasSubscriber("temperature", "Thermostat")
	p.publish("temperature", `"21"`)
	d.prints("test 21")
	p.gets("heating", `"off"`, "Thermostat")

	d = cook(t, p, []string{"API_KEY=wrong"}, "/usr/bin/python3", file(t, "thermostat.py", program))
	d.prints("401")
	d.ends(false)
}

func TestPythonPublishes(t *testing.T) {
	p := serve(t)
	p.subscribe("temperature")
	for program, data := range map[string]string{
		code(t, "python.md", "python", 1):                                               "18.5",
		put(t, code(t, "../../README.md", "python", 0), "http://localhost:9000", p.url): `"76.5 F"`,
	} {
		path := file(t, "publish.py", program)
		cook(t, p, nil, "/usr/bin/python3", path).ends(true)
		p.gets("temperature", data, "Porch")
		cook(t, p, []string{"API_KEY=wrong"}, "/usr/bin/python3", path).ends(false)
	}
}

func TestWebPageSubscribesPublishesAndComesBack(t *testing.T) {
	p := serve(t)
	page := put(t, code(t, "web-page.md", "html", 0), "ws://raspberrypi.local:9000", "ws://"+p.address,
		"PUT THE KEY HERE", apiKey)
	script := regexp.MustCompile(`(?s)<script>\n(.*)</script>`).FindStringSubmatch(page)[1]
	d := cook(t, nil, []string{"NODE_PATH=/usr/share/nodejs"}, "node", "testdata/browser.js",
		file(t, "page.js", script))
	p.hasSubscriber("temperature", "Page")
	p.publish("temperature", `"12 F"`)
	d.prints("#now: test: 12 F")
	p.subscribe("temperature")
	d.cmd.Process.Signal(syscall.SIGUSR2) // a click
	p.gets("temperature", `"76.5 F"`, "Page")
	p.end()
	p.begin()
	p.hasSubscriber("temperature", "Page")
	p.publish("temperature", `"13 F"`)
	d.prints("#now: test: 13 F")
}

func TestCPUTemperatureIsPublished(t *testing.T) {
	p := serve(t)
	p.subscribe("cpu-temperature")
	program := file(t, "publish-cpu-temperature", code(t, "cpu-temperature.md", "sh", 0))
	for thousandths, want := range map[string]string{"48312": "48.3", "60000": "60.0", "7099": "7.0"} {
		cook(t, p, []string{"PICLOUD_NAME=cpu"}, program, file(t, "temp", thousandths+"\n")).ends(true)
		p.gets("cpu-temperature", want, "cpu")
	}
	cook(t, p, nil, program, "/nonexistent").ends(false)

	verify(t, program, "/usr/local/bin/publish-cpu-temperature", map[string]string{
		"publish-cpu-temperature.service": code(t, "cpu-temperature.md", "ini", 0),
		"publish-cpu-temperature.timer":   code(t, "cpu-temperature.md", "ini", 1),
	})
}

// verify makes systemd check units that run a program. It reports a word that it does not know, but does not fail on
// it.
func verify(t *testing.T, program, installed string, units map[string]string) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for name, text := range units {
		if strings.HasSuffix(name, ".service") {
			text = put(t, text, installed, program)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	cmd := exec.Command("systemd-analyze", args...)
	// The group exists where PiCloud is installed, and the units of other packages are not tested here.
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}

func TestHomeAssistantsRequestsAreUnderstood(t *testing.T) {
	p := serve(t)
	p.subscribe("lamp")
	const asJSON = `
import json, sys, yaml
class Loader(yaml.SafeLoader): pass
Loader.add_constructor("!secret", lambda loader, node: "secret:" + node.value)
print(json.dumps([yaml.load(open(name), Loader) for name in sys.argv[1:]]))`
	out, err := exec.Command("/usr/bin/python3", "-c", asJSON,
		file(t, "a.yaml", code(t, "home-assistant.md", "yaml", 0)),
		file(t, "b.yaml", code(t, "home-assistant.md", "yaml", 1)),
		file(t, "c.yaml", code(t, "home-assistant.md", "yaml", 2))).Output()
	if err != nil {
		t.Fatalf("its YAML: %v", err)
	}
	type request struct {
		URL, Resource, Method, Payload string
		Headers                        map[string]string
		ContentType                    string `json:"content_type"`
		ValueTemplate                  string `json:"value_template"`
	}
	var pages []struct {
		RestCommand map[string]request `json:"rest_command"`
		Sensor      []request
		Actions     []struct {
			Action string
			Data   map[string]any
		}
		Template []struct {
			Triggers []struct{ Trigger string }
			Sensor   []struct{ State string }
		}
	}
	if err := json.Unmarshal(out, &pages); err != nil {
		t.Fatal(err)
	}
	send := func(method, url, body, contentType string, headers map[string]string) (int, []byte) {
		t.Helper()
		r, err := http.NewRequest(method, put(t, url, "http://raspberrypi.local:9000", p.url), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range headers {
			r.Header.Set(name, strings.Replace(value, "secret:picloud_key", apiKey, 1))
		}
		r.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, text
	}

	call := pages[1].Actions[0]
	publish := pages[0].RestCommand[strings.TrimPrefix(call.Action, "rest_command.")]
	body := publish.Payload
	for name, value := range call.Data {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		body = put(t, body, "{{ "+name+" | to_json }}", string(text))
	}
	if status, text := send("POST", publish.URL, body, publish.ContentType,
		publish.Headers); status != http.StatusCreated || publish.Method != "post" {
		t.Errorf("%s %s: status %d: %s", publish.Method, body, status, text)
	}
	p.gets("lamp", `{"level":40,"on":true}`, "Home Assistant")

	sensor := pages[0].Sensor[0]
	status, text := send("GET", sensor.Resource, "", "", sensor.Headers)
	var value any
	if err := json.Unmarshal(text, &value); err != nil || status != http.StatusOK {
		t.Fatalf("status %d: %v: %s", status, err, text)
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(strings.Trim(sensor.ValueTemplate, "{} "), "value_json."),
		".") {
		object, ok := value.(map[string]any)
		if !ok {
			t.Fatalf("%s is not in %s", sensor.ValueTemplate, text)
		}
		value = object[name]
	}
	if value != 1.0 {
		t.Errorf("%s is %v, want 1", sensor.ValueTemplate, value)
	}
	if s := pages[2].Template[0]; s.Triggers[0].Trigger != "webhook" || s.Sensor[0].State != "{{ trigger.json.data }}" {
		t.Errorf("the sensor of an event is %+v", s)
	}
}

func TestHomeAssistantsWebhookGetsEachMessage(t *testing.T) {
	p := serve(t)
	bodies := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.Method + " " + r.Header.Get("Content-Type") + " " + string(body)
	}))
	defer hook.Close()
	program := file(t, "picloud-to-webhook", code(t, "home-assistant.md", "sh", 0))
	cook(t, p, []string{"WEBHOOK=" + hook.URL, "PICLOUD_NAME=hook"}, program, "temperature")
	p.hasSubscriber("temperature", "hook")
	p.publish("temperature", "18.5")
	select {
	case got := <-bodies:
		message, ok := strings.CutPrefix(got, "POST application/json ")
		var d wire.Delivery
		if err := json.Unmarshal([]byte(message), &d); err != nil || !ok || string(d.Data) != "18.5" {
			t.Errorf("the webhook got %s (%v)", got, err)
		}
	case <-time.After(late):
		t.Fatal("the webhook got nothing")
	}
	verify(t, program, "/usr/local/bin/picloud-to-webhook", map[string]string{
		"picloud-to-home-assistant.service": code(t, "home-assistant.md", "ini", 0),
	})
}

func TestESP32SendsWhatTheServerUnderstands(t *testing.T) {
	sketch := code(t, "esp32.md", "cpp", 0)
	texts := regexp.MustCompile(`sendTXT\("(.*)"\)`).FindAllStringSubmatch(sketch, -1)
	if len(texts) == 0 {
		t.Fatal("the sketch sends no text")
	}
	for _, m := range texts {
		text := strings.ReplaceAll(m[1], `\"`, `"`)
		if message, err := wire.Decode([]byte(text)); err != nil || message.Action != wire.Subscribe {
			t.Errorf("%s: %v", text, err)
		}
	}
	fields := make(map[string]string)
	for _, m := range regexp.MustCompile(`message\["(\w+)"\] = (.*);`).FindAllStringSubmatch(sketch, -1) {
		fields[m[1]] = strings.ReplaceAll(m[2], "temperatureRead()", "53.3")
	}
	text := `{"action":` + fields["action"] + `,"event":` + fields["event"] + `,"data":` + fields["data"] + `}`
	if message, err := wire.Decode([]byte(text)); err != nil || message.Action != wire.Publish ||
		string(message.Event) != "temperature" {
		t.Errorf("%s: %v", text, err)
	}
	p := serve(t)
	begin := regexp.MustCompile(`ws\.begin\("[^"]+", 9000, "(/subscribe\?[^"]+)"\)`).FindStringSubmatch(sketch)
	header := regexp.MustCompile(`setExtraHeaders\("([^:]+): THE KEY"\)`).FindStringSubmatch(sketch)
	if begin == nil || header == nil {
		t.Fatal("where does the sketch connect?")
	}
	r, err := http.NewRequest("GET", p.url+begin[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{header[1]: apiKey, "Upgrade": "websocket", "Connection": "Upgrade",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("its handshake: %s", resp.Status)
	}
}

// Each page says at its end how it was tested, so each must be in the table.
func TestEachRecipeIsListed(t *testing.T) {
	table, err := os.ReadFile("../../docs/recipes/README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/recipes/*.md")
	if err != nil || len(pages) < 2 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(string(table), "]("+name+")") {
			t.Errorf("README.md does not list %s", name)
		}
	}
}
