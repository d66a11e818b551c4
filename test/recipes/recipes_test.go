package recipes

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"picloud/internal/wire"
	"picloud/test/peer"
	"picloud/test/snippet"
	"picloud/test/wait"
)

// messages returns what the recipes must get through, as JSON: what README publishes, and what else anybody may.
func messages(t *testing.T) []string {
	t.Helper()
	commands := snippet.Of(t, "README.md", "vmstat 5")
	var list []string
	pub := regexp.MustCompile(`(?m)^picloud pub (--json )?\S+ '(.*?)'$`)
	for _, m := range pub.FindAllStringSubmatch(commands, -1) {
		data := m[2]
		if m[1] == "" {
			data = quote(t, data)
		}
		list = append(list, data)
	}
	if len(list) < 2 {
		t.Fatalf("README publishes %q", list)
	}
	return append(list, `"two\nlines\r\n"`, `"it's \"quoted\" $HOME $(id) \\n"`, `"24 °C \ud83c\udf21 \ud800"`, `"  "`,
		`"--json"`, `""`, `null`, `true`, `["a",{}]`, `12345678901234567890`, strings.Repeat("9", 5000),
		strings.Repeat("[", 9000)+strings.Repeat("]", 9000))
}

func quote(t *testing.T, text string) string {
	t.Helper()
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shown is what picloud sub prints for a message.
func shown(t *testing.T, data string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(data)); err != nil {
		t.Fatal(err)
	}
	var text string
	if json.Unmarshal([]byte(data), &text) == nil && data != "null" {
		return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(text)
	}
	return b.String()
}

func TestShellPublishes(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.subscribe("disk")
	p.subscribe("log")
	disk := file(t, "publish-disk", snippet.Of(t, "docs/recipes/shell.md", "publish-disk"))
	cook(t, p, nil, disk).ends(true)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if m := p.next(); !regexp.MustCompile(`^\d{1,3}$`).Match(m.Data) || m.Event != "disk" || m.ClientName != host {
		t.Errorf("got %+v", m)
	}
	d := cook(t, p, wrong, disk)
	d.prints(`{"error":"wrong key"}`)
	d.ends(false)

	lines := file(t, "publish-lines", snippet.Of(t, "docs/recipes/shell.md", "publish-lines"))
	cook(t, p, []string{"PICLOUD_NAME=lines"}, "sh", "-c",
		`printf '76.5 F\n{"on": true}\na "quoted" line, 24 °C\n' | `+lines+" log").ends(true)
	p.gets("log", `"76.5 F"`, "lines")
	p.gets("log", `"{\"on\": true}"`, "lines")
	p.gets("log", `"a \"quoted\" line, 24 °C"`, "lines")
	d = cook(t, p, wrong, "sh", "-c", "echo x | "+lines+" log")
	d.prints("refuses this key")
	d.ends(false)

	// It goes on after a restart, and curl waits for one.
	input, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	d = cookWith(t, p, input, []string{"PICLOUD_NAME=lines"}, lines, "log")
	input.Close()
	io.WriteString(feed, "before\n")
	p.gets("log", `"before"`, "lines")
	p.end()
	waiting := cook(t, p, nil, disk)
	waiting.prints("Failed to connect")
	p.begin()
	p.hasSubscriber("log", "test")
	p.hasSubscriber("disk", "test")
	io.WriteString(feed, "after\n")
	waiting.ends(true)
	got := []wire.Delivery{p.next(), p.next()}
	slices.SortFunc(got, func(a, b wire.Delivery) int { return strings.Compare(a.Event, b.Event) })
	if got[0].Event != "disk" || got[1].Event != "log" || string(got[1].Data) != `"after"` {
		t.Errorf("after the restart came %+v", got)
	}
	feed.Close()
	d.ends(true)
}

func TestShellActsOnMessages(t *testing.T) {
	t.Parallel()
	p := serve(t)
	act := file(t, "on-message", snippet.Of(t, "docs/recipes/shell.md", "on-message EVENT"))
	// The command would read the messages that follow, were they its input.
	d := cook(t, p, []string{"PICLOUD_NAME=actor"}, act, "door", "sh", "-c",
		`cat; [ "$1" != fail ] && printf 'acts on <%s>\n' "$1"`, "sh")
	p.hasSubscriber("door", "actor")
	for _, data := range messages(t) {
		p.publish("door", data)
	}
	d.prints("picloud: subscribed")
	for _, data := range messages(t) {
		if line := d.line(); line != "acts on <"+shown(t, data)+">" {
			t.Errorf("%.60s: the command printed %.60s", data, line)
		}
	}
	p.publish("door", `"fail"`)
	d.prints("on-message: sh failed for: fail")
	p.end()
	p.begin()
	p.hasSubscriber("door", "actor")
	p.publish("door", `"again"`)
	d.prints("acts on <again>")

	d = cook(t, p, wrong, act, "door", "echo")
	d.prints("refuses this key")
	d.ends(false)
}

