package torture

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// An edit puts steps at which the daemon can be killed, and locks that can be taken away, into one of its files. It is
// made while the tortured daemon is built, by go build's -overlay: the file itself stays as it is, and nothing of this
// is in any other daemon.
type edit struct {
	file     string
	old, new string // old is in the file once
}

// edits are made in all of the way of a connection over TLS. In new, $ stands for old.
var edits = []edit{
	// The marks.
	{"wsconn/conn.go", "\t\tc.ends(markWritten, c.taken, false)\n\t}\n\treturn c.out.push", `
		fault.At("before the mark")
		if !fault.Without("mark") {
			c.ends(markWritten, c.taken, false)
		}
		fault.At("after the mark")
	}
	return c.out.push`},
	{"wsconn/conn.go", "\t\tc.ends(markWritten, c.taken, c.out.isOut() && c.ending == nil)", `
		fault.At("before the closing mark")
		$
		fault.At("after the closing mark")
		`},
	{"wsconn/read.go", "\t\tc.beginsReading()\n", `
		fault.At("before the mark of reading")
		$
		fault.At("after the mark of reading")
		`},
	{"wsconn/read.go", "\t\tc.ends(markRead, c.read, len(c.partial) == 0 && c.sock.rests())\n", `
		fault.At("before the closing mark of reading")
		$
		fault.At("after the closing mark of reading")
		`},
	{"handover/marks.go", "\tread, written, err := Traffic(fd)\n", `
		if fault.Without("counts") {
			return true, nil
		}
		$`},

	// Writing.
	{"tlsconn/tlsconn.go", "\trecords, n, rekeyed, err := s.Seal(b[:0], bufs)\n", `
		$
		fault.At("after the seal")
		`},
	{"tlsconn/tlsconn.go", "\t\ts.noteOut(rekeyed)\n\t}\n\tsent, err := poll.Send(fd, records)\n", `
		switch {
		case fault.Without("number"): // noted behind the closing mark
			n, k := s.Out(), s.AppendOutKey(nil)
			fault.Later(s, func() {
				s.secret.SetKey(1, k)
				s.secret.SetNumber(1, n)
			})
		case !fault.Without("number first"):
			s.noteOut(rekeyed)
		}
		}
		fault.At("after the note of the number")
		sent, err := poll.Send(fd, fault.Part("in the middle of the send", records))
		fault.At("after the send")
		if s.secret != nil && fault.Without("number first") {
			s.noteOut(rekeyed)
		}
		`},
	{"tlsconn/tlsconn.go", "\t\tmoved, err = poll.Send(fd, owed)\n", `
		fault.At("before what is owed is sent")
		moved, err = poll.Send(fd, fault.Part("in the middle of what is owed", owed))
		fault.At("after what is owed is sent")
		`},
	{"tlsconn/tlsconn.go", "\t\tpoll.Send(fd, record)\n", `
		fault.At("before the goodbye is sent")
		poll.Send(fd, fault.Part("in the middle of the goodbye", record))
		fault.At("after the goodbye is sent")
		`},
	{"tlsconn/keep.go", "\t\ts.secret.SetKey(handover.Writing, s.AppendOutKey(b[:0]))\n", `
		fault.At("before the note of a new key")
		if k := s.AppendOutKey(nil); fault.Without("key") && s.Out() > 2 {
			fault.Later(s, func() { s.secret.SetKey(handover.Writing, k) })
		} else {
			$
		}
		fault.At("after the note of a new key")
		`},

	// Reading.
	{"tlsconn/tlsconn.go", "\tif moved, err = poll.Recv(fd, p[held:]); err != nil {\n\t\treturn 0, 0, err\n\t}\n", `
		$
		fault.At("after the read")
		`},
	{"tlsconn/tlsconn.go", "\tn, rekeyed, s.ended = s.Open(p[:held+moved])\n", `
		$
		fault.At("after the opening")
		`},
	{"tlsconn/tlsconn.go", "\t\ts.noteInKey()\n", `
		fault.At("before the note of a new key to read")
		if !fault.Without("key to read") {
			$
		}
		fault.At("after the note of a new key to read")
		`},
	{"tlsconn/keep.go", "\tif s.secret != nil {\n\t\ts.secret.SetNumber(handover.Reading, s.In())\n\t}\n", `
		if !fault.Without("number to read") {
			$
		}
		`},

	// The secrets.
	{"handover/secrets.go", "\tclear(b[copy(b, key):])\n", `
		if fault.Now("in the middle of the note of a key") {
			copy(b, key[:len(key)/2])
			fault.Die()
		}
		$`},
	{"handover/secrets.go", "\tbinary.LittleEndian.PutUint64(s.mem[atNumbers+8*int(d):], n)\n", `
		if fault.Now("in the middle of the note of a number") {
			s.mem[atNumbers+8*int(d)] = byte(n)
			fault.Die()
		}
		$`},
	{"handover/secrets.go", "\tsecret.setOwner(id)\n", `
		$
		fault.At("after a secret has its owner")
		`},
	{"handover/secrets.go", "\t\t\tclaimed[id], k.secret = true, secret\n", `
		$
		fault.At("while the secrets are claimed")
		`},
	{"handover/secrets.go", "\tclear(secret.mem)\n", `
		fault.At("before a secret is wiped")
		if fault.Now("in the middle of the wiping of a secret") {
			clear(secret.mem[:len(secret.mem)/2])
			fault.Die()
		}
		if !fault.Without("wiping") {
			$
		}
		fault.At("after a secret is wiped")
		`},
	{"handover/kept.go", "\tk.forget()\n\tk.store.descriptors.Drop(k.id)\n", `
		fault.At("after an ended connection's mark is given back")
		$`},
	{"handover/kept.go", "\treturn &Kept{store: s, id: id, place: -1}, nil\n", `
		fault.At("after a descriptor is kept")
		$`},
	{"tlsconn/keep.go", "\ts.secret = secret\n\ts.noteInKey()\n", `
		$
		fault.At("while a connection's secrets are kept")
		`},

	// A hand-over.
	{"tlsconn/keep.go", "\ts.secret.SetNumber(handover.Reading, left.In)\n", `
		fault.At("while the secrets are left")
		$`},
	{"tlsconn/keep.go", "\treturn left.Held, left.Owed, true\n", `
		fault.At("after the secrets are left")
		if fault.Without("owed") {
			left.Owed = nil
		}
		$`},
	{"tlsrecord/save.go", "\tl.ended, l.closed = true, true\n", `
		if !fault.Without("end") {
			$
		}
		`},
	{"server/handover.go", "\treturn set(c.Kept(), s.budget.all, recordRest, sv)\n", `
		fault.At("after the mark is given back")
		$`},
	{"server/handover.go", "\t\tsv.TLS.Keep(secret)\n", `
		fault.At("before a request's secrets are kept")
		$
		fault.At("after a request's secrets are kept")
		`},
	{"server/handover.go", "\treturn set(kept, s.budget.all, kind, r)\n", `
		fault.At("before a request is recorded")
		$`},
	{"server/handover.go", "\tif err := s.cfg.Store.SetWithin(s.budget.all, recordHandedOver, \"\", nil); err != nil {\n", `
		fault.At("before the hand-over is complete")
		$`},
	{"server/handover.go", "\ts.wsConns.Abandon()\n\ts.httpConns.Abandon()\n", `
		fault.At("after the hand-over is complete")
		$
		fault.At("after the descriptors are closed")
		`},
	{"handover/journal.go", "\tj.head.end[j.current].Store(uint32(j.end)) // from here on it counts\n", `
		fault.At("before a record counts")
		$`},
	{"handover/journal.go", "\tj.head.current.Store(to)\n", `
		fault.At("before the journal's other area counts")
		$
		fault.At("after the journal's other area counts")
		`},

	// What the next process does with it.
	{"handover/store.go", "\tfor _, k := range s.unrecorded {\n", `
		fault.At("before the new marks are recorded")
		$`},
	{"server/handover.go", "\ts.commit(inh)\n", `
		fault.At("before the connections are taken over")
		$
		fault.At("after the connections are taken over")
		`},
	{"wsconn/save.go", "\t\tover.Keep(kept.Secret())\n", `
		$
		fault.At("after a connection's secrets are taken over")
		`},

	// The server's own changes of keys come so rarely that nobody would live to see one.
	{"tlsrecord/link.go", "\tmaxRecords13 = 1 << 24\n", "\tmaxRecords13 = 150\n"},
}

