package tlsrecord

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"picloud/test/wait"
)

// RFC 8448 §3: what client and server say after their handshake. The first record of the server's key is its ticket.
func TestVectorsOfRFC8448(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l := &Link{suite: suiteOf(tls.TLS_AES_128_GCM_SHA256)}
	copy(l.in.secret[:], unhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"))
	copy(l.out.secret[:], unhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"))
	l.out.number = 1

	var text [50]byte
	for i := range text {
		text[i] = byte(i)
	}
	fromClient := unhex("1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5" +
		"b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4")
	if got, err := open(l, fromClient); err != nil || got != string(text[:]) {
		t.Errorf("opened %x, %v", got, err)
	}
	toClient := unhex("1703030043 2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d" +
		"90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d")
	got, n, _, err := l.Seal(make([]byte, 0, 100), [][]byte{text[:]})
	if err != nil || n != len(text) || !bytes.Equal(got, toClient) {
		t.Errorf("sealed %x, %d, %v", got, n, err)
	}
	if _, err := open(l, unhex("1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3")); err != io.EOF {
		t.Errorf("after the client's alert: %v", err)
	}
	bye := unhex("1703030013 b58fd67166ebf599d24720cfbe7efa7a8864a9")
	if got := l.Close(make([]byte, 0, 50), nil); !bytes.Equal(got, bye) {
		t.Errorf("closed with %x", got)
	}
}

var errRemote = errors.New("an alert of the client's")

// What may come after data, and what becomes of it. A rule's section is beside the code that holds it.
func TestWhatAClientMaySay(t *testing.T) {
	const both, only12, only13 = 0, 12, 13
	long := make([]byte, MaxPlaintext+1)
	for _, tt := range []struct {
		what    string
		version int
		send    func(p *peer) []byte
		want    string
		err     error
	}{
		{"data", both, func(p *peer) []byte { return p.data("x") }, "x", nil},
		{"an empty record", both, func(p *peer) []byte { return p.data("") }, "", nil},
		{"the longest record", both, func(p *peer) []byte { return p.record(23, long[1:]...) }, string(long[1:]), nil},
		{"a longer one", both, func(p *peer) []byte { return p.record(23, long...) }, "", recordOverflow},
		{"padding", only13, func(p *peer) []byte { return p.raw(23, []byte("x\x17\x00\x00")) }, "x", nil},
		{"much padding", only13, func(p *peer) []byte { return p.raw(23, append([]byte("x\x17"), long[2:]...)) }, "x", nil},
		{"too much padding", only13, func(p *peer) []byte { return p.raw(23, append([]byte("x\x17"), long...)) }, "", recordOverflow},
		{"nothing but padding", only13, func(p *peer) []byte { return p.raw(23, make([]byte, 9)) }, "", unexpectedMessage},
		{"no type", only13, func(p *peer) []byte { return p.raw(23, nil) }, "", unexpectedMessage},
		{"another type outside", only13, func(p *peer) []byte { return p.raw(22, []byte("x\x17")) }, "", unexpectedMessage},
		{"an unknown type", both, func(p *peer) []byte { return p.record(24, 1) }, "", unexpectedMessage},

		{"a header of another version", both, func(*peer) []byte { return []byte{23, 3, 4, 0, 20} }, "", protocolVersion},
		{"a header of too long a record", only13, func(*peer) []byte { return []byte{23, 3, 3, 0x41, 1} }, "", recordOverflow},
		{"a header of too long a record", only12, func(*peer) []byte { return []byte{23, 3, 3, 0x48, 1} }, "", recordOverflow},
		{"a record without a tag", both, func(*peer) []byte { return []byte{23, 3, 3, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9} }, "", badRecordMAC},
		{"a record of nothing", both, func(*peer) []byte { return []byte{23, 3, 3, 0, 0} }, "", badRecordMAC},
		{"a record changed on the way", both, func(p *peer) []byte { b := p.data("x"); b[len(b)-1]++; return b }, "", badRecordMAC},
		{"a record left out", both, func(p *peer) []byte { p.data("x"); return p.data("y") }, "", badRecordMAC},
		{"a record twice", both, func(p *peer) []byte { b := p.data("x"); return append(b, b...) }, "x", badRecordMAC},

		{"close_notify", both, func(p *peer) []byte { return p.record(alert, 1, 0) }, "", io.EOF},
		{"data after close_notify", both, func(p *peer) []byte { return append(p.record(alert, 1, 0), p.data("x")...) }, "", io.EOF},
		{"user_canceled", both, func(p *peer) []byte { return p.record(alert, 1, 90) }, "", nil},
		{"a warning", only12, func(p *peer) []byte { return p.record(alert, 1, 100) }, "", nil},
		{"a warning", only13, func(p *peer) []byte { return p.record(alert, 1, 100) }, "", errRemote},
		{"a fatal alert", both, func(p *peer) []byte { return p.record(alert, 2, 20) }, "", errRemote},
		{"an alert of no level", only12, func(p *peer) []byte { return p.record(alert, 3, 20) }, "", unexpectedMessage},
		{"half an alert", both, func(p *peer) []byte { return p.record(alert, 2) }, "", unexpectedMessage},
		{"two alerts in one", both, func(p *peer) []byte { return p.record(alert, 1, 90, 1, 0) }, "", unexpectedMessage},

		{"a change of cipher", only13, func(*peer) []byte { return []byte{20, 3, 3, 0, 1, 1} }, "", nil},
		{"another change of cipher", only13, func(*peer) []byte { return []byte{20, 3, 3, 0, 1, 2} }, "", unexpectedMessage},
		{"a protected change of cipher", both, func(p *peer) []byte { return p.record(20, 1) }, "", unexpectedMessage},
		{"a change of cipher", only12, func(*peer) []byte { return []byte{20, 3, 3, 0, 1, 1} }, "", badRecordMAC},

		{"a hello", only12, func(p *peer) []byte { return p.record(handshake, 1) }, "", noRenegotiation},
		{"a hello", only13, func(p *peer) []byte { return p.record(handshake, 1) }, "", unexpectedMessage},
		{"a request for a hello", only12, func(p *peer) []byte { return p.record(handshake, 0, 0, 0, 0) }, "", unexpectedMessage},
		{"a ticket", both, func(p *peer) []byte { return p.record(handshake, 4) }, "", unexpectedMessage},
		{"an empty message", both, func(p *peer) []byte { return p.record(handshake) }, "", unexpectedMessage},
		{"a new key", only12, func(p *peer) []byte { return p.record(handshake, 24, 0, 0, 1, 0) }, "", unexpectedMessage},
		{"a new key", only13, func(p *peer) []byte { return append(p.update(0), p.data("x")...) }, "x", nil},
		{"two new keys", only13, func(p *peer) []byte { return slices.Concat(p.update(0), p.update(1), p.data("x")) }, "x", nil},
		{"a new key and none used", only13, func(p *peer) []byte {
			b := p.record(handshake, 24, 0, 0, 1, 0)
			return append(b, p.data("x")...)
		}, "", badRecordMAC},
		{"a new key in pieces", only13, func(p *peer) []byte {
			b := slices.Concat(p.record(handshake, 24), p.record(handshake, 0, 0, 1), p.record(handshake, 0))
			p.out.nextKey(p.suite)
			return append(b, p.data("x")...)
		}, "x", nil},
		{"data within a message", only13, func(p *peer) []byte { return append(p.record(handshake, 24), p.data("x")...) }, "", unexpectedMessage},
		{"a change of cipher within a message", only13, func(p *peer) []byte {
			return append(p.record(handshake, 24), 20, 3, 3, 0, 1, 1)
		}, "", unexpectedMessage},
		{"a new key that asks for more", only13, func(p *peer) []byte { return p.record(handshake, 24, 0, 0, 1, 2) }, "", illegalParameter},
		{"a long new key", only13, func(p *peer) []byte { return p.record(handshake, 24, 0, 0, 2, 0, 0) }, "", decodeError},
		{"a very long new key", only13, func(p *peer) []byte { return p.record(handshake, 24, 1) }, "", decodeError},
		{"something behind a new key", only13, func(p *peer) []byte { return p.record(handshake, 24, 0, 0, 1, 0, 24) }, "", unexpectedMessage},
	} {
		each(t, func(t *testing.T, s *suite) {
			if tt.version == only12 && s.tls13 || tt.version == only13 && !s.tls13 {
				return
			}
			l := fresh(s)
			p := peerOf(t, l)
			b := append(p.data("before"), tt.send(p)...)
			got, err := open(l, b)
			if got != "before"+tt.want {
				t.Errorf("%s: got %.40q", tt.what, got)
			}
			_, isAlert := errors.AsType[tls.AlertError](err)
			if err != tt.err && (tt.err != errRemote || err == nil || isAlert) {
				t.Errorf("%s: got %v, want %v", tt.what, err, tt.err)
			}
			if err == nil {
				if got, err := open(l, p.data("after")); err != nil || got != "after" {
					t.Errorf("%s, and then: %q, %v", tt.what, got, err)
				}
			} else if _, err := open(l, p.data("after")); err != ErrEnded {
				t.Errorf("%s, and then: %v", tt.what, err)
			}
			checkAlert(t, l, p, err)
		})
	}
}

// checkAlert closes l for that reason, and sees what the client is told.
func checkAlert(t *testing.T, l *Link, p *peer, why error) {
	t.Helper()
	var want []tls.AlertError
	level := byte(2)
	switch what, ok := errors.AsType[tls.AlertError](why); {
	case why == nil || why == io.EOF:
		want, level = []tls.AlertError{closeNotify}, 1
	case ok:
		want = []tls.AlertError{what}
		if what == noRenegotiation {
			level = 1
		}
	}
	s := p.open(l.Close(make([]byte, 0, Overhead+2), why))
	if !slices.Equal(s.alerts, want) || len(want) > 0 && s.levels[0] != level {
		t.Errorf("closed because of %v: got alerts %v, levels %v", why, s.alerts, s.levels)
	}
	if b, n, _, err := l.Seal(make([]byte, 0, 100), [][]byte{{1}}); len(b) != 0 || n != 0 || err != ErrEnded {
		t.Errorf("sealed %d bytes after the end: %v", len(b), err)
	}
	if b := l.Close(nil, nil); len(b) != 0 {
		t.Error("ended twice")
	}
}

// Whoever sends nothing but records that bring nothing is sent away, and data begins the count again.
func TestUselessRecordsAreCounted(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		for name, useless := range map[string]func(*peer) []byte{
			"empty":     func(p *peer) []byte { return p.data("") },
			"canceled":  func(p *peer) []byte { return p.record(alert, 1, 90) },
			"change":    func(*peer) []byte { return []byte{20, 3, 3, 0, 1, 1} },
			"KeyUpdate": func(p *peer) []byte { return p.update(1) },
		} {
			if !s.tls13 && (name == "change" || name == "KeyUpdate") {
				continue
			}
			l := fresh(s)
			p := peerOf(t, l)
			for range 2 {
				for range 16 {
					if _, err := open(l, useless(p)); err != nil {
						t.Fatal(name, err)
					}
				}
				if got, err := open(l, p.data("x")); got != "x" || err != nil {
					t.Fatal(name, got, err)
				}
			}
			for range 16 {
				open(l, useless(p))
			}
			if _, err := open(l, useless(p)); err != unexpectedMessage {
				t.Errorf("%s: the 17th: %v", name, err)
			}
		}
	})
}

