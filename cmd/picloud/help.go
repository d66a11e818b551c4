package main

import (
	"io"
	"slices"
	"strings"
)

const mainHelp = `picloud publishes to a PiCloud server, subscribes to its events, shows who is connected,
measures it, and looks after the one on this machine.

usage: picloud pub EVENT DATA    publish
       picloud sub EVENT...      print what is published, as it comes
       picloud info              show who is connected
       picloud bench             measure the server
       picloud open              print the link that opens the dashboard, and a QR code
       picloud doctor            look what is wrong, and say what to do
       picloud discover          find the servers of the network
       picloud key show|new      show the key of this machine's service, or make a new one
       picloud version
       picloud help COMMAND      say more about a command

flags, before or after the words:
  --url ADDRESS   the server: http://host:9000, https://host:9000, host, host:port or
                  unix:/path. Without it PICLOUD_URL counts, then this machine's server:
                  ` + localSocket + ` where this user may (group picloud: no key
                  is needed), else ` + localURL + `
  --key KEY       its key. Without it API_KEY counts, which other users of this machine
                  cannot see. The line that picloudd prints at its start sets it.
  --name NAME     how this client is called. Without it PICLOUD_NAME counts, then user@host

Colours, and what moves on the screen, are for terminals only; NO_COLOR and TERM=dumb
turn them off there too.

exit status: 0 done, 1 it failed, 2 the command line is wrong, 130 interrupted before the end
`

