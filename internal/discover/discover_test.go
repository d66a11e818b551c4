package discover

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"picloud/internal/leak"
	"picloud/test/alone"

	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { os.Exit(leak.Check(m.Run)) }

func name(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

// answer returns a packet with these resources.
func answer(t testing.TB, resources ...dnsmessage.Resource) []byte {
	t.Helper()
	for i := range resources {
		resources[i].Header.Class = dnsmessage.ClassINET
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: resources[:1],
		Additionals: resources[1:]}
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func resource(of string, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name(of)}, Body: body}
}

const porch = "PiCloud on porch." + service

func pointer(to string) dnsmessage.Resource {
	return resource(service, &dnsmessage.PTRResource{PTR: name(to)})
}

// asked returns the names and types in the next question.
func asked(t *testing.T, k *knowledge) []string {
	t.Helper()
	p, err := k.question()
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(p); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, q := range m.Questions {
		list = append(list, strings.TrimPrefix(q.Type.String(), "Type")+" "+q.Name.String())
	}
	return list
}

func same(t *testing.T, got any, want string) {
	t.Helper()
	if text := fmt.Sprint(got); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestWhatIsMissingIsAskedFor(t *testing.T) {
	k := newKnowledge()
	same(t, asked(t, k), "[PTR _picloud._tcp.local.]")
	k.learn(answer(t, pointer(porch)), "eth0")
	same(t, asked(t, k), "[PTR _picloud._tcp.local. SRV PiCloud on porch._picloud._tcp.local. TXT PiCloud on porch._picloud._tcp.local.]")
	same(t, k.servers(), "[]")
	// Names are compared without regard to case.
	k.learn(answer(t, resource(strings.ToUpper(porch),
		&dnsmessage.SRVResource{Target: name("Porch.local."), Port: 9000})), "eth0")
	same(t, asked(t, k), "[PTR _picloud._tcp.local. A Porch.local. AAAA Porch.local.]")
	same(t, k.servers(), "[{PiCloud on porch Porch.local 9000 false []}]")
	k.learn(answer(t, resource("porch.local.", &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("fe80::1").As16()}),
		resource("porch.local.", &dnsmessage.AResource{A: [4]byte{192, 168, 1, 5}}),
		resource(porch, &dnsmessage.TXTResource{TXT: []string{"path=/subscribe", "tls=1"}})), "eth0")
	same(t, asked(t, k), "[PTR _picloud._tcp.local.]")
	same(t, k.servers(), "[{PiCloud on porch Porch.local 9000 true [192.168.1.5 fe80::1%eth0]}]")
}

func TestOtherServicesAreNotServers(t *testing.T) {
	k := newKnowledge()
	k.learn(answer(t, resource("_http._tcp.local.", &dnsmessage.PTRResource{PTR: name("Printer._http._tcp.local.")}),
		resource("Printer._http._tcp.local.", &dnsmessage.SRVResource{Target: name("printer.local."), Port: 80})),
		"eth0")
	question := answer(t, pointer(porch))
	question[2] &^= 0x80 // not a response
	k.learn(question, "eth0")
	same(t, asked(t, k), "[PTR _picloud._tcp.local.]")
}

func TestWhatANetworkSaysIsBounded(t *testing.T) {
	k := newKnowledge()
	for i := range 3 * most {
		k.learn(answer(t, pointer(fmt.Sprintf("%d.%s", i, service)),
			resource("a.local.", &dnsmessage.AResource{A: [4]byte{10, 0, byte(i >> 8), byte(i)}}),
			resource(fmt.Sprintf("%d.local.", i), &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}})), "eth0")
	}
	if len(k.instances) != most || len(k.hosts) != most || len(k.hosts["a.local."]) != most {
		t.Errorf("%d servers, %d hosts, %d addresses", len(k.instances), len(k.hosts), len(k.hosts["a.local."]))
	}
}

