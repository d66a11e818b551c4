package httpconn

import "bytes"

// isMQTT reports whether in begins with MQTT's CONNECT, up to the protocol's name: MQTT 3.1.1 and 5.0, §3.1. In 3.1
// the name is MQIsdp.
func isMQTT(in []byte) bool {
	const connect, moreLength, mostLength = 0x10, 0x80, 4
	if len(in) == 0 || in[0] != connect {
		return false
	}
	for i, b := range in[1:min(len(in), 1+mostLength)] {
		if b&moreLength == 0 {
			name := in[2+i:]
			return bytes.HasPrefix(name, []byte("\x00\x04MQTT")) || bytes.HasPrefix(name, []byte("\x00\x06MQIsdp"))
		}
	}
	return false
}