var helpOn = map[string]string{
	"pub": `usage: picloud pub [--json] EVENT DATA
       picloud pub [--json] EVENT -

Publishes DATA, as a JSON string of exactly what is typed. When it returns, every subscriber
of that moment has the message in its queue.

  -        read the standard input: each line is a message (its \n or \r\n is not part of
           it), in order, over one connection. A line that fails is named and the others are
           published. After a broken connection it comes back; what was on its way then
           may or may not have been delivered, and is named.
  --json   DATA, or each line, is JSON and is published as that

  picloud pub temperature '76.5 F'
  picloud pub temperature -5
  picloud pub --json lamp '{"on": true, "level": 40}'
  tail -f /var/log/syslog | picloud pub log -
`,
	"sub": `usage: picloud sub [--json] [-n COUNT] EVENT...

Prints the data of each message that is published from now on, one a line and at once: a
string as its text, anything else as JSON. On a terminal, what would begin a line or change
its colours is shown escaped. After a broken connection it comes back; what was published
in between is missed. It ends with SIGINT (Ctrl-C), and 0 is its exit status then unless -n
asked for more.

  --json     the whole message: event, data, created_at and client_name, as JSON on one line
  -n COUNT   end after so many messages

  picloud sub temperature
  picloud sub --json door bell | jq .client_name
  picloud sub -n 1 door && notify-send 'Somebody is at the door'
`,
	"info": `usage: picloud info [--json] [--watch]

Shows the server's counts, who is connected, and who is subscribed to what.

  --json    the snapshot as the server gives it, on one line
  --watch   look again every two seconds, until SIGINT (Ctrl-C): on a terminal a table in
            place, else the counts on a line each time. When the server goes away it is
            waited for.

  picloud info
  picloud info --watch
  picloud info --json | jq '.subscriptions[].name'
`,
	"bench": `usage: picloud bench [flags] [SCENARIO...]

Measures the server: all scenarios, or those named. Each makes its own clients, with events
and names that nobody else has (bench-...), and closes them. The server has to work for it:
other clients may notice. A quarter of the connections that are free stays so.

  memory    idle subscribers: what each costs the server in memory; truest after a restart
            of the server, which keeps what it has once had
  connect   connections made, each with a subscription
  fanout    one publisher, all subscribers on one event, as fast as it goes
  pairs     one publisher, each subscriber on an event of its own, as fast as it goes
  latency   as fanout, at a fixed rate: from the publisher's send to the subscriber

  --subscribers N   500 for memory and connect, 100 for the others; fewer on a small server
  --size BYTES      of each message's data, 128
  --window N        messages on their way at a time in fanout and pairs, 32
  --rate N          messages a second in latency, 20
  --duration TIME   of fanout, pairs and latency each, 10s
  --messages N      so many instead, however long it takes
  --json            an object on a line of its own for each scenario. latency_ms is in
                    milliseconds, server_cpu_us in microseconds for each delivery or
                    connection, memory_bytes for each subscriber, client_cpu
                    from 0 to 1; bottleneck is client or shared where a line would say so

The figure to compare is "server CPU, each": the server's processor time for each delivery
or connection; it hardly depends on the network, but it holds what the server does for
others meanwhile. Where the client's processors, or the one machine of both, were full, a
line says so: the rates are not the server's then.

Each message has a number, and each subscriber checks it. If one is lost, doubled or out of
order, the exit status is 1. Ctrl-C ends it and shows what was measured.

  picloud bench
  picloud bench --url http://raspberrypi.local:9000 fanout latency
  picloud bench --subscribers 20 --size 4096 --window 8 --duration 1m fanout
  picloud bench --json pairs | jq .server_cpu_us
`,
	"open": `usage: picloud open

Prints the link that opens the dashboard and signs in, and on a terminal the same as a QR
code for a phone's camera. Its address is one that the network knows: where --url is not
given or is localhost, it is this machine's own. Without --key and API_KEY the key is that of
this machine's service, which root and the group picloud may see.

The link has the key in it, behind a #, which browsers do not send to servers. Whoever gets
the link can do all that a client can.

  sudo picloud open
  picloud open --url http://raspberrypi.local:9000 --key THE_KEY
  xdg-open "$(picloud open)"
`,
	"doctor": `usage: picloud doctor

Looks at this machine's service: whether it runs, listens, answers and has its key, its
settings, TLS files and their dates, the LED's permission, clock, disk, the address and the
name that others use. Each finding is a line, and where something is to be done, what:

  ok       it is as it should be
  look     it works, and might not for long, or not for everybody
  wrong    it does not work; the exit status is 1 then
  hidden   this user may not see it: sudo picloud doctor sees more

With --url or PICLOUD_URL it looks at that server as a client can: whether it answers, its
certificate, whether the key is right, and whether the clocks agree.

  sudo picloud doctor
  picloud doctor --url http://raspberrypi.local:9000
  picloud doctor --url http://localhost:9000      # a server that was started by hand
`,
	"discover": `usage: picloud discover [--json]

Finds the servers of the local network, which takes three seconds: each that Avahi
announces as _picloud._tcp, with its URL, and one with its address for machines that do not
know names that end in .local. When none answers, the exit status is 1.

  --json   an object on a line of its own for each: name, url, and addresses, which are all
           URLs with an address

  picloud discover
  export PICLOUD_URL=$(picloud discover --json | jq -r .url | head -1)
`,
	"key": `usage: picloud key show
       picloud key new

The key of this machine's service, in ` + keyFile + `. Root and the group
picloud may see it, root may make a new one.

  show   print it
  new    make a new random one, have the service take it, and print it. Who was connected
         with the old one is listed: these clients need the new one.

  export API_KEY=$(sudo picloud key show)
  sudo picloud key new
`,
	"version": `usage: picloud version

Prints the version of this client.
`,
}

func help(stdout io.Writer, command string) error {
	text, ok := helpOn[command]
	switch {
	case command == "", command == "help":
		text = mainHelp
	case !ok:
		return unknown(command)
	default:
		var general []string
		for _, flag := range []string{"url", "key", "name"} {
			if slices.Contains(takes[flag], command) {
				general = append(general, "--"+flag)
			}
		}
		if len(general) > 0 {
			text += "\n" + strings.Join(general, " and ") + ": see picloud help.\n"
		}
	}
	_, err := io.WriteString(stdout, text)
	return err
}