func FuzzLearn(f *testing.F) {
	f.Add(answer(f, pointer(porch), resource(porch, &dnsmessage.SRVResource{Target: name("p.local."), Port: 1})))
	f.Add(answer(f, resource("p.local.", &dnsmessage.AAAAResource{}),
		resource(porch, &dnsmessage.TXTResource{TXT: []string{"tls=1"}})))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		k := newKnowledge()
		k.learn(packet, "eth0")
		if _, err := k.question(); err != nil {
			t.Errorf("after %x: %v", packet, err)
		}
		for _, s := range k.servers() {
			if s.Host == "" {
				t.Errorf("%x gives %v", packet, s)
			}
		}
	})
}

// avahi starts the real responder on another machine of eth7's network, announcing what the package's own script
// writes, and waits until it does.
func avahi(t *testing.T, listen string, useTLS string) {
	t.Helper()
	bin := t.TempDir()
	alone.Must(t, `
printf '#!/bin/sh\necho "`+listen+`"\n' >`+bin+`/systemctl
chmod +x `+bin+`/systemctl
PATH=`+bin+`:$PATH USE_TLS=`+useTLS+` ../../systemd/announce`)
	conf := filepath.Join(bin, "avahi.conf")
	const text = "[server]\nhost-name=porch\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=no\n[publish]\npublish-addresses=yes\npublish-hinfo=no\npublish-workstation=no\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "sh", "-eu", "-c", `
echo here >&2
read go
ip link set eth8 addrgenmode none
ip address add 192.0.2.7/24 dev eth8
ip -6 address add fe80::7/64 dev eth8 nodad
ip link set eth8 up
exec /usr/sbin/avahi-daemon -f "$0" --no-drop-root --no-chroot --no-rlimits --debug`, conf)
	cmd.Env = append(os.Environ(), alone.Path())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	lines := bufio.NewScanner(log)
	lines.Scan() // it is in its network
	alone.Must(t, fmt.Sprintf(`
ip link add eth7 type veth peer eth8 netns %d
ip link set eth7 addrgenmode none
ip address add 192.0.2.1/24 dev eth7
ip -6 address add fe80::1/64 dev eth7 nodad
ip link set eth7 up`, cmd.Process.Pid))
	stdin.Write([]byte("\n"))
	for lines.Scan() {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), "Service") && strings.Contains(lines.Text(), "successfully established") {
			go func() {
				for lines.Scan() {
				}
			}()
			return
		}
	}
	t.Fatal("avahi-daemon ended before it announced anything")
}

func TestServersThatAvahiAnnouncesAreFound(t *testing.T) {
	if !alone.Inside(t) {
		return
	}
	alone.Must(t, `
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/avahi-daemon
mount -t tmpfs tmpfs /etc/avahi/services`)
	avahi(t, "[::]:9001 (Stream) /run/picloud/picloud.sock (Stream)", "on")
	got, err := Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, "[{PiCloud on porch porch.local 9001 true [192.0.2.7 fe80::7%eth7]}]")

	for _, host := range []string{"porch.local", "PORCH.local."} {
		start := time.Now()
		addresses, err := Addresses(t.Context(), host)
		if err != nil || time.Since(start) >= patientForHost {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		same(t, addresses, "[192.0.2.7 fe80::7%eth7]")
	}
}

func TestNobodyAnswers(t *testing.T) {
	if !alone.Inside(t) {
		return
	}
	if _, err := Servers(t.Context()); err == nil || !strings.Contains(err.Error(), "no network with multicast") {
		t.Errorf("without a network: %v", err)
	}
	alone.Must(t, `
ip link add eth7 type veth peer eth8
ip link set eth8 up
ip address add 192.0.2.7/24 dev eth7
ip link set eth7 up`)
	start := time.Now()
	if got, err := Servers(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if took := time.Since(start); took < patient || took > 3*patient {
		t.Errorf("it took %s", took)
	}
	start = time.Now()
	if got, err := Addresses(t.Context(), "porch.local"); err != nil || len(got) > 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if took := time.Since(start); took < patientForHost || took > 3*patientForHost {
		t.Errorf("asking for a host took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := Servers(ctx); err != nil || len(got) > 0 {
		t.Errorf("interrupted: got %v, %v", got, err)
	}
}
