package browser

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"picloud/test/daemon"
)

// A page's own WebSockets over TLS outlive the process: restarts while messages flow, and a kill if they are quiet. The
// browser is this machine's, and the processes follow one another as under systemd.
func TestWebSocketsOverTLSOutliveTheProcess(t *testing.T) {
	t.Parallel()
	m := daemon.Manage(t, bin)
	begin := func() { m.Start(append([]string{"API_KEY=" + key}, secured...)...) }
	begin()
	s := &server{t: t, url: "https://" + strings.Replace(m.Addr, "localhost", "127.0.0.1", 1)}
	p := open(t, s.url+"/healthz")
	p.forgive("favicon.ico")
	eval[bool](p, `(async () => {
		globalThis.ends = []
		globalThis.heard = 0
		globalThis.acked = 0
		globalThis.kept = []
		globalThis.wrong = []
		const open = (name, take) => new Promise((resolve, reject) => {
			const address = location.origin.replace('http', 'ws') + '/subscribe?apiKey=`+key+`&clientName=' + name
			const socket = new WebSocket(address)
			socket.onopen = () => resolve(socket)
			socket.onerror = reject
			socket.onmessage = (event) => take(JSON.parse(event.data))
			socket.onclose = (event) => ends.push(name + ': ' + event.code)
		})
		const hear = (name, event, take) => new Promise(async (resolve) => {
			const socket = await open(name, (m) => m.action === 'ack' ? resolve() : take(m))
			socket.send(JSON.stringify({action: 'subscribe', event, id: 1}))
		})
		await hear('quiet', 'quiet', (m) => kept.push(m.data))
		await hear('busy', 'numbers', (m) => { if (m.data !== heard++) wrong.push(m.data) })
		const publisher = await open('publisher', (m) => {
			if (m.action !== 'ack' || m.id !== acked) wrong.push(m)
			acked++
			globalThis.next()
		})
		globalThis.next = () =>
			publisher.send(JSON.stringify({action: 'publish', event: 'numbers', data: acked, id: acked}))
		next()
		return true
	})()`)
	flowing := func() { p.until(fmt.Sprintf(`heard >= %d`, eval[int](p, `heard`)+50)) }
	flowing()
	for range 2 {
		m.End(syscall.SIGTERM)
		begin()
		flowing()
	}
	eval[bool](p, `(next = () => {}, true)`)
	p.until(`heard === acked`)
	if got := eval[string](p, `JSON.stringify([wrong, ends])`); got != "[[],[]]" {
		t.Errorf("wrong messages, and ends: %s", got)
	}
	m.End(syscall.SIGKILL)
	begin()
	s.post("Porch", "quiet", `"after a kill"`)
	p.until(`kept.length > 0`)
	if got := eval[string](p, `JSON.stringify(ends.filter((end) => end.startsWith('quiet')))`); got != "[]" {
		t.Errorf("after a kill: %s", got)
	}
}
