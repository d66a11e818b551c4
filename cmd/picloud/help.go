package main

import (
	"io"
	"strings"
)

const mainHelp = `picloud publishes to a PiCloud server, subscribes to its events and shows who is connected.

usage: picloud pub EVENT DATA    publish
       picloud sub EVENT...      print what is published, as it comes
       picloud info              show who is connected
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
	"info": `usage: picloud info [--json]

Shows the server's counts, who is connected, and who is subscribed to what.

  --json   the snapshot as the server gives it, on one line

  picloud info
  picloud info --json | jq '.subscriptions[].name'
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
		text = strings.TrimSuffix(text, "\n") + "\n\n--url, --key and --name are in picloud help.\n"
	}
	_, err := io.WriteString(stdout, text)
	return err
}