// Every way to cut a stream, with the Link saved and restored at the cut.
func TestRecordsInPieces(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l := fresh(s)
		p := peerOf(t, l)
		stream := slices.Concat(p.data("one"), p.data("two"), p.record(alert, 1, 90), p.data("three"))
		for cut := range stream {
			e := &end{t: t, Link: fresh(s), renew: true}
			a, err1 := open(e.Link, stream[:cut])
			e.again()
			b, err2 := open(e.Link, stream[cut:])
			if a+b != "onetwothree" || err1 != nil || err2 != nil || !e.AtRest() {
				t.Errorf("cut at %d: %q, %q, %v, %v", cut, a, b, err1, err2)
			}
		}
	})
}

func TestSealFillsRecords(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l := fresh(s)
		p := peerOf(t, l)
		big := strings.Repeat("0123456789", 4000)
		for _, tt := range []struct {
			room  int
			bufs  []string
			sizes []int
		}{
			{1000, []string{"x"}, []int{1}},
			{1000, []string{"some", "", "small", "ones"}, []int{13}},
			{1000, []string{"", ""}, nil},
			{1000, nil, nil},
			{Overhead, []string{"x"}, nil},
			{Overhead + 1, []string{"xy"}, []int{1}},
			{BufferBytes, []string{big[:MaxPlaintext]}, []int{MaxPlaintext}},
			{32 << 10, []string{big[:MaxPlaintext], "x"}, []int{MaxPlaintext, 1}},
			{3*Overhead + 40_003, []string{"ab", big, "c"}, []int{MaxPlaintext, MaxPlaintext, 40_003 - 2*MaxPlaintext}},
		} {
			var bufs [][]byte
			for _, b := range tt.bufs {
				bufs = append(bufs, []byte(b))
			}
			prefix := []byte("in front")
			b, n, rekeyed, err := l.Seal(append(make([]byte, 0, len(prefix)+tt.room), prefix...), bufs)
			if cap(b) != len(prefix)+tt.room || !bytes.HasPrefix(b, prefix) || rekeyed || err != nil {
				t.Errorf("%d: capacity %d, rekeyed %t, %v", tt.room, cap(b), rekeyed, err)
			}
			got := p.open(b[len(prefix):])
			if all := strings.Join(tt.bufs, ""); got.data != all[:n] || !slices.Equal(got.sizes, tt.sizes) {
				t.Errorf("%d: records of %v, want %v; %d bytes", tt.room, got.sizes, tt.sizes, n)
			}
			if want := slices.Concat(tt.bufs); len(bufs) > 0 && string(bufs[0]) != want[0] {
				t.Error("the buffers have been changed")
			}
		}
	})
}

