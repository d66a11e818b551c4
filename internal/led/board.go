package led

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A Board is an LED that the kernel knows by name, like the green one of a Raspberry Pi: a directory of
// /sys/class/leds. Until Close it shows what Set says, and not what its trigger does.
type Board struct {
	name       string
	dir        string
	keep       string
	trigger    string // what it had before; "none" is no trigger
	brightness *os.File
	most       []byte // its highest brightness
}

// noTrigger is the trigger of an LED that only shows the brightness that is written.
const noTrigger = "none"

// OpenBoard takes over the LED in the directory dir from its trigger, and turns it off. The trigger's name is written
// to the file keep, unless that is "": an OpenBoard after a crash reads it there, and Close restores it.
func OpenBoard(dir, keep string) (*Board, error) {
	b := &Board{name: filepath.Base(dir), dir: dir, keep: keep}
	if err := b.take(); err != nil {
		return nil, b.explain(err)
	}
	return b, nil
}

func (b *Board) take() error {
	most, err := os.ReadFile(filepath.Join(b.dir, "max_brightness"))
	if err != nil {
		return err
	}
	b.most = most
	if b.trigger, err = readTrigger(b.dir); err != nil {
		return err
	}
	switch {
	case b.keep == "":
	case b.trigger == noTrigger:
		if kept, err := os.ReadFile(b.keep); err == nil {
			b.trigger = strings.TrimSpace(string(kept))
		}
	default:
		if err := os.WriteFile(b.keep, []byte(b.trigger+"\n"), 0o600); err != nil {
			return err
		}
	}
	if b.brightness, err = os.OpenFile(filepath.Join(b.dir, "brightness"), os.O_WRONLY, 0); err != nil {
		return err
	}
	if err = writeTrigger(b.dir, noTrigger); err == nil {
		err = b.Set(false)
	}
	if err != nil {
		b.brightness.Close()
	}
	return err
}

// explain adds the remedy to an error.
func (b *Board) explain(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy = "; there are " + boards(filepath.Dir(b.dir))
	case errors.Is(err, syscall.EROFS):
		remedy = fmt.Sprintf(": allow it with 'systemctl edit picloud': [Service] ReadWritePaths=%s", b.dir)
	case errors.Is(err, fs.ErrPermission):
		remedy = ": its files trigger and brightness must be writable for the group gpio, and the user in that group"
	}
	return fmt.Errorf("LED %s: %w%s", b.name, err, remedy)
}

// boards lists the LEDs of a directory.
func boards(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return "none"
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, ", ")
}

// Set turns it on or off.
func (b *Board) Set(lit bool) error {
	value := []byte("0\n")
	if lit {
		value = b.most
	}
	_, err := b.brightness.WriteAt(value, 0)
	return err
}

// Close turns it off and restores its trigger. It is called once.
func (b *Board) Close() error {
	err := b.Set(false)
	b.brightness.Close()
	if b.trigger != noTrigger {
		err = errors.Join(err, writeTrigger(b.dir, b.trigger))
	}
	if err != nil {
		return b.explain(err)
	}
	if b.keep != "" {
		os.Remove(b.keep)
	}
	return nil
}

// String is its name as systemctl status shows it.
func (b *Board) String() string { return b.name }

// readTrigger returns the name in brackets: "none [mmc0] timer".
func readTrigger(dir string) (string, error) {
	all, err := os.ReadFile(filepath.Join(dir, "trigger"))
	if err != nil {
		return "", err
	}
	for name := range strings.FieldsSeq(string(all)) {
		if len(name) > 2 && name[0] == '[' && name[len(name)-1] == ']' {
			return name[1 : len(name)-1], nil
		}
	}
	return noTrigger, nil
}

func writeTrigger(dir, name string) error {
	return os.WriteFile(filepath.Join(dir, "trigger"), []byte(name+"\n"), 0)
}
