// Command picloudd is PiCloud's server.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"picloud/internal/certs"
	"picloud/internal/config"
	"picloud/internal/handover"
	"picloud/internal/server"
	"picloud/internal/systemd"
	"picloud/internal/wsconn"
)

// version is set by the build.
var version = "dev"

// errUsage is a wrong command line that has already been explained.
var errUsage = errors.New("usage")

func main() {
	// Go kills a process that writes to a closed standard error with this signal, even if it was started with the
	// signal ignored.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	switch err := run(ctx, os.Args, os.Getenv, os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		complain(os.Stderr, err, underJournal(os.Getenv))
		os.Exit(1)
	}
}

// run is the daemon's life: it returns nil after ctx has ended and everything queued has been delivered, within 5
// seconds. args[0] is the program's name.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("picloudd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	showVersion := flags.Bool("version", false, "")
	check := flags.Bool("check", false, "")
	reload := flags.Bool("reload", false, "")
	replace := flags.Bool("take-over", false, "")
	keyFile := flags.String("make-key", "", "")
	isForCert := flags.Bool("make-cert", false, "")
	follow := flags.Bool("follow-port", false, "")
	ledTest := flags.String("led-test", "", "")
	ledOff := flags.Bool("led-off", false, "")
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return err
	case err != nil:
		usage(stderr)
		return errUsage
	}
	if flags.NArg() > 0 && !*isForCert {
		fmt.Fprintf(stderr, "picloudd: %q: takes no arguments; settings are environment variables, see picloudd -help\n", flags.Arg(0))
		return errUsage
	}
	if *showVersion {
		fmt.Fprintf(stdout, "picloudd %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}

	switch {
	case *reload:
		return reloadRunning(ctx)
	case *replace:
		return takeOver(ctx)
	case *keyFile != "":
		return makeKey(*keyFile)
	case *isForCert:
		return makeCert(args[0], flags.Args(), getenv, stdout)
	case *follow:
		log, lines := openLog(stderr, slog.LevelInfo, underJournal(getenv))
		defer lines.close(flushTime)
		return followPort(ctx, getenv, log)
	case *ledTest != "":
		return testLED(ctx, *ledTest, stdout)
	case *ledOff:
		return turnLEDOff(getenv)
	}

	e, err := claimEstate(getenv)
	if err != nil {
		return err
	}
	cfg, err := config.Parse(e.settings(getenv))
	if err != nil {
		return err
	}
	if e != nil {
		if why := e.inherit(&cfg); why != "" {
			return e.restarts(why)
		}
	}
	limitMemory(getenv)
	hangups, ignoreHangups := hangUps()
	defer ignoreHangups()
	log, lines := openLog(stderr, cfg.LogLevel, underJournal(getenv))
	defer lines.close(flushTime)
	listeners, stored, err := systemd.Handed()
	if err != nil {
		return err
	}
	var pair *certs.Pair
	if cfg.UseTLS {
		if pair, err = certs.Load(cfg.CertFile, cfg.KeyFile, log); err != nil {
			return err
		}
	}
	files, err := openFiles()
	if err != nil {
		return err
	}
	limits := fit(cfg, files)
	if *check {
		return report(stdout, cfg, pair, limits)
	}
	if e != nil { // from here until it begins, nobody is served
		if listeners, stored, err = e.handed(); err != nil {
			return err
		}
	}
	if limits.Connections < cfg.MaxConnections {
		log.Warn("fewer connections than MAX_CONNECTIONS: the process may not open more files", "connections",
			limits.Connections,
			"max_connections", cfg.MaxConnections, "open_files", files, "remedy", "raise LimitNOFILE= or ulimit -n")
	}
	if kept := handover.Room(files); systemd.Managed() && limits.Connections+requests(files) > kept {
		log.Warn("not all connections can be kept over a restart: the process may not open more files", "kept", kept,
			"connections", limits.Connections, "http_connections", requests(files), "remedy", "raise LimitNOFILE=")
	}

	isHanded := len(listeners) > 0
	d := &service{cfg: cfg, limits: limits, files: files, pair: pair, stored: stored, isHanded: isHanded, inherited: e,
		runtime: runtimeDirectory(getenv), log: log, lines: lines, hangups: hangups}
	d.newLED() // before sockets are opened: led.OpenGPIO
	if !isHanded {
		l, err := listen(ctx, cfg.Port)
		if err != nil {
			return err
		}
		listeners = []net.Listener{l}
	}
	d.key = cfg.APIKey
	if d.key == "" {
		d.key = rand.Text()
	}
	d.greet = func(port int) {
		switch {
		case !underJournal(getenv):
			lines.flush(greetTime) // on a terminal the log so far comes before the greeting
			screen := newSpool(stdout, nil)
			defer screen.close(flushTime)
			g := greeting{
				url:     address(cfg.UseTLS, "localhost", port),
				network: networkAddress(cfg.UseTLS, port),
				key:     d.key,
				showKey: cfg.APIKey == "",
				client:  clientPath(args[0]),
			}
			g.reach = g.url
			if pair != nil {
				g.certify(pair, cfg.CertFile, port)
			}
			greet(screen, g)
		case cfg.APIKey == "":
			log.Warn("no key is given: this run has a random key, which is not written into the journal",
				"remedy", "set API_KEY, or hand over the credential api-key")
		}
	}
	if isHanded {
		if err := d.offers(listeners); err != nil {
			log.Warn("no new process can take over: a reload of the unit will fail, a restart will not", "error", err)
		}
	}
	return d.serveOn(ctx, listeners)
}

// secure puts TLS on the TCP listeners, if there is a pair, and returns their ports.
func secure(listeners []net.Listener, pair *certs.Pair) (ports []int) {
	for i, l := range listeners {
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			continue
		}
		ports = append(ports, addr.Port)
		if pair != nil {
			listeners[i] = server.Secure{Listener: l, Config: pair.Config()}
		}
	}
	return ports
}

