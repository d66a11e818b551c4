// Package config turns the environment into one checked Config.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"picloud/internal/utf"
)

// Config is what the daemon runs with: every field is in its allowed range. It holds the API key, so it is never
// printed or logged as a whole.
type Config struct {
	Port       int    // 0: any free port
	APIKey     string // empty: the caller makes a key for this run
	APIKeyFrom string // where APIKey is from, in words; empty when it is

	UseTLS            bool
	KeyFile, CertFile string // both set when UseTLS is
	CarryTLS          bool   // what TLS connections need to go on may outlive the process

	MaxMessageBytes  int
	MaxConnections   int // as set; the process may be allowed to open fewer
	MaxSubscriptions int // of one connection
	MaxQueueBytes    int // of one connection, at least 1 KiB over MaxMessageBytes

	HeaderTimeout time.Duration
	PingInterval  time.Duration
	PeerTimeout   time.Duration

	MaxWrongKeys int // from one address
	LED          LED
	LogLevel     slog.Level
}

// An LED says where the status LED is. The zero value: there is none.
type LED struct {
	GPIO      int    // its line's BCM number; 0: it is not on a line
	ActiveLow bool   // the LED is lit when its line is low
	Board     string // its name in /sys/class/leds; empty: it is not one of them
}

// A Setting is one environment variable, for help texts and documents.
type Setting struct {
	Name    string
	Default string // as it would be written in the environment; empty: none
	Allowed string // continues "must be"
	Help    string
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// queueRoom is how much more than one message a queue must hold: the parts of a delivery around its data (escaped event
// and client name, time, frame header).
const queueRoom = kib

// settings is the only place that states a default. A row's check sees the values of the rows above it.
var settings = []row{
	{"PORT", "9000", "TCP port to listen on",
		port(func(c *Config) *int { return &c.Port })},
	{"API_KEY", "", "the key that clients send; without it each run makes its own",
		apiKey(func(c *Config) *string { return &c.APIKey })},
	{"USE_TLS", "off", "serve TLS with KEY_FILE and CERT_FILE",
		boolean(func(c *Config) *bool { return &c.UseTLS })},
	{"KEY_FILE", "", "PEM file with the TLS key, not encrypted",
		tlsPath(func(c *Config) *string { return &c.KeyFile })},
	{"CERT_FILE", "", "PEM file with the TLS certificate, then its chain",
		tlsPath(func(c *Config) *string { return &c.CertFile })},
	{"CARRY_TLS", "on", "keep connections over TLS over a restart: their keys outlive the process then",
		boolean(func(c *Config) *bool { return &c.CarryTLS })},
	{"MAX_MESSAGE_BYTES", "64K", "longest message that is accepted",
		size(func(c *Config) *int { return &c.MaxMessageBytes }, kib, 64*mib)},
	{"MAX_CONNECTIONS", "8192", "connections at a time, at most what the process may open",
		count(func(c *Config) *int { return &c.MaxConnections }, 1, 200_000)},
	{"MAX_SUBSCRIPTIONS", "1024", "events that one connection may subscribe to",
		count(func(c *Config) *int { return &c.MaxSubscriptions }, 1, 100_000)},
	{"MAX_QUEUE_BYTES", "1M", "bytes that may wait for one connection before it is closed as too slow",
		queueSize(func(c *Config) *int { return &c.MaxQueueBytes }, kib+queueRoom, 256*mib)},
	{"HEADER_TIMEOUT", "10s", "time in which a client sends its request headers",
		duration(func(c *Config) *time.Duration { return &c.HeaderTimeout }, time.Second, 5*time.Minute)},
	{"PING_INTERVAL", "25s", "time from one ping of a WebSocket client to the next",
		duration(func(c *Config) *time.Duration { return &c.PingInterval }, time.Second, 10*time.Minute)},
	{"PEER_TIMEOUT", "30s", "time in which a peer's kernel acknowledges what was sent",
		duration(func(c *Config) *time.Duration { return &c.PeerTimeout }, time.Second, 10*time.Minute)},
	{"MAX_WRONG_KEYS", "30", "different wrong keys from one address before it must wait; then one a minute",
		count(func(c *Config) *int { return &c.MaxWrongKeys }, 1, 1_000_000)},
	{"LED", "", "status LED that shows how many clients are connected; without it there is none",
		led(func(c *Config) *LED { return &c.LED })},
	{"LOG_LEVEL", "info", "the least level that is logged",
		level(func(c *Config) *slog.Level { return &c.LogLevel })},
}

// Settings lists every setting in the order in which Parse reads them.
func Settings() []Setting {
	list := make([]Setting, 0, len(settings))
	for _, r := range settings {
		list = append(list, Setting{Name: r.name, Default: r.preset, Allowed: r.kind.allowed, Help: r.help})
	}
	return list
}

// keyCredential is the credential that holds the key, see LoadCredential= in systemd.exec(5).
const keyCredential = "api-key"

// Parse reads every setting through getenv, which returns "" for one that is not set and so has its default. Blanks
// around a value are ignored, and so is a byte order mark in front of it, which editors and shells of Windows put
// there. The error is one printable line about the first wrong setting: its name, its value (never that of API_KEY) and
// what is allowed.
//
// Without API_KEY the key is the credential api-key, if the service manager has handed one over: the variable
// CREDENTIALS_DIRECTORY says where.
func Parse(getenv func(string) string) (Config, error) {
	key, err := credential(getenv)
	if err != nil {
		return Config{}, err
	}
	var c Config
	for _, r := range settings {
		// ASCII blanks only: an exotic space pasted around a key is not part of what was meant, and dropping it
		// silently would hide why no client gets in.
		text := Trim(getenv(r.name))
		isPreset := text == ""
		switch {
		case isPreset && r.kind.secret:
			text = key
		case isPreset:
			text = r.preset
		}
		if !r.kind.set(&c, text) {
			return Config{}, r.wrong(text, isPreset)
		}
		if r.kind.secret && text != "" {
			c.APIKeyFrom = r.source(isPreset)
		}
	}
	return c, nil
}

// ParseLED parses text as Parse does the setting LED, with the same error. An empty text means no LED.
func ParseLED(text string) (LED, error) {
	text = strings.Trim(text, blanks)
	l, ok := parseLED(text)
	if !ok {
		return LED{}, row{name: "LED", kind: led(nil)}.wrong(text, false)
	}
	return l, nil
}

const blanks = " \t\r\n"

// credential returns the key that the service manager has handed over, or "".
func credential(getenv func(string) string) (string, error) {
	dir := getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", nil
	}
	path := filepath.Join(dir, keyCredential)
	p, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the key's credential: %w", err)
	}
	if utf.Is16(p) {
		return "", fmt.Errorf("the credential %s is a file in UTF-16 (%q): save the key as UTF-8", keyCredential, path)
	}
	return Trim(string(p)), nil
}

// Trim removes what Parse ignores around a value.
func Trim(s string) string { return strings.Trim(strings.TrimPrefix(s, string(utf.Mark)), blanks) }

type row struct {
	name, preset, help string
	kind               kind
}

// source says where a secret is from.
func (r row) source(isPreset bool) string {
	if isPreset {
		return "the credential " + keyCredential
	}
	return r.name
}

// wrong describes text, which the row does not allow.
func (r row) wrong(text string, isPreset bool) error {
	if r.kind.secret {
		return fmt.Errorf("%s: must be %s (its value is not shown)", r.source(isPreset), r.kind.allowed)
	}
	const most = 64 // characters shown: an error stays one readable line
	note := ""
	switch {
	case utf8.RuneCountInString(text) > most:
		note = "…"
	case isPreset && text != "":
		note = " (the default)"
	}
	return fmt.Errorf("%s=%.*q%s: must be %s", r.name, most, text, note, r.kind.allowed)
}
