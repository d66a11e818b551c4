package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
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
)

func (m *machine) key(context.Context) []finding {
	const what, again = "key", "sudo systemctl restart picloud; systemctl status picloud-key tells why none is made"
	if m.config.APIKey != "" {
		return []finding{{look, what, "it is API_KEY in " + settingsFile + ", which everybody on this machine may read",
			"move it into " + keyFile}}
	}
	info, err := os.Stat(at(keyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []finding{{wrong, what, keyFile + " is missing: nobody on the network gets in", again}}
	case err != nil:
		return []finding{{hidden, what, err.Error(), sudoDoctor}}
	case strings.TrimSpace(contents(keyFile, info)) == "":
		return []finding{{wrong, what, keyFile + " is empty: nobody on the network gets in",
			"sudo rm " + keyFile + " && " + again}}
	case info.Mode().Perm()&0o007 != 0:
		return []finding{{look, what, "everybody on this machine may read " + keyFile, "sudo chmod o= " + keyFile}}
	case !m.allows(info, "picloud", 4):
		return []finding{{look, what, "the group picloud may not read " + keyFile,
			"sudo chgrp picloud " + keyFile + " && sudo chmod 640 " + keyFile}}
	}
	return []finding{{fine, what, keyFile + " is there", ""}}
}

// contents returns a file's contents, or a stand-in if this user may not read them.
func contents(path string, info fs.FileInfo) string {
	text, err := os.ReadFile(at(path))
	if err != nil {
		return strings.Repeat("*", int(min(info.Size(), 1)))
	}
	return string(text)
}

func (m *machine) tls(ctx context.Context) []finding {
	const what = "TLS"
	if !m.config.UseTLS {
		return []finding{{fine, what, "off: the key and the messages go over the network as they are", ""}}
	}
	var list []finding
	for _, path := range []string{m.config.CertFile, m.config.KeyFile} {
		if f := m.secret(path); f.verdict != fine {
			list = append(list, f)
		}
	}
	list = append(list, m.carried()...)
	if served := servedCertificate(ctx, dialTo(m.page(m.host).Host)); served != nil {
		return append(list, served...)
	}
	text, err := os.ReadFile(at(m.config.CertFile))
	if err != nil {
		return list // secret has reported it
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return append(list, finding{wrong, what, m.config.CertFile + " holds no PEM certificate",
			"sudo journalctl -u picloud -n 20 names what is wrong with it"})
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return append(list, finding{wrong, what, m.config.CertFile + ": " + err.Error(), "copy it here again"})
	}
	return append(list, dates(leaf, time.Now()))
}

// carried reports what a restart does to the connections over TLS.
func (m *machine) carried() []finding {
	const what = "TLS"
	switch {
	case m.server == nil || !m.server.TLS:
		return nil
	case m.config.CarryTLS && !m.server.TLSKeptOverRestart:
		return []finding{{look, what, overRestart(*m.server) + ", though CARRY_TLS is on",
			"sudo systemctl restart picloud; if it stays so: sudo journalctl -u picloud -g TLS"}}
	case !m.config.CarryTLS && m.server.TLSKeptOverRestart:
		return []finding{{look, what, "CARRY_TLS is off, and counts after the next restart",
			"sudo systemctl restart picloud"}}
	case !m.config.CarryTLS:
		return []finding{{fine, what, overRestart(*m.server) + ": CARRY_TLS is off", ""}}
	}
	return []finding{{fine, what, overRestart(*m.server), ""}}
}

// secret reports whether the service can read a TLS file.
func (m *machine) secret(path string) finding {
	const what, move = "TLS", "put it into /etc/picloud"
	for _, sandboxed := range []string{"/home/", "/root/", "/run/user/", "/boot/", "/tmp/", "/var/tmp/"} {
		if strings.HasPrefix(path, sandboxed) {
			return finding{look, what, "the service's sandbox hides " + sandboxed + ", where " + path + " is",
				move + "; or see The sandbox in docs/operations.md"}
		}
	}
	info, err := os.Stat(at(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return finding{wrong, what, path + " is missing", "put it there, or correct the path in " + settingsFile}
	case err != nil:
		return finding{hidden, what, err.Error(), sudoDoctor}
	case !m.allows(info, "picloud", 4):
		return finding{wrong, what, "the service may not read " + path,
			"sudo chgrp picloud " + path + " && sudo chmod 640 " + path}
	}
	return finding{what: what}
}

// servedCertificate examines the certificate that a server presents; nil if it cannot be reached.
func servedCertificate(ctx context.Context, dial dial) []finding {
	leaf := shownCertificate(ctx, dial)
	if leaf == nil {
		return nil
	}
	return []finding{dates(leaf, time.Now())}
}

// shownCertificate returns the certificate that a server presents. Nothing is sent to it.
func shownCertificate(ctx context.Context, dial dial) *x509.Certificate {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close()
	secured := tls.Client(conn, unchecked())
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil
	}
	return secured.ConnectionState().PeerCertificates[0]
}

func unchecked() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func dates(leaf *x509.Certificate, now time.Time) finding {
	const what, soon = "TLS", 14 * 24 * time.Hour
	const renew = "renew it; new files are taken into use by themselves"
	day := leaf.NotAfter.Format(time.DateOnly)
	switch {
	case now.Before(leaf.NotBefore):
		return finding{wrong, what, "the certificate is not valid before " + leaf.NotBefore.Format(time.DateOnly),
			"is this machine's clock right? timedatectl"}
	case now.After(leaf.NotAfter):
		return finding{wrong, what, "the certificate expired on " + day, renew}
	case now.After(leaf.NotAfter.Add(-soon)):
		return finding{look, what, "the certificate expires on " + day, renew}
	}
	return finding{fine, what, "the certificate is good until " + day, ""}
}

func (m *machine) led(context.Context) []finding {
	const what = "LED"
	led := m.config.LED
	if led.GPIO == 0 && led.Board == "" {
		return nil
	}
	if !m.groups["gpio"].has("picloud") {
		return []finding{{wrong, what, "the user picloud is not in the group gpio",
			"sudo adduser picloud gpio && sudo systemctl restart picloud"}}
	}
	if led.Board != "" {
		return []finding{m.boardLED(led.Board)}
	}
	chips, _ := filepath.Glob(at("/dev/gpiochip*"))
	if len(chips) == 0 {
		return []finding{{wrong, what, "there is no /dev/gpiochip*: this machine has no GPIO",
			"LED=led:NAME uses an LED of the board; ls /sys/class/leds"}}
	}
	for _, chip := range chips {
		if info, err := os.Stat(chip); err == nil && m.allows(info, "gpio", 6) {
			return []finding{{fine, what, fmt.Sprintf("GPIO%d: the service may use the GPIO chips", led.GPIO), ""}}
		}
	}
	return []finding{{wrong, what, "the group gpio may not use /dev/gpiochip*",
		"sudo udevadm trigger --subsystem-match=gpio --settle && sudo systemctl restart picloud"}}
}

func (m *machine) boardLED(name string) finding {
	const what = "LED"
	info, err := os.Stat(at("/sys/class/leds/" + name + "/brightness"))
	switch {
	case err != nil:
		return finding{wrong, what, "this machine has no LED " + name, "ls /sys/class/leds lists those that it has"}
	case !m.allows(info, "gpio", 2):
		return finding{wrong, what, "the group gpio may not switch the LED " + name,
			"sudo udevadm trigger --subsystem-match=leds --settle; docs/led.md has how to allow another LED"}
	}
	return finding{fine, what, "the service may switch the LED " + name, ""}
}

func (m *machine) clock(context.Context) []finding {
	const what = "clock"
	var t syscall.Timex
	const notSynchronized = 5 // TIME_ERROR, adjtimex(2)
	state, err := syscall.Adjtimex(&t)
	now := time.Now().Format(time.DateTime)
	switch {
	case err != nil:
		return []finding{{hidden, what, "adjtimex: " + err.Error(), ""}}
	case state == notSynchronized:
		return []finding{{look, what, "it is not synchronized, and says " + now +
			": created_at may be wrong, and TLS may fail", "timedatectl"}}
	}
	return []finding{{fine, what, "synchronized, " + now, ""}}
}

func (m *machine) disk(context.Context) []finding {
	const what = "disk"
	var s syscall.Statfs_t
	if err := syscall.Statfs(at("/"), &s); err != nil {
		return []finding{{hidden, what, err.Error(), ""}}
	}
	return []finding{space(s.Bavail*uint64(s.Bsize), s.Blocks*uint64(s.Bsize), s.Flags&syscall.MS_RDONLY != 0)}
}

func space(free, all uint64, readOnly bool) finding {
	const what, clear = "disk", "sudo apt clean; sudo journalctl --vacuum-size=50M"
	says := fmt.Sprintf("%d of %d MiB are free", free>>20, all>>20)
	switch {
	case readOnly:
		return finding{look, what, "it is mounted read-only: on purpose, or because the SD card fails",
			"sudo dmesg | grep -i -e mmc -e ext4"}
	case free < 1<<20:
		return finding{wrong, what, says + ": settings, a new key and upgrades cannot be written", clear}
	case free < all/20:
		return finding{look, what, says, clear}
	}
	return finding{fine, what, says, ""}
}

// network asks the server at the address that others use, and checks how they find it.
func (m *machine) network(ctx context.Context) []finding {
	const what = "address"
	host, err := ownAddress(ctx)
	switch {
	case err != nil:
		return []finding{{wrong, what, err.Error(), "ip address"}}
	case m.listens != 0 && !m.isOpen:
		return []finding{{look, what, "only programs of this machine reach " + m.page(m.host).String(),
			"as it should be where a proxy is in front; systemctl cat picloud.socket tells who set it"}}
	case m.listens != 0 && m.host != loopback:
		host = m.host // the only address it listens on
	}
	var list []finding
	page := m.page(host)
	if m.listens != 0 && !m.isSilent {
		if err := healthy(ctx, page, dialTo(page.Host)); err != nil {
			list = append(list, finding{wrong, what, err.Error(),
				"does it listen on that address? systemctl show -P Listen picloud.socket; a firewall: sudo nft list ruleset"})
		} else {
			list = append(list, finding{fine, what,
				page.String() + " answers; try it from elsewhere: a firewall or the Wi-Fi can still be in the way", ""})
		}
	}
	name, _ := os.Hostname()
	unit, err := showUnit(ctx, "avahi-daemon.service", "ActiveState")
	switch _, unannounced := os.Stat(at("/etc/avahi/services/picloud.service")); {
	case err != nil:
	case unit["ActiveState"] != "active":
		list = append(list, finding{look, "name",
			"Avahi does not run: others need the address, " + name + ".local is not found",
			"sudo apt install avahi-daemon"})
	case unannounced != nil:
		list = append(list, finding{look, "name", name + ".local, and no announcement as _picloud._tcp",
			"systemctl status picloud-announce"})
	default:
		list = append(list, finding{fine, "name", name + ".local, announced as _picloud._tcp", ""})
	}
	return list
}

// user says whether whoever runs this may do without a key.
func (m *machine) user(context.Context) []finding {
	_, err := os.Stat(at(localSocket))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if m.listens != 0 {
			return []finding{{wrong, "you", localSocket + " is missing", "sudo systemctl restart picloud.socket"}}
		}
		return nil
	case defaultURL(at(localSocket)) == localURL:
		return []finding{{hidden, "you",
			"this user needs the key, and cannot see all that was looked at: it is not in the group picloud",
			"sudo adduser $USER picloud, then log in again"}}
	}
	return []finding{{fine, "you", "this user needs no key on this machine", ""}}
}

