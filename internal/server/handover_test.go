package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"picloud/internal/handover"
	"picloud/internal/wire"
	ws "picloud/test/peer"
	"picloud/test/wait"
)

// A lineage is a service whose processes follow each other, each a Server of its own on the same sockets. The test
// plays the service manager: it holds the listeners, and the store's files.
type lineage struct {
	*service
	t         *testing.T
	listeners []*os.File
	store     *handover.Store
	set       []func(*Config)
	handOver  func()
	between   func() // called between two processes, or nil
}

func found(t *testing.T, set ...func(*Config)) *lineage {
	t.Helper()
	l := &lineage{t: t, set: set}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "picloud")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/sock"})
	if err != nil {
		t.Fatal(err)
	}
	unix.SetUnlinkOnClose(false)
	for _, from := range []net.Listener{tcp, unix} {
		f, err := from.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		l.listeners = append(l.listeners, f)
	}
	l.service = &service{addr: tcp.Addr().String(), path: dir + "/sock", log: new(book),
		http: &http.Client{Transport: &http.Transport{}, Timeout: wait.Patience}}
	tcp.Close()
	unix.Close()
	if l.store, err = handover.New(16 << 20); err != nil {
		t.Fatal(err)
	}
	l.serve(nil, nil)
	t.Cleanup(func() {
		l.http.CloseIdleConnections()
		l.stop()
		l.log.check(t)
		if err := l.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// serve begins a process's life.
func (l *lineage) serve(conns []handover.Connection, general []handover.Record) {
	l.t.Helper()
	ending := Stop
	s, log := newServer(l.t, append(l.set, func(c *Config) {
		c.Store = l.store
		c.Ending = func() Ending { return ending }
	})...)
	l.Server, l.log = s, log
	s.Restore(conns, general)
	var listeners []net.Listener
	for _, f := range l.listeners {
		from, err := net.FileListener(f)
		if err != nil {
			l.t.Fatal(err)
		}
		listeners = append(listeners, from)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listeners...) }()
	end := func(how Ending) {
		ending = how
		cancel()
		if err := <-ended; err != nil {
			l.t.Errorf("Run: %v", err)
		}
	}
	l.stop = sync.OnceFunc(func() { end(Stop) })
	l.handOver = sync.OnceFunc(func() { end(HandOver) })
}

// kept is what a service manager has of a store: copies of its files.
func (l *lineage) kept() []*os.File {
	l.t.Helper()
	var files []*os.File
	for _, f := range l.store.Files() {
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			l.t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	return files
}

// restart makes the next process take the place of this one.
func (l *lineage) restart() {
	l.t.Helper()
	files := l.kept()
	l.handOver()
	l.log.check(l.t)
	if l.between != nil {
		l.between()
	}
	l.open(files)
}

// keptAs is how the store knows a client.
func (l *lineage) keptAs(p *peer) *handover.Kept {
	l.t.Helper()
	for _, c := range l.wsConns.All() {
		if c.Addr() == p.LocalAddr().String() {
			return c.Kept()
		}
	}
	l.t.Fatalf("%v is not connected", p.LocalAddr())
	return nil
}

// open begins the next process's life with what a service manager has kept.
func (l *lineage) open(files []*os.File) {
	l.t.Helper()
	if err := l.store.Close(); err != nil {
		l.t.Error(err)
	}
	var conns []handover.Connection
	var general []handover.Record
	var err error
	if l.store, conns, general, err = OpenStore(files, 10_000, 10_000); err != nil {
		l.t.Fatal(err)
	}
	l.serve(conns, general)
}

func TestRestartKeepsEveryConnection(t *testing.T) {
	l := found(t)
	sub, pub, local := l.subscriber(t, "Sub"), l.publisher(t, "Pub"), dial(t, "unix", l.path)
	local.upgrade("/subscribe?clientName=Local")
	info := l.watch(t)
	info.info()
	for _, p := range []*peer{sub, local} {
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	sub.ask(`{"action":"subscribe","event":"gone","id":1}`)
	sub.ask(`{"action":"unsubscribe","event":"gone","id":1}`)
	message := `{"event":"e","data":"in pieces","id":7}`
	half := ws.Frame(ws.Fin|ws.Text, message)
	pub.Raw(half[:9])
	fragments := l.subscriber(t, "Fragments")
	fragments.Raw(append(ws.Frame(ws.Text, `{"action":"pub`), ws.Frame(ws.Fin|ws.Ping, "x")...))
	if op, _, err := fragments.Next(); err != nil || op != ws.Pong {
		t.Fatalf("opcode %d (%v), want a pong", op, err)
	}
	idle, silent, begun := dial(t, "tcp", l.addr), dial(t, "tcp", l.addr), dial(t, "unix", l.path)
	idle.Raw([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
	idle.response("GET")
	post := fmt.Sprintf("POST /publish?clientName=P HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: 24\r\n\r\n{\"event\":\"e\",\"data\":true}", testKey)
	post = strings.Replace(post, "24", fmt.Sprint(len(post)-strings.Index(post, "\r\n\r\n")-4), 1)
	begun.Raw([]byte(post[:len(post)-9]))

	for n := range 3 {
		before := l.watch(t).info()
		l.restart()
		after := l.watch(t).info()
		if len(after.AllConnections) != 4 || len(after.Subscriptions) != 1 ||
			fmt.Sprint(after.AllConnections) != fmt.Sprint(before.AllConnections) {
			t.Fatalf("restart %d: before %+v, after %+v", n, before, after)
		}
		pub.Raw(half[9+n : 10+n]) // one byte for each process
		fragments.Raw(append(ws.Frame(ws.More, ""), ws.Frame(ws.Fin|ws.Ping, "")...))
		if op, _, err := fragments.Next(); err != nil || op != ws.Pong {
			t.Fatalf("opcode %d (%v), want a pong", op, err)
		}
	}
	pub.Raw(half[12:])
	pub.acked(message)
	fragments.Raw(ws.Frame(ws.Fin|ws.More, `lish","event":"e","data":"in fragments"}`))
	for _, want := range []string{`"in pieces"`, `"in fragments"`} {
		for _, p := range []*peer{sub, local} {
			if d := p.delivery(); d.data != want {
				t.Errorf("got %s, want %s", d.data, want)
			}
		}
	}
	begun.Raw([]byte(post[len(post)-9:]))
	for _, p := range []*peer{idle, silent} {
		p.Raw([]byte(post))
	}
	for _, p := range []*peer{idle, silent, begun} {
		if a := p.response("POST"); a.status != http.StatusCreated {
			t.Errorf("status %d %q, want 201", a.status, a.body)
		}
		for _, p := range []*peer{sub, local} {
			if d := p.delivery(); d.data != "true" {
				t.Errorf("got %s, want true", d.data)
			}
		}
	}
	info.until("the state by the last process", func(i wire.Info) bool { return len(i.AllConnections) == 4 })
	sub.Raw(ws.Frame(ws.Fin|ws.Close, []byte{3, 232}))
	sub.wantClose(1000)
	l.watch(t).untilClients(3)
	local.Close()
	l.watch(t).untilClients(2)

	l.stop()
	pub.wantClose(1001)
	fragments.wantClose(1001)
}

// Nobody notices: clients publish in both ways, with acks and answers, while one process follows the other.
func TestNothingIsLostDoubledOrRefusedOverRestarts(t *testing.T) {
	const restarts, ways = 10, 5
	l := found(t)
	subs := []*peer{l.subscriber(t, "A"), l.subscriber(t, "B")}
	for _, p := range subs {
		p.ask(`{"action":"subscribe","event":"e","id":1}`)
	}
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	accepted := make([]int, ways) // of each way
	var publishing sync.WaitGroup
	for way := range ways {
		var p *peer
		var client http.Client
		switch {
		case way < 2:
			p = l.publisher(t, "P")
		case way < 4:
			client.Transport = &http.Transport{DisableKeepAlives: way == 3}
		default:
			p = dial(t, "tcp", l.addr)
		}
		publishing.Go(func() {
			defer client.CloseIdleConnections()
			for n := 0; !stopped(); n++ {
				body := fmt.Sprintf(`{"event":"e","data":[%d,%d],"id":1}`, way, n)
				switch {
				case way < 2:
					p.ask(body)
				case way < 4:
					req, _ := http.NewRequest("POST", "http://"+l.addr+"/publish?clientName=P", strings.NewReader(body))
					req.Header.Set("X-API-Key", testKey)
					res, err := client.Do(req)
					if err != nil {
						t.Errorf("way %d: %v", way, err)
						return
					}
					res.Body.Close()
					if res.StatusCode != http.StatusCreated {
						t.Errorf("way %d: status %d", way, res.StatusCode)
						return
					}
				default: // bytes that net/http answers, in two pieces
					raw := fmt.Sprintf("POST /publish?clientName=P HTTP/1.1\r\nHost: x\r\nX-Other: y\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(body), body)
					p.Raw([]byte(raw[:40]))
					p.Raw([]byte(raw[40:]))
					if a := p.response("POST"); a.status != http.StatusCreated {
						t.Errorf("way %d: status %d", way, a.status)
						return
					}
				}
				accepted[way] = n + 1
			}
		})
	}
	var reading sync.WaitGroup
	got := make([][ways]int, len(subs))
	for i, p := range subs {
		reading.Go(func() {
			for {
				text, err := p.message()
				if err != nil {
					t.Errorf("subscriber %d: %v", i, err)
					return
				}
				d, err := parseDelivery(text)
				if err != nil {
					t.Error(err)
					return
				}
				if d.data == `"end"` {
					return
				}
				var way, n int
				if _, err := fmt.Sscanf(d.data, "[%d,%d]", &way, &n); err != nil || n != got[i][way] {
					t.Errorf("subscriber %d: got %s, want [%d,%d]", i, d.data, way, got[i][way])
					return
				}
				got[i][way]++
			}
		})
	}
	end := l.subscriber(t, "End")
	end.ask(`{"action":"subscribe","event":"e","id":1}`)
	for range restarts {
		for range 20 { // messages between two restarts
			end.delivery()
		}
		l.restart()
	}
	close(stop)
	end.Close()
	publishing.Wait()
	l.post(t, `{"event":"e","data":"end"}`)
	reading.Wait()
	for i := range subs {
		for way := range ways {
			if got[i][way] != accepted[way] || accepted[way] == 0 {
				t.Errorf("subscriber %d got %d of way %d, accepted were %d", i, got[i][way], way, accepted[way])
			}
		}
	}
}

// Whatever is found in the store, the server starts, serves, and leaves nothing behind of what it could not keep.
func TestStrangeRecordsEndTheirConnectionOnly(t *testing.T) {
	for name, damage := range map[string]func(k *handover.Kept){
		"client is no JSON":              func(k *handover.Kept) { k.Set(recordClient, "", []byte("{")) },
		"client is another kind of JSON": func(k *handover.Kept) { k.Set(recordClient, "", []byte("[1]")) },
		"nobody knows who":               func(k *handover.Kept) { k.Delete(recordClient, "") },
		"no rest":                        func(k *handover.Kept) { k.Delete(recordRest, "") },
		"rest is no JSON":                func(k *handover.Kept) { k.Set(recordRest, "", []byte("\x00")) },
		"more whole frames than bytes":   func(k *handover.Kept) { k.Set(recordRest, "", []byte(`{"Frames":7}`)) },
		"negative payload":               func(k *handover.Kept) { k.Set(recordRest, "", []byte(`{"Payload":-1}`)) },
		"half a header to be sent":       func(k *handover.Kept) { k.Set(recordRest, "", []byte(`{"Queued":"gX4="}`)) },
		"half a frame to be sent":        func(k *handover.Kept) { k.Set(recordRest, "", []byte(`{"Queued":"gQlh"}`)) },
		"more left than there is":        func(k *handover.Kept) { k.Set(recordRest, "", []byte(`{"Left":1}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := found(t)
			hurt, well := l.subscriber(t, "Hurt"), l.subscriber(t, "Well")
			for _, p := range []*peer{hurt, well} {
				p.ask(`{"action":"subscribe","event":"e","id":1}`)
			}
			kept := l.keptAs(hurt)
			l.between = func() { damage(kept) }
			l.restart()
			hurt.ended()
			l.post(t, `{"event":"e","data":1}`)
			if d := well.delivery(); d.data != "1" {
				t.Errorf("got %s", d.data)
			}
			l.watch(t).untilClients(1)
			l.between = nil
			l.restart()
			l.stillServes(t)
			if n := l.store.Len(); n > 3 {
				t.Errorf("%d connections are kept", n)
			}
		})
	}
}

// What a later version writes beside what is known today is left alone.
func TestRecordsOfALaterVersionAreIgnored(t *testing.T) {
	l := found(t)
	p := l.subscriber(t, "S")
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	kept := l.keptAs(p)
	l.between = func() {
		kept.Set('z', "later", []byte("?"))
		l.store.Set('z', "", nil)
	}
	l.restart()
	l.post(t, `{"event":"e","data":1}`)
	if d := p.delivery(); d.data != "1" {
		t.Errorf("got %s", d.data)
	}
}

// olderDies is the life of a process of a version that does not know records of marks: it takes over what is there, and
// is killed.
func (l *lineage) olderDies() {
	l.t.Helper()
	store, conns, _, err := OpenStore(l.kept(), 10_000, 10_000)
	if err != nil {
		l.t.Fatal(err)
	}
	defer store.Close()
	if err := store.Retain(func(_ *handover.Kept, kind byte) bool {
		return kind != recordRest &&
			kind != recordHandedOver
	}); err != nil {
		l.t.Error(err)
	}
	for _, c := range conns {
		syscall.Close(c.FD)
	}
}

// clientRecords returns those that the next process would find now.
func (l *lineage) clientRecords() (records []string) {
	l.t.Helper()
	store, conns, _, err := OpenStore(l.kept(), 10_000, 10_000)
	if err != nil {
		l.t.Fatal(err)
	}
	defer store.Close()
	for _, c := range conns {
		syscall.Close(c.FD)
		for _, r := range c.Records {
			if r.Kind == recordClient {
				records = append(records, string(r.Value))
			}
		}
	}
	return records
}

// An older version takes a client's mark from its record, and leaves the marks of this one alone. A client that comes
// from it has a mark of this version, and no longer one of the older.
func TestClientOfAnOlderVersionIsGivenAMark(t *testing.T) {
	for name, record := range map[string]string{
		"with a place":    `{"route":"subscribe","name":"S","addr":"192.0.2.1:1","at":"2026-01-02T03:04:05Z","place":7}`,
		"without a place": `{"route":"subscribe","name":"S","addr":"192.0.2.1:1","at":"2026-01-02T03:04:05Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			l := found(t)
			p := l.subscriber(t, "S")
			p.ask(`{"action":"subscribe","event":"e","id":1}`)
			kept := l.keptAs(p)
			l.between = func() {
				kept.Set(recordClient, "", []byte(record))
				for _, moment := range moments {
					l.dies(moment.live) // from the second on it is a crash, and the mark counts
				}
			}
			l.restart()
			l.post(t, `{"event":"e","data":1}`)
			if d := p.delivery(); d.data != "1" {
				t.Errorf("got %s", d.data)
			}
			if records := l.clientRecords(); len(records) != 1 || !strings.Contains(records[0], `"place":-1}`) {
				t.Errorf("recorded is %s, want that it has no place", records)
			}
		})
	}
}

// An older version that is killed has noted nothing in this one's marks: no client that it has served is taken for
// intact.
func TestWhomAKilledOlderVersionHasServedIsEnded(t *testing.T) {
	l := found(t)
	p := l.subscriber(t, "S")
	p.ask(`{"action":"subscribe","event":"e","id":1}`)
	if records := l.clientRecords(); len(records) != 1 || !strings.Contains(records[0], `"place":-1}`) {
		t.Errorf("recorded is %s, want that it has no place", records)
	}
	l.between = l.olderDies
	l.restart()
	p.gone()
	l.stillServes(t)
}

func TestNewKeyEndsWhoCameInWithTheOldOne(t *testing.T) {
	l := found(t)
	far, near := l.subscriber(t, "Far"), dial(t, "unix", l.path)
	near.upgrade("/subscribe?clientName=Near")
	near.ask(`{"action":"subscribe","event":"e","id":1}`)
	l.set = append(l.set, func(c *Config) { c.Key = testKey + "-2" })
	l.restart()
	far.wantClose(wire.CloseRestart)
	near.ask(`{"action":"unsubscribe","event":"e","id":2}`)
}

// A client that does not read gets everything that waited for it, over several restarts.
func TestClientKeptOverARestartStillSpeaksForItsAddress(t *testing.T) {
	l := found(t)
	l.subscriber(t, "Early")
	l.restart()
	for range 40 { // and 30 are what any address has
		l.request(t, "GET", "/info", "", "X-API-Key", another()).refuses(t, http.StatusUnauthorized, "wrong key")
	}
	if a := l.request(t, "GET", "/info", "", "X-API-Key", testKey); a.status != http.StatusOK {
		t.Errorf("with the right key: status %d %q", a.status, a.body)
	}
}

func TestWhatWaitsForASlowReaderIsHandedOver(t *testing.T) {
	l := found(t, func(c *Config) { c.Limits.QueueBytes = 16 << 20 })
	slow := l.subscriber(t, "Slow")
	slow.ask(`{"action":"subscribe","event":"e","id":1}`)
	pub := l.publisher(t, "P")
	blob := strings.Repeat("x", 50<<10)
	const rounds, each = 3, 60
	for round := range rounds {
		for n := range each {
			pub.ask(fmt.Sprintf(`{"event":"e","data":[%d,"%s"],"id":1}`, round*each+n, blob))
		}
		l.restart()
	}
	for n := range rounds * each {
		if d := slow.delivery(); !strings.HasPrefix(d.data, fmt.Sprintf("[%d,", n)) || len(d.data) < len(blob) {
			t.Fatalf("got %.20s, want %d", d.data, n)
		}
	}
}
