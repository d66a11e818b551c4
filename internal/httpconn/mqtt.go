package httpconn

import (
	"bytes"
	"strings"
)

// isMQTT reports whether in begins with MQTT's CONNECT, up to the protocol's name: MQTT 3.1.1 and 5.0, §3.1. In 3.1
// the name is MQIsdp.
func isMQTT(in []byte) bool {
	name := mqttName(in)
	return bytes.HasPrefix(name, []byte(mqtt)) || bytes.HasPrefix(name, []byte(mqtt31))
}

// mayBeMQTT is isMQTT for in that ends there.
func mayBeMQTT(in []byte) bool {
	name := string(mqttName(in))
	return len(name) >= 2 && (strings.HasPrefix(mqtt, name) || strings.HasPrefix(mqtt31, name))
}

// The protocol's names, each behind its length.
const (
	mqtt   = "\x00\x04MQTT"
	mqtt31 = "\x00\x06MQIsdp"
)

// mqttName returns what stands in in where a CONNECT has the protocol's name.
func mqttName(in []byte) []byte {
	const connect, moreLength, mostLength = 0x10, 0x80, 4
	if len(in) == 0 || in[0] != connect {
		return nil
	}
	for i, b := range in[1:min(len(in), 1+mostLength)] {
		if b&moreLength == 0 {
			return in[2+i:]
		}
	}
	return nil
}
