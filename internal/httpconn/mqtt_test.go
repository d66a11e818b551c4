package httpconn

import (
	"strings"
	"testing"

	"picloud/test/wait"
)

// An MQTT client is named and sent away at once, however its first packet is cut; who only looks like one is not.
func TestMQTTClientIsNamed(t *testing.T) {
	const three, older = "\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a", "\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a"
	r := newRig(t, "tcp")
	named := int64(0)
	for _, hello := range []string{
		"\x10\x0d" + three, "\x10\x0f" + older, "\x10\x8d\x01" + three + strings.Repeat("\n", 128),
		"\x10\xff\xff\xff\x7f" + three,
	} {
		for _, cut := range []int{0, 1, 5} {
			c := r.dial()
			c.send("%s", hello[:cut])
			if cut > 0 {
				wait.Until(t, "the first piece is kept", func() bool { return r.count((*Conn).begun) == 1 })
			}
			c.send("%s", hello[cut:])
			c.wantEnd()
			r.gone()
			if named++; r.mqtt.Load() != named {
				t.Errorf("%q cut at %d: %d were named, want %d", hello, cut, r.mqtt.Load(), named)
			}
		}
	}
	for _, hello := range []string{"\x10", "\x10\x0d", "\x10\x0d\x00\x04HTTP\n", "\x10\xff\xff\xff\xff\x01" + three + "\n",
		"\x11\x0d" + three + "\n"} {
		c := r.dial()
		c.send("%s\n", hello)
		c.want("GET", 400, "Bad Request")
		c.Close()
	}
	if n := r.mqtt.Load(); n != named {
		t.Errorf("%d were named that speak no MQTT", n-named)
	}
}
