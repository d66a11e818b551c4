package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"picloud/internal/client"
	"picloud/internal/config"
	"picloud/internal/wire"
)

var doctorCommand = command{
	name:    "doctor",
	line:    "find what is wrong, and say what to do",
	general: []option{urlFlag, keyFlag, caFlag},
	help: `Checks this machine's service: whether it runs, listens, answers and has its key; its
settings, TLS files and their dates, whether a restart keeps connections over TLS, the LED's
permissions, the clock, the disk, and the address and the name that others use. Each finding
is a line; another says what to do:

  ok       it is as it should be
  look     it works, but perhaps not for long, or not for everybody
  wrong    it does not work; the exit status is 1 then
  hidden   this user may not see it: sudo picloud doctor sees more

With --url or PICLOUD_URL it checks that server as a client can: whether it answers, its
certificate, whether the key is right, and whether the clocks agree. So it does with one
that was started by hand on this machine, at port 9000, where no service is installed.

  sudo picloud doctor
  picloud doctor --url http://raspberrypi.local:9000
  picloud doctor --url http://localhost:9000      # a server that was started by hand
`,
	run: func(ctx context.Context, c invocation) error {
		return doctor(ctx, c.settings, c.stdout)
	},
}

type verdict int

const (
	fine   verdict = iota
	look           // it works, and might not for long or for everybody
	wrong          // it does not work
	hidden         // this user may not see it
)

// finding is the result of one check. A remedy is a command, or says what to do.
type finding struct {
	verdict      verdict
	what         string
	says, remedy string
}

const sudoDoctor = "sudo picloud doctor sees it"

// doctor checks this machine's service or, given an address, a server as its clients see it.
func doctor(ctx context.Context, s settings, stdout io.Writer) error {
	var looks []func(context.Context) []finding
	m := new(machine)
	if s.chosen {
		c, err := connect(s, io.Discard, client.Options{})
		if err != nil {
			return err
		}
		looks = (&remote{settings: s, c: c}).looks()
	} else {
		m = readMachine()
		m.asked = s
		looks = append(looks, m.service, m.settings, m.socket, m.answer, m.key, m.tls, m.led, m.clock, m.disk,
			m.network, m.user)
	}
	count := 0
	for len(looks) > 0 {
		findings := looks[0](ctx)
		looks = looks[1:]
		if ctx.Err() != nil {
			return errInterrupted
		}
		for _, f := range findings {
			if f.verdict == wrong {
				count++
			}
			if _, err := io.WriteString(stdout, s.finding(f)); err != nil {
				return err
			}
		}
		if m.isAbsent {
			// There is nothing else to look at, unless somebody has started a server.
			looks, m.isAbsent = m.byHand.looks(), false
		}
	}
	switch count {
	case 0:
		return nil
	case 1:
		return errors.New("one thing is wrong")
	}
	return fmt.Errorf("%d things are wrong", count)
}

func (s settings) finding(f finding) string {
	word := [...]string{"ok", "look", "wrong", "hidden"}[f.verdict]
	colour := [...]string{green, amber, red, amber}[f.verdict]
	line := fmt.Sprintf("%s%s %-9s %s\n", s.paint(colour, word), strings.Repeat(" ", len("hidden")-len(word)), f.what,
		visible(f.says))
	if f.remedy != "" {
		line += fmt.Sprintf("%17s→ %s\n", "", visible(f.remedy))
	}
	return line
}

// remote is a server of which only the address is known.
type remote struct {
	settings
	c        *client.Client
	isSilent bool // it does not answer
}

func (r *remote) looks() []func(context.Context) []finding {
	if r == nil {
		return nil
	}
	return []func(context.Context) []finding{r.answer, r.certificate, r.info}
}

// startedByHand returns the server at this machine's usual address, with TLS or without; nil if there is none.
func startedByHand(ctx context.Context, s settings) *remote {
	plain := s.url
	if strings.HasPrefix(plain, "unix:") {
		plain = localURL
	}
	for _, address := range []string{plain, "https" + strings.TrimPrefix(plain, "http")} {
		s.url = address
		c, err := connect(s, io.Discard, client.Options{})
		if err != nil {
			continue // its certificate cannot be used: doctor --url says why
		}
		if healthy(ctx, c.Page(), c.Connect) == nil {
			return &remote{settings: s, c: c}
		}
	}
	return nil
}

// answer asks for what needs no key.
func (r *remote) answer(ctx context.Context) []finding {
	if r.c.Page() == nil {
		return nil // a Unix socket: info will tell
	}
	if err := healthy(ctx, r.c.Page(), r.c.Connect); err != nil {
		r.isSilent = true
		return []finding{{wrong, "answer", err.Error(), "on the server: sudo picloud doctor"}}
	}
	return []finding{{fine, "answer", r.c.Page().String() + " answers", ""}}
}

