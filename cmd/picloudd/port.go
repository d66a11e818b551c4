package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"picloud/internal/config"
)

// systemd holds the port, and PORT may have been changed since it was opened. A daemon-reload makes systemd close a
// port that is no longer PORT without opening another: the next daemon is then handed no TCP socket at all. The daemon
// can do nothing about either; it says so, and leaves a file that makes systemd start picloud-port.service, which has
// the privileges and runs picloudd -follow-port.

// otherPortFile exists, in the service's runtime directory, while the daemon is not on PORT.
const otherPortFile = "other-port"

// The files that -follow-port looks at. Tests replace them.
var (
	otherPort = "/run/picloudd/" + otherPortFile                       // systemd/picloud.service
	notMoved  = "/run/picloud/not-moved"                               // systemd/picloud-port.service
	generated = "/run/systemd/generator/picloud.socket.d/10-port.conf" // systemd/picloud-generator
)

// moveTime is how long systemd may take, on a busy Pi Zero.
const moveTime = 2 * time.Minute

// tellPort checks that PORT is among the ports that the service manager has handed over. If not, it logs that and
// leaves otherPortFile in the directory runtime, unless that is empty. It returns the end of the service's status line.
func tellPort(ports []int, want int, runtime string, log *slog.Logger) (status string) {
	isRight := slices.Contains(ports, want) || want == 0 && len(ports) > 0
	if err := leaveWord(isRight, runtime); err != nil {
		log.Warn("picloud-port.service cannot be told of the port", "error", err)
	}
	const remedy = "picloud-port.service moves it now, or says what is in the way; by hand: systemctl daemon-reload && systemctl restart picloud.socket"
	switch {
	case isRight:
		return ""
	case len(ports) == 0:
		log.Error("no TCP socket was handed over: only programs of this machine are served", "PORT", want, "remedy",
			remedy)
		return fmt.Sprintf(", on no port, not on PORT=%d: journalctl -u picloud-port", want)
	default:
		log.Warn("the socket's port is not PORT", "port", ports[0], "PORT", want, "remedy", remedy)
		return fmt.Sprintf(", on port %d, not on PORT=%d: journalctl -u picloud-port", ports[0], want)
	}
}

func leaveWord(isRight bool, runtime string) error {
	if runtime == "" {
		return nil
	}
	file := filepath.Join(runtime, otherPortFile)
	if isRight {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(file, nil, 0o600)
}

// followPort makes systemd listen on PORT, when otherPortFile says that the daemon was handed other sockets; the daemon
// is restarted with the new ones. It tries once: where an override of the unit wins, it leaves it at that. It does not
// ask for a port that another program has: the daemon would lose the one that it is on.
//
// A failure leaves the file notMoved, which makes systemd run this again with the next daemon: otherwise the unit would
// stay failed even when the obstacle is gone.
func followPort(ctx context.Context, getenv func(string) string, log *slog.Logger) error {
	err := follow(ctx, getenv, log)
	var noted error
	if err != nil {
		noted = os.WriteFile(notMoved, nil, 0o600)
	} else if noted = os.Remove(notMoved); errors.Is(noted, fs.ErrNotExist) {
		noted = nil
	}
	return errors.Join(err, noted)
}

func follow(ctx context.Context, getenv func(string) string, log *slog.Logger) error {
	want, err := portOf(getenv("PORT"))
	if err != nil || want == 0 {
		return nil // the daemon reports it
	}
	if _, err := os.Stat(otherPort); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("follow PORT: %w", err)
	}
	asked, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	err = moveSocket(asked, want, log)
	if ctx.Err() != nil {
		return nil // the next start tries again
	}
	return err
}

// portOf is what the setting PORT means.
func portOf(text string) (int, error) {
	cfg, err := config.Parse(func(name string) string {
		if name == "PORT" {
			return text
		}
		return ""
	})
	return cfg.Port, err
}

func moveSocket(ctx context.Context, want int, log *slog.Logger) error {
	listen, err := listenAddresses(ctx)
	if err != nil {
		return err
	}
	if at := withPort(listen, want); len(at) == 0 && generatedPort() != want {
		// The unit was generated for another PORT. A daemon-reload also applies whatever else has been changed; but the
		// address is the generator's, unless an override wins.
		if err := free(netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(want))); err != nil {
			return err
		}
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
		if listen, err = listenAddresses(ctx); err != nil {
			return err
		}
	}
	at := withPort(listen, want)
	if len(at) == 0 {
		log.Info("an override of picloud.socket has another port than PORT, and wins", "listen", listen, "PORT", want,
			"remedy", "systemctl revert picloud.socket && systemctl restart picloud, or set PORT to the same")
		return nil
	}
	for _, address := range at {
		if err := free(address); err != nil {
			return err
		}
	}
	// A socket unit that is stopped, or being stopped, stays so.
	if err := systemctl(ctx, "try-restart", "--job-mode=fail", "picloud.socket"); err != nil {
		return err
	}
	log.Info("picloud.socket has been moved to PORT", "PORT", want)
	return nil
}

// listenAddresses returns the addresses that systemd has in memory for picloud.socket, open or not.
func listenAddresses(ctx context.Context) ([]netip.AddrPort, error) {
	out, err := askSystemctl(ctx, "show", "--property=Listen", "picloud.socket")
	if err != nil {
		return nil, err
	}
	var list []netip.AddrPort
	for line := range strings.Lines(out) { // Listen=[::]:9000 (Stream)
		_, address, _ := strings.Cut(line, "=")
		address, _, _ = strings.Cut(strings.TrimSpace(address), " ")
		if at, err := netip.ParseAddrPort(address); err == nil {
			list = append(list, at)
		}
	}
	return list, nil
}

func withPort(list []netip.AddrPort, port int) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(list), func(at netip.AddrPort) bool { return int(at.Port()) != port })
}

// generatedPort is the PORT that systemd knows: without the generator's file, the unit's own; 0 if it cannot be read.
func generatedPort() int {
	text, err := os.ReadFile(generated)
	if errors.Is(err, fs.ErrNotExist) {
		preset, err := portOf("")
		if err != nil {
			return 0
		}
		return preset
	}
	for line := range strings.Lines(string(text)) {
		if port, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), "ListenStream=")); err == nil {
			return port
		}
	}
	return 0
}

// free returns nil if one can listen there, or says why not.
func free(at netip.AddrPort) error {
	address := at.String()
	if at.Addr() == netip.IPv6Unspecified() { // IPv4 too, or alone where there is no IPv6
		address = ":" + strconv.Itoa(int(at.Port()))
	}
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program has port %d, so the server is not moved to it: sudo ss -ltnp 'sport = :%[1]d' tells which; stop it, or set another PORT in /etc/default/picloud, then sudo systemctl restart picloud", at.Port())
	case err != nil:
		return fmt.Errorf("PORT cannot be listened on, so the server is not moved to it: %w", err)
	}
	return l.Close()
}

func systemctl(ctx context.Context, args ...string) error {
	_, err := askSystemctl(ctx, args...)
	return err
}

func askSystemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok && len(e.Stderr) > 0 {
			err = errors.New(strings.Join(strings.Fields(string(e.Stderr)), " "))
		}
		return "", fmt.Errorf("systemctl %s: %w", args[0], err)
	}
	return string(out), nil
}
