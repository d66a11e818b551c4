package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"picloud/internal/wire"
)

// Post publishes data, one JSON value, in a request of its own. Once it returns nil, every subscriber of the event has
// the message in its queue. A busy server (503) is asked again until ctx ends; a refusal is a *StatusError. If the
// connection or ctx ends before the answer, the error is ErrUnconfirmed.
func (c *Client) Post(ctx context.Context, event string, data json.RawMessage) error {
	if !utf8.ValidString(event) {
		return fmt.Errorf("publish %q: the event is not UTF-8", event)
	}
	if err := checkData(data); err != nil {
		return fmt.Errorf("publish %q: %w", event, err)
	}
	body := append([]byte(`{"event":`), wire.AppendString(nil, event)...)
	body = append(body, `,"data":`...)
	body = append(body, data...)
	body = append(body, '}')

	resp, err := c.request(ctx, http.MethodPost, "/publish", body, http.StatusCreated)
	if err != nil {
		return fmt.Errorf("publish %q: %w", event, err)
	}
	return resp.Body.Close()
}

// Info asks for a snapshot of the connections and subscriptions.
func (c *Client) Info(ctx context.Context) (wire.Info, error) {
	raw, err := c.InfoJSON(ctx)
	if err != nil {
		return wire.Info{}, err
	}
	var info wire.Info
	if err := json.Unmarshal(raw, &info); err != nil {
		return wire.Info{}, fmt.Errorf("info: %w (%w)", errNotPiCloud, err)
	}
	return info, nil
}

// InfoJSON is Info as the server wrote it, including fields that a later version may have added.
func (c *Client) InfoJSON(ctx context.Context) (json.RawMessage, error) {
	resp, err := c.request(ctx, http.MethodGet, "/info", nil, http.StatusOK)
	if err != nil {
		return nil, fmt.Errorf("info: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("info: %w", plain(err))
	}
	if !json.Valid(raw) {
		return nil, fmt.Errorf("info: %w", errNotPiCloud)
	}
	return raw, nil
}

// maxMessageBytes asks once for the longest message that the server takes; 0 if it does not say.
func (c *Client) maxMessageBytes(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.requestOnce(ctx, http.MethodGet, "/info", nil, http.StatusOK)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var info wire.Info
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		return 0
	}
	return info.Server.MaxMessageBytes
}

// SignInCode asks for a code that signs a browser in to the dashboard: once, and for no longer than it is good.
func (c *Client) SignInCode(ctx context.Context) (code string, good time.Duration, err error) {
	resp, err := c.request(ctx, http.MethodPost, "/sign-in/codes", nil, http.StatusCreated)
	if err != nil {
		return "", 0, fmt.Errorf("sign-in code: %w", err)
	}
	defer resp.Body.Close()
	var made struct {
		Code    string `json:"code"`
		Seconds int    `json:"expires_in_seconds"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || made.Code == "" {
		return "", 0, fmt.Errorf("sign-in code: %w", errNotPiCloud)
	}
	return made.Code, time.Duration(made.Seconds) * time.Second, nil
}

// Metrics returns the server's metrics by name, without those that have labels.
func (c *Client) Metrics(ctx context.Context) (map[string]float64, error) {
	resp, err := c.request(ctx, http.MethodGet, "/metrics", nil, http.StatusOK)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", plain(err))
	}
	figures := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseFloat(number, 64); err == nil && !strings.Contains(name, "{") {
			figures[name] = value
		}
	}
	return figures, nil
}

// request asks until the server is no longer too busy. The caller closes the response's body.
func (c *Client) request(ctx context.Context, method, path string, body []byte, want int) (*http.Response, error) {
	limit := backoffFloor
	for {
		resp, err := c.requestOnce(ctx, method, path, body, want)
		var busy *StatusError
		if err == nil || !errors.As(err, &busy) || busy.Code != http.StatusServiceUnavailable {
			return resp, err
		}
		wait := busy.RetryAfter + jitter(&limit)
		c.tell(State{Err: err, Wait: wait})
		if !sleep(ctx, wait) {
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

func (c *Client) requestOnce(ctx context.Context, method, path string, body []byte, want int) (*http.Response, error) {
	var dialed bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { dialed = true },
	})
	// The transport's dial does TLS where it is needed, so the URL need not say so.
	req, err := http.NewRequestWithContext(traced, method, "http://"+c.address.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		err = connectError(c.address, err)
		if dialed && path == "/publish" {
			return nil, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
		return nil, err
	}
	if resp.StatusCode != want {
		defer resp.Body.Close()
		return nil, connectError(c.address, statusError(resp, c.options.Key == ""))
	}
	return resp, nil
}