func (r *remote) certificate(ctx context.Context) []finding {
	if page := r.c.Page(); page != nil && page.Scheme == "https" {
		return servedCertificate(ctx, r.c.Connect)
	}
	return nil
}

// info shows whether the certificate is trusted, whether the key is right and whether the clocks agree.
func (r *remote) info(ctx context.Context) []finding {
	if r.isSilent {
		return nil // answer has reported it
	}
	before := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	i, err := r.c.Info(ctx)
	if err != nil {
		what := "answer"
		e, isStatus := errors.AsType[*client.StatusError](err)
		switch {
		case isUntrusted(err):
			what = "TLS"
		case isStatus && (e.Code == http.StatusUnauthorized || e.Code == http.StatusTooManyRequests):
			what = "key"
		}
		return []finding{{wrong, what, strings.TrimPrefix(err.Error(), "info: "), ""}}
	}
	after := time.Now()
	list := []finding{{fine, "key", fmt.Sprintf("the server lets us in: PiCloud %s, %s", i.Server.Version,
		present(i.Server)), ""}}
	if i.Server.TLS {
		list = append(list, finding{fine, "TLS", overRestart(i.Server), ""})
	}
	const apart = 5 * time.Second
	switch {
	case i.CreatedAt.Before(before.Add(-apart)):
		list = append(list, finding{look, "clock",
			"the server's clock is " + duration(before.Sub(i.CreatedAt)) + " behind this machine's",
			"timedatectl, on both, says which of them is synchronized"})
	case i.CreatedAt.After(after.Add(apart)):
		list = append(list, finding{look, "clock",
			"the server's clock is " + duration(i.CreatedAt.Sub(after)) + " ahead of this machine's",
			"timedatectl, on both, says which of them is synchronized"})
	default:
		list = append(list, finding{fine, "clock", "the server's and this machine's agree", ""})
	}
	return list
}

// dial opens a connection to a server, without TLS.
type dial func(context.Context) (net.Conn, error)

func dialTo(address string) dial {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
}

// healthy asks a server whether it is up. Its identity is not checked, since it is told nothing.
func healthy(ctx context.Context, page *url.URL, dial dial) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page.JoinPath("/healthz").String(), nil)
	if err != nil {
		return err
	}
	answers := http.Client{Transport: &http.Transport{
		TLSClientConfig: unchecked(),
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	defer answers.CloseIdleConnections()
	resp, err := answers.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s does not answer within 5 seconds", page)
	case err != nil:
		return fmt.Errorf("%s does not answer: %w", page, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: is it PiCloud?", page, resp.Status)
	}
	return nil
}

// loopback is not "localhost", since not every machine knows that name.
const loopback = "127.0.0.1"

// machine is this one, as far as it can be examined.
type machine struct {
	config   config.Config
	problem  error // why config may differ from what the service has
	groups   map[string]group
	host     string  // at which programs on this machine reach the port
	listens  int     // the port that is listened on; 0 if there is none or it is not known
	isOpen   bool    // the port can be reached from other machines
	isAbsent bool    // PiCloud is not installed
	byHand   *remote // runs instead; nil if there is none
	asked    settings
	isActive bool // the service runs
	isSilent bool // it listens but does not answer

	server *wire.ServerInfo // what the running server says of itself; nil: this user may not ask, or it does not run
}

func readMachine() *machine {
	m := &machine{groups: readGroups(), host: loopback}
	m.config, m.problem = readSettings()
	if m.problem != nil {
		// The error is reported once; the rest can still be examined.
		m.config = config.Config{Port: 9000}
	}
	return m
}

// page is the service's address on a host.
func (m *machine) page(host string) *url.URL {
	port := m.config.Port
	if m.listens != 0 {
		port = m.listens
	}
	scheme := "http"
	if m.config.UseTLS {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(port))}
}

func (m *machine) settings(context.Context) []finding {
	switch {
	case errors.Is(m.problem, errUnreadable):
		return []finding{{hidden, "settings", m.problem.Error(), sudoDoctor}}
	case m.problem != nil:
		return []finding{{wrong, "settings", m.problem.Error(),
			"sudo nano " + settingsFile + " && sudo systemctl restart picloud"}}
	}
	if _, err := os.Stat(at(settingsFile)); errors.Is(err, fs.ErrNotExist) {
		return []finding{{fine, "settings", "there is no " + settingsFile + ": the defaults are used", ""}}
	}
	return []finding{{fine, "settings", "those of " + settingsFile + " can be used", ""}}
}