// A KeyUpdate that asks for one is answered before the next data, once for all that have asked (RFC 8446 §4.6.3).
func TestKeyUpdateIsAnswered(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		if !s.tls13 {
			return
		}
		e := &end{t: t, Link: fresh(s), renew: true}
		p := peerOf(t, e.Link)
		for i, requests := range []string{"\x00", "\x01", "\x01\x01", "\x00\x01\x00", ""} {
			e.again()
			for _, request := range []byte(requests) {
				old := e.AppendInKey(nil)
				buf := make([]byte, BufferBytes)
				_, rekeyed, err := e.Open(buf[:copy(buf, p.update(request))])
				if !rekeyed || err != nil || bytes.Equal(old, e.AppendInKey(nil)) {
					t.Fatal("the reading key has not changed", err)
				}
			}
			e.again()
			want := min(1, strings.Count(requests, "\x01"))
			old := e.AppendOutKey(nil)
			first := e.Out()
			b, _, rekeyed, err := e.Seal(make([]byte, 0, 200), [][]byte{[]byte("x")})
			if got := p.open(b); got.data != "x" || got.updates != want || rekeyed != (want > 0) || err != nil {
				t.Errorf("%d: %q after %d updates, rekeyed %t, %v", i, got.data, got.updates, rekeyed, err)
			}
			if rekeyed == bytes.Equal(old, e.AppendOutKey(nil)) {
				t.Errorf("%d: the writing key, rekeyed %t", i, rekeyed)
			}
			if used := e.Out() - first; used != uint64(1+want) {
				t.Errorf("%d: %d numbers are used up", i, used)
			}
		}
	})
}

