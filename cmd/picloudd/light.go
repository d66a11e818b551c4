package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"

	"picloud/internal/config"
	"picloud/internal/led"
)

// boardLEDs is where the kernel has its LEDs, one directory each. Tests have another.
var boardLEDs = "/sys/class/leds"

// A light is the status LED's device. Its name is what it prints as.
type light interface {
	led.Light
	io.Closer
	fmt.Stringer
}

// openLight takes the LED that the settings name, and makes it dark. runtime is a directory that lives as long as the
// service, or "".
func openLight(at config.LED, runtime string) (light, error) {
	if at.Board == "" {
		return led.OpenGPIO(at.GPIO, at.ActiveLow)
	}
	keep := ""
	if runtime != "" {
		keep = filepath.Join(runtime, "led-trigger")
	}
	return led.OpenBoard(filepath.Join(boardLEDs, at.Board), keep)
}

// A lamp is the status LED and what has become of it: without one, or when it fails, the service goes on.
type lamp struct {
	light light
	log   *slog.Logger

	mu  sync.Mutex
	err error
}

func newLamp(at config.LED, runtime string, log *slog.Logger) *lamp {
	l := &lamp{log: log}
	if at == (config.LED{}) {
		return l
	}
	opened, err := openLight(at, runtime)
	if err != nil {
		l.fail(err)
		return l
	}
	l.light = opened
	return l
}

func (l *lamp) fail(err error) {
	l.log.Error("the status LED does not work, the service goes on without it", "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// run shows the state until ctx ends. It returns at once when there is no LED.
func (l *lamp) run(ctx context.Context, state func() led.State) {
	if l.light == nil {
		return
	}
	if err := errors.Join(led.Run(ctx, l.light, state), l.light.Close()); err != nil {
		l.fail(err)
	}
}

// about is where the LED is, or why it does not work; both are empty when there is none.
func (l *lamp) about() (at, fault string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return "", l.err.Error()
	case l.light != nil:
		return l.light.String(), ""
	}
	return "", ""
}

// status is what a line on the service's state ends with.
func (l *lamp) status() string {
	switch at, fault := l.about(); {
	case fault != "":
		return ", no LED: " + fault
	case at != "":
		return ", LED on " + at
	}
	return ""
}

// testLight shows a person every pattern with its name.
func testLight(ctx context.Context, text string, stdout io.Writer) (err error) {
	at, err := config.ParseLED(text)
	if err != nil {
		return err
	}
	if at == (config.LED{}) {
		return errors.New("-led-test: which LED? As in the setting LED, such as gpio17")
	}
	l, err := openLight(at, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, p := range led.Patterns() {
		fmt.Fprintf(stdout, "%s: %s\n", l, p.Name)
		if err := p.Show(ctx, l); err != nil {
			if ctx.Err() != nil {
				return nil // who has seen enough has not failed
			}
			return err
		}
	}
	return nil
}

// lightOff leaves the LED of the settings as it is without the service, when that could not do so itself: after an
// orderly end, which the variable SERVICE_RESULT tells (systemd.exec(5)), there is nothing to do.
func lightOff(getenv func(string) string) error {
	at, err := config.ParseLED(getenv("LED"))
	if err != nil {
		return err
	}
	if at == (config.LED{}) || getenv("SERVICE_RESULT") == "success" {
		return nil
	}
	l, err := openLight(at, getenv("RUNTIME_DIRECTORY"))
	if err != nil {
		return err
	}
	return l.Close()
}
