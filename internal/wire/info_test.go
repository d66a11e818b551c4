package wire

import (
	"encoding/json"
	"testing"
	"time"
)

func TestInfoIsTheSeedsShapeWithServerBeside(t *testing.T) {
	c := Connection{ClientName: "Porch", IPAddress: "192.168.99.1:62178", ConnectedAt: at}
	got, err := json.Marshal(Info{
		Subscriptions:  []Subscription{{Name: "test", Connections: []Connection{c}}},
		AllConnections: []Connection{c},
		CreatedAt:      time.Date(2015, 11, 25, 3, 40, 39, 889395863, time.UTC),
		Server: ServerInfo{
			Version: "1.0", UptimeSeconds: 1, Connections: 2, MaxConnections: 3, Events: 4, Subscriptions: 5,
			Published: 6, Delivered: 7, LetGo: 8, WrongKeys: 9,
		},
	})
	const connection = `{"client_name":"Porch","ip_address":"192.168.99.1:62178","connected_at":"2015-11-25T03:40:13.433493056Z"}`
	const want = `{"subscriptions":[{"name":"test","connections":[` + connection + `]}],` +
		`"all_connections":[` + connection + `],"created_at":"2015-11-25T03:40:39.889395863Z",` +
		`"server":{"version":"1.0","uptime_seconds":1,"connections":2,"max_connections":3,"events":4,"subscriptions":5,` +
		`"published":6,"delivered":7,"let_go":8,"wrong_keys":9}}`
	if err != nil || string(got) != want {
		t.Errorf("error %v\ngot  %s\nwant %s", err, got, want)
	}
}

func TestEmptyListsOfInfoAreEmptyArrays(t *testing.T) {
	for _, tt := range []struct {
		value any
		list  string
	}{
		{Info{}, "subscriptions"},
		{Info{}, "all_connections"},
		{&Info{}, "subscriptions"},
		{Subscription{Name: "test"}, "connections"},
	} {
		text, err := json.Marshal(tt.value)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if string(got[tt.list]) != "[]" {
			t.Errorf("%s of %T: got %s, want []", tt.list, tt.value, got[tt.list])
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
			Delivery{Action: "publish", Event: "temperature", Data: json.RawMessage(`{"c":1}`), CreatedAt: at, ClientName: "Porch"},
		},
		{AppendAck(nil, []byte(`17`)), Delivery{Action: "ack", ID: json.RawMessage(`17`)}},
		{
			AppendError(nil, "event is required", []byte(`"a"`)),
			Delivery{Action: "error", Error: "event is required", ID: json.RawMessage(`"a"`)},
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
		// Without HTML in it, what is empty stays away and the rest keeps its order.
		again, err := json.Marshal(got)
		if err != nil || string(again) != string(tt.text) {
			t.Errorf("written again: got %s, error %v, want %s", again, err, tt.text)
		}
	}
}
