package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// env is an environment for Parse.
type env map[string]string

func (e env) get(name string) string { return e[name] }

// with returns e and one more setting.
func (e env) with(name, value string) env {
	c := maps.Clone(e)
	c[name] = value
	return c
}

func mustParse(t *testing.T, e env) Config {
	t.Helper()
	c, err := Parse(e.get)
	if err != nil {
		t.Fatalf("Parse(%v): %v", e, err)
	}
	return c
}

func TestEmptyEnvironmentGivesTheDocumentedDefaults(t *testing.T) {
	want := Config{
		Port:             9000,
		CarryTLS:         true,
		MaxMessageBytes:  64 << 10,
		MaxConnections:   8192,
		MaxSubscriptions: 1024,
		MaxQueueBytes:    1 << 20,
		HeaderTimeout:    10 * time.Second,
		PingInterval:     25 * time.Second,
		PeerTimeout:      30 * time.Second,
		MaxWrongKeys:     30,
		LogLevel:         slog.LevelInfo,
	}
	if got := mustParse(t, env{}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	blank := env{}
	for _, s := range Settings() {
		blank[s.Name] = " \t"
	}
	if got := mustParse(t, blank); got != want {
		t.Errorf("with blank settings got  %+v\nwant %+v", got, want)
	}
}

func TestEachSettingReachesItsField(t *testing.T) {
	got := mustParse(t, env{
		"PORT": "1", "API_KEY": "secret", "USE_TLS": "1", "KEY_FILE": "/k e y.pem", "CERT_FILE": "cert.pem",
		"CARRY_TLS": "off", "MAX_MESSAGE_BYTES": "2K", "MAX_CONNECTIONS": "3", "MAX_SUBSCRIPTIONS": "4", "MAX_QUEUE_BYTES": "5M",
		"HEADER_TIMEOUT": "6s", "PING_INTERVAL": "7s", "PEER_TIMEOUT": "1m8s", "MAX_WRONG_KEYS": "9",
		"LED": "gpio17,active-low", "LOG_LEVEL": "debug",
	})
	want := Config{
		Port: 1, APIKey: "secret", APIKeyFrom: "API_KEY", UseTLS: true, KeyFile: "/k e y.pem", CertFile: "cert.pem",
		MaxMessageBytes: 2 << 10, MaxConnections: 3, MaxSubscriptions: 4, MaxQueueBytes: 5 << 20,
		HeaderTimeout: 6 * time.Second, PingInterval: 7 * time.Second, PeerTimeout: 68 * time.Second,
		MaxWrongKeys: 9, LED: LED{GPIO: 17, ActiveLow: true}, LogLevel: slog.LevelDebug,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSettingsListsWhatParseReads(t *testing.T) {
	var read []string
	_, err := Parse(func(name string) string {
		if name != "CREDENTIALS_DIRECTORY" { // the service manager's variable, not a setting
			read = append(read, name)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, s := range Settings() {
		listed = append(listed, s.Name)
		if s.Allowed == "" || s.Help == "" {
			t.Errorf("%s: no words for what it allows (%q) or what it is (%q)", s.Name, s.Allowed, s.Help)
		}
		// What the list calls the default is the default, and may be written down.
		if got, want := mustParse(t, env{s.Name: s.Default}), mustParse(t, env{}); got != want {
			t.Errorf("%s=%s: got %+v, want %+v", s.Name, s.Default, got, want)
		}
	}
	if !slices.Equal(listed, read) {
		t.Errorf("listed %q, read %q", listed, read)
	}
}

func TestAcceptedValues(t *testing.T) {
	tls := env{"USE_TLS": "on", "KEY_FILE": "k", "CERT_FILE": "c"}
	tests := []struct {
		in  env
		get func(Config) any
		out any
	}{
		{env{"PORT": "0"}, func(c Config) any { return c.Port }, 0},
		{env{"PORT": " 65535\n"}, func(c Config) any { return c.Port }, 65535},
		{env{"API_KEY": "\t!key~\r\n"}, func(c Config) any { return c.APIKey }, "!key~"},
		{env{"API_KEY": strings.Repeat("k", 256)}, func(c Config) any { return len(c.APIKey) }, 256},
		{tls.with("USE_TLS", "1"), func(c Config) any { return c.UseTLS }, true},
		{tls.with("USE_TLS", "True"), func(c Config) any { return c.UseTLS }, true},
		{tls.with("USE_TLS", "YES"), func(c Config) any { return c.UseTLS }, true},
		{tls.with("USE_TLS", "on"), func(c Config) any { return c.UseTLS }, true},
		{tls.with("USE_TLS", "0"), func(c Config) any { return c.UseTLS }, false},
		{tls.with("USE_TLS", "FALSE"), func(c Config) any { return c.UseTLS }, false},
		{tls.with("USE_TLS", "No"), func(c Config) any { return c.UseTLS }, false},
		{tls.with("USE_TLS", "off"), func(c Config) any { return c.UseTLS }, false},
		{tls.with("USE_TLS", ""), func(c Config) any { return c.UseTLS }, false},
		{env{"KEY_FILE": "k"}, func(c Config) any { return c.KeyFile }, "k"},
		{env{"MAX_MESSAGE_BYTES": "1024"}, func(c Config) any { return c.MaxMessageBytes }, 1024},
		{env{"MAX_MESSAGE_BYTES": "1k"}, func(c Config) any { return c.MaxMessageBytes }, 1024},
		{env{"MAX_MESSAGE_BYTES": "64m", "MAX_QUEUE_BYTES": "65M"}, func(c Config) any { return c.MaxMessageBytes },
			64 << 20},
		{env{"MAX_MESSAGE_BYTES": "1K", "MAX_QUEUE_BYTES": "2048"}, func(c Config) any { return c.MaxQueueBytes },
			2048},
		{env{"MAX_QUEUE_BYTES": "256M"}, func(c Config) any { return c.MaxQueueBytes }, 256 << 20},
		{env{"MAX_CONNECTIONS": "200000"}, func(c Config) any { return c.MaxConnections }, 200_000},
		{env{"MAX_CONNECTIONS": "007"}, func(c Config) any { return c.MaxConnections }, 7},
		{env{"MAX_SUBSCRIPTIONS": "100000"}, func(c Config) any { return c.MaxSubscriptions }, 100_000},
		{env{"MAX_WRONG_KEYS": "1"}, func(c Config) any { return c.MaxWrongKeys }, 1},
		{env{"HEADER_TIMEOUT": "5m"}, func(c Config) any { return c.HeaderTimeout }, 5 * time.Minute},
		{env{"PING_INTERVAL": "10m"}, func(c Config) any { return c.PingInterval }, 10 * time.Minute},
		{env{"PING_INTERVAL": "1500ms"}, func(c Config) any { return c.PingInterval }, 1500 * time.Millisecond},
		{env{"PEER_TIMEOUT": "1s", "PING_INTERVAL": "10m"}, func(c Config) any { return c.PeerTimeout }, time.Second},
		{env{"LED": "gpio17"}, func(c Config) any { return c.LED }, LED{GPIO: 17}},
		{env{"LED": "GPIO2"}, func(c Config) any { return c.LED }, LED{GPIO: 2}},
		{env{"LED": " gpio27,active-low\n"}, func(c Config) any { return c.LED }, LED{GPIO: 27, ActiveLow: true}},
		{env{"LED": "led:ACT"}, func(c Config) any { return c.LED }, LED{Board: "ACT"}},
		{env{"LED": "led:mmc0::"}, func(c Config) any { return c.LED }, LED{Board: "mmc0::"}},
		{env{"LOG_LEVEL": "Info"}, func(c Config) any { return c.LogLevel }, slog.LevelInfo},
		{env{"LOG_LEVEL": "warn"}, func(c Config) any { return c.LogLevel }, slog.LevelWarn},
		{env{"LOG_LEVEL": "ERROR"}, func(c Config) any { return c.LogLevel }, slog.LevelError},
	}
	for _, tt := range tests {
		if got := tt.get(mustParse(t, tt.in)); got != tt.out {
			t.Errorf("%v: got %v, want %v", tt.in, got, tt.out)
		}
	}
}

func TestWrongValueIsNamedWithWhatIsAllowed(t *testing.T) {
	const (
		portRule    = `: must be a number from 1 to 65535 (0: any free port)`
		boolRule    = `: must be 1, true, yes or on; or 0, false, no, off or empty`
		pathRule    = `: must be a file's path (needed while USE_TLS is on)`
		messageRule = `: must be a number of bytes from 1K to 64M (K: KiB, M: MiB)`
		queueRule   = `: must be a number of bytes from 2K to 256M (K: KiB, M: MiB), at least MAX_MESSAGE_BYTES and 1K more`
		headerRule  = `: must be a time from 1s to 5m, with its unit, such as 25s or 1m30s`
		pingRule    = `: must be a time from 1s to 10m, with its unit, such as 25s or 1m30s`
		ledRule     = `: must be gpio2 to gpio27, such as gpio17 or gpio17,active-low; led:NAME with a name of /sys/class/leds, such as led:ACT; or empty`
		levelRule   = `: must be debug, info, warn or error`
	)
	tests := []struct {
		in   env
		want string
	}{
		{env{"PORT": "99999"}, `PORT="99999"` + portRule},
		{env{"PORT": "65536"}, `PORT="65536"` + portRule},
		{env{"PORT": "-1"}, `PORT="-1"` + portRule},
		{env{"PORT": "+80"}, `PORT="+80"` + portRule},
		{env{"PORT": "http"}, `PORT="http"` + portRule},
		{env{"PORT": "90 00"}, `PORT="90 00"` + portRule},
		{env{"PORT": "1K"}, `PORT="1K"` + portRule},
		{env{"PORT": "99999999999999999999"}, `PORT="99999999999999999999"` + portRule},
		{env{"PORT": "1\nPORT=2"}, `PORT="1\nPORT=2"` + portRule},
		{env{"PORT": "\x1b[31m\u202e\xff"}, `PORT="\x1b[31m\u202e\xff"` + portRule},
		{env{"PORT": strings.Repeat("€", 65)}, `PORT="` + strings.Repeat("€", 64) + `"…` + portRule},
		{env{"USE_TLS": "maybe"}, `USE_TLS="maybe"` + boolRule},
		{env{"USE_TLS": "2"}, `USE_TLS="2"` + boolRule},
		{env{"USE_TLS": "1"}, `KEY_FILE=""` + pathRule},
		{env{"USE_TLS": "1", "CERT_FILE": "c"}, `KEY_FILE=""` + pathRule},
		{env{"USE_TLS": "1", "KEY_FILE": "k"}, `CERT_FILE=""` + pathRule},
		{env{"MAX_MESSAGE_BYTES": "1023"}, `MAX_MESSAGE_BYTES="1023"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "65M"}, `MAX_MESSAGE_BYTES="65M"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "67108865"}, `MAX_MESSAGE_BYTES="67108865"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "4194305K"}, `MAX_MESSAGE_BYTES="4194305K"` + messageRule}, // 1 KiB in 32 bits
		{env{"MAX_MESSAGE_BYTES": "1.5M"}, `MAX_MESSAGE_BYTES="1.5M"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "64KB"}, `MAX_MESSAGE_BYTES="64KB"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "1G"}, `MAX_MESSAGE_BYTES="1G"` + messageRule},
		{env{"MAX_MESSAGE_BYTES": "K"}, `MAX_MESSAGE_BYTES="K"` + messageRule},
		{env{"MAX_CONNECTIONS": "0"}, `MAX_CONNECTIONS="0": must be a number from 1 to 200000`},
		{env{"MAX_CONNECTIONS": "200001"}, `MAX_CONNECTIONS="200001": must be a number from 1 to 200000`},
		{env{"MAX_SUBSCRIPTIONS": "100001"}, `MAX_SUBSCRIPTIONS="100001": must be a number from 1 to 100000`},
		{env{"MAX_QUEUE_BYTES": "257M"}, `MAX_QUEUE_BYTES="257M"` + queueRule},
		{env{"MAX_QUEUE_BYTES": "64K"}, `MAX_QUEUE_BYTES="64K"` + queueRule},
		{env{"MAX_MESSAGE_BYTES": "2K", "MAX_QUEUE_BYTES": "3071"}, `MAX_QUEUE_BYTES="3071"` + queueRule},
		{env{"MAX_MESSAGE_BYTES": "1M"}, `MAX_QUEUE_BYTES="1M" (the default)` + queueRule},
		{env{"HEADER_TIMEOUT": "10"}, `HEADER_TIMEOUT="10"` + headerRule},
		{env{"HEADER_TIMEOUT": "999ms"}, `HEADER_TIMEOUT="999ms"` + headerRule},
		{env{"HEADER_TIMEOUT": "5m1s"}, `HEADER_TIMEOUT="5m1s"` + headerRule},
		{env{"HEADER_TIMEOUT": "-10s"}, `HEADER_TIMEOUT="-10s"` + headerRule},
		{env{"PING_INTERVAL": "0"}, `PING_INTERVAL="0"` + pingRule},
		{env{"PING_INTERVAL": "11m"}, `PING_INTERVAL="11m"` + pingRule},
		{env{"PEER_TIMEOUT": "1h"}, `PEER_TIMEOUT="1h"` + pingRule},
		{env{"MAX_WRONG_KEYS": "0"}, `MAX_WRONG_KEYS="0": must be a number from 1 to 1000000`},
		{env{"LED": "on"}, `LED="on"` + ledRule},
		{env{"LED": "17"}, `LED="17"` + ledRule},
		{env{"LED": "gpio"}, `LED="gpio"` + ledRule},
		{env{"LED": "gpio1"}, `LED="gpio1"` + ledRule},
		{env{"LED": "gpio28"}, `LED="gpio28"` + ledRule},
		{env{"LED": "gpio-17"}, `LED="gpio-17"` + ledRule},
		{env{"LED": "gpio17, active-low"}, `LED="gpio17, active-low"` + ledRule},
		{env{"LED": "gpio17,active-high"}, `LED="gpio17,active-high"` + ledRule},
		{env{"LED": "led:"}, `LED="led:"` + ledRule},
		{env{"LED": "led:ACT,active-low/.."}, `LED="led:ACT,active-low/.."` + ledRule},
		{env{"LED": "led:../../etc"}, `LED="led:../../etc"` + ledRule},
		{env{"LED": "led:."}, `LED="led:."` + ledRule},
		{env{"LED": "ACT"}, `LED="ACT"` + ledRule},
		{env{"LOG_LEVEL": "trace"}, `LOG_LEVEL="trace"` + levelRule},
		{env{"LOG_LEVEL": "info+1"}, `LOG_LEVEL="info+1"` + levelRule},
		// The first wrong one is reported.
		{env{"LOG_LEVEL": "x", "PORT": "x"}, `PORT="x"` + portRule},
	}
	for _, tt := range tests {
		c, err := Parse(tt.in.get)
		if err == nil {
			t.Errorf("%v is accepted, want the error %s", tt.in, tt.want)
			continue
		}
		if err.Error() != tt.want {
			t.Errorf("%v:\ngot  %s\nwant %s", tt.in, err, tt.want)
		}
		if c != (Config{}) {
			t.Errorf("%v: an error and a Config too: %+v", tt.in, c)
		}
	}
}

func TestKeyIsTakenFromTheCredentialUnlessSet(t *testing.T) {
	dir := t.TempDir()
	if got := mustParse(t, env{"CREDENTIALS_DIRECTORY": dir}).APIKey; got != "" {
		t.Errorf("without a credential: got key %q, want none", got)
	}
	file := filepath.Join(dir, "api-key")
	if err := os.WriteFile(file, []byte("from-the-credential\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ set, key, from string }{
		{"", "from-the-credential", "the credential api-key"},
		{"set", "set", "API_KEY"},
	} {
		if c := mustParse(t, env{"CREDENTIALS_DIRECTORY": dir, "API_KEY": tt.set}); c.APIKey != tt.key ||
			c.APIKeyFrom != tt.from {
			t.Errorf("API_KEY=%q: got key %q from %q, want %q from %q", tt.set, c.APIKey, c.APIKeyFrom, tt.key, tt.from)
		}
	}
	if err := os.WriteFile(file, []byte("\ufefffrom-windows\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{"": "from-windows", "\ufeffset\r": "set"} {
		if c := mustParse(t, env{"CREDENTIALS_DIRECTORY": dir, "API_KEY": set}); c.APIKey != want {
			t.Errorf("with byte order marks, API_KEY=%q: got key %q, want %q", set, c.APIKey, want)
		}
	}
	for _, utf16 := range []string{"\xff\xfek\x00e\x00y\x00", "\xfe\xff\x00k\x00e\x00y", "k\x00e\x00y\x00",
		"\x00k\x00e\x00y"} {
		if err := os.WriteFile(file, []byte(utf16), 0o600); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("the credential api-key is a file in UTF-16 (%q): save the key as UTF-8", file)
		if _, err := Parse(env{"CREDENTIALS_DIRECTORY": dir}.get); err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %s", utf16, err, want)
		}
	}
	if err := os.WriteFile(file, []byte("two\nkeys\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(env{"CREDENTIALS_DIRECTORY": dir}.get); err == nil || strings.Contains(err.Error(), "two") ||
		!strings.HasPrefix(err.Error(), "the credential api-key: must be ") {
		t.Errorf("two keys: got error %v, want one that names the credential and does not show them", err)
	}
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(env{"CREDENTIALS_DIRECTORY": dir}.get); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("unreadable credential: got error %v, want one that names %s", err, file)
	}
}

func TestUnusableAPIKeyIsRefusedAndNotShown(t *testing.T) {
	const want = "API_KEY: must be at most 256 visible ASCII characters without spaces (its value is not shown)"
	for _, key := range []string{
		"two words", "a\tb", "a\nb", "a\x00b", "a\x7fb", "sch\u00fcssel", "a\xffb", "\u00a0key",
		strings.Repeat("k", 257),
	} {
		_, err := Parse(env{"API_KEY": key}.get)
		if err == nil || err.Error() != want {
			t.Errorf("API_KEY=%q:\ngot  %v\nwant %s", key, err, want)
		}
	}
}

// Whatever two settings and the key hold, Parse ends with a usable Config or with one printable line. The key has no
// influence on any error but the one about itself, which is constant: so no error can reveal it.
func FuzzParse(f *testing.F) {
	names := make([]string, 0, len(settings))
	for _, s := range Settings() {
		names = append(names, s.Name)
	}
	at := func(name string) uint8 { return uint8(slices.Index(names, name)) }
	f.Add(at("PORT"), "99999", at("USE_TLS"), "on", "secret")
	f.Add(at("PORT"), "1\n2", at("LOG_LEVEL"), "\x1b[2J", "bad key")
	f.Add(at("MAX_MESSAGE_BYTES"), "64M", at("MAX_QUEUE_BYTES"), "65M", "secret")
	f.Add(at("MAX_MESSAGE_BYTES"), "4194304K", at("MAX_QUEUE_BYTES"), "2047M", "secret")
	f.Add(at("MAX_CONNECTIONS"), "-0", at("MAX_SUBSCRIPTIONS"), "2147483648", "\xff")
	f.Add(at("HEADER_TIMEOUT"), "9223372036854775807ns", at("PING_INTERVAL"), "1e9s", "secret")
	f.Add(at("PEER_TIMEOUT"), ".s", at("MAX_WRONG_KEYS"), "٣", strings.Repeat("k", 257))
	f.Add(at("LED"), "gpio17,active-low", at("LED"), "led:../..", "secret")
	f.Add(at("KEY_FILE"), "\u2028", at("CERT_FILE"), strings.Repeat("\xe2", 1000), " ")
	f.Fuzz(func(t *testing.T, i uint8, value string, j uint8, other, key string) {
		e := env{names[int(i)%len(names)]: value, names[int(j)%len(names)]: other}
		delete(e, "API_KEY")
		c, err := Parse(e.with("API_KEY", key).get)
		if err != nil {
			line := err.Error()
			if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("not one printable line: %q", line)
			}
			if utf8.RuneCountInString(line) > 1000 {
				t.Errorf("%d characters: %s", len(line), line)
			}
			_, unkeyed := Parse(e.get)
			_, badKey := Parse(env{"API_KEY": "\x00"}.get)
			if line != badKey.Error() && (unkeyed == nil || line != unkeyed.Error()) {
				t.Errorf("the key changes the error:\nwith    %s\nwithout %v", line, unkeyed)
			}
			return
		}
		if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(c.APIKey) > 256 {
			t.Errorf("API key %q does not fit into a header", c.APIKey)
		}
		if c.UseTLS && (c.KeyFile == "" || c.CertFile == "") {
			t.Errorf("TLS without its files: %+v", c)
		}
		within(t, "Port", c.Port, 0, 65535)
		within(t, "MaxMessageBytes", c.MaxMessageBytes, 1<<10, 64<<20)
		within(t, "MaxConnections", c.MaxConnections, 1, 200_000)
		within(t, "MaxSubscriptions", c.MaxSubscriptions, 1, 100_000)
		within(t, "MaxQueueBytes", c.MaxQueueBytes, c.MaxMessageBytes+1<<10, 256<<20)
		within(t, "HeaderTimeout", c.HeaderTimeout, time.Second, 5*time.Minute)
		within(t, "PingInterval", c.PingInterval, time.Second, 10*time.Minute)
		within(t, "PeerTimeout", c.PeerTimeout, time.Second, 10*time.Minute)
		within(t, "MaxWrongKeys", c.MaxWrongKeys, 1, 1_000_000)
		if l := c.LED; l.GPIO != 0 {
			within(t, "LED.GPIO", l.GPIO, 2, 27)
		} else if l.ActiveLow || strings.ContainsAny(l.Board, "/ \n") || l.Board == ".." {
			t.Errorf("LED: %+v", l)
		}
	})
}

func within[T int | time.Duration](t *testing.T, name string, got, least, most T) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s: got %v, want %v to %v", name, got, least, most)
	}
}

func TestLEDOutsideTheEnvironmentIsReadTheSameWay(t *testing.T) {
	if l, err := ParseLED(" gpio17,active-low "); err != nil || l != (LED{GPIO: 17, ActiveLow: true}) {
		t.Errorf("got %+v, %v", l, err)
	}
	_, err := ParseLED("17")
	_, want := Parse(env{"LED": "17"}.get)
	if err == nil || want == nil || err.Error() != want.Error() {
		t.Errorf("got %v, want %v", err, want)
	}
}
