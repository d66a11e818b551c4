package wire

import (
	"encoding/json"
	"strconv"
	"time"
)

// Delivery is any message from the server, as a client reads it: a publish, an ack or an error, told apart by Action.
type Delivery struct {
	Action     string          `json:"action"`
	Error      string          `json:"error,omitempty"`
	Event      string          `json:"event,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	CreatedAt  time.Time       `json:"created_at,omitzero"`
	ClientName string          `json:"client_name,omitempty"`
	ID         json.RawMessage `json:"id,omitempty"`
}

// Info is a snapshot of who is connected. Its times are written in the zone they carry: give UTC.
type Info struct {
	Subscriptions  []Subscription `json:"subscriptions"`
	AllConnections []Connection   `json:"all_connections"`
	CreatedAt      time.Time      `json:"created_at"`
	Server         ServerInfo     `json:"server"`
}

// Subscription is one event and who is subscribed to it.
type Subscription struct {
	Name        string       `json:"name"`
	Connections []Connection `json:"connections"`
}

// Connection is one client's connection.
type Connection struct {
	ClientName  string    `json:"client_name"`
	IPAddress   string    `json:"ip_address"` // with port; "local" for the local socket
	ConnectedAt time.Time `json:"connected_at"`
}

// ServerInfo is the server's own state. Published, Delivered, SlowClientsClosed, WrongKeys and ConnectionLimitReached
// count since its start.
type ServerInfo struct {
	Version                string  `json:"version"`
	UptimeSeconds          int64   `json:"uptime_seconds"`
	Connections            int     `json:"connections"`
	MaxConnections         int     `json:"max_connections"`
	Events                 int     `json:"events"`
	Subscriptions          int     `json:"subscriptions"`
	Published              uint64  `json:"published"`
	Delivered              uint64  `json:"delivered"`
	SlowClientsClosed      uint64  `json:"slow_clients_closed"`
	WrongKeys              uint64  `json:"wrong_keys"`
	ConnectionLimitReached uint64  `json:"connection_limit_reached"`
	KeptOverRestart        int     `json:"kept_over_restart"` // connections taken over from the previous process
	LostOverRestart        int     `json:"lost_over_restart"` // those that had to be ended
	Port                   int     `json:"port"`              // 0 without one
	TLS                    bool    `json:"tls"`
	TLSKeptOverRestart     bool    `json:"tls_kept_over_restart"` // connections with TLS will be taken over, too
	LED                    string  `json:"led"`                   // where it is; empty: there is none
	LEDError               string  `json:"led_error"`             // why it does not work
	MaxMessageBytes        int     `json:"max_message_bytes"`
	MaxQueueBytes          int     `json:"max_queue_bytes"`
	MaxSubscriptions       int     `json:"max_subscriptions"`
	ResidentMemoryBytes    int     `json:"resident_memory_bytes"`
	CPUSeconds             float64 `json:"cpu_seconds"`
	Truncated              bool    `json:"truncated"` // events or connections are missing in the lists

	SlowClientsClosedLatest []SlowClient `json:"slow_clients_closed_latest"` // the newest first

	// Entry for entry these are about Info's Subscriptions and AllConnections, whose own shape is the first PiCloud's.
	EventTraffic      []EventTraffic      `json:"event_traffic"`
	ConnectionTraffic []ConnectionTraffic `json:"connection_traffic"`
}

// SlowClient is a client that was closed because it read too slowly.
type SlowClient struct {
	ClientName string    `json:"client_name"`
	IPAddress  string    `json:"ip_address"`
	ClosedAt   time.Time `json:"closed_at"`
	Reason     string    `json:"reason"`
}

// EventTraffic is what has passed through one event since it got its first subscriber.
type EventTraffic struct {
	Subscribers int          `json:"subscribers"` // also those that Subscription does not list
	Published   uint64       `json:"published"`
	Delivered   uint64       `json:"delivered"`
	Last        *LastMessage `json:"last"` // nil before the first
}

// LastMessage is the newest message of an event.
type LastMessage struct {
	CreatedAt  time.Time `json:"created_at"`
	ClientName string    `json:"client_name"`
	Preview    string    `json:"preview"`    // the beginning of its data, which is JSON
	DataBytes  int       `json:"data_bytes"` // of the whole data
}

// ConnectionTraffic is what one connection has published and been sent, and how.
type ConnectionTraffic struct {
	Published  uint64 `json:"published"`
	Delivered  uint64 `json:"delivered"`
	TLSVersion string `json:"tls_version"` // "1.2" or "1.3"; empty without TLS
}

// MarshalJSON is AppendInfo.
func (i Info) MarshalJSON() ([]byte, error) { return AppendInfo(nil, &i), nil }

// AppendInfo appends a snapshot as JSON. A list without entries is [], never null: the first info page loops over them.
// It is written by hand because encoding/json takes twenty times as long, which with a few thousand connections is more
// than a small machine can spare.
func AppendInfo(dst []byte, i *Info) []byte {
	s := &i.Server
	dst = append(dst, `{"subscriptions":`...)
	dst = appendList(dst, i.Subscriptions, appendSubscription)
	dst = append(dst, `,"all_connections":`...)
	dst = appendList(dst, i.AllConnections, appendConnection)
	dst = appendTime(dst, `,"created_at":`, i.CreatedAt)

	dst = appendText(dst, `,"server":{"version":`, s.Version)
	dst = appendInt(dst, `,"uptime_seconds":`, s.UptimeSeconds)
	dst = appendInt(dst, `,"connections":`, s.Connections)
	dst = appendInt(dst, `,"max_connections":`, s.MaxConnections)
	dst = appendInt(dst, `,"events":`, s.Events)
	dst = appendInt(dst, `,"subscriptions":`, s.Subscriptions)
	dst = appendInt(dst, `,"published":`, s.Published)
	dst = appendInt(dst, `,"delivered":`, s.Delivered)
	dst = appendInt(dst, `,"slow_clients_closed":`, s.SlowClientsClosed)
	dst = appendInt(dst, `,"wrong_keys":`, s.WrongKeys)
	dst = appendInt(dst, `,"connection_limit_reached":`, s.ConnectionLimitReached)
	dst = appendInt(dst, `,"kept_over_restart":`, s.KeptOverRestart)
	dst = appendInt(dst, `,"lost_over_restart":`, s.LostOverRestart)
	dst = appendInt(dst, `,"port":`, s.Port)
	dst = strconv.AppendBool(append(dst, `,"tls":`...), s.TLS)
	dst = strconv.AppendBool(append(dst, `,"tls_kept_over_restart":`...), s.TLSKeptOverRestart)
	dst = appendText(dst, `,"led":`, s.LED)
	dst = appendText(dst, `,"led_error":`, s.LEDError)
	dst = appendInt(dst, `,"max_message_bytes":`, s.MaxMessageBytes)
	dst = appendInt(dst, `,"max_queue_bytes":`, s.MaxQueueBytes)
	dst = appendInt(dst, `,"max_subscriptions":`, s.MaxSubscriptions)
	dst = appendInt(dst, `,"resident_memory_bytes":`, s.ResidentMemoryBytes)
	dst = strconv.AppendFloat(append(dst, `,"cpu_seconds":`...), s.CPUSeconds, 'f', -1, 64)
	dst = strconv.AppendBool(append(dst, `,"truncated":`...), s.Truncated)
	dst = append(dst, `,"slow_clients_closed_latest":`...)
	dst = appendList(dst, s.SlowClientsClosedLatest, func(dst []byte, c *SlowClient) []byte {
		dst = appendText(dst, `{"client_name":`, c.ClientName)
		dst = appendText(dst, `,"ip_address":`, c.IPAddress)
		dst = appendTime(dst, `,"closed_at":`, c.ClosedAt)
		dst = appendText(dst, `,"reason":`, c.Reason)
		return append(dst, '}')
	})
	dst = append(dst, `,"event_traffic":`...)
	dst = appendList(dst, s.EventTraffic, appendEventTraffic)
	dst = append(dst, `,"connection_traffic":`...)
	dst = appendList(dst, s.ConnectionTraffic, appendConnectionTraffic)
	return append(dst, `}}`...)
}

// The sizes below are what an entry adds to an Info's text, with a comma before it. What is longer than their store is
// allocated for a moment.

// Size is that of an event without its connections.
func (s Subscription) Size() int {
	var store [512]byte
	return len(`,{"name":,"connections":[]}`) + len(appendQuoted(store[:0], s.Name))
}

// Size is that of a connection in one of its lists.
func (c Connection) Size() int {
	var store [1 << 10]byte
	return 1 + len(appendConnection(store[:0], &c))
}

// Size is that of an event's traffic.
func (t EventTraffic) Size() int {
	var store [1 << 10]byte
	return 1 + len(appendEventTraffic(store[:0], &t))
}

// Size is that of a connection's traffic.
func (t ConnectionTraffic) Size() int {
	var store [128]byte
	return 1 + len(appendConnectionTraffic(store[:0], &t))
}

func appendSubscription(dst []byte, s *Subscription) []byte {
	dst = appendText(dst, `{"name":`, s.Name)
	dst = append(dst, `,"connections":`...)
	dst = appendList(dst, s.Connections, appendConnection)
	return append(dst, '}')
}

func appendConnection(dst []byte, c *Connection) []byte {
	dst = appendText(dst, `{"client_name":`, c.ClientName)
	dst = appendText(dst, `,"ip_address":`, c.IPAddress)
	dst = appendTime(dst, `,"connected_at":`, c.ConnectedAt)
	return append(dst, '}')
}

func appendEventTraffic(dst []byte, t *EventTraffic) []byte {
	dst = appendInt(dst, `{"subscribers":`, t.Subscribers)
	dst = appendInt(dst, `,"published":`, t.Published)
	dst = appendInt(dst, `,"delivered":`, t.Delivered)
	if t.Last == nil {
		return append(dst, `,"last":null}`...)
	}
	dst = appendTime(dst, `,"last":{"created_at":`, t.Last.CreatedAt)
	dst = appendText(dst, `,"client_name":`, t.Last.ClientName)
	dst = appendText(dst, `,"preview":`, t.Last.Preview)
	dst = appendInt(dst, `,"data_bytes":`, t.Last.DataBytes)
	return append(dst, `}}`...)
}

func appendConnectionTraffic(dst []byte, t *ConnectionTraffic) []byte {
	dst = appendInt(dst, `{"published":`, t.Published)
	dst = appendInt(dst, `,"delivered":`, t.Delivered)
	dst = appendText(dst, `,"tls_version":`, t.TLSVersion)
	return append(dst, '}')
}

func appendList[T any](dst []byte, list []T, entry func(dst []byte, e *T) []byte) []byte {
	dst = append(dst, '[')
	for i := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = entry(dst, &list[i])
	}
	return append(dst, ']')
}

// The functions below append one member: the text up to its value, and the value.

func appendText(dst []byte, before, text string) []byte {
	return appendQuoted(append(dst, before...), text)
}

func appendTime(dst []byte, before string, at time.Time) []byte {
	dst = append(append(dst, before...), '"')
	return append(at.AppendFormat(dst, time.RFC3339Nano), '"')
}

func appendInt[N int | int64 | uint64](dst []byte, before string, n N) []byte {
	dst = append(dst, before...)
	if n < 0 {
		return strconv.AppendInt(dst, int64(n), 10)
	}
	return strconv.AppendUint(dst, uint64(n), 10)
}
