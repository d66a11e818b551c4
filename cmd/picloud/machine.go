package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"picloud/internal/config"
)

// root is put before the paths of this machine's files. Tests change it.
var root string

func at(path string) string { return filepath.Join(root, path) }

// Files of the Debian package.
const (
	keyFile      = "/etc/picloud/api-key"
	settingsFile = "/etc/default/picloud"
)

var errUnreadable = errors.New("read the service's settings")

// readSettings returns the service's settings: those in its file, or the defaults if there is none.
func readSettings() (config.Config, error) {
	text, err := os.ReadFile(at(settingsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	values := readEnvironment(string(text))
	c, err := config.Parse(func(name string) string { return values[name] })
	if err != nil {
		return c, fmt.Errorf("%s: %w", settingsFile, err)
	}
	return c, nil
}

// readKey returns the key in the service's file. Its errors say who may read it, or how to get one.
func readKey() (string, error) {
	text, err := os.ReadFile(at(keyFile))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("read %s: permission denied: root and the group picloud may, so put sudo in front, or join the group (sudo adduser $USER picloud) and log in again", keyFile)
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("there is no %s: is PiCloud installed on this machine? Then sudo systemctl restart picloud makes a key", keyFile)
	case err != nil:
		return "", fmt.Errorf("read the key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" {
		return "", fmt.Errorf("%s is empty: sudo rm %[1]s && sudo systemctl restart picloud makes a new key", keyFile)
	}
	return key, nil
}

// systemctl runs systemctl(1) and returns its output.
func systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok && len(e.Stderr) > 0 {
			err = errors.New(strings.TrimSpace(string(e.Stderr)))
		}
		return "", fmt.Errorf("systemctl %s: %w", args[0], err)
	}
	return string(out), nil
}
