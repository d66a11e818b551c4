package main

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/internal/config"
	"picloud/internal/wire"
)

// healthyAppliance runs a real daemon behind sockets as systemd has them; what systemctl tells is in /units.
func healthyAppliance(t *testing.T, settings ...string) (*appliance, *daemon) {
	t.Helper()
	a := newAppliance(t, map[string]string{
		keyFile: key + "\n",
		"/etc/group": fmt.Sprintf("root:x:0:\ngpio:x:%d:pi,picloud\npicloud:x:%[1]d:\n",
			os.Getgid()),
		"/etc/avahi/services/picloud.service": "<service-group/>",
		"/units/avahi-daemon.service":         "ActiveState=active\n",
		"/units/picloud.service": "LoadState=loaded\nActiveState=active\nSubState=running\nExecMainStatus=0\nNRestarts=0\n" +
			"UnitFileState=enabled\nStatusText=0 connections\nUser=picloud\nMainPID=41\n",
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\npicloud:x:998:998:PiCloud daemon:/var/lib/picloud:/usr/sbin/nologin\n",
	})
	a.command("systemctl", `for unit; do :; done
cat `+a.at("/units")+`/$unit 2>/dev/null || echo LoadState=not-found`)
	a.command("journalctl", `cat `+a.at("/journal"))
	d := a.serve(settings...)
	a.write(settingsFile, "PORT="+d.Port()+"\n")
	a.write("/units/picloud.socket", "LoadState=loaded\nActiveState=active\nResult=success\nUnitFileState=enabled\n"+
		"Listen=[::]:"+d.Port()+" (Stream)\nListen=/run/picloud/picloud.sock (Stream)\n")
	return a, d
}

// diagnosis has doctor look, and returns what it prints.
func diagnosis(t *testing.T, env map[string]string, status int) string {
	t.Helper()
	out, said := call(t, env, "doctor").ends(status)
	if wrong := strings.Count("\n"+out, "\nwrong "); (wrong > 0) != (status == 1) ||
		(wrong > 0) != strings.Contains(said, "wrong") {
		t.Errorf("exit status %d, and it printed %q and said %q", status, out, said)
	}
	return out
}

func TestDoctorFindsNothingWrongWithAHealthyAppliance(t *testing.T) {
	_, d := healthyAppliance(t)
	out := diagnosis(t, nil, 0)
	for _, want := range []string{
		"ok     service   running: 0 connections\n", "ok     settings ",
		"ok     socket    listening on port " + d.Port() + "\n",
		"ok     answer ", "ok     key ", "ok     TLS       off", " clock ", " disk ", "ok     address   http://",
		":" + d.Port() + " answers",
		".local, announced as _picloud._tcp\n", "ok     you       this user needs no key",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "LED") || strings.Contains(out, key) {
		t.Errorf("it has what it should not:\n%s", out)
	}
}