// listen listens on all addresses, IPv4 and IPv6.
func listen(ctx context.Context, port int) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: false}} // pings do that
	lc.SetMultipathTCP(false)                                                   // as systemd's: its options are TCP's
	l, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %d is in use: is picloudd running already? Set PORT to another one", port)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("port %d needs privileges: set PORT to 1024 or more", port)
	case err != nil:
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// spareFiles is what the process opens besides connections: listeners, certificates, the poller, the log.
const spareFiles = 64

// openFiles is how many files the process may open. (Go has raised the soft limit to the hard one.)
func openFiles() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	files := int(min(l.Cur, 1<<30))
	if files < 4*spareFiles {
		return 0, fmt.Errorf("the process may open %d files only: at least %d are needed (ulimit -n)", files,
			4*spareFiles)
	}
	return files, nil
}

// requests is how many HTTP connections may be open at the same time, besides the WebSockets.
func requests(files int) int { return min(4096, files/4) }

// fit makes the configured limits fit what the process may open.
func fit(cfg config.Config, files int) wsconn.Limits {
	return wsconn.Limits{
		Connections:  min(cfg.MaxConnections, files-spareFiles-requests(files)),
		MessageBytes: cfg.MaxMessageBytes,
		QueueBytes:   cfg.MaxQueueBytes,
		UnsentBytes:  unsentBytes(memory()),
		PingEvery:    cfg.PingInterval,
		PeerTimeout:  cfg.PeerTimeout,
	}
}

// report says what a start with these settings would do.
func report(w io.Writer, cfg config.Config, pair *certs.Pair, limits wsconn.Limits) error {
	key := "a random one for each run (no API_KEY, no credential api-key)"
	if cfg.APIKey != "" {
		key = "from " + cfg.APIKeyFrom
	}
	cert := "off (USE_TLS is empty)"
	if pair != nil {
		cert = pair.Describe()
	}
	_, err := fmt.Fprintf(w, `settings are valid
  port         %d
  key          %s
  TLS          %s
  connections  %d (MAX_CONNECTIONS is %d)
  message      %d bytes
  queue        %d bytes
`, cfg.Port, key, cert, limits.Connections, cfg.MaxConnections, limits.MessageBytes, limits.QueueBytes)
	return err
}

// underJournal reports whether standard output and error go to systemd's journal, systemd.exec(5): it records the time
// itself, and its readers must not learn the key.
func underJournal(getenv func(string) string) bool { return getenv("JOURNAL_STREAM") != "" }

type greeting struct {
	url     string // for this machine
	reach   string // the same, as the commands need it: with TLS by a name in the certificate
	network string // for others; empty when there is no network
	key     string
	showKey bool // it was generated for this run
	client  string
	ca      string // the file that clients are told to trust; empty when there is none
	remark  string // on the certificate
}