// The lines on the page, with programs of the reader's that print what they are given.
func TestShellsLines(t *testing.T) {
	t.Parallel()
	p := serve(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"on-message":  snippet.Of(t, "docs/recipes/shell.md", "on-message EVENT"),
		"notify-send": "#!/bin/sh\nprintf '%s|' notified \"$@\"\necho\n",
		"switch-lamp": "#!/bin/sh\nprintf '%s|' switched \"$@\"\necho\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	door, lamp, _ := strings.Cut(strings.TrimSpace(snippet.Of(t, "docs/recipes/shell.md", "notify-send")), "\n")
	here := func(name, line string) *dish {
		return cook(t, p, []string{"PICLOUD_NAME=" + name}, "sh", "-c", "cd "+dir+" && PATH=.:$PATH && exec "+line)
	}
	notify, light := here("notify", door), here("light", lamp)
	once := cook(t, p, []string{"PICLOUD_NAME=once"}, "sh", "-c",
		snippet.Of(t, "docs/recipes/shell.md", "picloud sub -n 1 door"))
	p.hasSubscriber("door", "notify")
	p.hasSubscriber("lamp", "light")
	p.hasSubscriber("door", "once")
	p.publish("door", `"a visitor\nwith a dog"`)
	p.publish("lamp", `{"on": true, "level": 40}`)
	notify.prints(`notified|At the door:|a visitor\nwith a dog|`)
	light.prints(`switched|{"on":true,"level":40}|`)
	once.prints("Somebody is at the door")
	once.ends(true)
}

func TestPythonSubscribesAndComesBack(t *testing.T) {
	t.Parallel()
	p := serve(t)
	text := snippet.Of(t, "docs/recipes/python.md", "import asyncio")
	if n := strings.Count(text, "\n"); n > 35 {
		t.Errorf("the page says 35 lines: there are %d", n)
	}
	program := file(t, "thermostat.py", text)
	p.subscribe("heating")
	d := cook(t, p, nil, "/usr/bin/python3", program)
	p.hasSubscriber("temperature", "Thermostat")
	for _, data := range messages(t) {
		p.publish("temperature", data)
	}
	p.publish("temperature", "18.5")
	for _, data := range messages(t) {
		if number, err := strconv.ParseFloat(data, 64); err == nil && !math.IsInf(number, 0) {
			p.gets("heating", `"off"`, "Thermostat")
		} else if data == "true" { // to Python it is a 1
			p.gets("heating", `"on"`, "Thermostat")
		}
	}
	d.prints(`no temperature: {"action":"publish","event":"temperature","data":"76.5 F"`)
	d.prints("test 18.5")
	p.gets("heating", `"on"`, "Thermostat")
	p.end()
	p.begin()
	p.hasSubscriber("heating", "test")
	p.hasSubscriber("temperature", "Thermostat")
	p.publish("temperature", `"21"`)
	d.prints("test 21")
	p.gets("heating", `"off"`, "Thermostat")

	d = cook(t, p, wrong, "/usr/bin/python3", program)
	d.prints("the server does not know this key")
	d.ends(false)
}

func TestPythonPublishes(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.subscribe("temperature")
	for program, data := range map[string]string{
		snippet.Of(t, "docs/recipes/python.md", "import json, os, urllib.request"):                  "18.5",
		snippet.Put(t, snippet.Of(t, "README.md", "import json, os, urllib"), readmesServer, p.url): `"76.5 F"`,
	} {
		path := file(t, "publish.py", program)
		cook(t, p, nil, "/usr/bin/python3", path).ends(true)
		p.gets("temperature", data, "Porch")
		d := cook(t, p, wrong, "/usr/bin/python3", path)
		d.prints("HTTP Error 401: Unauthorized")
		d.ends(false)
		p.end()
		cook(t, p, nil, "/usr/bin/python3", path).ends(false)
		p.begin()
		p.hasSubscriber("temperature", "test")
	}
}

func TestCPUTemperatureIsPublished(t *testing.T) {
	t.Parallel()
	p := serve(t)
	p.subscribe("cpu-temperature")
	program := file(t, "publish-cpu-temperature", snippet.Of(t, "docs/recipes/cpu-temperature.md", "#!/bin/sh"))
	lines := strings.Split(snippet.Of(t, "docs/recipes/cpu-temperature.md", "enable --now"), "\n")
	watching := cook(t, p, []string{"PICLOUD_NAME=watching"}, "sh", "-c", "exec "+lines[1])
	p.hasSubscriber("cpu-temperature", "watching")
	for thousandths, want := range map[string]string{"48312": "48.3", "60000": "60.0", "7099": "7.0"} {
		cook(t, p, []string{"PICLOUD_NAME=cpu"}, program, file(t, "temp", thousandths+"\n")).ends(true)
		p.gets("cpu-temperature", want, "cpu")
		watching.prints(want)
	}
	cook(t, p, nil, program, "/nonexistent").ends(false)
	d := cook(t, p, wrong, program, file(t, "temp", "48312\n"))
	d.prints("refuses this key")
	d.ends(false)

	// The timer runs it again, after a restart too.
	p.end()
	cook(t, p, nil, program, file(t, "temp", "48312\n")).ends(false)
	p.begin()
	p.hasSubscriber("cpu-temperature", "test")
	cook(t, p, []string{"PICLOUD_NAME=cpu"}, program, file(t, "temp", "48312\n")).ends(true)
	p.gets("cpu-temperature", "48.3", "cpu")

	verify(t, program, "/usr/local/bin/publish-cpu-temperature", map[string]string{
		"publish-cpu-temperature.service": snippet.Of(t, "docs/recipes/cpu-temperature.md", "ExecStart="),
		"publish-cpu-temperature.timer":   snippet.Of(t, "docs/recipes/cpu-temperature.md", "[Timer]"),
	})
}

// verify makes systemd check units that run a program, which is installed elsewhere in them. systemd reports a word
// that it does not know, but does not fail on it.
func verify(t *testing.T, program, installed string, units map[string]string) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for name, text := range units {
		if strings.Contains(text, installed) {
			text = snippet.Put(t, text, installed, program)
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
	t.Parallel()
	p := serve(t)
	p.subscribe("lamp")
	const asJSON = `
import json, sys, yaml
class Loader(yaml.SafeLoader): pass
Loader.add_constructor("!secret", lambda loader, node: "secret:" + node.value)
print(json.dumps([yaml.load(open(name), Loader) for name in sys.argv[1:]]))`
	out, err := exec.Command("/usr/bin/python3", "-c", asJSON,
		file(t, "a.yaml", snippet.Of(t, "docs/recipes/home-assistant.md", "rest_command:")),
		file(t, "b.yaml", snippet.Of(t, "docs/recipes/home-assistant.md", "actions:")),
		file(t, "c.yaml", snippet.Of(t, "docs/recipes/home-assistant.md", "webhook_id"))).Output()
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
			Triggers   []struct{ Trigger string }
			Conditions []string
			Sensor     []struct{ State string }
		}
	}
	if err := json.Unmarshal(out, &pages); err != nil {
		t.Fatal(err)
	}
	send := func(method, url, body, contentType string, headers map[string]string) (int, []byte) {
		t.Helper()
		r, err := http.NewRequest(method, snippet.Put(t, url, "http://raspberrypi.local:9000", p.url),
			strings.NewReader(body))
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
	example, err := json.Marshal(call.Data["data"])
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range append(messages(t), string(example)) {
		body := snippet.Put(t, publish.Payload, "{{ event | to_json }}", quote(t, call.Data["event"].(string)),
			"{{ data | to_json }}", data)
		if status, text := send("POST", publish.URL, body, publish.ContentType,
			publish.Headers); status != http.StatusCreated || publish.Method != "post" {
			t.Errorf("%s %.60s: status %d: %s", publish.Method, body, status, text)
		}
		p.gets("lamp", data, "Home Assistant")
	}
	publish.Headers["X-API-Key"] = "wrong"
	if status, _ := send("POST", publish.URL, "{}", publish.ContentType,
		publish.Headers); status != http.StatusUnauthorized {
		t.Errorf("with a wrong key: status %d", status)
	}

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
	if s := pages[2].Template[0]; s.Triggers[0].Trigger != "webhook" ||
		s.Sensor[0].State != "{{ trigger.json.data }}" || s.Conditions[0] != "{{ is_number(trigger.json.data) }}" {
		t.Errorf("the sensor of an event is %+v", s)
	}
}

func TestHomeAssistantsWebhookGetsEachMessage(t *testing.T) {
	t.Parallel()
	p := serve(t)
	bodies := make(chan string, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.Method + " " + r.Header.Get("Content-Type") + " " + string(body)
		if strings.Contains(string(body), `"refuse"`) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer hook.Close()
	program := file(t, "picloud-to-webhook", snippet.Of(t, "docs/recipes/home-assistant.md", "picloud sub --json"))
	running := cook(t, p, []string{"WEBHOOK=" + hook.URL, "PICLOUD_NAME=hook"}, program, "temperature")
	brings := func(data string) {
		t.Helper()
		p.publish("temperature", data)
		got := wait.For(t, bodies, "the webhook gets nothing")
		message, ok := strings.CutPrefix(got, "POST application/json ")
		var d wire.Delivery
		if err := json.Unmarshal([]byte(message), &d); err != nil || !ok || shown(t, string(d.Data)) != shown(t, data) {
			t.Errorf("the webhook got %.200s (%v), want %.60s", got, err, data)
		}
	}
	p.hasSubscriber("temperature", "hook")
	for _, data := range append(messages(t), `"refuse"`) {
		brings(data)
	}
	running.prints("picloud-to-webhook: a message was not taken")
	p.end()
	p.begin()
	p.hasSubscriber("temperature", "hook")
	brings("18.5")

	d := cook(t, p, wrong, program, "temperature")
	d.prints("refuses this key")
	d.ends(false) // so that systemd sees it

	verify(t, program, "/usr/local/bin/picloud-to-webhook", map[string]string{
		"picloud-to-home-assistant.service": snippet.Of(t, "docs/recipes/home-assistant.md", "ExecStart="),
	})
}

// The sketch is not compiled, so what it sends is read out of it. How the library asks for a WebSocket is from its
// source, WebSocketsClient::sendHeader.
func TestESP32SendsWhatTheServerUnderstands(t *testing.T) {
	t.Parallel()
	sketch := snippet.Of(t, "docs/recipes/esp32.md", "WebSocketsClient")
	one := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(sketch, -1)
		if len(found) != 1 {
			t.Fatalf("the sketch has %d of %s, want one", len(found), pattern)
		}
		return strings.ReplaceAll(found[0][1], `\"`, `"`)
	}
	target := one(`PATH = "(.*)";`)
	header := one(`setExtraHeaders\(\(String\("(.*)"\) \+ KEY\)`)
	subscribe := one(`sendTXT\("(.*)"\);`)
	// String makes two digits of a float.
	publish := one(`String text = String\("(.*)"\) \+ temperatureRead`) + "53.33" +
		one(`temperatureRead\(\) \+ "(.*)";`)

	p := serve(t)
	p.subscribe("temperature")
	connect := func(key string) (*peer.Peer, int) {
		t.Helper()
		c := peer.Dial(t, "tcp", p.address)
		c.Raw([]byte("GET " + target + " HTTP/1.1\r\nHost: " + p.address + "\r\nConnection: Upgrade\r\n" +
			"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + peer.Nonce + "\r\n" +
			"Sec-WebSocket-Protocol: arduino\r\n" + header + key + "\r\nUser-Agent: arduino-WebSocket-Client\r\n\r\n"))
		answer, err := c.Answer("GET")
		if err != nil {
			t.Fatal(err)
		}
		return c, answer.Status
	}
	for range 2 { // the second time after a restart
		c, status := connect(apiKey)
		if status != http.StatusSwitchingProtocols {
			t.Fatalf("its handshake: %d", status)
		}
		c.Raw(peer.Frame(peer.Fin|peer.Text, subscribe))
		c.Raw(peer.Frame(peer.Fin|peer.Text, publish))
		p.gets("temperature", "53.33", "ESP32")
		const data = `{"on": true, "level": 40}`
		p.publish("lamp", data)
		if _, message, err := c.Next(); err != nil || !strings.Contains(string(message), `"data":`+data) {
			t.Errorf("the sketch gets %s, %v", message, err)
		}
		c.Close()
		p.end()
		p.begin()
		p.hasSubscriber("temperature", "test")
	}

	// With a wrong key it asks why, and stops.
	if _, status := connect("wrong"); status != http.StatusUnauthorized {
		t.Errorf("its handshake with a wrong key: %d", status)
	}
	at := put9000(t, one(`http.begin\(String\("(.*)"\) \+ HOST`)+"HOST"+one(`HOST \+ "(.*)" \+ PATH`)+target, p)
	name := one(`addHeader\("(.*)", KEY\)`)
	stops, err := strconv.Atoi(one(`return status == (\d+);`))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int{"wrong": stops, apiKey: http.StatusUpgradeRequired} {
		r, err := http.NewRequest("GET", at, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(name, key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("it asks with the key %q: %s, want %d", key, resp.Status, want)
		}
	}
}

// put9000 puts the server's address in the place of the sketch's.
func put9000(t *testing.T, url string, p *picloudd) string {
	t.Helper()
	return snippet.Put(t, url, "HOST:9000", p.address)
}
