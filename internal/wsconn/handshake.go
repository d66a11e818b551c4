package wsconn

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"strings"
)

// version is the only one of the protocol that is understood, RFC 6455 §4.4.
const version = "13"

var (
	errVersion  = errors.New("websocket: Sec-WebSocket-Version must be " + version)
	errBody     = errors.New("websocket: a handshake must not have a body")
	errManyKeys = errors.New("websocket: a handshake must have one Sec-WebSocket-Key")
)

// IsUpgrade reports whether a request asks for a WebSocket.
func IsUpgrade(r *http.Request) bool {
	return lists(r.Header, "Connection", "upgrade") && lists(r.Header, "Upgrade", "websocket")
}

// upgradeHTTP takes the connection of a handshake, or refuses it. It checks what the upgrader does not, and words for
// it the rest of the request.
func (s *Set) upgradeHTTP(w http.ResponseWriter, r *http.Request) (*unanswered, error) {
	if IsUpgrade(r) { // the upgrader refuses others
		var err error
		status := http.StatusBadRequest
		switch {
		case !lists(r.Header, "Sec-Websocket-Version", version):
			h := w.Header()
			h.Set("Sec-WebSocket-Version", version)
			h.Set("Upgrade", "websocket")
			h.Set("Connection", "Upgrade")
			status, err = http.StatusUpgradeRequired, errVersion
		case r.ContentLength != 0: // its bytes would be taken for frames
			err = errBody
		case len(r.Header["Sec-Websocket-Key"]) > 1:
			err = errManyKeys
		}
		if err != nil {
			s.onError(w, status, err)
			return nil, err
		}
		r = &http.Request{Method: r.Method, Header: http.Header{
			"Connection":            {"Upgrade"}, // the upgrader sees nothing behind an empty element of a list
			"Upgrade":               {"websocket"},
			"Sec-Websocket-Version": {version},
			"Sec-Websocket-Key":     r.Header["Sec-Websocket-Key"],
		}}
	}
	ws, err := s.upgrader.Upgrade(handshake{w}, r, nil)
	if err != nil {
		return nil, err
	}
	return ws.NetConn().(*unanswered), nil
}

// lists reports whether a header is a list with the token, in letters of either case. Empty elements do not count, RFC
// 9110 §5.6.1.2.
func lists(h http.Header, name, token string) bool {
	for _, list := range h[name] {
		for element := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.Trim(element, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// A handshake is the ResponseWriter given to gorilla's upgrader.
type handshake struct{ http.ResponseWriter }

// An unanswered connection is what the upgrader gets from it. It keeps what the client has sent after the request,
// which the upgrader would refuse, and the upgrader's answer.
type unanswered struct {
	net.Conn
	early, answer []byte
}

func (c *unanswered) Write(p []byte) (int, error) {
	c.answer = append(c.answer, p...)
	return len(p), nil
}

func (w handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := &unanswered{Conn: nc}
	if n := brw.Reader.Buffered(); n > 0 {
		p, _ := brw.Reader.Peek(n)
		c.early = append(c.early, p...)
		brw.Reader = bufio.NewReaderSize(nc, 16)
	}
	return c, brw, nil
}
