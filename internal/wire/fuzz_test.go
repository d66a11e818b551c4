package wire

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"picloud/internal/utf"
)

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		m, err := Decode(p)
		if !bytes.Equal(p, before) {
			t.Fatalf("the input was changed to %q", p)
		}
		if valid := utf8.Valid(p); valid && err == ErrInvalidUTF8 || !valid && err != ErrInvalidUTF8 &&
			err != errUTF16 && err != errGzip {
			t.Fatalf("got error %v", err)
		}
		if m.ID != nil && (!json.Valid(m.ID) || len(m.ID) > MaxIDBytes+len(`""`)) {
			t.Errorf("got id %q", m.ID)
		}
		if err != nil {
			e, ok := err.(*Error)
			if !ok {
				t.Fatalf("got error of type %T", err)
			}
			if !same(m, Message{Event: m.Event, ID: m.ID}) || m.Event != nil && len(m.Event) == 0 ||
				len(m.Event) > MaxEventBytes {
				t.Errorf("beside the error: got %v", show(m))
			}
			if answer := AppendError(nil, e.Reason, m.Event, m.ID); !json.Valid(answer) || !utf8.Valid(answer) {
				t.Errorf("answer is not JSON: %q", answer)
			}
		}
		if !utf8.Valid(p) {
			return
		}
		p = bytes.TrimPrefix(p, utf.Mark)
		pathsAgree(t, p)
		if err != nil {
			if json.Valid(p) && (err == errUTF16 || err == errNaN || err == errInfinity) {
				t.Errorf("valid JSON got error %v", err)
			}
			return
		}
		if !json.Valid(p) {
			t.Fatal("taken, though it is not JSON")
		}
		delivered(t, m)
	})
}

// delivered checks that a decoded message goes out as JSON that says the same.
func delivered(t *testing.T, m Message) {
	t.Helper()
	if !actions[m.Action].hasEvent {
		if m.Event != nil {
			t.Errorf("%s with event %q", m.Action, m.Event)
		}
		return
	}
	if len(m.Event) == 0 || len(m.Event) > MaxEventBytes {
		t.Errorf("got event %q", m.Event)
	}
	text := AppendDelivery(nil, m.Event, m.Data, at, porch)
	if !json.Valid(text) || !utf8.Valid(text) {
		t.Fatalf("delivery is not JSON: %q", text)
	}
	want := Message{Action: Publish, Event: m.Event, Data: m.Data}
	if want.Data == nil {
		want.Data = []byte(`""`)
	}
	got, err := Decode(text)
	if err != nil || !same(got, want) {
		t.Errorf("decoded again: got %v, error %v, want %v", show(got), err, show(want))
	}
	var d Delivery
	if err := json.Unmarshal(text, &d); err != nil || d.Event != string(want.Event) || !bytes.Equal(d.Data, want.Data) {
		t.Errorf("a client got event %q, data %q, error %v, want %v", d.Event, d.Data, err, show(want))
	}
}

func FuzzAppendString(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "\ufffd")
		text := AppendString([]byte("before"), s)
		quoted, ok := bytes.CutPrefix(text, []byte("before"))
		if !ok {
			t.Fatalf("got %q", text)
		}
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil || got != s {
			t.Errorf("%q: got %q, error %v, want %q", quoted, got, err, s)
		}
	})
}

func FuzzCheckName(f *testing.F) {
	f.Fuzz(func(t *testing.T, name string) {
		if err := CheckName(name); err != nil {
			if _, ok := err.(*Error); !ok {
				t.Errorf("got error of type %T", err)
			}
			return
		}
		if n := len([]rune(name)); n < 1 || n > MaxNameChars {
			t.Errorf("taken with %d characters", n)
		}
		if i := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }); i >= 0 {
			t.Errorf("taken with a control character at %d", i)
		}
		text := AppendDelivery(nil, []byte("e"), nil, at, AppendString(nil, name))
		var d Delivery
		if err := json.Unmarshal(text, &d); err != nil || !utf8.Valid(text) || d.ClientName != name {
			t.Errorf("a client got %q, error %v", d.ClientName, err)
		}
	})
}