// Where the answer does not fit with data behind it, nothing is lost.
func TestKeyUpdateNeedsRoom(t *testing.T) {
	for room := range 120 {
		l := fresh(&suites[0])
		p := peerOf(t, l)
		if _, err := open(l, p.update(1)); err != nil {
			t.Fatal(err)
		}
		b, n, _, _ := l.Seal(make([]byte, 0, room), [][]byte{[]byte("x")})
		b2, m, _, err := l.Seal(make([]byte, 0, 200), [][]byte{[]byte("x")[n:]})
		if got := p.open(append(b, b2...)); got.data != "x" || got.updates != 1 || n+m != 1 || err != nil {
			t.Errorf("room for %d: %q after %d updates, %v", room, got.data, got.updates, err)
		}
	}
}

// at returns the Link with other numbers.
func at(t *testing.T, l *Link, in, out uint64) *Link {
	t.Helper()
	sv, ok := l.Save()
	if !ok {
		t.Fatal("not saved")
	}
	sv.In, sv.Out = in, out
	l, err := Restore(sv)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestKeysWearOut(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		limit := uint64(1 << 25)
		if s.tls13 {
			limit = 1 << 24
		}
		l := at(t, fresh(s), 0, limit-1)
		p := peerOf(t, l)
		b, n, rekeyed, err := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")})
		if n != 1 || rekeyed || err != nil {
			t.Fatal("the last record:", n, rekeyed, err)
		}
		p.open(b)
		b, n, rekeyed, err = l.Seal(make([]byte, 0, 100), [][]byte{[]byte("y")})
		if !s.tls13 {
			if len(b) != 0 || n != 0 || err != ErrWorn {
				t.Errorf("one more: %d bytes, %v", len(b), err)
			}
			if got := p.open(l.Close(make([]byte, 0, 100), err)); len(got.alerts) != 0 {
				t.Errorf("alerts %v", got.alerts)
			}
			return
		}
		if got := p.open(b); got.data != "y" || got.updates != 1 || !rekeyed || err != nil {
			t.Errorf("one more: %q, %d updates, rekeyed %t, %v", got.data, got.updates, rekeyed, err)
		}
		if l.Out() != limit+2 || l.out.sequence() != 1 {
			t.Errorf("the next is %d, %d under its key", l.Out(), l.out.sequence())
		}
	})
}

