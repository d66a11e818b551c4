package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestInfoIsTheSeedsShapeWithServerBeside(t *testing.T) {
	c := Connection{ClientName: "Porch", IPAddress: "192.168.99.1:62178", ConnectedAt: at}
	got, err := json.Marshal(Info{
		Subscriptions:  []Subscription{{Name: "test", Connections: []Connection{c}}},
		AllConnections: []Connection{c},
		CreatedAt:      time.Date(2015, 11, 25, 3, 40, 39, 889395863, time.UTC),
		Server:         ServerInfo{Version: "1.0"},
	})
	const connection = `{"client_name":"Porch","ip_address":"192.168.99.1:62178","connected_at":"2015-11-25T03:40:13.433493056Z"}`
	const want = `{"subscriptions":[{"name":"test","connections":[` + connection + `]}],` +
		`"all_connections":[` + connection + `],"created_at":"2015-11-25T03:40:39.889395863Z",` +
		`"server":{"version":"1.0","uptime_seconds":0,`
	if err != nil || !strings.HasPrefix(string(got), want) {
		t.Errorf("error %v\ngot  %s\nwant %s…", err, got, want)
	}
}

// fill gives every field under v a value of its own, and every list two entries.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("\"%d\" ü\t\\", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(math.MaxUint64 - uint64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.125)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(at.Add(time.Duration(*n) * time.Second)))
			return
		}
		for _, field := range v.Fields() {
			fill(field, n)
		}
	default:
		panic("fill: " + v.Kind().String())
	}
}

// A field that AppendInfo forgot would be missing without anyone noticing.
func TestInfoIsWrittenAsEncodingJSONWouldWriteIt(t *testing.T) {
	var i Info
	fill(reflect.ValueOf(&i).Elem(), new(int))
	i.Server.EventTraffic[1].Last = nil
	i.Server.UptimeSeconds = -1
	type plain Info
	want, err := json.Marshal(plain(i))
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendInfo([]byte("before "), &i); string(got) != "before "+string(want) {
		t.Errorf("got  %s\nwant before %s", got, want)
	}
}

func TestEmptyListsOfInfoAreEmptyArrays(t *testing.T) {
	text := string(AppendInfo(nil, &Info{Subscriptions: []Subscription{{Name: "test"}}}))
	for _, list := range []string{"connections", "all_connections", "slow_clients_closed_latest", "event_traffic",
		"connection_traffic"} {
		if !strings.Contains(text, `"`+list+`":[]`) {
			t.Errorf("%s is no empty array: %s", list, text)
		}
	}
	if text := string(AppendInfo(nil, new(Info))); !strings.HasPrefix(text,
		`{"subscriptions":[],"all_connections":[],`) {
		t.Errorf("got %s", text)
	}
}

func TestSizeIsWhatAnEntryAdds(t *testing.T) {
	for _, text := range []string{"", "door", strings.Repeat("\x01", 255), strings.Repeat("\U0001f600", 128),
		strings.Repeat(`"\`, 600), "\t\n\r\x7f\u2028ü"} {
		c := Connection{ClientName: text, IPAddress: "[fe80::1%" + text + "]:65535", ConnectedAt: at}
		sub := Subscription{Name: text}
		et := EventTraffic{Subscribers: 7, Published: math.MaxUint64}
		etLast := EventTraffic{Delivered: 1, Last: &LastMessage{CreatedAt: at, ClientName: text, Preview: text}}
		ct := ConnectionTraffic{Published: 10, Delivered: math.MaxUint64, TLSVersion: "1.3"}
		info := func(n int) *Info {
			return &Info{
				Subscriptions:  slices.Repeat([]Subscription{sub}, n),
				AllConnections: slices.Repeat([]Connection{c}, n),
				Server: ServerInfo{
					EventTraffic:      slices.Repeat([]EventTraffic{et, etLast}, n),
					ConnectionTraffic: slices.Repeat([]ConnectionTraffic{ct}, n),
				},
			}
		}
		added := len(AppendInfo(nil, info(2))) - len(AppendInfo(nil, info(1)))
		if got := sub.Size() + c.Size() + et.Size() + etLast.Size() + ct.Size(); got != added {
			t.Errorf("%.20q: the sizes are %d, and %d bytes were added", text, got, added)
		}
	}
}

func TestClientReadsWhatTheServerWrites(t *testing.T) {
	for _, tt := range []struct {
		text []byte
		want Delivery
	}{
		{
			AppendDelivery(nil, []byte("temperature"), []byte(`{"c":1}`), at, porch),
			Delivery{Action: "publish", Event: "temperature", Data: json.RawMessage(`{"c":1}`), CreatedAt: at,
				ClientName: "Porch"},
		},
		{AppendAck(nil, []byte(`17`)), Delivery{Action: "ack", ID: json.RawMessage(`17`)}},
		{
			AppendError(nil, "event is required", nil, []byte(`"a"`)),
			Delivery{Action: "error", Error: "event is required", ID: json.RawMessage(`"a"`)},
		},
		{
			AppendError(nil, "data appears twice", []byte("temperature"), []byte(`17`)),
			Delivery{Action: "error", Error: "data appears twice", Event: "temperature", ID: json.RawMessage(`17`)},
		},
	} {
		var got Delivery
		if err := json.Unmarshal(tt.text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Action != tt.want.Action || got.Event != tt.want.Event || string(got.Data) != string(tt.want.Data) ||
			!got.CreatedAt.Equal(tt.want.CreatedAt) || got.ClientName != tt.want.ClientName ||
			string(got.ID) != string(tt.want.ID) || got.Error != tt.want.Error {
			t.Errorf("%s: got %+v, want %+v", tt.text, got, tt.want)
		}
		// With no HTML in the text, it comes out the same: empty members are left out and the rest keep their order.
		again, err := json.Marshal(got)
		if err != nil || string(again) != string(tt.text) {
			t.Errorf("written again: got %s, error %v, want %s", again, err, tt.text)
		}
	}
}
