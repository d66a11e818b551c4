package peer

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Nonce is a key for handshakes whose answer is not checked closely.
const Nonce = "AAAAAAAAAAAAAAAAAAAAAA=="

// Handshake asks for a WebSocket, RFC 6455 §4.1. header is name, value, name, value. It replaces default fields of the
// same name; a name with an empty value is left out.
func Handshake(target, nonce string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: test\r\n", target)
	fields := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
		"Sec-WebSocket-Key", nonce}
	for i := 0; i < len(fields); i += 2 {
		if !slices.Contains(header, fields[i]) {
			fmt.Fprintf(&b, "%s: %s\r\n", fields[i], fields[i+1])
		}
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", header[i], header[i+1])
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// Accept is a server's answer to a nonce, RFC 6455 §4.2.2.
func Accept(nonce string) string {
	sum := sha1.Sum([]byte(nonce + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
