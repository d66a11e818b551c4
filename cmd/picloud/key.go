package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"picloud/internal/client"
	"picloud/internal/wire"
)

var keyCommand = command{
	name: "key", args: []string{"show|new"},
	line:  "show the key of this machine's service, or make a new one",
	words: []word{{what: "what to do", offers: these("show", "new")}},
	help: `The key of this machine's service, in ` + keyFile + `. Root and the group
picloud may see it, root may make a new one.

  show   print it
  new    make a new random one, have the service take it, and print it. The clients that
         were connected with the old one are listed: they need the new one.

  export API_KEY=$(sudo picloud key show)
  sudo picloud key new
`,
	run: func(ctx context.Context, c invocation) error {
		return serviceKey(ctx, c.words, c.stdout, c.stderr)
	},
}

// serviceKey shows the key of this machine's service, or gives it a new one.
func serviceKey(ctx context.Context, words []string, stdout, stderr io.Writer) error {
	if len(words) != 1 || words[0] != "show" && words[0] != "new" {
		return usageError{"show the key, or make a new one? As in: picloud key show, or sudo picloud key new"}
	}
	service, err := readSettings()
	if err != nil {
		return err
	}
	if service.APIKey != "" {
		// It takes precedence over the file, and everybody can read it there.
		if words[0] == "new" {
			return fmt.Errorf("the service's key is API_KEY in %s: take that line away or change it there, then sudo systemctl restart picloud", settingsFile)
		}
		fmt.Fprintf(stderr, "picloud: this is API_KEY in %s, which takes precedence over %s\n", settingsFile, keyFile)
		_, err := fmt.Fprintln(stdout, service.APIKey)
		return err
	}
	if words[0] == "new" {
		if err := newKey(ctx, stderr); err != nil {
			return err
		}
	}
	text, err := readKey()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text)
	return err
}

// newKey installs a new key, has the service take it, and says which clients need it.
func newKey(ctx context.Context, stderr io.Writer) error {
	if _, err := readKey(); err != nil {
		return err
	}
	connected, unknown := whoIsConnected(ctx)
	if err := replaceKey(at(keyFile), rand.Text()+"\n"); err != nil {
		return err
	}
	// A stopped service stays stopped, and takes the key when it is started. It is too late for Ctrl-C.
	if _, err := systemctl(context.WithoutCancel(ctx), "try-restart", "picloud.service"); err != nil {
		return fmt.Errorf("the new key is in %s, but the service still has the old one: %w: sudo systemctl restart picloud", keyFile, err)
	}
	fmt.Fprintf(stderr, "picloud: the new key is in %s, and the service has it\n", keyFile)
	switch {
	case unknown != nil:
		fmt.Fprintf(stderr, "picloud: who was connected is not known (%s)\n", visible(unknown.Error()))
	case len(connected) > 0:
		fmt.Fprintln(stderr, "picloud: these were connected over the network, and need it when they connect again:")
		for _, line := range connected {
			fmt.Fprintf(stderr, "  %s\n", line)
		}
	}
	fmt.Fprintln(stderr, "picloud: so does whatever publishes over HTTP; programs that use the local socket need no key")
	return nil
}

// whoIsConnected lists the clients that have sent the key, each name and address once.
func whoIsConnected(ctx context.Context) ([]string, error) {
	c, err := client.New(client.Options{URL: "unix:" + at(localSocket)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	list := keyHolders(info.AllConnections)
	if n := info.Server.Connections; info.Server.Truncated && n > len(info.AllConnections) {
		list = append(list, fmt.Sprintf("and others: the server lists %d of its %d connections", len(info.AllConnections), n))
	}
	return list, nil
}

func keyHolders(connections []wire.Connection) []string {
	var list []string
	for _, c := range connections {
		host, _, err := net.SplitHostPort(c.IPAddress)
		if err != nil {
			continue // over the local socket
		}
		list = append(list, cell(c.ClientName)+" at "+cell(host))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// replaceKey rewrites an existing file. Owner, group and mode stay the same; whoever reads it meanwhile, or after a
// power cut, gets either the old key or the new one.
func replaceKey(path, text string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a new key, the old one stays: %w", err)
		}
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: only root may, as in sudo picloud key new", err)
		}
	}()
	old, err := os.Stat(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".api-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	owner := old.Sys().(*syscall.Stat_t)
	if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