// certify puts into the greeting what clients need so that they trust the certificate.
func (g *greeting) certify(pair *certs.Pair, file string, port int) {
	name, _ := os.Hostname() // without it there is one name less to try
	name, _, _ = strings.Cut(name, ".")
	if host := pair.Host(name, "localhost", "127.0.0.1", "::1"); host != "" {
		g.reach = address(true, host, port)
	} else {
		g.remark = "The certificate is for no name and no address, so clients refuse it: picloudd -make-cert makes another."
	}
	if g.network != "" {
		at, _, _ := net.SplitHostPort(strings.TrimPrefix(g.network, "https://"))
		g.network = ""
		if host := pair.Host(name, at); host != "" {
			g.network = address(true, host, port)
		}
	}
	if pair.IsSelfSigned() {
		g.ca = fromAnywhere(file)
	} else {
		g.remark = cmp.Or(g.remark, "The certificate is signed by an authority. A machine that does not know that needs its certificate: with --cacert for curl, --ca for picloud.")
	}
}

// greet tells a person what to do next. The first line is stable, for scripts.
func greet(w io.Writer, g greeting) {
	fmt.Fprintf(w, "PiCloud %s listens on %s\n", version, g.url)
	if g.network != "" {
		fmt.Fprintf(w, "Other machines reach it at %s\n", g.network)
	}
	if g.remark != "" {
		fmt.Fprintln(w, g.remark)
	}
	if g.showKey {
		fmt.Fprintf(w, "\nThe key of this run (set API_KEY to choose one). Paste it into another terminal:\n\n  export API_KEY=%s\n", g.key)
	}
	flag, curl := "", ""
	if g.ca != "" {
		flag = " --ca " + quote(g.ca)
		curl = "--cacert " + quote(g.ca) + " "
	}
	if g.reach != address(false, "localhost", 9000) {
		flag += " --url " + quote(g.reach)
	}
	fmt.Fprintf(w, `
Then, each in a terminal of its own: subscribe, publish, and see who is connected.

  %[1]s sub%[2]s temperature
  curl %[4]s-H "X-API-Key: $API_KEY" "%[3]s/publish?clientName=Porch" -d '{"event":"temperature","data":"76.5 F"}'
  %[1]s info%[2]s

Or open %[3]s/ in a browser, and sign in with the key.
`, quote(g.client), flag, g.reach, curl)
}

func address(isTLS bool, host string, port int) string {
	scheme := "http"
	if isTLS {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// networkAddress is this machine's first IPv4 address on a network.
func networkAddress(isTLS bool, port int) string {
	addrs, _ := net.InterfaceAddrs() // without them there is one line less to show
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return address(isTLS, n.IP.String(), port)
		}
	}
	return ""
}

// clientPath is the command for the client, which is beside the daemon.
func clientPath(daemon string) string {
	if strings.Contains(daemon, "/") {
		return strings.TrimSuffix(daemon, filepath.Base(daemon)) + "picloud" // not cleaned: ./picloud needs its dot
	}
	return "picloud"
}

func usage(w io.Writer) {
	fmt.Fprint(w, `picloudd is PiCloud's server: publish and subscribe over WebSocket and HTTP on the local network.

usage: picloudd                  serve
       picloudd -check           read the settings and TLS files, say what would be done, exit
       picloudd -reload          make the running service read its TLS files again
       picloudd -take-over       have a new process take over from the service's: what systemctl reload picloud runs
       picloudd -make-key FILE   write a new random key to FILE, unless it exists
       picloudd -make-cert [NAME|ADDRESS]...
                                 write a new key and certificate for TLS to KEY_FILE and CERT_FILE, or to key.pem and
                                 cert.pem here: for this machine's names and addresses, and those that are given
       picloudd -follow-port     have systemd listen on PORT, where the service was handed another port
       picloudd -led-test LED    show every pattern on that LED: gpio17, gpio17,active-low or led:ACT
       picloudd -led-off         turn the LED of the settings off, after a crash
       picloudd -version

Settings are environment variables:

`)
	for _, s := range config.Settings() {
		fmt.Fprintf(w, "  %-18s %s\n", s.Name, s.Help)
		fmt.Fprintf(w, "  %-18s %s", "", s.Allowed)
		if s.Default != "" {
			fmt.Fprintf(w, "; default %s", s.Default)
		}
		fmt.Fprintln(w)
	}
}
