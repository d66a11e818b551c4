package config

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// A kind of setting: what it allows, in words and in code. Both are made from the same bounds, so that they cannot
// differ.
type kind struct {
	allowed string
	secret  bool // the value must not be shown
	set     func(c *Config, text string) bool
}

func port(field func(*Config) *int) kind {
	return kind{
		allowed: "a number from 1 to 65535 (0: any free port)",
		set: func(c *Config, text string) bool {
			return setInt(field(c), text, 1, 0, 65535)
		},
	}
}

func count(field func(*Config) *int, least, most int) kind {
	return kind{
		allowed: fmt.Sprintf("a number from %d to %d", least, most),
		set: func(c *Config, text string) bool {
			return setInt(field(c), text, 1, least, most)
		},
	}
}

func size(field func(*Config) *int, least, most int) kind {
	return kind{
		allowed: fmt.Sprintf("a number of bytes from %s to %s (K: KiB, M: MiB)", sizeText(least), sizeText(most)),
		set: func(c *Config, text string) bool {
			number, unit := text, 1
			switch {
			case strings.HasSuffix(text, "K"), strings.HasSuffix(text, "k"):
				number, unit = text[:len(text)-1], kib
			case strings.HasSuffix(text, "M"), strings.HasSuffix(text, "m"):
				number, unit = text[:len(text)-1], mib
			}
			return setInt(field(c), number, unit, least, most)
		},
	}
}

// queueSize is a size that also has room for one message of the greatest length.
func queueSize(field func(*Config) *int, least, most int) kind {
	k := size(field, least, most)
	set := k.set
	k.allowed += fmt.Sprintf(", at least MAX_MESSAGE_BYTES and %s more", sizeText(queueRoom))
	k.set = func(c *Config, text string) bool {
		return set(c, text) && *field(c) >= c.MaxMessageBytes+queueRoom
	}
	return k
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) kind {
	return kind{
		allowed: fmt.Sprintf("a time from %s to %s, with its unit, such as 25s or 1m30s", durationText(least),
			durationText(most)),
		set: func(c *Config, text string) bool {
			d, err := time.ParseDuration(text)
			if err != nil || d < least || d > most {
				return false
			}
			*field(c) = d
			return true
		},
	}
}

func boolean(field func(*Config) *bool) kind {
	return kind{
		allowed: "1, true, yes or on; or 0, false, no, off or empty",
		set: func(c *Config, text string) bool {
			switch strings.ToLower(text) {
			case "1", "true", "yes", "on":
				*field(c) = true
			case "0", "false", "no", "off":
				*field(c) = false
			default:
				return false
			}
			return true
		},
	}
}

func level(field func(*Config) *slog.Level) kind {
	return kind{
		allowed: "debug, info, warn or error",
		set: func(c *Config, text string) bool {
			switch strings.ToLower(text) {
			case "debug":
				*field(c) = slog.LevelDebug
			case "info":
				*field(c) = slog.LevelInfo
			case "warn":
				*field(c) = slog.LevelWarn
			case "error":
				*field(c) = slog.LevelError
			default:
				return false
			}
			return true
		},
	}
}

// tlsPath is a path that may be missing only without TLS. Whether the file can be used is for its reader to say.
func tlsPath(field func(*Config) *string) kind {
	return kind{
		allowed: "a file's path (needed while USE_TLS is on)",
		set: func(c *Config, text string) bool {
			*field(c) = text
			return text != "" || !c.UseTLS
		},
	}
}

// apiKey is a text that a header carries unchanged: visible ASCII. Clients and proxies differ on spaces and other bytes
// (RFC 9110 §5.5).
func apiKey(field func(*Config) *string) kind {
	const most = 256
	return kind{
		allowed: fmt.Sprintf("at most %d visible ASCII characters without spaces", most),
		secret:  true,
		set: func(c *Config, text string) bool {
			*field(c) = text
			return len(text) <= most && !strings.ContainsFunc(text, func(r rune) bool { return r < '!' || r > '~' })
		},
	}
}

// setInt reads digits (no sign), counted in unit.
func setInt(field *int, digits string, unit, least, most int) bool {
	n, err := strconv.ParseUint(digits, 10, 31) // 31: fits an int on 32-bit ARM
	if err != nil || int(n) > most/unit || int(n)*unit < least {
		return false
	}
	*field = int(n) * unit
	return true
}

func sizeText(n int) string {
	switch {
	case n%mib == 0:
		return strconv.Itoa(n/mib) + "M"
	case n%kib == 0:
		return strconv.Itoa(n/kib) + "K"
	}
	return strconv.Itoa(n)
}

func durationText(d time.Duration) string {
	if d%time.Minute == 0 {
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

// The lines of a Raspberry Pi's pin header that are free to use; 0 and 1 are reserved for boards plugged onto it.
const (
	firstGPIO = 2
	lastGPIO  = 27
)

func led(field func(*Config) *LED) kind {
	return kind{
		allowed: fmt.Sprintf("gpio%d to gpio%d, such as gpio17 or gpio17,active-low; led:NAME with a name of /sys/class/leds, such as led:ACT; or empty",
			firstGPIO, lastGPIO),
		set: func(c *Config, text string) bool {
			l, ok := parseLED(text)
			if ok {
				*field(c) = l
			}
			return ok
		},
	}
}

func parseLED(text string) (l LED, ok bool) {
	if text == "" {
		return l, true
	}
	if name, isBoard := strings.CutPrefix(text, "led:"); isBoard {
		l.Board = name
		// A name, not a path.
		return l, name != "" && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool {
			return r <= ' ' || r > '~' || r == '/'
		})
	}
	line, isLow := strings.CutSuffix(strings.ToLower(text), ",active-low")
	l.ActiveLow = isLow
	number, isGPIO := strings.CutPrefix(line, "gpio")
	return l, isGPIO && setInt(&l.GPIO, number, 1, firstGPIO, lastGPIO)
}
