package wire

import (
	"encoding/json"
	"time"
)

// Delivery is any message from the server, as a client reads it: a publish, an ack or an
// error, told apart by Action.
type Delivery struct {
	Action     string          `json:"action"`
	Event      string          `json:"event,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	CreatedAt  time.Time       `json:"created_at,omitzero"`
	ClientName string          `json:"client_name,omitempty"`
	Error      string          `json:"error,omitempty"`
	ID         json.RawMessage `json:"id,omitempty"`
}

// Info is a snapshot of who is connected. Its times are written in the zone they carry:
// give UTC.
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

// ServerInfo is the server's own state. Published, Delivered, LetGo and WrongKeys count
// since its start.
type ServerInfo struct {
	Version        string `json:"version"`
	UptimeSeconds  int64  `json:"uptime_seconds"`
	Connections    int    `json:"connections"`
	MaxConnections int    `json:"max_connections"`
	Events         int    `json:"events"`
	Subscriptions  int    `json:"subscriptions"`
	Published      uint64 `json:"published"`
	Delivered      uint64 `json:"delivered"`
	LetGo          uint64 `json:"let_go"`
	WrongKeys      uint64 `json:"wrong_keys"`
}

// MarshalJSON writes empty lists as [], never as null: the first info page loops over them.
func (i Info) MarshalJSON() ([]byte, error) {
	if i.Subscriptions == nil {
		i.Subscriptions = []Subscription{}
	}
	if i.AllConnections == nil {
		i.AllConnections = []Connection{}
	}
	type plain Info
	return json.Marshal(plain(i))
}

// MarshalJSON writes an empty list as [], see Info.
func (s Subscription) MarshalJSON() ([]byte, error) {
	if s.Connections == nil {
		s.Connections = []Connection{}
	}
	type plain Subscription
	return json.Marshal(plain(s))
}