// A number never begins again, RFC 8446 §5.3.
func TestNumbersDoNotWrap(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l := fresh(s)
		l.out.first, l.in.first = math.MaxUint64-1, math.MaxUint64-1 // as after many keys
		l = at(t, l, math.MaxUint64-1, math.MaxUint64-1)
		p := peerOf(t, l)
		if got, err := open(l, p.data("x")); got != "x" || err != nil {
			t.Fatal(got, err)
		}
		b, _, _, err := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")})
		if got := p.open(b); got.data != "x" || err != nil {
			t.Fatal(got, err)
		}
		if b, n, _, err := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")}); len(b) > 0 || n > 0 || err != ErrWorn {
			t.Error("sealed", n, err)
		}
		if b := l.Close(make([]byte, 0, 100), nil); len(b) > 0 {
			t.Error("sealed an alert")
		}
		if got, err := open(l, p.data("x")); got != "" || err != ErrWorn {
			t.Error("opened", got, err)
		}
	})
}

// What a socket does not take stays as it has been sealed, over a restart too.
func TestStalledWriteGoesOn(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		e := &end{t: t, Link: fresh(s), renew: true}
		p := peerOf(t, e.Link)
		text := bytes.Repeat([]byte("0123456789"), 10_000)
		var socket []byte
		takes := 1
		for done := 0; done < len(text) || len(e.Owed()) > 0; takes = takes*3%4001 + 1 {
			e.again()
			if owed := e.Owed(); len(owed) > 0 {
				if _, n, _, err := e.Seal(make([]byte, 0, 100), [][]byte{text}); n != 0 || err != ErrOwes {
					t.Fatal("sealed while earlier records wait:", n, err)
				}
				k := min(takes, len(owed))
				socket = append(socket, owed[:k]...)
				e.Sent(k)
				continue
			}
			b, n, _, err := e.Seal(make([]byte, 0, 20_000), [][]byte{text[done:]})
			if err != nil {
				t.Fatal(err)
			}
			done += n
			k := min(takes, len(b))
			socket = append(socket, b[:k]...)
			e.Owe(b[k:])
		}
		if got := p.open(socket); got.data != string(text) {
			t.Error("what has arrived is something else")
		}
	})
}

func TestOwedBytesKeepTheirOrder(t *testing.T) {
	l := fresh(&suites[0])
	first := []byte("first")
	l.Owe(first)
	first[0] = 'x' // the buffer is lent to somebody else
	l.Owe(nil)
	l.Owe([]byte("second"))
	l.Sent(3)
	if got := string(l.Owed()); got != "stsecond" {
		t.Errorf("owed %q", got)
	}
}

// An alert would come in between two halves of a record.
func TestNoAlertWhileSomethingIsOwed(t *testing.T) {
	l := fresh(&suites[0])
	b, _, _, _ := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")})
	l.Owe(b[10:])
	if b := l.Close(make([]byte, 0, 100), nil); len(b) != 0 {
		t.Error("there was one")
	}
	if !bytes.Equal(l.Owed(), b[10:]) {
		t.Error("and what is owed has changed")
	}
}

// Reader and writer are two goroutines, and the reader has something for the writer to do. The race detector looks on.
func TestBothSidesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l := fresh(s)
		reader, writer := peerOf(t, l), peerOf(t, l)
		const many = 300
		done := make(chan string)
		go func() {
			var got strings.Builder
			for range many {
				b := reader.data("in")
				if s.tls13 {
					b = append(b, reader.update(1)...)
				}
				text, err := open(l, b)
				if err != nil {
					t.Error(err)
				}
				got.WriteString(text)
				l.DropInCipher()
				l.AppendInKey(nil)
			}
			done <- got.String()
		}()
		var got said
		for i := 0; i < many || s.tls13 && got.updates == 0; i++ {
			b, _, _, err := l.Seal(make([]byte, 0, 200), [][]byte{[]byte("out")})
			if err != nil {
				t.Fatal(err)
			}
			got.updates += writer.open(b).updates
			l.DropOutCipher()
			l.AppendOutKey(nil)
		}
		if text := wait.For(t, done, "the reader"); text != strings.Repeat("in", many) {
			t.Errorf("got %.40q", text)
		}
	})
}