func (m *machine) service(ctx context.Context) []finding {
	const what, log = "service", "sudo journalctl -u picloud -n 20"
	unit, err := showUnit(ctx, "picloud.service", "LoadState", "ActiveState", "SubState", "ExecMainStatus", "NRestarts",
		"UnitFileState", "StatusText", "User", "MainPID")
	if err != nil || unit["LoadState"] == "not-found" {
		m.byHand = startedByHand(ctx, m.asked)
	}
	var list []finding
	switch {
	case m.byHand != nil:
		m.isAbsent = true
		return []finding{{look, what, "no service is installed on this machine; a server that was started by hand answers at " +
			m.byHand.url, "it ends with its terminal, or with the machine; the package makes a service of it: README.md"}}
	case err != nil:
		return []finding{{hidden, what, err.Error(),
			"is this the server's machine? Otherwise: picloud doctor --url http://ADDRESS:9000"}}
	case unit["LoadState"] == "not-found":
		m.isAbsent = true
		return []finding{{wrong, what, "PiCloud is not installed as a service on this machine",
			"is it elsewhere? picloud doctor --url http://ADDRESS:9000"}}
	case unit["LoadState"] == "masked":
		return []finding{{wrong, what, "picloud.service is masked",
			"sudo systemctl unmask picloud.service picloud.socket && sudo systemctl start picloud"}}
	case unit["ActiveState"] == "active":
		m.isActive = true
		says := "running"
		if unit["StatusText"] != "" {
			says += ": " + unit["StatusText"]
		}
		list = append(list, finding{fine, what, says, ""})
		if n := unit["NRestarts"]; n != "0" && n != "" {
			list = append(list, finding{look, what, "it has ended by itself and been restarted, so often: " + n, log})
		}
		if isOutdated(unit["MainPID"]) {
			list = append(list, finding{look, what,
				"the program that serves is another than the installed one, which could not take over",
				"sudo systemctl reload picloud; if that fails: " + log})
		}
	case unit["ActiveState"] == "failed", unit["SubState"] == "auto-restart", unit["ActiveState"] != "inactive" &&
		unit["ExecMainStatus"] != "0":
		list = append(list, finding{wrong, what,
			"it ends as soon as it is started: " + exitReason(ctx, unit["ExecMainStatus"]), log})
	case unit["ActiveState"] == "inactive":
		list = append(list, finding{look, what, "it is stopped: the first client starts it, if its socket listens",
			"sudo systemctl start picloud"})
	default:
		list = append(list, finding{look, what, "it is " + unit["ActiveState"] + " (" + unit["SubState"] + ")", log})
	}
	if _, ok := m.groups["picloud"]; !ok {
		list = append(list, finding{wrong, what, "there is no group picloud, which its socket and its user need",
			"sudo systemd-sysusers && sudo systemctl restart picloud.socket"})
	}
	if unit["User"] == "picloud" && isPerson("picloud") {
		list = append(list, finding{look, what,
			"it runs as picloud, which is a person's account: their programs can read the key out of its memory",
			"docs/operations.md has how to give it a user of its own"})
	}
	if unit["UnitFileState"] == "disabled" {
		list = append(list, finding{look, what, "it is not started with the machine", "sudo systemctl enable picloud"})
	}
	return list
}

// isOutdated reports whether a process has another program than the installed one, as far as this user may see.
func isOutdated(pid string) bool {
	running, err := os.Stat(at("/proc/" + pid + "/exe"))
	if err != nil {
		return false
	}
	installed, err := os.Stat(at("/usr/bin/picloudd"))
	return err == nil && !os.SameFile(running, installed)
}

// exitReason is the last thing the service said, or else what systemd means by a status (systemd.exec(5)).
func exitReason(ctx context.Context, status string) string {
	switch status {
	case "203":
		return "systemd cannot run /usr/bin/picloudd (status 203): sudo apt install --reinstall picloud"
	case "216":
		return "a group is missing (status 216): sudo systemd-sysusers"
	case "217":
		return "the user picloud is missing (status 217): sudo systemd-sysusers"
	case "226":
		return "systemd cannot build its sandbox (status 226): systemctl cat picloud shows what was added to it"
	case "243":
		return "the key file is missing (status 243): sudo systemctl restart picloud-key picloud"
	}
	if line := lastLogLine(ctx); line != "" {
		return line
	}
	return "exit status " + status
}

