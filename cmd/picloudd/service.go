package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"picloud/internal/certs"
)

// localSocket is where the service listens for this machine's own programs: systemd/picloud.socket.
const localSocket = "/run/picloud/picloud.sock"

// reloader is what a reload does: the TLS files are all that can change without a restart.
func reloader(pair *certs.Pair) func() error {
	if pair == nil {
		return func() error { return nil }
	}
	return pair.Reload
}

// hangUps delivers SIGHUPs from now until stop. If they were ignored before the start, as under nohup(1), they still
// are.
func hangUps() (signals <-chan os.Signal, stop func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return nil, func() {}
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// reloadOn does for each signal what POST /reload does, until ctx ends.
func reloadOn(ctx context.Context, signals <-chan os.Signal, reload func() error, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			if err := reload(); err != nil {
				log.Error("the reload has failed, and changed nothing", "signal", "SIGHUP", "error", err)
			} else {
				log.Info("reloaded", "signal", "SIGHUP")
			}
		}
	}
}

// reloadRunning makes the running service reload, and returns when it has.
func reloadRunning(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", localSocket)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://local/reload", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("reload: %w: is picloud.service running, and may this user use its socket?",
			errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	var answer struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil {
		return fmt.Errorf("reload: the service answered %s", resp.Status)
	}
	return fmt.Errorf("reload: %s", answer.Error)
}

// keyGroup may read the key: its members use the service without asking root.
const keyGroup = "picloud"

// serviceGroup returns the number of keyGroup; false where the service is not installed.
func serviceGroup() (gid int, ok bool) {
	g, err := user.LookupGroup(keyGroup)
	if err != nil {
		return 0, false
	}
	gid, err = strconv.Atoi(g.Gid)
	return gid, err == nil
}

// share lets a group read a secret file.
func share(f *os.File, gid int) error {
	if err := f.Chown(-1, gid); err != nil {
		return err
	}
	return f.Chmod(0o640)
}

// makeKey writes a new random key to a file that does not exist yet; one that does is left alone. The file appears
// whole, or not at all.
func makeKey(path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make key: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make key: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".api-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(rand.Text() + "\n"); err != nil {
		return err
	}
	if gid, ok := serviceGroup(); ok {
		if err := share(f, gid); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// The folder holds the file's name, and a power cut could otherwise undo that: clients would have a key that is not
	// on the card.
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
