package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

const valid = `"event":"temperature"`

func nested(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func TestDecodeTakes(t *testing.T) {
	e255 := strings.Repeat("e", 255)
	id64 := strings.Repeat("i", 64)
	n64 := strings.Repeat("7", 64)
	str := func(s string) *string { return &s }
	for _, tt := range []struct {
		name   string
		text   string
		fast   bool // on the fast path
		action Action
		event  string
		data   *string
		id     *string
	}{
		{"subscribe", `{"action":"subscribe","event":"temperature"}`, true, Subscribe, "temperature", nil, nil},
		{"unsubscribe", `{"action":"unsubscribe","event":"temperature"}`, true, Unsubscribe, "temperature", nil, nil},
		{"unsubscribe:all", `{"action":"unsubscribe:all"}`, true, UnsubscribeAll, "", nil, nil},
		{"publish", `{"action": "publish", "event": "temperature", "data": "76.5 F"}`, true, Publish, "temperature",
			str(`"76.5 F"`), nil},
		{"no action", `{"event":"temperature","data":"76.5 F"}`, true, None, "temperature", str(`"76.5 F"`), nil},
		{"byte order mark", "\ufeff{\"event\":\"e\",\"data\":\"\ufeff\"}", true, None, "e", str("\"\ufeff\""), nil},
		{"no data", `{"event":"temperature"}`, true, None, "temperature", nil, nil},
		{"keys in another order", `{"id":1,"data":2,"event":"e","action":"publish"}`, true, Publish, "e", str(`2`),
			str(`1`)},
		{"white space of every kind", " \t\r\n{ \t\r\n\"event\" \t\r\n: \t\r\n\"e\" \t\r\n, \t\r\n\"data\" : 1 \t\r\n} \t\r\n", true, None, "e", str(`1`), nil},

		{"unsubscribe:all with an event", `{"action":"unsubscribe:all","event":"e","id":1}`, true, UnsubscribeAll, "",
			nil, str(`1`)},
		{"unsubscribe:all, event no string", `{"action":"unsubscribe:all","event":null}`, false, UnsubscribeAll, "",
			nil, nil},
		{"unsubscribe:all, event empty", `{"event":"","action":"unsubscribe:all"}`, true, UnsubscribeAll, "", nil, nil},

		{"event of 255 bytes", `{"event":"` + e255 + `"}`, true, None, e255, nil, nil},
		{"event of 255 bytes as escapes", `{"event":"` + strings.Repeat(`\u0065`, 255) + `"}`, false, None, e255, nil,
			nil},
		{"event of spaces", `{"event":"  "}`, true, None, "  ", nil, nil},
		{"event beyond ASCII", `{"event":"température 🌡"}`, true, None, "température 🌡", nil, nil},
		{"event with escapes", `{"event":"a\"\\\/\b\f\n\r\t\u00e9\u0000z"}`, false, None, "a\"\\/\b\f\n\r\té\x00z", nil,
			nil},
		{"event with a surrogate pair", `{"event":"\ud83c\udf21\uD83C\uDF21"}`, false, None, "🌡🌡", nil, nil},
		{"event with U+FFFD", `{"event":"�\ufffd"}`, false, None, "��", nil, nil},
		{"event that looks like a surrogate", `{"event":"\\ud800"}`, false, None, `\ud800`, nil, nil},
		{"event with glob characters", `{"event":"#/+.*>$"}`, true, None, "#/+.*>$", nil, nil},
		{"action with escapes", `{"action":"\u0073ubscribe","event":"e"}`, false, Subscribe, "e", nil, nil},
		{"key with escapes", `{"\u0065vent":"e"}`, false, None, "e", nil, nil},

		{"data null", `{"event":"e","data":null}`, true, None, "e", str(`null`), nil},
		{"data true", `{"event":"e","data":true}`, true, None, "e", str(`true`), nil},
		{"data false", `{"event":"e","data":false}`, true, None, "e", str(`false`), nil},
		{"data number", `{"event":"e","data":-1.5E+300}`, true, None, "e", str(`-1.5E+300`), nil},
		{"data number no float64 holds", `{"event":"e","data":12345678901234567890123e9999}`, true, None, "e",
			str(`12345678901234567890123e9999`), nil},
		{"data object", `{"event":"e","data":{"a":[1,{"b":"]}\""}], "a" : 2}}`, true, None, "e",
			str(`{"a":[1,{"b":"]}\""}], "a" : 2}`), nil},
		{"data array", `{"event":"e","data": [ ] ,"id":1}`, true, None, "e", str(`[ ]`), str(`1`)},
		{"data empty string", `{"event":"e","data":""}`, true, None, "e", str(`""`), nil},
		{"data with escapes", `{"event":"e","data":"\"\\\u003c\/"}`, true, None, "e", str(`"\"\\\u003c\/"`), nil},
		{"data with HTML and line separators", "{\"event\":\"e\",\"data\":\"<&>\u2028\u007f\"}", true, None, "e",
			str("\"<&>\u2028\u007f\""), nil},
		{"data with half a surrogate pair", `{"event":"e","data":"\ud800"}`, true, None, "e", str(`"\ud800"`), nil},
		{"data with keys of ours", `{"event":"e","data":{"event":1,"event":2,"id":[]}}`, true, None, "e",
			str(`{"event":1,"event":2,"id":[]}`), nil},
		{"data nested past the fast path", `{"event":"e","data":` + nested(maxFastDepth+1) + `}`, false, None, "e",
			str(nested(maxFastDepth + 1)), nil},
		{"data nested to the limit", `{"event":"e","data":` + nested(9999) + `}`, false, None, "e", str(nested(9999)),
			nil},

		{"id string", `{"event":"e","id":"a-1"}`, true, None, "e", nil, str(`"a-1"`)},
		{"id empty string", `{"event":"e","id":""}`, true, None, "e", nil, str(`""`)},
		{"id number", `{"event":"e","id":-0.5e3}`, true, None, "e", nil, str(`-0.5e3`)},
		{"id string of 64 bytes", `{"event":"e","id":"` + id64 + `"}`, true, None, "e", nil, str(`"` + id64 + `"`)},
		{"id number of 64 bytes", `{"event":"e","id":` + n64 + `}`, true, None, "e", nil, str(n64)},
		{"id with escapes stays as written", `{"event":"e","id":"\u0041\ud83c\udf21"}`, false, None, "e", nil,
			str(`"\u0041\ud83c\udf21"`)},

		{"unknown keys", `{"x":{"y":[1,"}"]},"event":"e","x":null,"":"","client_name":"Mallory"}`, true, None, "e", nil,
			nil},
		{"keys in another case", `{"Event":1,"EVENT":2,"event":"e","ID":[],"Data":1}`, true, None, "e", nil, nil},
		{"unknown key with half a surrogate pair", `{"event\ud800":1,"event":"e"}`, false, None, "e", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Message{Action: tt.action, Event: []byte(tt.event)}
			if tt.action == UnsubscribeAll {
				want.Event = nil
			}
			if tt.data != nil {
				want.Data = []byte(*tt.data)
			}
			if tt.id != nil {
				want.ID = []byte(*tt.id)
			}
			got, err := Decode([]byte(tt.text))
			if err != nil || !same(got, want) {
				t.Errorf("Decode: got %v, error %v, want %v", show(got), err, show(want))
			}
			text := []byte(strings.TrimPrefix(tt.text, "\ufeff"))
			if got, err := decodeGeneral(text); err != nil || !same(got, want) {
				t.Errorf("general path: got %v, error %v, want %v", show(got), err, show(want))
			}
			if _, ok := decodeFast(text); ok != tt.fast {
				t.Errorf("taken by the fast path: got %v, want %v", ok, tt.fast)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	const (
		notUTF8   = "message is not valid UTF-8"
		notObject = "message must be one JSON object"
	)
	e256 := strings.Repeat("e", 256)
	for _, tt := range []struct {
		name, text, reason, id string
	}{
		{"nothing", ``, notObject, ""},
		{"white space", " \n", notObject, ""},
		{"array", `[]`, notObject, ""},
		{"null", `null`, notObject, ""},
		{"number", `7`, notObject, ""},
		{"string", `"event"`, notObject, ""},
		{"text", `hello`, notObject, ""},
		{"two byte order marks", "\ufeff\ufeff{" + valid + `}`, notObject, ""},
		{"byte order mark alone", "\ufeff", notObject, ""},
		{"byte order mark behind a space", " \ufeff{" + valid + `}`, notObject, ""},
		{"UTF-16", "{\x00\"\x00e\x00", errUTF16.Reason, ""},
		{"UTF-16, the other way round", "\x00{\x00\"\x00e", errUTF16.Reason, ""},
		{"UTF-16, a character beyond ASCII", "{\x00\"\x00\xe9\x00", errUTF16.Reason, ""},
		{"UTF-16 with a byte order mark", "\xff\xfe{\x00", errUTF16.Reason, ""},
		{"UTF-16 with a byte order mark, the other way round", "\xfe\xff\x00{", errUTF16.Reason, ""},
		{"NUL", "\x00", notObject, ""},
		{"NULs", "\x00\x00{", notObject, ""},
		{"gzip", "\x1f\x8b\x08\x00", errGzip.Reason, ""},
		{"another space", "\u00a0{" + valid + `}`, notObject, ""},
		{"form feed", "\f{" + valid + `}`, notObject, ""},
		{"half an object", `{` + valid, notObject, ""},
		{"half a string", `{"event":"e`, notObject, ""},
		{"string that ends in a backslash", `{"event":"e","data":"\`, notObject, ""},
		{"open brace", `{`, notObject, ""},
		{"key alone", `{"event"`, notObject, ""},
		{"key without a value", `{"event":}`, notObject, ""},
		{"key, colon, end", `{"data":`, notObject, ""},
		{"no colon", `{"event" "e"}`, notObject, ""},
		{"no comma", `{"event":"e" "data":1}`, notObject, ""},
		{"comma at the end", `{` + valid + `,}`, notObject, ""},
		{"comma at the start", `{,` + valid + `}`, notObject, ""},
		{"two commas", `{"id":1,,` + valid + `}`, notObject, ""},
		{"key without quotes", `{event:"e"}`, notObject, ""},
		{"single quotes", `{'event':'e'}`, notObject, ""},
		{"comment", `{` + valid + `/* */}`, notObject, ""},
		{"trailing word", `{` + valid + `}x`, notObject, ""},
		{"trailing object", `{` + valid + `,"id":1} {` + valid + `,"id":2}`, notObject, ""},
		{"trailing bracket", `{` + valid + `}]`, notObject, ""},
		{"trailing NUL", `{` + valid + "}\x00", notObject, ""},
		{"brackets of another kind", `{` + valid + `,"data":[}}`, notObject, ""},
		{"brackets crossed", `{` + valid + `,"data":[{]}}`, notObject, ""},
		{"data no JSON", `{` + valid + `,"data":76.5 F}`, notObject, ""},
		{"data NaN", `{` + valid + `,"data":NaN}`, errNaN.Reason, ""},
		{"data NaN deeper", `{"data": {"a":[1, NaN]},` + valid + `}`, errNaN.Reason, ""},
		{"data nan, as C prints it", `{"data": nan,` + valid + `}`, errNaN.Reason, ""},
		{"data -nan", `{"data":-nan,` + valid + `}`, errNaN.Reason, ""},
		{"data Infinity", `{"data":Infinity,` + valid + `}`, errInfinity.Reason, ""},
		{"data -Infinity", `{"data":-Infinity,` + valid + `}`, errInfinity.Reason, ""},
		{"data inf", `{"data":[inf],` + valid + `}`, errInfinity.Reason, ""},
		{"data inf and more", `{"data":info,` + valid + `}`, notObject, ""},
		{"data that has NaN in it", `{"data":xNaN,` + valid + `}`, notObject, ""},
		{"half a string, nan", `{"event":"nan`, notObject, ""},
		{"a bad escape, nan", `{"event":":\nan\inf"}`, notObject, ""},
		{"NaN for a key", `{NaN:1}`, notObject, ""},
		{"NaN alone", `NaN`, notObject, ""},
		{"data with a leading zero", `{` + valid + `,"data":01}`, notObject, ""},
		{"data with a leading plus", `{` + valid + `,"data":+1}`, notObject, ""},
		{"data half a literal", `{` + valid + `,"data":nul}`, notObject, ""},
		{"data with a raw newline", "{" + valid + ",\"data\":\"a\nb\"}", notObject, ""},
		{"data with a raw newline deeper", "{" + valid + ",\"data\":[\"a\nb\"]}", notObject, ""},
		{"data with a bad escape", `{` + valid + `,"data":"\x41"}`, notObject, ""},
		{"data with half an escape", `{` + valid + `,"data":"\u00"}`, notObject, ""},
		{"event with a raw newline", "{\"event\":\"a\nb\"}", notObject, ""},
		{"event with a raw NUL", "{\"event\":\"a\x00b\"}", notObject, ""},
		{"id with a leading zero", `{` + valid + `,"id":007}`, notObject, ""},
		{"id a minus", `{` + valid + `,"id":-}`, notObject, ""},
		{"unknown key, no JSON", `{` + valid + `,"x":y}`, notObject, ""},
		{"unknown key with a raw tab", "{" + valid + ",\"a\tb\":1}", notObject, ""},
		{"nested past the limit", `{` + valid + `,"data":` + nested(10_000) + `}`, notObject, ""},
		{"nested 100,000 deep", `{` + valid + `,"data":` + nested(100_000) + `}`, notObject, ""},
		{"opened 100,000 deep", strings.Repeat("[", 100_000), notObject, ""},
		{"objects 100,000 deep", strings.Repeat(`{"event":`, 100_000), notObject, ""},
		{"unknown key 100,000 deep", `{` + valid + `,"x":` + nested(100_000) + `}`, notObject, ""},

		{"not UTF-8 in data", "{" + valid + ",\"data\":\"\xff\"}", notUTF8, ""},
		{"not UTF-8 in the event", "{\"event\":\"\xc3\"}", notUTF8, ""},
		{"not UTF-8 in the id", "{" + valid + ",\"id\":\"\xc0\xaf\"}", notUTF8, ""},
		{"not UTF-8 in a key", "{" + valid + ",\"\x80\":1}", notUTF8, ""},
		{"not UTF-8 outside strings", "{" + valid + "\xfe}", notUTF8, ""},
		{"a surrogate in UTF-8", "{" + valid + ",\"data\":\"\xed\xa0\x80\"}", notUTF8, ""},
		{"half a character at the end", "{" + valid + "}\xe2\x82", notUTF8, ""},

		{"action twice", `{"action":"publish","action":"publish",` + valid + `,"id":1}`, "action appears twice", "1"},
		{"event twice", `{"event":"a","event":"b","id":1}`, "event appears twice", "1"},
		{"event twice, one escaped", `{"event":"a","\u0065vent":"a","id":1}`, "event appears twice", "1"},
		{"event twice for unsubscribe:all", `{"action":"unsubscribe:all","event":"a","event":"b"}`,
			"event appears twice", ""},
		{"event null and again", `{"event":null,"event":"b","id":1}`, "event appears twice", "1"},
		{"data twice", `{"id":1,` + valid + `,"data":1,"data":1}`, "data appears twice", "1"},
		{"data null and again", `{"id":1,` + valid + `,"data":null,"data":1}`, "data appears twice", "1"},
		{"id twice", `{"id":1,"id":2,` + valid + `}`, "id appears twice", ""},
		{"id null and again", `{"id":null,"id":2,` + valid + `}`, "id appears twice", ""},
		{"id and event twice", `{"event":"a","event":"b","id":1,"id":2}`, "event appears twice", ""},
		{"data three times, event twice", `{"event":"a","data":1,"data":2,"data":3,"event":"b"}`, "data appears twice",
			""},

		{"id null", `{` + valid + `,"id":null}`, "id must be a string or a number", ""},
		{"id true", `{` + valid + `,"id":true}`, "id must be a string or a number", ""},
		{"id object", `{` + valid + `,"id":{}}`, "id must be a string or a number", ""},
		{"id array", `{` + valid + `,"id":[1]}`, "id must be a string or a number", ""},
		{"id string of 65 bytes", `{` + valid + `,"id":"` + strings.Repeat("i", 65) + `"}`,
			"id must be at most 64 bytes", ""},
		{"id of 11 escapes", `{` + valid + `,"id":"` + strings.Repeat(`\u0041`, 11) + `"}`,
			"id must be at most 64 bytes", ""},
		{"id number of 65 bytes", `{` + valid + `,"id":` + strings.Repeat("7", 65) + `}`, "id must be at most 64 bytes",
			""},
		{"id with half a surrogate pair", `{` + valid + `,"id":"\udc00"}`,
			`id has a \u escape that is half of a surrogate pair`, ""},

		{"action null", `{"action":null,` + valid + `,"id":1}`, "action must be a string", "1"},
		{"action number", `{"id":"x","action":1,` + valid + `}`, "action must be a string", `"x"`},
		{"action unknown", `{"action":"shout",` + valid + `,"id":1}`, ErrActionUnknown.Reason, "1"},
		{"action empty", `{"action":"",` + valid + `,"id":1}`, ErrActionUnknown.Reason, "1"},
		{"action in another case", `{"action":"Publish",` + valid + `,"id":1}`, ErrActionUnknown.Reason, "1"},
		{"action with a space", `{"action":"publish ",` + valid + `,"id":1}`, ErrActionUnknown.Reason, "1"},
		{"action the server's", `{"action":"ack","id":1}`, ErrActionUnknown.Reason, "1"},

		{"empty object", `{}`, "event is required", ""},
		{"no event", `{"data":1,"id":1}`, "event is required", "1"},
		{"no event to subscribe", `{"action":"subscribe","id":1}`, "event is required", "1"},
		{"no event to unsubscribe", `{"action":"unsubscribe","id":1}`, "event is required", "1"},
		{"no event to publish", `{"action":"publish","id":1}`, "event is required", "1"},
		{"event in another case", `{"Event":"e","id":1}`, "event is required", "1"},
		{"event null", `{"event":null,"id":1}`, "event must be a string", "1"},
		{"event number", `{"event":7,"id":1}`, "event must be a string", "1"},
		{"event object", `{"event":{},"id":1}`, "event must be a string", "1"},
		{"event array", `{"event":["e"],"id":1}`, "event must be a string", "1"},
		{"event empty", `{"event":"","id":1}`, "event must not be empty", "1"},
		{"event of 256 bytes", `{"event":"` + e256 + `","id":1}`, "event must be at most 255 bytes", "1"},
		{"event of 256 bytes in 128 characters", `{"event":"` + strings.Repeat("é", 128) + `","id":1}`,
			"event must be at most 255 bytes", "1"},
		{"event of 256 bytes as escapes", `{"event":"` + strings.Repeat(`\u0065`, 256) + `","id":1}`,
			"event must be at most 255 bytes", "1"},

		{"id and action wrong", `{"action":1,"id":{},` + valid + `}`, "id must be a string or a number", ""},
		{"action and event wrong", `{"event":1,"action":1,"id":1}`, "action must be a string", "1"},
		{"event twice and id wrong", `{"event":"a","id":{},"event":"a"}`, "event appears twice", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decode([]byte(tt.text))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != tt.reason {
				t.Fatalf("got error %v, want %q", err, tt.reason)
			}
			if (err == ErrInvalidUTF8) != (tt.reason == notUTF8) {
				t.Errorf("is ErrInvalidUTF8: got %v", err == ErrInvalidUTF8)
			}
			want := Message{}
			if tt.id != "" {
				want.ID = []byte(tt.id)
			}
			if strings.Contains(tt.text, valid) && utf8.ValidString(tt.text) && json.Valid([]byte(tt.text)) {
				want.Event = []byte("temperature")
			}
			if !same(got, want) {
				t.Errorf("beside the error: got %v, want %v", show(got), show(want))
			}
			if got := AppendError(nil, e.Reason, got.Event, got.ID); !json.Valid(got) {
				t.Errorf("answer is not JSON: %s", got)
			}
		})
	}
}

// A message whose event can be read is refused with it, whatever else is wrong.
func TestRefusedMessageHasItsEvent(t *testing.T) {
	for text, want := range map[string]string{
		`{"action":"shout","event":"e"}`:                       "e",
		`{"action":1,"event":"a\u0062"}`:                       "ab",
		`{"event":"e","id":{}}`:                                "e",
		`{"data":1,"data":2,"event":"e"}`:                      "e",
		`{"id":1,"id":2,"event":"e"}`:                          "e",
		`{"action":"shout"}`:                                   "",
		`{"action":"shout","event":7}`:                         "",
		`{"action":"shout","event":""}`:                        "",
		`{"action":"shout","event":"\ud800"}`:                  "",
		`{"action":"shout","Event":"e"}`:                       "",
		`{"event":"a","event":"a"}`:                            "",
		`{"action":"shout","event":"e","data":1`:               "",
		`{"action":"shout","data":{"event":"e"}}`:              "",
		`{"id":{},"event":"` + strings.Repeat("e", 256) + `"}`: "",
	} {
		got, err := Decode([]byte(text))
		if err == nil || string(got.Event) != want || want == "" && got.Event != nil {
			t.Errorf("%.60s: got event %q, error %v, want %q and an error", text, got.Event, err, want)
		}
	}
}

func TestHalfASurrogatePairInAnEventIsRefused(t *testing.T) {
	for _, event := range []string{
		`\ud800`, `\udbff`, `\uDC00`, `\udfff`,
		`a\ud800z`, `\ud800\ud800`, `\udc00\ud800`, `\ud800\udc00\udc00`, `\ud800\ud800\udc00`,
		`\ud800\u0041`, `\ud800\n`, `\ud800\\udc00`, `\ud800udc00`, `\ud800 \udc00`, `\\\ud800`,
	} {
		got, err := Decode([]byte(`{"event":"` + event + `","id":1}`))
		if err != errEventSurrogate {
			t.Errorf("event %s: got error %v, want %v", event, err, errEventSurrogate)
		}
		if string(got.ID) != "1" {
			t.Errorf("event %s: got id %s, want 1", event, got.ID)
		}
	}
}

// Every pair of members from a list of good and bad ones, in both orders, alone and doubled.
func TestBothPathsAgreeOnEveryPairOfMembers(t *testing.T) {
	keys := []string{`"event"`, `"action"`, `"data"`, `"id"`, `"x"`, `"\u0069d"`, `"Event"`, `""`, `x`}
	values := []string{
		`"e"`, `""`, `"publish"`, `"unsubscribe:all"`, `"\u0041"`, `"\ud800"`, `"a\"b"`, `"é"`, `"\`, `"`, "\"\n\"",
		`1`, `-`, `01`, `1.5e-3`, `1e`, `null`, `nul`, `true`, `[]`, `[1,{"a":"]"}]`, `[}`, `{}`, `{"a":}`, `{`, ``,
	}
	var members []string
	for _, k := range keys {
		for _, v := range values {
			members = append(members, k+":"+v)
		}
	}
	taken := 0
	for _, a := range members {
		for _, b := range members {
			for _, text := range []string{`{` + a + `,` + b + `}`, ` { ` + a + ` , ` + b + ` } `} {
				if pathsAgree(t, []byte(text)) {
					taken++
				}
			}
		}
	}
	if taken < 1000 {
		t.Errorf("the fast path took %d texts, want at least 1000 for the comparison to mean something", taken)
	}
}

// A message cut short or with one byte changed, at every place.
func TestBothPathsAgreeOnDamagedMessages(t *testing.T) {
	text := []byte(`{"action":"publish", "event":"température","data":{"a":[1.5,"\u00e9\""],"b":null},"id":-12}`)
	for i := range text {
		pathsAgree(t, text[:i])
		for c := range 256 {
			p := bytes.Clone(text)
			p[i] = byte(c)
			if utf8.Valid(p) {
				pathsAgree(t, p)
			}
		}
	}
}

func TestBothPathsAgreeAtEveryDepth(t *testing.T) {
	for _, depth := range []int{1, 2, maxFastDepth - 1, maxFastDepth, maxFastDepth + 1, 9_998, 9_999, 10_000, 10_001} {
		for _, key := range []string{"data", "x"} {
			pathsAgree(t, fmt.Appendf(nil, `{"event":"e",%q:%s}`, key, nested(depth)))
		}
	}
}

func TestAppendingToADecodedSliceLeavesTheMessageAlone(t *testing.T) {
	text := `{"event":"e","data":"d","id":1}`
	p := []byte(text)
	m, err := Decode(p)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(m.Event, "xxx"...)
	_ = append(m.Data, "xxx"...)
	_ = append(m.ID, "xxx"...)
	if string(p) != text {
		t.Errorf("got %s, want %s", p, text)
	}
}

// Every message that comes in is decoded: the usual ones must make no garbage.
func TestDecodeOfTheUsualMessagesDoesNotAllocate(t *testing.T) {
	for _, text := range []string{
		`{"action":"subscribe","event":"temperature"}`,
		`{"action":"unsubscribe","event":"temperature","id":"a-1"}`,
		`{"action":"unsubscribe:all"}`,
		`{"action": "publish", "event": "temperature", "data": "76.5 F"}`,
		`{"event":"température","data":"76,5 °F"}`,
	} {
		p := []byte(text)
		allocs := testing.AllocsPerRun(1000, func() {
			if _, err := Decode(p); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: got %v allocations, want 0", text, allocs)
		}
	}
}

// Data that is not plain goes through encoding/json's pool, which the garbage collector empties at times and the race
// detector at random. So one run in a hundred without an allocation is enough: a decoder that allocates does so in
// every one.
func TestDecodeOfDataThatIsNotPlainDoesNotAllocate(t *testing.T) {
	for _, text := range []string{
		`{"event":"temperature","data":{"celsius":[21.5]},"id":17}`,
		`{"event":"temperature","data":"\"76.5\""}`,
		`{"event":"temperature","data":76.5}`,
	} {
		p := []byte(text)
		fewest := math.Inf(1)
		for range 100 {
			fewest = min(fewest, testing.AllocsPerRun(1, func() {
				if _, err := Decode(p); err != nil {
					t.Fatal(err)
				}
			}))
		}
		if fewest != 0 {
			t.Errorf("%s: got %v allocations, want 0", text, fewest)
		}
	}
}

// pathsAgree checks that the general path decodes the same from p, valid UTF-8, when the fast path takes it, and
// returns whether it did.
func pathsAgree(t *testing.T, p []byte) bool {
	t.Helper()
	fast, ok := decodeFast(p)
	if !ok {
		return false
	}
	general, err := decodeGeneral(p)
	if err != nil || !same(fast, general) {
		t.Errorf("%q:\nfast path %v\ngeneral path %v, error %v", p, show(fast), show(general), err)
	}
	return true
}

func same(a, b Message) bool {
	eq := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	return a.Action == b.Action && eq(a.Event, b.Event) && eq(a.Data, b.Data) && eq(a.ID, b.ID)
}

func show(m Message) string {
	return fmt.Sprintf("{%q event %q data %.80q id %q}", m.Action.String(), m.Event, m.Data, m.ID)
}