func (m *machine) socket(ctx context.Context) []finding {
	const what = "socket"
	unit, err := showUnit(ctx, "picloud.socket", "LoadState", "ActiveState", "Result", "Listen", "UnitFileState")
	if err != nil || unit["LoadState"] == "not-found" {
		return nil // service has reported it
	}
	if unit["ActiveState"] == "active" {
		m.host, m.listens, m.isOpen = listensOn(unit["Listen"]) // otherwise what cannot answer is not asked
	}
	switch {
	case unit["ActiveState"] != "active" && isTaken(m.page("").Port()):
		return []finding{taken("another program has port "+m.page("").Port(), m.page("").Port())}
	case unit["ActiveState"] == "failed":
		return []finding{{wrong, what, "systemd could not listen: " + unit["Result"],
			"sudo journalctl -u picloud.socket -n 20"}}
	case unit["ActiveState"] != "active":
		return []finding{{wrong, what, "nothing listens: the socket is " + unit["ActiveState"],
			"sudo systemctl start picloud"}}
	case unit["UnitFileState"] == "disabled":
		return append(m.ports(ctx, unit["Listen"]),
			finding{look, what, "it listens now, and not after the machine's next start",
				"sudo systemctl enable picloud"})
	}
	return m.ports(ctx, unit["Listen"])
}

// ports compares three: PORT, what systemd's unit has, and what the server was handed. A port that was changed after
// the sockets had been opened is in the unit but not open.
func (m *machine) ports(ctx context.Context, listen string) []finding {
	const what, moves = "socket", "sudo systemctl restart picloud moves it; systemctl status picloud-port says what is in the way"
	if m.listens == 0 {
		return []finding{{look, what, "it listens on no port: only this machine's programs reach it",
			"systemctl cat picloud.socket"}}
	}
	want := m.config.Port
	says := fmt.Sprintf("it listens on port %d, and PORT is %d", m.listens, want)
	isRight := m.listens == want || want == 0 || m.problem != nil
	if has, ok := m.handed(ctx); ok && has != m.listens && !slices.Contains(portsOf(listen), has) {
		says = fmt.Sprintf("the server is on port %d, and systemd's unit has %d", has, m.listens)
		if has == 0 {
			says = fmt.Sprintf("the server was handed no port, though systemd's unit has %d: only this machine's programs reach it", m.listens)
		}
		m.listens = has
		isRight = false
	}
	switch {
	case !isRight && want != m.listens && isTaken(strconv.Itoa(want)):
		return []finding{taken(fmt.Sprintf("%s; another program has port %d", says, want), strconv.Itoa(want))}
	case !isRight:
		return []finding{{wrong, what, says, moves}}
	case want == 0 && m.problem == nil:
		return []finding{{look, what, fmt.Sprintf("PORT=0 is for a run by hand: the service keeps port %d", m.listens),
			"sudo nano " + settingsFile}}
	}
	return []finding{{fine, what, fmt.Sprintf("listening on port %d", m.listens), ""}}
}

func taken(says, port string) finding {
	return finding{wrong, "socket", says, "sudo ss -ltnp 'sport = :" + port +
		"' tells which: stop it, then sudo systemctl restart picloud; or set another PORT in " + settingsFile}
}

// handed asks a running server for the port that it was handed; ok is false if this user may not ask.
func (m *machine) handed(ctx context.Context) (port int, ok bool) {
	if !m.isActive {
		return 0, false // asking would start it
	}
	c, err := client.New(client.Options{URL: "unix:" + at(localSocket)})
	if err != nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := c.Info(ctx)
	if err == nil {
		m.server = &info.Server
	}
	return info.Server.Port, err == nil
}

// answer asks the server itself, since systemd's word on its sockets does not say that it answers.
func (m *machine) answer(ctx context.Context) []finding {
	if m.listens == 0 {
		return nil
	}
	if err := healthy(ctx, m.page(m.host), dialTo(m.page(m.host).Host)); err != nil {
		m.isSilent = true
		return []finding{{wrong, "answer", err.Error(),
			"sudo journalctl -u picloud -n 20; while the server does not run, clients wait"}}
	}
	list := []finding{{fine, "answer", "it answers on this machine", ""}}
	key, err := ownKey()
	if err != nil {
		return list // key reports what is wrong with the key
	}
	c, err := client.New(client.Options{URL: m.page(m.host).String(), Key: key, TLS: unchecked()})
	if err != nil {
		return append(list, finding{wrong, "key", err.Error(), "sudo picloud key new"})
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := c.Info(ctx)
	if err == nil {
		m.server = &info.Server
	}
	if e, ok := errors.AsType[*client.StatusError](err); ok && e.Code == http.StatusUnauthorized {
		list = append(list, finding{wrong, "key", "the service has another key: this one has come after its start",
			"sudo systemctl restart picloud"})
	}
	return list
}
