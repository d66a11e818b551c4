package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"

	"golang.org/x/term"
)

const watchEvery = 2 * time.Second

// watch shows snapshots until ctx ends, or nobody reads them any more: in place on a screen, otherwise line by line. It
// waits for a server that goes away; one that is not there at the start, or that refuses the key, is an error.
func watch(ctx context.Context, s settings, screen *screen, stdout, stderr io.Writer) error {
	if s.json {
		screen = nil // --json asks for lines
	}
	if screen != nil {
		stderr = io.Discard // it would write across the table
	}
	c, err := connect(s, stderr, client.Options{})
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	defer whenReaderGone(stdout, leave)()
	w := &watcher{settings: s, c: c}
	show := func() error { return w.line(stdout, stderr) }
	resized := make(chan os.Signal, 1)
	if screen != nil {
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
		show = func() error { return screen.draw(w.page()) }
	}
	if err := w.look(ctx); err != nil {
		return quiet(err)
	}
	if screen != nil {
		if err := screen.open(); err != nil {
			return err
		}
		defer screen.close()
	}
	again := time.NewTicker(watchEvery)
	defer again.Stop()
	for {
		if err := show(); err != nil {
			return err
		}
		select {
		case <-again.C:
			if err := w.look(ctx); err != nil && !w.waits(err) {
				return quiet(err)
			}
		case <-resized:
		case <-ctx.Done():
			return nil
		}
	}
}

// quiet turns an interrupt into success, since watch does not end in any other way.
func quiet(err error) error {
	if errors.Is(err, errInterrupted) {
		return nil
	}
	return err
}

// watcher is what was seen last.
type watcher struct {
	settings
	c      *client.Client
	raw    string    // with --json
	last   wire.Info // otherwise
	before wire.Info // the one before last
	away   error     // why last is out of date; nil if it is not
	told   bool      // away has been reported on stderr
}

func (w *watcher) look(ctx context.Context) error {
	return oneRequest(ctx, func(ctx context.Context) (err error) {
		var next wire.Info
		if w.json {
			w.raw, err = infoLine(ctx, w.settings, w.c)
		} else {
			next, err = w.c.Info(ctx)
		}
		if err == nil {
			w.before, w.last, w.away = w.last, next, nil
		}
		return err
	})
}

// waits notes err, and reports whether it may go away by itself.
func (w *watcher) waits(err error) bool {
	w.away = err
	e, ok := errors.AsType[*client.StatusError](err)
	return !errors.Is(err, errInterrupted) && !(ok && e.Code == http.StatusUnauthorized)
}

func (w *watcher) line(stdout, stderr io.Writer) error {
	if w.away != nil {
		if !w.told {
			fmt.Fprintf(stderr, "picloud: %s: trying again\n", visible(w.away.Error()))
		}
		w.told = true
		return nil
	}
	if w.told {
		fmt.Fprintln(stderr, "picloud: connected again")
	}
	w.told = false
	line := w.raw
	if !w.json {
		line = fmt.Sprintf("%s %s, %s\n", w.last.CreatedAt.UTC().Format(time.RFC3339), present(w.last.Server),
			total(w.last.Server))
	}
	_, err := io.WriteString(stdout, line)
	return err
}

// page is what a screen shows.
func (w *watcher) page() string {
	notice := w.pace()
	if w.away != nil {
		notice = w.paint(red, visible(w.away.Error())+": trying again")
	}
	s := w.last.Server
	return fmt.Sprintf("%s at %s, up %s. Ctrl-C ends this\n%s\n%s\n%s\n%s\n%s",
		w.paint(bold, "PiCloud "+cell(s.Version)), visible(w.url), duration(time.Duration(s.UptimeSeconds)*time.Second),
		present(s), total(s), secured(s), notice, lists(w.settings, w.last))
}

// pace is what the server did between the last two snapshots.
func (w *watcher) pace() string {
	seconds := w.last.CreatedAt.Sub(w.before.CreatedAt).Seconds()
	now, then := w.last.Server, w.before.Server
	if w.before.CreatedAt.IsZero() || seconds <= 0 || now.Published < then.Published || now.Delivered < then.Delivered {
		return "" // the first snapshot, or the first after a restart
	}
	return fmt.Sprintf("now %.1f published and %.1f delivered a second",
		float64(now.Published-then.Published)/seconds, float64(now.Delivered-then.Delivered)/seconds)
}

// screen is a terminal's alternate screen, which leaves the normal one as it was.
type screen struct{ *os.File }

// screenOn returns nil if w is not a terminal, or one that cannot draw in place.
func screenOn(w io.Writer, isDumb bool) *screen {
	if file, ok := w.(*os.File); ok && !isDumb && isTerminal(w) {
		return &screen{file}
	}
	return nil
}

// These are xterm's control sequences, which the Linux console and all others know or ignore: the alternate screen, the
// cursor, and whether long lines are wrapped.
func (s *screen) open() error {
	_, err := s.WriteString("\x1b[?1049h\x1b[?25l\x1b[?7l")
	return err
}

func (s *screen) close() { s.WriteString("\x1b[?7h\x1b[?25h\x1b[?1049l") }

// draw overwrites what was there, so that nothing flickers. Lines that do not fit are counted.
func (s *screen) draw(text string) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if _, height, err := term.GetSize(int(s.Fd())); err == nil && 0 < height && height < len(lines) {
		lines = append(lines[:height-1], fmt.Sprintf("… and %d more lines", len(lines)-height+1))
	}
	_, err := s.WriteString("\x1b[H" + strings.Join(lines, "\x1b[K\n") + "\x1b[K\x1b[J")
	return err
}
