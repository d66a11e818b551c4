package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"picloud/internal/wire"

	"github.com/gorilla/websocket"
)

var (
	// ErrUnconfirmed is the error of a publish that was not answered: the server may or may not have delivered it. The
	// client does not publish it again.
	ErrUnconfirmed = errors.New("not confirmed by the server, it may or may not have been delivered")

	// ErrStopped is what every call returns once Run's context has ended.
	ErrStopped = errors.New("the client was stopped")

	// ErrTooBig is the error of a message that was not sent, since the server would close the connection over it.
	ErrTooBig = errors.New("the message is larger than the server's MAX_MESSAGE_BYTES")

	errNotPiCloud = errors.New("what the server sends is not PiCloud's protocol: is the address right?")
)

// hopeless is an error that trying again will not cure.
type hopeless struct{ error }

func (e hopeless) Unwrap() error { return e.error }

// A StatusError is an HTTP answer other than the expected one.
type StatusError struct {
	Code       int
	Reason     string        // the server's own words, which may contain any character
	RetryAfter time.Duration // 0 when the server did not say
	noKey      bool
}

func (e *StatusError) Error() string {
	switch e.Code {
	case http.StatusUnauthorized:
		what := "the server refuses this key"
		if e.noKey {
			what = "the server wants a key and none was given"
		}
		return what + `: it is in the line "export API_KEY=…" that picloudd prints when it starts, or in /etc/picloud/api-key on an appliance (sudo picloud key show; members of the group picloud need none there)`
	case http.StatusBadRequest:
		// This is what Go's server answers on a TLS port.
		if strings.Contains(e.Reason, "HTTPS server") {
			return "the server speaks TLS: write the address with https://"
		}
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusOK:
		return e.status() + ": there is a web server at this address, but it does not look like PiCloud"
	case http.StatusRequestEntityTooLarge:
		return e.status() + ": " + ErrTooBig.Error()
	case http.StatusTooManyRequests:
		if e.RetryAfter > 0 {
			return fmt.Sprintf("%s: try again in %s, with the right key", e.status(), e.RetryAfter)
		}
		return e.status() + ": try again later, with the right key"
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect,
		http.StatusPermanentRedirect:
		return e.status() + ": the server points elsewhere, give that address: " + e.Reason
	}
	return e.status()
}

func (e *StatusError) status() string {
	reason := e.Reason
	if reason == "" {
		reason = strings.ToLower(http.StatusText(e.Code))
	}
	return fmt.Sprintf("%s (status %d)", reason, e.Code)
}

// statusError reads the server's reason. The caller closes the body.
func statusError(resp *http.Response, noKey bool) *StatusError {
	e := &StatusError{Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header), noKey: noKey}
	if to := resp.Header.Get("Location"); to != "" {
		e.Reason = to
		return e
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	e.Reason = reasonIn(body)
	return e
}

// reasonIn returns the reason from PiCloud's JSON, or a short plain text as it is.
func reasonIn(body []byte) string {
	var e struct{ Error string }
	if json.Unmarshal(body, &e) == nil && e.Error != "" {
		return e.Error
	}
	text := strings.TrimSpace(string(body))
	if len(text) > 100 || strings.ContainsAny(text, "<{\n") {
		return ""
	}
	return text
}

func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at).Round(time.Second))
	}
	return 0
}

// A CloseError means that the server closed the connection, and gave its reason in a close frame.
type CloseError struct {
	Code   int
	Reason string // the server's own words, which may contain any character
}

func (e *CloseError) Error() string {
	var what string
	switch e.Code {
	case wire.CloseGoingAway:
		what = "the server stopped"
	case wire.CloseRestart:
		what = "the server restarts"
	case wire.CloseTooSlow:
		what = "this client read too slowly"
	case wire.CloseTooBig:
		what = "a message is larger than the server's MAX_MESSAGE_BYTES"
	case wire.ClosePolicy:
		what = "a limit of the server was passed"
	case wire.CloseProtocolError, wire.CloseInvalidUTF8:
		what = "the server did not understand this client, is something between them that changes the bytes?"
	default:
		what = "the server ended the connection"
	}
	if e.Reason != "" {
		what += ": " + e.Reason
	}
	return fmt.Sprintf("%s (close code %d)", what, e.Code)
}

// closeError turns err into a CloseError if it is the server's close frame.
func closeError(err error) error {
	if ce, ok := errors.AsType[*websocket.CloseError](err); ok && ce.Code != websocket.CloseAbnormalClosure {
		return &CloseError{Code: ce.Code, Reason: ce.Text}
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fmt.Errorf("nothing heard for %s", silence)
	}
	if _, ok := errors.AsType[*websocket.CloseError](err); ok || errors.Is(err, io.EOF) {
		return errors.New("the connection broke")
	}
	return fmt.Errorf("the connection broke: %w", plain(err))
}

// permanent reports whether trying again would give the same error. On the first attempt an error is more likely to
// come from a wrong setting than from something that passes.
func permanent(err error, first bool) bool {
	if _, ok := errors.AsType[hopeless](err); ok {
		return true
	}
	if e, ok := errors.AsType[*CloseError](err); ok {
		switch e.Code {
		case wire.CloseProtocolError, wire.CloseInvalidUTF8, wire.ClosePolicy, wire.CloseTooBig:
			return true
		}
		return false
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		switch {
		case e.Code == http.StatusServiceUnavailable:
			return false
		case e.Code == http.StatusTooManyRequests, e.Code >= 500:
			return first
		}
		return true
	}
	return first
}

// connectError adds what to do about err, which came from connecting to a or from its answer.
func connectError(a address, err error) error {
	return fmt.Errorf("connect to %s: %w", a.shown, advise(a, err))
}

func advise(a address, err error) error {
	if _, ok := errors.AsType[*StatusError](err); ok {
		return err
	}
	err = plain(err)
	var advice string
	ne, isNet := errors.AsType[net.Error](err)
	_, isDNS := errors.AsType[*net.DNSError](err)
	_, isPlain := errors.AsType[tls.RecordHeaderError](err)
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isOther := errors.AsType[x509.HostnameError](err)
	_, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case a.network == "unix" && errors.Is(err, syscall.ENOENT), a.network == "unix" &&
		errors.Is(err, syscall.ECONNREFUSED):
		advice = "is PiCloud running, and is this its socket?"
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		advice = "is picloudd running there, and is the address right?"
	case errors.Is(err, os.ErrPermission):
		advice = "this user may not use the socket; its group may"
	case isDNS:
		advice = "is the host's name right? On a local network it often ends in .local; its IP address does as well"
	case isPlain, errors.Is(err, http.ErrSchemeMismatch):
		advice = "the server does not speak TLS: write the address with http://"
	case isUnknown:
		advice = "this machine does not know who signed the server's certificate: name the file of the certificate, or of its authority, with --ca or in PICLOUD_CA"
	case isOther:
		advice = "use the name that is in the server's certificate"
	case isInvalid:
		advice = "is the server's certificate renewed, and this machine's clock right?"
	case errors.Is(err, context.DeadlineExceeded), isNet && ne.Timeout():
		return errors.New("no answer: is the address right, and the network up?")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("it hung up without an answer: is this PiCloud's address?")
	case strings.Contains(err.Error(), "malformed HTTP"):
		return errors.New("it does not speak HTTP: is this PiCloud's address, and does it want https://?")
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// plain removes the wrappers that repeat the address or expose internals.
func plain(err error) error {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}
