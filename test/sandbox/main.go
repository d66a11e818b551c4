// Command sandbox tries what a service must not be able to do, and prints what it could do: scripts/test-systemd runs
// it in the daemon's place. Its arguments are addresses to connect to.
//
// Each trial prints a line, "yes: trial" or "no: trial: reason". A file that it tries to write is called probe.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == idle {
		return
	}
	for _, t := range trials(os.Args[1:]) {
		if err := t.do(); err != nil {
			fmt.Printf("no: %s: %v\n", t.name, err)
		} else {
			fmt.Printf("yes: %s\n", t.name)
		}
	}
	if err := ready(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
}

// idle, as the only argument, makes it do nothing.
const idle = "idle"

// ready makes the start of a Type=notify service succeed, sd_notify(3).
func ready() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := new(net.Dialer).DialContext(context.Background(), "unixgram", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}

type trial struct {
	name string
	do   func() error // nil: it could be done
}

func trials(addresses []string) []trial {
	var list []trial
	for _, a := range addresses {
		list = append(list, trial{"connect to " + a, func() error { return dial("tcp", a) }},
			trial{"send a datagram to " + a, func() error { return dial("udp", a) }})
	}
	list = append(list,
		trial{"listen on a port", listen},
		trial{"open a netlink socket", func() error {
			return closing(syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_ROUTE))
		}},
	)
	// All exist and are writable by everyone: only the sandbox is in the way.
	for _, dir := range []string{"/var/lib/picloud", "/run/picloudd", "/etc/probe", "/var/lib/probe", "/usr/probe",
		"/run/probe", "/home/probe",
		"/opt/probe", "/tmp", "/var/tmp", "/dev/shm"} {
		list = append(list, trial{"write into " + dir, func() error { return write(dir) }})
	}
	return append(list,
		trial{"read /boot/secret", func() error { return readable("/boot/secret") }},
		trial{"read /home/probe/secret", func() error { return readable("/home/probe/secret") }},
		trial{"open a device of the machine's /dev", func() error { return readable("/dev/probe") }},
		trial{"open a device that is elsewhere", func() error { return readable("/var/lib/picloud/device") }},
		trial{"see other processes", seeProcesses},
		trial{"see whose files are", seeOwner},
		trial{"run a shell", func() error {
			return exec.CommandContext(context.Background(), "/bin/sh", "-c",
				":").Run()
		}},
		trial{"run a file of its own in /var/lib/picloud", func() error { return runOwn("/var/lib/picloud") }},
		trial{"run a file of its own in /run/picloudd", func() error { return runOwn("/run/picloudd") }},
		trial{"make a file set-user-id", makeSetuid},
		trial{"make memory that is written and run", makeExecutable},
		trial{"make a user namespace", makeNamespace},
		trial{"change the personality", changePersonality},
		trial{"change its priority", func() error { return syscall.Setpriority(syscall.PRIO_PROCESS, 0, 1) }},
		trial{"ever have capabilities", func() error { return status("CapBnd", "0000000000000000") }},
		trial{"get new privileges", func() error { return status("NoNewPrivs", "1") }},
		trial{"make any system call", func() error { return status("Seccomp", "2") }},
	)
}

func closing(fd int, err error) error {
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}

func dial(network, address string) error {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(context.Background(), network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("\n"))
	return err
}

func listen() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":0")
	if err != nil {
		return err
	}
	return l.Close()
}

func write(dir string) error {
	path := filepath.Join(dir, "probe")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(path)
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func seeProcesses() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n != os.Getpid() {
			return nil
		}
	}
	return errors.New("there is only this one")
}

// seeOwner looks at a file that belongs to neither root nor the service's user.
func seeOwner() error {
	var s syscall.Stat_t
	if err := syscall.Stat("/var/lib/probe", &s); err != nil {
		return err
	}
	if s.Uid == 65534 {
		return errors.New("it shows as nobody's")
	}
	return nil
}

func runOwn(dir string) error {
	// A script would need a shell, and be refused for that reason.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	path := dir + "/copy"
	if err := os.WriteFile(path, self, 0o700); err != nil {
		return err
	}
	defer os.Remove(path)
	return exec.CommandContext(context.Background(), path, idle).Run()
}

func makeSetuid() error {
	path := "/var/lib/picloud/setuid"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(path)
	return os.Chmod(path, 0o700|os.ModeSetuid)
}

func makeExecutable() error {
	m, err := syscall.Mmap(-1, 0, os.Getpagesize(), syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC,
		syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return syscall.Munmap(m)
}

func makeNamespace() error {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", idle)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	return cmd.Run()
}

// changePersonality turns address randomisation off, which is what an attacker wants from personality(2).
func changePersonality() error {
	const addrNoRandomize = 0x0040000
	_, _, errno := syscall.RawSyscall(syscall.SYS_PERSONALITY, addrNoRandomize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// status fails if a field of proc_pid_status(5) has the value that shows that the process is restricted.
func status(field, held string) error {
	p, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(p)) {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); name == field && value == held {
			return fmt.Errorf("%s is %s", field, value)
		}
	}
	return nil
}
