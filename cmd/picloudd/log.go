package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
)

// openLog logs to w through a spool, which the caller closes at the end.
func openLog(w io.Writer, level slog.Level, toJournal bool) (*slog.Logger, *spool) {
	lines := newSpool(w, func(dropped uint64) []byte {
		var line bytes.Buffer
		newLog(&line, slog.LevelWarn, toJournal).Warn("log lines were dropped", "lines", dropped)
		return line.Bytes()
	})
	return newLog(lines, level, toJournal), lines
}

// complain prints the error that ends the program; a log that blocks must not keep it from ending.
func complain(w io.Writer, err error, toJournal bool) {
	level := ""
	if toJournal {
		level = "<3>" // an error, so that journalctl -p err shows it: sd-daemon(3)
	}
	line := newSpool(w, nil)
	fmt.Fprintf(line, "%spicloudd: %v\n", level, err)
	line.close(flushTime)
}

// newLog logs to w. The journal records the time itself, and reads a line's level from its prefix.
func newLog(w io.Writer, level slog.Level, toJournal bool) *slog.Logger {
	options := slog.HandlerOptions{Level: level}
	if toJournal {
		w = journal{w}
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, &options))
}

// A journal rewrites slog's lines, which begin with their level, the way systemd's journal reads them: sd-daemon(3).
type journal struct{ w io.Writer }

var journalLevels = map[string]string{"ERROR": "<3>", "WARN": "<4>", "INFO": "<6>", "DEBUG": "<7>"}

func (j journal) Write(line []byte) (int, error) {
	if rest, ok := bytes.CutPrefix(line, []byte("level=")); ok {
		level, text, _ := bytes.Cut(rest, []byte(" "))
		if prefix, ok := journalLevels[string(level)]; ok {
			if _, err := j.w.Write(append([]byte(prefix), text...)); err != nil {
				return 0, err
			}
			return len(line), nil
		}
	}
	return j.w.Write(line)
}
