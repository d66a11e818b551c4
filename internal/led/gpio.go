package led

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"syscall"

	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"
)

// header is the chip whose lines are on a Raspberry Pi's pin header, by its label; its line 17 is GPIO17. The number in
// /dev has changed from kernel to kernel, and so have the lines' names.
var header = map[string]bool{
	"pinctrl-bcm2835": true, // Pi 0 to 3
	"pinctrl-bcm2711": true, // Pi 4
	"pinctrl-rp1":     true, // Pi 5
}

// A GPIO is an LED on a line of a Raspberry Pi's pin header, through the kernel's character device.
type GPIO struct {
	number    int
	activeLow bool
	line      *gpioioctl.GPIOLine
}

// OpenGPIO takes the line with that BCM number for output, and turns its LED off; an activeLow LED is lit when the line
// is low. It is called once in a process, before a second goroutine opens files.
func OpenGPIO(number int, activeLow bool) (*GPIO, error) {
	g := &GPIO{number: number, activeLow: activeLow}
	if err := g.take("/dev"); err != nil {
		return nil, fmt.Errorf("%s: %w", g, err)
	}
	return g, nil
}

func (g *GPIO) take(dev string) error {
	// The library only logs why it skips a chip.
	if err := reachable(dev); err != nil {
		return err
	}
	if err := initialize(); err != nil {
		return err
	}
	var chip *gpioioctl.GPIOChip
	var labels []string
	for _, c := range gpioioctl.Chips {
		labels = append(labels, c.Label())
		if header[c.Label()] {
			chip = c
		}
	}
	if chip == nil || g.number >= chip.LineCount() {
		return fmt.Errorf("none of this machine's GPIO chips is a Raspberry Pi's: found %q", labels)
	}
	g.line = chip.ByNumber(g.number)
	holder := g.line.Consumer()
	if err := g.Set(false); err != nil {
		if holder != "" {
			return fmt.Errorf("in use by %q: choose another line, or end what uses it (%w)", holder, err)
		}
		return err
	}
	return nil
}

// reachable returns nil when a chip can be opened, or says why none can.
func reachable(dev string) error {
	chips, err := filepath.Glob(filepath.Join(dev, "gpiochip*"))
	if err != nil {
		return err
	}
	if len(chips) == 0 {
		return fmt.Errorf("there is no %s/gpiochip*: this machine has no GPIO, or the service does not see it", dev)
	}
	var errs []error
	for _, chip := range chips {
		f, err := os.Open(chip)
		if err == nil {
			return f.Close()
		}
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the user must be in the group gpio, and the chip be that group's (ls -l %s)", errs[0],
			chips[0])
	}
	return err
}

// initialize makes the library find the chips. When it closes a chip that it has met twice it also closes standard
// input, whose number, 0, it takes for no descriptor elsewhere: so 0 is kept in use.
func initialize() error {
	log.SetOutput(io.Discard) // reachable has already said what it says on standard error
	defer log.SetOutput(os.Stderr)
	_, err := driverreg.Init()
	if _, stat := os.Stdin.Stat(); errors.Is(stat, syscall.EBADF) {
		_, operr := syscall.Open(os.DevNull, os.O_RDONLY, 0)
		err = errors.Join(err, operr)
	}
	return err
}

// Set turns it on or off.
func (g *GPIO) Set(lit bool) error { return g.line.Out(gpio.Level(lit != g.activeLow)) }

// Close turns it off and releases the line. It is called once.
func (g *GPIO) Close() error {
	err := g.Set(false)
	g.line.Close()
	return err
}

// String is its name as systemctl status shows it.
func (g *GPIO) String() string { return fmt.Sprintf("GPIO%d", g.number) }
