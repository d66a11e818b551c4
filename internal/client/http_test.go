package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"picloud/internal/wire"
)

func newRequest(ctx context.Context, c *Client) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address.host+"/info", nil)
}

func TestPostPublishes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			body, _ := io.ReadAll(r.Body)
			got := fmt.Sprint(r.Method, r.URL.Path, r.Header["X-Api-Key"], r.Header["X-Api-Client-Name"],
				r.Header["Content-Type"], string(body))
			want := `POST/publish[sesame] [Porch] [application/json]{"event":"do\"or","data":{"a": 1}}`
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			w.WriteHeader(http.StatusCreated)
			return true
		})
		if err := newCaller(t, p).Post(t.Context(), `do"or`, json.RawMessage(`{"a": 1}`)); err != nil {
			t.Error(err)
		}
	})
}

func TestPostThatIsRefusedSaysWhatToDo(t *testing.T) {
	for code, want := range map[int]string{
		400: "reason 400",
		401: "/etc/picloud/api-key",
		404: "does not look like PiCloud",
		413: "MAX_MESSAGE_BYTES",
		429: "try again in 1m0s",
		500: "reason 500",
		200: "does not look like PiCloud",
	} {
		bubble(t, func(t *testing.T) {
			p := newPeer(t)
			p.set(status(code, "Retry-After", "60"))
			err := newCaller(t, p).Post(t.Context(), "door", json.RawMessage(`1`))
			checkContains(t, err, "door", want)
			if e, ok := errors.AsType[*StatusError](err); !ok || e.Code != code || errors.Is(err, ErrUnconfirmed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPostToABusyServerIsRepeatedWhenItSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		var bodies []string
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, string(body))
			if len(bodies) < 3 {
				return status(http.StatusServiceUnavailable, "Retry-After", "7")(w, r)
			}
			return status(http.StatusCreated, "", "")(w, r)
		})
		c := newCaller(t, p)
		start := time.Now()
		if err := c.Post(t.Context(), "door", json.RawMessage(`1`)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 14*time.Second || took > 15*time.Second {
			t.Errorf("took %s", took)
		}
		if len(bodies) != 3 || bodies[2] != `{"event":"door","data":1}` {
			t.Errorf("bodies %q", bodies)
		}
	})
}

func TestPostToAServerThatStaysBusyEndsWithTheContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(status(http.StatusServiceUnavailable, "Retry-After", "7"))
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errTest)
		defer cancel()
		err := newCaller(t, p).Post(ctx, "door", json.RawMessage(`1`))
		checkContains(t, err, "reason 503", errTest.Error())
		if errors.Is(err, ErrUnconfirmed) {
			t.Errorf("%v: but it was refused each time", err)
		}
	})
}

func TestPostThatIsNotAnsweredIsUnconfirmed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		asked := 0
		p.set(func(w http.ResponseWriter, _ *http.Request) bool {
			asked++
			panic(http.ErrAbortHandler)
		})
		c := newCaller(t, p)
		err := c.Post(t.Context(), "door", json.RawMessage(`1`))
		if !errors.Is(err, ErrUnconfirmed) || asked != 1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		p.net.Close()
		err = c.Post(t.Context(), "door", json.RawMessage(`1`))
		checkContains(t, err, "is picloudd running")
		if errors.Is(err, ErrUnconfirmed) {
			t.Errorf("%v: but nothing was sent", err)
		}
	})
}

func TestKeyDoesNotFollowARedirect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		asked := 0
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			asked++
			http.Redirect(w, r, "http://elsewhere/info", http.StatusMovedPermanently)
			return true
		})
		_, err := newCaller(t, p).Info(t.Context())
		checkContains(t, err, "http://elsewhere/info")
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestInfo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const snapshot = `{"subscriptions":[{"name":"door","connections":[]}],"all_connections":[],"created_at":"2015-11-25T03:40:39.889395863Z","server":{"version":"9"},"later":1}`
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || r.URL.Path != "/info" || r.Header.Get("Upgrade") != "" {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
			io.WriteString(w, snapshot)
			return true
		})
		c := newCaller(t, p)
		info, err := c.Info(t.Context())
		if err != nil || len(info.Subscriptions) != 1 || info.Subscriptions[0].Name != "door" ||
			info.Server.Version != "9" {
			t.Errorf("got %+v, %v", info, err)
		}
		if raw, err := c.InfoJSON(t.Context()); err != nil || string(raw) != snapshot {
			t.Errorf("got %s, %v", raw, err)
		}
	})
}

func TestInfoFromAnotherServerIsAnError(t *testing.T) {
	for _, body := range []string{"<html>", "[]", `{"created_at":"yesterday"}`} {
		bubble(t, func(t *testing.T) {
			p := newPeer(t)
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				io.WriteString(w, body)
				return true
			})
			_, err := newCaller(t, p).Info(t.Context())
			checkContains(t, err, "not PiCloud's protocol")
		})
	}
}

func TestSignInCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if got := fmt.Sprint(r.Method, " ", r.URL, " ", r.Header["X-Api-Key"]); got != "POST /sign-in/codes [sesame]" {
				t.Errorf("got %s", got)
			}
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"code":"ABC","expires_in_seconds":90}`)
			return true
		})
		code, good, err := newCaller(t, p).SignInCode(t.Context())
		if code != "ABC" || good != 90*time.Second || err != nil {
			t.Errorf("got %q for %v, %v", code, good, err)
		}
		p.set(status(http.StatusCreated, "", ""))
		_, _, err = newCaller(t, p).SignInCode(t.Context())
		checkContains(t, err, "sign-in code", "not PiCloud's protocol")
		p.set(status(http.StatusUnauthorized, "", ""))
		_, _, err = newCaller(t, p).SignInCode(t.Context())
		checkContains(t, err, "sign-in code", "refuses this key")
	})
}

func TestLocalNameIsLookedUpAndAllItsAddressesAreTried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Host != "Porch.local:9000" {
				t.Errorf("asked for the host %s", r.Host)
			}
			return status(http.StatusCreated, "", "")(w, r)
		})
		var asked []string
		c := newCaller(t, p, func(o *Options) {
			o.URL = "Porch.local"
			o.LookUp = func(_ context.Context, host string) ([]netip.Addr, error) {
				asked = append(asked, host)
				return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
					netip.MustParseAddr("fe80::3%eth0")}, nil
			}
		})
		c.dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
			switch address {
			case "192.0.2.1:9000": // silent
				<-ctx.Done()
				return nil, ctx.Err()
			case "192.0.2.2:9000":
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			case "[fe80::3%eth0]:9000":
				return p.net.dial(ctx, network, address)
			}
			t.Errorf("dialed %s", address)
			return nil, errTest
		}
		for range 2 {
			start := time.Now()
			if err := c.Post(t.Context(), "door", json.RawMessage(`1`)); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took != headStart {
				t.Errorf("took %s", took)
			}
			c.http.CloseIdleConnections()
		}
		if got := fmt.Sprint(asked); got != "[Porch.local]" {
			t.Errorf("looked up %s", got)
		}
	})
}

func TestLocalNameIsLookedUpAgainWhereItsAddressesFail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPeer(t)
		p.net.Close()
		asked := 0
		c := newCaller(t, p, func(o *Options) {
			o.URL = "http://porch.local"
			o.LookUp = func(context.Context, string) ([]netip.Addr, error) {
				asked++
				if asked > 2 {
					return nil, errTest
				}
				return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
			}
		})
		for _, want := range []string{"is picloudd running there", "is picloudd running there", errTest.Error()} {
			checkContains(t, c.Post(t.Context(), "door", json.RawMessage(`1`)), "http://porch.local:80", want)
		}
	})
}

// The tests from here on use the machine's network.

func TestTLSMismatchesSayWhatToDo(t *testing.T) {
	plainServer := httptest.NewServer(http.NotFoundHandler())
	defer plainServer.Close()
	secured := httptest.NewUnstartedServer(http.NotFoundHandler())
	secured.Config.ErrorLog = quiet
	secured.StartTLS()
	defer secured.Close()
	trusted := secured.Client().Transport.(*http.Transport).TLSClientConfig
	other := trusted.Clone()
	other.ServerName = "elsewhere.example"
	late := trusted.Clone()
	late.Time = func() time.Time { return time.Now().AddDate(200, 0, 0) }

	for name, test := range map[string]struct {
		url  string
		tls  *tls.Config
		want string
	}{
		"https to a plain port": {"https://" + plainServer.Listener.Addr().String(), nil, "http://"},
		"http to a TLS port":    {"http://" + secured.Listener.Addr().String(), nil, "https://"},
		"unknown authority":     {"https://" + secured.Listener.Addr().String(), nil, "PICLOUD_CA"},
		"another name":          {"https://" + secured.Listener.Addr().String(), other, "use the name"},
		"expired":               {"https://" + secured.Listener.Addr().String(), late, "renewed"},
	} {
		c, err := New(Options{URL: test.url, Key: "sesame", TLS: test.tls})
		if err != nil {
			t.Fatal(err)
		}
		for how, err := range map[string]error{
			"Run":  c.Run(t.Context()),
			"Post": c.Post(t.Context(), "door", json.RawMessage(`1`)),
		} {
			if err == nil {
				t.Errorf("%s: %s: no error", name, how)
				continue
			}
			t.Log(err)
			checkContains(t, err, test.want)
		}
	}
}

func TestTLSAndUnixSocket(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(wire.Info{Server: wire.ServerInfo{Version: r.Proto}})
	})
	secured := httptest.NewTLSServer(handler)
	defer secured.Close()
	path := filepath.Join(t.TempDir(), "p.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	local := httptest.NewUnstartedServer(handler)
	local.Listener.Close()
	local.Listener = listener
	local.Start()
	defer local.Close()

	for _, o := range []Options{
		{URL: "wss://" + secured.Listener.Addr().String(),
			TLS: secured.Client().Transport.(*http.Transport).TLSClientConfig},
		{URL: "unix:" + path},
	} {
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.http.CloseIdleConnections()
		if info, err := c.Info(t.Context()); err != nil || info.Server.Version != "HTTP/1.1" {
			t.Errorf("%s: got %+v, %v", o.URL, info, err)
		}
	}
}

func TestMissingUnixSocketSaysWhatToDo(t *testing.T) {
	c, err := New(Options{URL: "unix:" + filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	checkContains(t, c.Run(t.Context()), "is PiCloud running")
}