// steps are the names of the edits' steps.
func steps() []string {
	var all []string
	for _, e := range edits {
		for _, m := range regexp.MustCompile(`fault\.(?:At|Now|Part)\("([^"]+)"`).FindAllStringSubmatch(e.new, -1) {
			all = append(all, m[1])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// overlay makes the edits, in files of that folder, and returns what go build's -overlay wants. root is the module's.
func overlay(root, folder string) (string, error) {
	edited := map[string]string{}
	for _, e := range edits {
		path := filepath.Join(root, "internal", e.file)
		text := edited[path]
		if text == "" {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = strings.Replace(string(b), "import (\n", "import (\n\t\"picloud/internal/fault\"\n", 1)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("a step's place in internal/%s is there %d times: %q; bring the edits up to date", e.file,
				n, e.old)
		}
		edited[path] = strings.Replace(text, e.old, strings.ReplaceAll(e.new, "$", e.old), 1)
	}
	replace := map[string]string{
		filepath.Join(root, "internal/fault/fault.go"): filepath.Join(root, "test/torture/testdata/fault.go"),
	}
	for path, text := range edited {
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return "", err
		}
		to := filepath.Join(folder, strings.ReplaceAll(rel, "/", "_"))
		if !strings.Contains(text, "fault.") {
			text = strings.Replace(text, "\t\"picloud/internal/fault\"\n", "", 1)
		}
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(folder, "overlay.json")
	return list, os.WriteFile(list, b, 0o600)
}
