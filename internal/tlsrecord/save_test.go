package tlsrecord

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"reflect"
	"slices"
	"testing"
	"unsafe"
)

// busy returns a Link of which everything is unfinished.
func busy(t *testing.T, s *suite) (*Link, *peer) {
	l := fresh(s)
	p := peerOf(t, l)
	if s.tls13 {
		open(l, p.update(1), p.data("some"), p.update(0), p.record(handshake, keyUpdate, 0), p.data("more")[:9])
	} else {
		open(l, p.data("some"), p.data(""), p.data("more")[:9])
	}
	b, _, _, _ := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")})
	l.Owe(b[3:])
	return l, p
}

func TestSavedLinkIsTheSame(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l, p := busy(t, s)
		want, ok := l.Save()
		if !ok || len(want.Held) < 9 || len(want.Owed) == 0 || want.In < 2 || want.Out == 0 {
			t.Fatalf("saved %+v", want)
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var sv Saved
		if err := json.Unmarshal(text, &sv); err != nil {
			t.Fatal(err)
		}
		if got, ok := restored(t, sv).Save(); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v, want\n%+v", got, want)
		}

		// The other process has it now.
		if _, ok := l.Save(); ok {
			t.Error("saved twice")
		}
		if _, _, _, err := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")}); err != ErrEnded {
			t.Error("a number could be used twice:", err)
		}
		if _, err := open(l, p.data("x")); err != ErrEnded {
			t.Error("opened after Save:", err)
		}
	})
}

// A process that is killed leaves its connections' keys, as of their last change, and two numbers.
func TestLinkIsRestoredFromWhatWasNoted(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l := fresh(s)
		p := peerOf(t, l)
		noted := Saved{InKey: l.AppendInKey(nil), OutKey: l.AppendOutKey(nil)}
		for i := range 9 {
			var b []byte
			if s.tls13 && i%3 == 0 {
				b = p.update(byte(i % 2))
			}
			b = append(b, p.data("x")...)
			buf := make([]byte, BufferBytes)
			_, rekeyed, err := l.Open(buf[:copy(buf, b)])
			if err != nil {
				t.Fatal(err)
			}
			if rekeyed {
				noted.InKey = l.AppendInKey(nil)
			}
			noted.In = l.In()
			l = restored(t, noted)
			b, _, rekeyed, err = l.Seal(make([]byte, 0, 200), [][]byte{[]byte("y")})
			if err != nil {
				t.Fatal(err)
			}
			if rekeyed {
				noted.OutKey = l.AppendOutKey(nil)
			}
			noted.Out = l.Out()
			want := 0
			if s.tls13 && i == 3 {
				want = 1
			}
			if got := p.open(b); got.data != "y" || got.updates != want {
				t.Errorf("%d: got %q after %d updates, want %d", i, got.data, got.updates, want)
			}
		}
	})
}

// A request for a new key that has been noted is answered by the next process.
func TestKeyUpdateIsAnsweredAfterwards(t *testing.T) {
	l := fresh(&suites[0])
	p := peerOf(t, l)
	out := l.AppendOutKey(nil)
	open(l, p.update(1))
	l = restored(t, Saved{InKey: l.AppendInKey(nil), OutKey: out, In: l.In()})
	b, _, _, _ := l.Seal(make([]byte, 0, 200), [][]byte{[]byte("x")})
	if got := p.open(b); got.updates != 1 || got.data != "x" {
		t.Errorf("%d updates, %q", got.updates, got.data)
	}
}

func TestDamagedAndForeignStatesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l, _ := busy(t, s)
		good, _ := l.Save()
		if _, err := Restore(good); err != nil {
			t.Fatal(err)
		}
		refused := func(what string, change func(sv *Saved)) {
			t.Helper()
			sv := good
			sv.InKey, sv.OutKey, sv.Held = slices.Clone(sv.InKey), slices.Clone(sv.OutKey), slices.Clone(sv.Held)
			change(&sv)
			l, err := Restore(sv)
			if err == nil || l != nil {
				t.Errorf("%s: taken", what)
			}
		}
		for i := range len(good.InKey) * 8 {
			refused(fmt.Sprint("bit ", i, " of the reading key"), func(sv *Saved) { sv.InKey[i/8] ^= 1 << (i % 8) })
		}
		for i := range good.OutKey {
			refused(fmt.Sprint(i, " bytes of the writing key"), func(sv *Saved) { sv.OutKey = sv.OutKey[:i] })
		}
		// What is in order, but of something else.
		again := func(key []byte, change func([]byte)) []byte {
			change(key)
			end := len(key) - keySum
			binary.BigEndian.PutUint32(key[end:], crc32.Checksum(key[:end], castagnoli))
			return key
		}
		refused("keys exchanged", func(sv *Saved) { sv.InKey, sv.OutKey = sv.OutKey, sv.InKey })
		refused("another form", func(sv *Saved) { again(sv.InKey, func(b []byte) { b[0]++ }) })
		refused("an unknown suite", func(sv *Saved) { again(sv.InKey, func(b []byte) { b[3] = 0 }) })
		refused("a longer secret", func(sv *Saved) { sv.InKey = again(append(sv.InKey, 0), func([]byte) {}) })
		other := byte(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 & 0xff)
		if s.id == tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 { // whose secrets are as long
			refused("keys of two suites", func(sv *Saved) { again(sv.OutKey, func(b []byte) { b[3] = other }) })
		}
		if s.tls13 {
			refused("a number before the key", func(sv *Saved) { sv.In = 0 })
			refused("a number before the key", func(sv *Saved) { sv.Out = 0 })
		}

		refused("another form", func(sv *Saved) { sv.Held[0]++ })
		refused("a count beyond all", func(sv *Saved) { sv.Held[1] = maxUseless + 1 })
		refused("a message too long", func(sv *Saved) { sv.Held[2] = 5 })
		refused("a message that is not there", func(sv *Saved) { sv.Held = []byte{heldForm, 0, 1} })
		refused("half of it", func(sv *Saved) { sv.Held = sv.Held[:2] })
		refused("another message", func(sv *Saved) { sv.Held = []byte{heldForm, 0, 1, clientHello} })
		if !s.tls13 {
			refused("a message", func(sv *Saved) { sv.Held = []byte{heldForm, 0, 1, keyUpdate} })
		}
		refused("a whole record", func(sv *Saved) { sv.Held = []byte{heldForm, 0, 0, 23, 3, 3, 0, 1, 9} })
		refused("no record", func(sv *Saved) { sv.Held = []byte{heldForm, 0, 0, 'G', 'E', 'T', ' ', '/'} })
	})
}

// FuzzRestore: whatever it takes comes out again as it went in, and nothing makes it panic.
func FuzzRestore(f *testing.F) {
	for i := range suites {
		l := fresh(&suites[i])
		f.Add(l.AppendInKey(nil), l.AppendOutKey(nil), uint64(1), uint64(2), []byte{heldForm, 3, 0, 23, 3, 3})
	}
	f.Fuzz(func(t *testing.T, in, out []byte, i, o uint64, held []byte) {
		l, err := Restore(Saved{InKey: in, OutKey: out, In: i, Out: o, Held: held})
		if err != nil {
			return
		}
		sv, _ := l.Save()
		if !bytes.Equal(sv.InKey, in) || !bytes.Equal(sv.OutKey, out) || sv.In != i || sv.Out != o {
			t.Errorf("%+v", sv)
		}
		if again, _ := restored(t, sv).Save(); !reflect.DeepEqual(again, sv) {
			t.Errorf("got %+v, want %+v", again, sv)
		}
	})
}

func TestWipedLinkHasNoSecret(t *testing.T) {
	each(t, func(t *testing.T, s *suite) {
		l, p := busy(t, s)
		secrets := [][]byte{slices.Clone(l.in.secret[:16]), slices.Clone(l.out.secret[:16])}
		memory := unsafe.Slice((*byte)(unsafe.Pointer(l)), unsafe.Sizeof(*l))
		for i, secret := range secrets {
			if !bytes.Contains(memory, secret) {
				t.Fatal("secret", i, "is not where it is looked for")
			}
		}
		l.Wipe()
		for i, secret := range secrets {
			if bytes.Contains(memory, secret) {
				t.Error("secret", i, "is still there")
			}
		}
		if l.in.aead != nil || l.out.aead != nil || l.in.iv != [12]byte{} || l.out.iv != [12]byte{} {
			t.Error("ciphers or their IVs are still there")
		}
		if _, _, _, err := l.Seal(make([]byte, 0, 100), [][]byte{[]byte("x")}); err != ErrEnded {
			t.Error("sealed with a key of zeros:", err)
		}
		if _, err := open(l, p.data("x")); err != ErrEnded {
			t.Error("opened:", err)
		}
		if b := l.Close(make([]byte, 0, 100), nil); len(b) > 0 {
			t.Error("closed with a key of zeros")
		}
	})
}

func TestHandshakesSecretsAreCleared(t *testing.T) {
	w := new(wire)
	secret := bytes.Repeat([]byte{0xab}, 48)
	for _, label := range []string{"CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0",
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET"} {
		line := fmt.Appendf(nil, "%s %064x %x\n", label, 1, secret)
		if _, err := (keyLog{w}).Write(line); err != nil {
			t.Error(label, err)
		}
		if bytes.Contains(line, []byte(hex.EncodeToString(secret[:4]))) {
			t.Error(label, "is left in its line")
		}
	}
	copies := [][]byte{w.client, w.server, w.master}
	w.wipe()
	for i, c := range copies {
		if len(c) != len(secret) || slices.Max(c) != 0 {
			t.Errorf("copy %d is %x", i, c)
		}
	}
}