// showUnit returns properties of a unit; the values of one that occurs more than once are joined with spaces.
func showUnit(ctx context.Context, unit string, properties ...string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := systemctl(ctx, "show", "--property="+strings.Join(properties, ","), unit)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string)
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.TrimSpace(values[name] + " " + value)
	}
	return values, nil
}

// listensOn finds the port in what systemd says about a socket, such as [::]:9000 (Stream) and paths, and an address of
// this machine that leads there; isOpen says whether other machines can reach it.
func listensOn(listen string) (host string, port int, isOpen bool) {
	for word := range strings.FieldsSeq(listen) {
		address, err := netip.ParseAddrPort(word)
		switch {
		case err != nil:
		case address.Addr().IsUnspecified():
			return loopback, int(address.Port()), true
		default:
			return address.Addr().String(), int(address.Port()), !address.Addr().IsLoopback()
		}
	}
	return loopback, 0, false
}

// portsOf returns all the ports in it.
func portsOf(listen string) []int {
	var ports []int
	for word := range strings.FieldsSeq(listen) {
		if address, err := netip.ParseAddrPort(word); err == nil {
			ports = append(ports, int(address.Port()))
		}
	}
	return ports
}

func isTaken(port string) bool {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	l.Close()
	return false
}

// lastLogLine returns the service's last line in the journal; empty if this user may not read it.
func lastLogLine(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "journalctl", "--unit=picloud.service", "_COMM=picloudd", "--lines=1",
		"--output=cat", "--no-pager", "--quiet").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

type group struct {
	id      uint32
	members []string
}

func (g group) has(user string) bool {
	return slices.Contains(g.members, user)
}

// readGroups reads group(5).
func readGroups() map[string]group {
	text, _ := os.ReadFile(at("/etc/group"))
	groups := make(map[string]group)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 4 {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			groups[fields[0]] = group{uint32(id), strings.Split(fields[3], ",")}
		}
	}
	return groups
}

// firstPerson is the lowest user ID that is not a system account's, as Debian assigns them.
const firstPerson = 1000

// isPerson reads passwd(5).
func isPerson(user string) bool {
	text, _ := os.ReadFile(at("/etc/passwd"))
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ":")
		if len(fields) > 2 && fields[0] == user {
			id, err := strconv.ParseUint(fields[2], 10, 32)
			return err == nil && id >= firstPerson
		}
	}
	return false
}

// allows reports whether the members of a group may do with a file all that bits says (4 read, 2 write).
func (m *machine) allows(info fs.FileInfo, name string, bits fs.FileMode) bool {
	mode := info.Mode().Perm()
	if mode&bits == bits {
		return true
	}
	g, ok := m.groups[name]
	return ok && info.Sys().(*syscall.Stat_t).Gid == g.id && mode>>3&bits == bits
}