// Each case makes one thing wrong with a healthy appliance.
func TestDoctorNamesWhatIsWrongAndTheRemedy(t *testing.T) {
	unit := func(property, value string) func(*appliance, *daemon) {
		return func(a *appliance, _ *daemon) {
			text := a.read("/units/picloud.service")
			before, rest, _ := strings.Cut(text, property+"=")
			_, after, _ := strings.Cut(rest, "\n")
			a.write("/units/picloud.service", before+property+"="+value+"\n"+after)
		}
	}
	failing := func(status string) func(*appliance, *daemon) {
		return func(a *appliance, d *daemon) {
			unit("ActiveState", "activating")(a, d)
			unit("SubState", "auto-restart")(a, d)
			unit("ExecMainStatus", status)(a, d)
		}
	}
	setting := func(line string) func(*appliance, *daemon) {
		return func(a *appliance, _ *daemon) { a.write(settingsFile, a.read(settingsFile)+line+"\n") }
	}
	socket := func(from, to string) func(*appliance, *daemon) {
		return func(a *appliance, _ *daemon) {
			a.write("/units/picloud.socket", strings.ReplaceAll(a.read("/units/picloud.socket"), from, to))
		}
	}
	listen := func(address string) func(*appliance, *daemon) {
		return func(a *appliance, d *daemon) { socket("[::]:"+d.Port(), address)(a, d) }
	}
	taken := func(a *appliance, _ *daemon) {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		a.t.Cleanup(func() { l.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		a.write(settingsFile, "PORT="+port+"\n")
	}
	deaf := func(a *appliance, d *daemon) {
		d.Stop(t)
		a.write(settingsFile, "PORT="+d.Port()+"\n") // nobody has it any more
		os.Remove(a.at(localSocket))
		a.serveOn(nil)
	}
	remove := func(path string) func(*appliance, *daemon) {
		return func(a *appliance, _ *daemon) { os.Remove(a.at(path)) }
	}
	for name, test := range map[string]struct {
		breaks []func(*appliance, *daemon)
		line   string // its beginning
		says   string
		remedy string
	}{
		"not installed": {[]func(*appliance, *daemon){remove("/units/picloud.service")}, "wrong  service",
			"not installed", "picloud doctor --url"},
		"masked": {[]func(*appliance, *daemon){unit("LoadState", "masked")}, "wrong  service", "masked", "unmask"},
		"stopped": {[]func(*appliance, *daemon){unit("ActiveState", "inactive")}, "look   service", "stopped",
			"systemctl start"},
		"disabled": {[]func(*appliance, *daemon){unit("UnitFileState", "disabled")}, "look   service",
			"not started with", "systemctl enable"},
		"restarted": {[]func(*appliance, *daemon){unit("NRestarts", "3")}, "look   service", "so often: 3",
			"journalctl"},
		"another program": {[]func(*appliance, *daemon){unit("MainPID", "42"), func(a *appliance, _ *daemon) {
			a.write("/proc/42/exe", "the one before")
			a.write("/usr/bin/picloudd", "the new one")
		}}, "look   service", "another than the installed one", "systemctl reload"},
		"a person's": {[]func(*appliance, *daemon){func(a *appliance, _ *daemon) {
			a.write("/etc/passwd", "picloud:x:1000:1000::/home/picloud:/bin/bash\n")
		}},
			"look   service", "a person's account", "a user of its own"},
		"no credential": {[]func(*appliance, *daemon){failing("243")}, "wrong  service", "key file is missing",
			"journalctl"},
		"no group": {[]func(*appliance, *daemon){failing("216")}, "wrong  service", "systemd-sysusers",
			"journalctl"},
		"wrong and tells": {[]func(*appliance, *daemon){failing("1"),
			func(a *appliance, _ *daemon) { a.write("/journal", "LED=x: must be\n") }}, "wrong  service",
			"LED=x: must be", "journalctl"},
		"between tries": {[]func(*appliance, *daemon){unit("ActiveState", "deactivating"),
			unit("ExecMainStatus", "1")}, "wrong  service", "exit status 1", "journalctl"},
		"wrong and silent": {[]func(*appliance, *daemon){failing("1")}, "wrong  service", "exit status 1",
			"journalctl"},

		"wrong setting": {[]func(*appliance, *daemon){setting("MAX_CONNECTIONS=many")}, "wrong  settings",
			`MAX_CONNECTIONS="many": must be`, "nano"},
		"port in use": {[]func(*appliance, *daemon){socket("ActiveState=active", "ActiveState=failed")},
			"wrong  socket", "another program has port", "ss -ltnp"},
		"PORT moved": {[]func(*appliance, *daemon){setting("PORT=8080")}, "wrong  socket", "and PORT is 8080",
			"sudo systemctl restart picloud"},
		"PORT taken": {[]func(*appliance, *daemon){taken}, "wrong  socket", "another program has port",
			"ss -ltnp"},
		"other port": {[]func(*appliance, *daemon){listen("[::]:8080")}, "wrong  socket",
			"and systemd's unit has 8080", "picloud-port"},
		"no port": {[]func(*appliance, *daemon){deaf}, "wrong  socket", "was handed no port", "picloud-port"},
		"no network": {[]func(*appliance, *daemon){socket("Listen=[::]", "Nothing=")}, "look   socket", "no port",
			"systemctl cat"},
		"socket disabled": {[]func(*appliance, *daemon){socket("enabled", "disabled")}, "look   socket", "next start",
			"enable"},
		"server is silent": {[]func(*appliance, *daemon){func(_ *appliance, d *daemon) { d.Stop(t) }}, "wrong  answer",
			"connection refused", "journalctl"},
		"no local socket": {[]func(*appliance, *daemon){remove(localSocket)}, "wrong  you", "picloud.sock is missing",
			"restart picloud.socket"},

		"no key": {[]func(*appliance, *daemon){remove(keyFile)}, "wrong  key", "is missing", "restart picloud"},
		"empty key": {[]func(*appliance, *daemon){func(a *appliance, _ *daemon) { a.write(keyFile, "\n") }},
			"wrong  key", "is empty", "sudo rm"},
		"other key": {[]func(*appliance, *daemon){func(a *appliance, _ *daemon) { a.write(keyFile, "other\n") }},
			"wrong  key", "another key", "restart picloud"},
		"open key": {[]func(*appliance,
			*daemon){func(a *appliance, _ *daemon) { os.Chmod(a.at(keyFile), 0o644) }}, "look   key", "everybody",
			"chmod o="},
		"closed key": {[]func(*appliance,
			*daemon){func(a *appliance, _ *daemon) { os.Chmod(a.at(keyFile), 0o600) }}, "look   key",
			"group picloud may not", "chgrp picloud"},
		"key in setting": {[]func(*appliance, *daemon){setting("API_KEY=" + key)}, "look   key", "everybody",
			"move it"},

		"no GPIO": {[]func(*appliance, *daemon){setting("LED=gpio17")}, "wrong  LED", "no GPIO", "LED=led:NAME"},
		"closed GPIO": {[]func(*appliance, *daemon){setting("LED=gpio17"),
			func(a *appliance, _ *daemon) { a.write("/dev/gpiochip0", "") }}, "wrong  LED", "may not use", "udevadm"},
		"no groups": {[]func(*appliance, *daemon){remove("/etc/group")}, "wrong  service", "no group picloud",
			"systemd-sysusers"},
		"not in group": {[]func(*appliance, *daemon){setting("LED=gpio17"),
			func(a *appliance, _ *daemon) { a.write("/etc/group", "gpio:x:5:pi\n") }}, "wrong  LED", "group gpio",
			"adduser"},
		"no such LED": {[]func(*appliance, *daemon){setting("LED=led:ACT")}, "wrong  LED", "no LED ACT",
			"/sys/class/leds"},
		"closed LED": {[]func(*appliance, *daemon){setting("LED=led:ACT"),
			func(a *appliance, _ *daemon) { a.write("/sys/class/leds/ACT/brightness", "0") }}, "wrong  LED",
			"may not switch", "udevadm"},

		"no TLS files": {[]func(*appliance,
			*daemon){setting("USE_TLS=on\nCERT_FILE=/etc/picloud/c\nKEY_FILE=/etc/picloud/k")}, "wrong  TLS",
			"/etc/picloud/c is missing", "correct the path"},
		"behind a proxy": {[]func(*appliance, *daemon){socket("[::]", "127.0.0.1")}, "look   address",
			"only programs of this machine", "proxy"},
		"no Avahi": {[]func(*appliance, *daemon){remove("/units/avahi-daemon.service")}, "look   name", "Avahi",
			"apt install"},
		"unannounced": {[]func(*appliance, *daemon){remove("/etc/avahi/services/picloud.service")}, "look   name",
			"no announcement", "picloud-announce"},
	} {
		t.Run(name, func(t *testing.T) {
			a, d := healthyAppliance(t)
			a.write("/journal", "")
			for _, b := range test.breaks {
				b(a, d)
			}
			status := 0
			if strings.HasPrefix(test.line, "wrong") {
				status = 1
			}
			out := diagnosis(t, nil, status)
			for line := range strings.SplitSeq(out, "\n"+test.line) {
				first, rest, _ := strings.Cut(line, "\n")
				second, _, _ := strings.Cut(rest, "\n")
				if strings.Contains(first, test.says) && strings.Contains(second, "→ ") &&
					strings.Contains(second, test.remedy) {
					return
				}
			}
			t.Errorf("it does not say %q … %q with the remedy %q:\n%s", test.line, test.says, test.remedy, out)
		})
	}
}

func TestDoctorReadsTheServedCertificate(t *testing.T) {
	certFile, keyFile := selfSigned(t, "localhost")
	a, d := healthyAppliance(t, "USE_TLS=on", "CERT_FILE="+certFile, "KEY_FILE="+keyFile)
	for from, to := range map[string]string{certFile: "/etc/picloud/cert.pem", keyFile: "/etc/picloud/key.pem"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		a.write(to, string(text))
	}
	a.write(settingsFile, "PORT="+d.Port()+"\nUSE_TLS=on\nCERT_FILE=/etc/picloud/cert.pem\nKEY_FILE=/etc/picloud/key.pem\n")
	out := diagnosis(t, nil, 0)
	for _, want := range []string{"look   TLS       the certificate expires on ", "ok     answer ",
		"ok     address   https://", "look   TLS       a restart ends its connections, and clients come back, though"} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
}

func TestDoctorSaysWhetherConnectionsOverTLSAreKept(t *testing.T) {
	ends, keeps := wire.ServerInfo{TLS: true}, wire.ServerInfo{TLS: true, TLSKeptOverRestart: true}
	for name, test := range map[string]struct {
		carry  bool
		server *wire.ServerInfo
		want   string
	}{
		"kept":            {true, &keeps, "ok a restart keeps its connections"},
		"not wanted":      {false, &ends, "ok CARRY_TLS is off"},
		"not wanted soon": {false, &keeps, "look counts after the next restart"},
		"not kept":        {true, &ends, "look a restart ends its connections"},
		"without TLS":     {true, &wire.ServerInfo{}, ""},
		"not to be asked": {true, nil, ""},
	} {
		m := machine{config: config.Config{UseTLS: true, CarryTLS: test.carry}, server: test.server}
		got := ""
		if list := m.carried(); len(list) > 0 {
			got = settings{}.finding(list[0])
		}
		verdict, says, _ := strings.Cut(test.want, " ")
		if (got == "") != (test.want == "") || !strings.HasPrefix(got, verdict) || !strings.Contains(got, says) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestTLSFilesThatTheServiceCannotRead(t *testing.T) {
	a := newAppliance(t, map[string]string{"/etc/picloud/key.pem": ""})
	os.Chmod(a.at("/etc/picloud/key.pem"), 0o600)
	m := machine{groups: map[string]group{"picloud": {id: uint32(os.Getgid())}}}
	for path, want := range map[string]finding{
		"/home/pi/key.pem":      {look, "TLS", "hides /home/", "/etc/picloud"},
		"/etc/picloud/none.pem": {wrong, "TLS", "is missing", "correct the path"},
		"/etc/picloud/key.pem":  {wrong, "TLS", "may not read /etc/picloud/key.pem", "chgrp picloud"},
	} {
		if got := m.secret(path); got.verdict != want.verdict || !strings.Contains(got.says, want.says) ||
			!strings.Contains(got.remedy, want.remedy) {
			t.Errorf("%s: got %+v, want %+v", path, got, want)
		}
	}
	os.Chmod(a.at("/etc/picloud/key.pem"), 0o640)
	if got := m.secret("/etc/picloud/key.pem"); got.verdict != fine {
		t.Errorf("got %+v", got)
	}
}

func TestDatesOfACertificate(t *testing.T) {
	day := 24 * time.Hour
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		from, to time.Duration
		want     verdict
		says     string
	}{
		{-day, 90 * day, fine, "good until 2026-08-30"},
		{-day, 13 * day, look, "expires on 2026-06-14"},
		{-9 * day, -day, wrong, "expired on 2026-05-31"},
		{day, 90 * day, wrong, "not valid before 2026-06-02"},
	} {
		got := dates(&x509.Certificate{NotBefore: now.Add(test.from), NotAfter: now.Add(test.to)}, now)
		if got.verdict != test.want || !strings.Contains(got.says, test.says) ||
			(got.remedy == "") != (got.verdict == fine) {
			t.Errorf("got %+v, want %d, %q", got, test.want, test.says)
		}
	}
}

func TestSpaceOfADisk(t *testing.T) {
	const all = 1 << 34
	for _, test := range []struct {
		free     uint64
		readOnly bool
		want     verdict
	}{
		{all / 2, false, fine}, {all / 30, false, look}, {1 << 10, false, wrong}, {all / 2, true, look},
	} {
		if got := space(test.free, all, test.readOnly); got.verdict != test.want ||
			(got.remedy == "") != (got.verdict == fine) {
			t.Errorf("%d free, read-only %t: got %+v, want %d", test.free, test.readOnly, got, test.want)
		}
	}
}

func TestDoctorLooksAtAServerElsewhere(t *testing.T) {
	d := serve(t, "0")
	out := diagnosis(t, environment(d, nil), 0)
	for _, want := range []string{"ok     answer    " + d.URL, "ok     key       the server lets us in: PiCloud dev",
		"ok     clock "} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
	out = diagnosis(t, environment(d, map[string]string{"API_KEY": "other"}), 1)
	if !strings.Contains(out, "wrong  key ") || !strings.Contains(out, "refuses this key") {
		t.Errorf("with another key:\n%s", out)
	}
	d.Stop(t)
	if out = diagnosis(t, environment(d, nil), 1); !strings.Contains(out,
		"wrong  answer    "+d.URL+" does not answer") {
		t.Errorf("without a server:\n%s", out)
	}

	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	out = diagnosis(t, map[string]string{"PICLOUD_URL": other.URL}, 1)
	if !strings.Contains(out, "404 Not Found: is it PiCloud?") {
		t.Errorf("at another's address:\n%s", out)
	}
}

func TestDoctorLooksAtAServerThatWasStartedByHand(t *testing.T) {
	a, _ := healthyAppliance(t)
	if err := os.Remove(a.at("/units/picloud.service")); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := selfSigned(t, "localhost")
	for name, test := range map[string]struct {
		daemon []string
		ca     string
		want   []string
		err    string
	}{
		"plain": {nil, "", []string{"ok     key       the server lets us in"}, ""},
		"TLS": {[]string{"USE_TLS=1", "CERT_FILE=" + certFile, "KEY_FILE=" + keyFile}, certFile,
			[]string{"look   TLS       the certificate expires on", "ok     key ",
				"ok     TLS       a restart ends its connections, and clients come back"}, ""},
		"TLS, not trusted": {[]string{"USE_TLS=1", "CERT_FILE=" + certFile, "KEY_FILE=" + keyFile}, "",
			[]string{"look   TLS       the certificate expires on", "wrong  TLS ", "--ca"}, "one thing is wrong"},
	} {
		d := serve(t, "0", test.daemon...)
		var out strings.Builder
		err := doctor(t.Context(), settings{url: "http://localhost:" + d.Port(), key: key, ca: test.ca}, &out)
		if got := fmt.Sprint(err); got != cmp.Or(test.err, "<nil>") {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range append(test.want, "look   service   no service is installed",
			"started by hand answers at "+d.URL, "ok     answer ") {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: it lacks %q:\n%s", name, want, &out)
			}
		}
		if strings.Contains(out.String(), "wrong  key") {
			t.Errorf("%s:\n%s", name, &out)
		}
	}
}

func TestDoctorsVerdictsHaveColoursOnATerminalOnly(t *testing.T) {
	f := finding{wrong, "key", "it is \x1b[2Jgone", "make one"}
	if got, want := (settings{colour: true}).finding(f),
		"\x1b[31mwrong\x1b[m  key       it is \\u001b[2Jgone\n                 → make one\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (settings{}).finding(f); strings.Contains(got, "\x1b") {
		t.Errorf("got %q", got)
	}
}

func TestPortsOfASocketUnit(t *testing.T) {
	for listen, want := range map[string]string{
		"[::]:9000 (Stream) /run/picloud/picloud.sock (Stream)": "127.0.0.1 9000 true",
		"0.0.0.0:9000 (Stream)":                                 "127.0.0.1 9000 true",
		"192.0.2.1:80 (Stream)":                                 "192.0.2.1 80 true",
		"127.0.0.1:80 (Stream)":                                 "127.0.0.1 80 false",
		"[::1]:80 (Stream)":                                     "::1 80 false",
		"/run/a:7 (Stream)":                                     "127.0.0.1 0 false",
		"":                                                      "127.0.0.1 0 false",
	} {
		host, port, isOpen := listensOn(listen)
		if got := fmt.Sprint(host, " ", port, " ", isOpen); got != want {
			t.Errorf("%q: got %s, want %s", listen, got, want)
		}
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if !isTaken(port) {
		t.Error("a port that is listened on counts as free")
	}
	l.Close()
	if isTaken(port) {
		t.Error("a port that nobody has counts as taken")
	}
}

func TestGroupsOfThisMachine(t *testing.T) {
	a := newAppliance(t, map[string]string{"/etc/group": "broken\ngpio:x:44:pi,picloud\nempty:x:45:\n"})
	groups := readGroups()
	if !groups["gpio"].has("picloud") || groups["gpio"].has("p") || groups["empty"].has("picloud") ||
		groups["gpio"].id != 44 {
		t.Errorf("got %v", groups)
	}
	path := filepath.Join(a.root, "file")
	for _, test := range []struct {
		mode os.FileMode
		bits os.FileMode
		want bool
	}{{0o640, 4, true}, {0o604, 4, true}, {0o600, 4, false}, {0o640, 6, false}, {0o660, 6, true}} {
		a.write("/file", "")
		os.Chmod(path, test.mode)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		m := machine{groups: map[string]group{"own": {id: uint32(os.Getgid())}}}
		if got := m.allows(info, "own", test.bits); got != test.want {
			t.Errorf("mode %o allows %o: %t, want %t", test.mode, test.bits, got, test.want)
		}
	}
}
