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

// boardLEDs is where the kernel lists its LEDs, a directory for each. Tests replace it.
var boardLEDs = "/sys/class/leds"

// A device is an open LED. Its String is its name.
type device interface {
	led.LED
	io.Closer
	fmt.Stringer
}

// openLED opens the LED that the settings name and turns it off. runtime is a directory that lives as long as the
// service, or "".
func openLED(at config.LED, runtime string) (device, error) {
	if at.Board == "" {
		return led.OpenGPIO(at.GPIO, at.ActiveLow)
	}
	keep := ""
	if runtime != "" {
		keep = filepath.Join(runtime, "led-trigger")
	}
	return led.OpenBoard(filepath.Join(boardLEDs, at.Board), keep)
}

// A statusLED is the configured LED and whether it works: without one, or when it fails, the service goes on.
type statusLED struct {
	device device
	log    *slog.Logger

	mu  sync.Mutex
	err error
}

func newStatusLED(at config.LED, runtime string, log *slog.Logger) *statusLED {
	l := &statusLED{log: log}
	if at == (config.LED{}) {
		return l
	}
	opened, err := openLED(at, runtime)
	if err != nil {
		l.fail(err)
		return l
	}
	l.device = opened
	return l
}

func (l *statusLED) fail(err error) {
	l.log.Error("the status LED does not work, the service goes on without it", "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// run shows the state until ctx ends. It returns at once when there is no LED.
func (l *statusLED) run(ctx context.Context, state func() led.State) {
	if l.device == nil {
		return
	}
	if err := errors.Join(led.Run(ctx, l.device, state), l.device.Close()); err != nil {
		l.fail(err)
	}
}

// about is where the LED is, or why it does not work; both are empty when there is none.
func (l *statusLED) about() (at, fault string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return "", l.err.Error()
	case l.device != nil:
		return l.device.String(), ""
	}
	return "", ""
}

// status is the end of the service's status line.
func (l *statusLED) status() string {
	switch at, fault := l.about(); {
	case fault != "":
		return ", no LED: " + fault
	case at != "":
		return ", LED on " + at
	}
	return ""
}

// testLED shows a person every pattern with its name.
func testLED(ctx context.Context, text string, stdout io.Writer) (err error) {
	at, err := config.ParseLED(text)
	if err != nil {
		return err
	}
	if at == (config.LED{}) {
		return errors.New("-led-test: which LED? As in the setting LED, such as gpio17")
	}
	l, err := openLED(at, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, p := range led.Patterns() {
		fmt.Fprintf(stdout, "%s: %s\n", l, p.Name)
		if err := p.Show(ctx, l); err != nil {
			if ctx.Err() != nil {
				return nil // interrupted by the user: not a failure
			}
			return err
		}
	}
	return nil
}

// turnLEDOff puts the configured LED back to how it is without the service, when the service could not do so itself.
// After an orderly stop, which the variable SERVICE_RESULT shows (systemd.exec(5)), there is nothing to do.
func turnLEDOff(getenv func(string) string) error {
	at, err := config.ParseLED(getenv("LED"))
	if err != nil {
		return err
	}
	if at == (config.LED{}) || getenv("SERVICE_RESULT") == "success" {
		return nil
	}
	l, err := openLED(at, runtimeDirectory(getenv))
	if err != nil {
		return err
	}
	return l.Close()
}
