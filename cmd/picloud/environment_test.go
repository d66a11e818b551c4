package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What systemd reads in these files: 252 and 257 were asked. (Names that are none, such as A B, it then drops.)
var environmentFiles = map[string]map[string]string{
	"":                                     {},
	"PORT=8081":                            {"PORT": "8081"},
	"PORT=8081\r\n":                        {"PORT": "8081"},
	" \tPORT \t=\t 8081 \t\n":              {"PORT": "8081"},
	"#PORT=1\n;PORT=2\n # PORT=3\nPORT=4":  {"PORT": "4"},
	"PORT=1\nPORT=2\n":                     {"PORT": "2"},
	"PORT=1\nPORT=\n":                      {"PORT": ""},
	"PORT=\"8081\"\nLED='led:ACT'\n":       {"PORT": "8081", "LED": "led:ACT"},
	"PORT=8081 # not a comment\n":          {"PORT": "8081 # not a comment"},
	"PORT=80\\\n81\n":                      {"PORT": "8081"},
	"PORT=80\\\\81\n":                      {"PORT": "80\\81"},
	"PORT=80\\ \n":                         {"PORT": "80 "},
	"PORT=\"80\\\n81\"\n":                  {"PORT": "8081"},
	"PORT=\"80\" 8'1'\n":                   {"PORT": "808'1'"},
	"PORT='80\n81'\n":                      {"PORT": "80\n81"},
	"API_KEY='\nPORT=1\n'\nPORT=2\n":       {"API_KEY": "\nPORT=1\n", "PORT": "2"},
	"PORT=\"8081":                          {"PORT": "8081"},
	"API_KEY=\"\\$a\\b\\`\\\"\\\\\"\n":     {"API_KEY": "$a\\b`\"\\"},
	"export PORT=1\nPORT\n= 2\nA B=c\n":    {"export PORT": "1", "A B": "c"},
	"CERT_FILE=/etc/pi cloud/c\"e\"rt.pem": {"CERT_FILE": "/etc/pi cloud/c\"e\"rt.pem"},
}

func TestSettingsFileIsReadAsSystemdReadsIt(t *testing.T) {
	for text, want := range environmentFiles {
		if got := readEnvironment(text); !maps.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// The generator's PORT is that of the settings, whatever stands in the file, and so is whether there is an LED.
func TestGeneratorReadsTheSettingsFileInTheSameWay(t *testing.T) {
	script, err := os.ReadFile("../../systemd/picloud-generator")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "default")
	const installed = "file=/etc/default/picloud\n"
	if !strings.Contains(string(script), installed) {
		t.Fatal("the generator reads another file")
	}
	text := strings.Replace(string(script), installed, "file="+file+"\n", 1)
	listen := regexp.MustCompile(`(?m)^ListenStream=(\d+)$`)
	n := 0
	check := func(settings string) {
		n++
		if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(out, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-s", out)
		cmd.Stdin = strings.NewReader(text)
		if said, err := cmd.CombinedOutput(); err != nil || len(said) > 0 {
			t.Fatalf("%q: %v, it said %q", settings, err, said)
		}
		got := ""
		if dropIn, err := os.ReadFile(out + "/picloud.socket.d/10-port.conf"); err == nil {
			got = string(listen.FindSubmatch(dropIn)[1])
		}
		want := ""
		if port, err := strconv.ParseUint(strings.Trim(readEnvironment(settings)["PORT"], " \t\r\n"), 10,
			16); err == nil && port > 0 {
			want = fmt.Sprint(port)
		}
		if got != want {
			t.Errorf("%q: the generator has port %q, the settings %q", settings, got, want)
		}
		dropIn, _ := os.ReadFile(out + "/picloud.service.d/10-led.conf")
		hasStep := strings.HasPrefix(string(dropIn), "[Service]\nExecStopPost=")
		if hasLED := strings.Trim(readEnvironment(settings)["LED"], " \t\r\n") != ""; hasStep != hasLED {
			t.Errorf("%q: the settings have an LED: %t, the generator wrote %q", settings, hasLED, dropIn)
		}
	}
	for settings := range environmentFiles {
		check(settings)
	}
	for _, settings := range []string{"PORT=0", "PORT=65535", "PORT=65536", "PORT=0080", "PORT=+80", "PORT=x",
		"PORT=8O81", "PORT=18446744073709551617", "PORT=' 81 '", "LED=gpio17", "LED=' '\nPORT=1", "LED=led:ACT\nPORT=1"} {
		check(settings)
	}
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"PORT", "=", "8", "81", "\n", "\r", " ", "\t", "'", "\"", "\\", "#", ";", "$", "*", "PORT=",
		"\nPORT=7", "LED", "\nLED=", "\nLED=x"}
	for range 500 {
		var settings strings.Builder
		for range 3 + random.IntN(20) {
			settings.WriteString(pieces[random.IntN(len(pieces))])
		}
		check(settings.String())
	}
}
