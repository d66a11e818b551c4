package wire

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	at    = time.Date(2015, 11, 25, 3, 40, 13, 433493056, time.UTC)
	porch = AppendString(nil, "Porch")
)

func TestDeliveryHasTheKeysInOrder(t *testing.T) {
	const want = `{"action":"publish","event":"temperature","data":"76.5 F",` +
		`"created_at":"2015-11-25T03:40:13.433493056Z","client_name":"Porch"}`
	got := AppendDelivery([]byte("before "), []byte("temperature"), []byte(`"76.5 F"`), at, porch)
	if string(got) != "before "+want {
		t.Errorf("got  %s\nwant before %s", got, want)
	}
}

func TestDeliveryWithoutDataHasAnEmptyString(t *testing.T) {
	for _, data := range [][]byte{nil, {}} {
		got := AppendDelivery(nil, []byte("e"), data, at, porch)
		if !strings.Contains(string(got), `"event":"e","data":"","created_at"`) {
			t.Errorf("got %s", got)
		}
	}
}

func TestDeliveryPassesDataOnUnchanged(t *testing.T) {
	for _, data := range []string{`null`, `1.0`, `{ "b": 1, "a": "\u003c<\/" }`, `"\ud800"`, `12345678901234567890`} {
		got := AppendDelivery(nil, []byte("e"), []byte(data), at, porch)
		if !strings.Contains(string(got), `"data":`+data+`,"created_at"`) {
			t.Errorf("data %s: got %s", data, got)
		}
	}
}

func TestDeliveryQuotesTheEvent(t *testing.T) {
	const event = "a\"b\\c\nd\x00é"
	got := AppendDelivery(nil, []byte(event), nil, at, porch)
	var d Delivery
	if err := json.Unmarshal(got, &d); err != nil || d.Event != event {
		t.Errorf("%s: got event %q, error %v, want %q", got, d.Event, err, event)
	}
}

func TestDeliveryTimeIsUTCWithZ(t *testing.T) {
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{at, "2015-11-25T03:40:13.433493056Z"},
		{at.In(time.FixedZone("somewhere", 2*60*60)), "2015-11-25T03:40:13.433493056Z"},
		{time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), "1970-01-01T00:00:00Z"},
		{time.Date(2015, 11, 25, 3, 40, 13, 500_000_000, time.UTC), "2015-11-25T03:40:13.5Z"},
	} {
		got := AppendDelivery(nil, []byte("e"), nil, tt.at, porch)
		if !strings.Contains(string(got), `"created_at":"`+tt.want+`"`) {
			t.Errorf("got %s, want created_at %s", got, tt.want)
		}
	}
}

func TestAckAndErrorCarryWhatTheyAnswer(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{string(AppendAck([]byte("before "), []byte(`17`))), `before {"action":"ack","id":17}`},
		{string(AppendAck(nil, []byte(`"a-1"`))), `{"action":"ack","id":"a-1"}`},
		{string(AppendError([]byte("before "), "event is required", nil, []byte(`17`))),
			`before {"action":"error","error":"event is required","id":17}`},
		{string(AppendError(nil, `a "b"`, nil, nil)), `{"action":"error","error":"a \"b\""}`},
		{string(AppendError(nil, "no", []byte(`a "b"`), []byte(`17`))),
			`{"action":"error","error":"no","event":"a \"b\"","id":17}`},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestStringsEscapeOnlyWhatTheyMust(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", `""`},
		{"Porch", `"Porch"`},
		{`"`, `"\""`},
		{`a\b`, `"a\\b"`},
		{"\n\r\t\b\x00\x1f", `"\n\r\t\u0008\u0000\u001f"`},
		{"<&>/\x7fé🌡\u2028\u2029", "\"<&>/\x7fé🌡\u2028\u2029\""},
		{"\nx\n\ny", `"\nx\n\ny"`},
	} {
		if got := string(AppendString(nil, tt.s)); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.s, got, tt.want)
		}
	}
}

func TestEncodingDoesNotAllocateWhenThereIsRoom(t *testing.T) {
	dst := make([]byte, 0, 4096)
	event := []byte("a \"long\" event, longer than what fits on the stack of a conversion")
	data := []byte(`"` + strings.Repeat("x", 1024) + `"`)
	local := at.In(time.FixedZone("somewhere", 2*60*60))
	for name, encode := range map[string]func(){
		"AppendDelivery": func() { dst = AppendDelivery(dst[:0], event, data, local, porch) },
		"AppendAck":      func() { dst = AppendAck(dst[:0], []byte(`17`)) },
		"AppendError":    func() { dst = AppendError(dst[:0], "event is required", event, []byte(`17`)) },
		"AppendString":   func() { dst = AppendString(dst[:0], "Porch\n") },
	} {
		if allocs := testing.AllocsPerRun(1000, encode); allocs != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, allocs)
		}
	}
}

func TestActionWordsAreReadBack(t *testing.T) {
	for a, want := range map[Action]string{
		Subscribe: "subscribe", Unsubscribe: "unsubscribe", UnsubscribeAll: "unsubscribe:all", Publish: "publish",
	} {
		if got := a.String(); got != want {
			t.Errorf("action %d: got %q, want %q", a, got, want)
		}
	}
	for _, a := range Actions() {
		if got, ok := parseAction(a.String()); got != a || !ok {
			t.Errorf("%q: got %v, %v, want %v", a.String(), got, ok, a)
		}
	}
	if got, ok := parseAction(""); got != None || ok {
		t.Errorf("no word: got %v, %v", got, ok)
	}
	if got := Action(200).String(); got != "" {
		t.Errorf("no action: got %q", got)
	}
}

func TestReasonsListTheActions(t *testing.T) {
	for err, before := range map[*Error]string{ErrActionMissing: "action is required: ",
		ErrActionUnknown: "unknown action: known are "} {
		list, ok := strings.CutPrefix(err.Reason, before)
		if !ok || !regexp.MustCompile(`^\S+(, \S+)* (or|and) \S+$`).MatchString(list) {
			t.Errorf("%q is no sentence", err.Reason)
		}
		words := regexp.MustCompile(`, | or | and `).Split(list, -1)
		var want []string
		for _, a := range Actions() {
			want = append(want, a.String())
		}
		if !slices.Equal(words, want) {
			t.Errorf("%q lists %q, want %q", err.Reason, words, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, tt := range []struct{ what, name, reason string }{
		{"a name", "Porch", ""},
		{"one character", "x", ""},
		{"spaces and punctuation", ` "Küche" <1> \ 🌡`, ""},
		{"128 characters of 4 bytes", strings.Repeat("🌡", 128), ""},
		{"none", "", "client name is required"},
		{"129 characters", strings.Repeat("x", 129), "client name must be at most 128 characters"},
		{"not UTF-8", "Por\xffch", "client name is not valid UTF-8"},
		{"a surrogate in UTF-8", "\xed\xa0\x80", "client name is not valid UTF-8"},
		{"newline", "Porch\nlevel=error", "client name must not contain control characters"},
		{"terminal escape", "\x1b[31mPorch", "client name must not contain control characters"},
		{"NUL", "\x00", "client name must not contain control characters"},
		{"DEL", "Porch\x7f", "client name must not contain control characters"},
		{"C1 control", "Porch\u009b31m", "client name must not contain control characters"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			err := CheckName(tt.name)
			if tt.reason == "" {
				if err != nil {
					t.Errorf("got error %v, want none", err)
				}
				return
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.Reason != tt.reason {
				t.Errorf("got error %v, want %q", err, tt.reason)
			}
		})
	}
}
