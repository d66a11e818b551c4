package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"picloud/internal/httpconn"
	"picloud/internal/wire"

	"golang.org/x/time/rate"
)

// maxAddresses bounds what the guard remembers; past it the address with the most guesses left is forgotten.
const maxAddresses = 1024

// A guard compares keys, and slows down clients that guess them.
type guard struct {
	key   [sha256.Size]byte
	burst int

	wrong atomic.Uint64

	mu        sync.Mutex
	addresses map[netip.Addr]*rate.Limiter // of those that have sent wrong keys
}

func newGuard(key string, burst int) *guard {
	return &guard{key: sha256.Sum256([]byte(key)), burst: burst, addresses: make(map[netip.Addr]*rate.Limiter)}
}

// A verdict is what the guard says about a request.
type verdict struct {
	status     int           // 0: let in
	reason     string        // for the client
	retryAfter time.Duration // with 429
	first      bool          // with 401: it was the last guess that this address had
}

// check judges a key from an address. An address that has used up its guesses is refused whatever it sends: otherwise
// it could go on guessing and only look for the one answer that differs.
func (g *guard) check(key string, from netip.Addr, now time.Time) verdict {
	right := g.is(key)
	from = network(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.addresses[from]
	if wait := mustWait(known, now); wait > 0 {
		return verdict{status: http.StatusTooManyRequests, reason: "too many wrong keys from this address",
			retryAfter: wait}
	}
	if key == "" {
		return verdict{status: http.StatusUnauthorized,
			reason: "a key is required: header X-API-Key, query apiKey, or Authorization: Bearer"}
	}
	if right {
		return verdict{}
	}
	g.wrong.Add(1)
	if known == nil {
		if len(g.addresses) >= maxAddresses {
			g.forgetOne(now)
		}
		known = rate.NewLimiter(rate.Every(time.Minute), g.burst)
		g.addresses[from] = known
	}
	known.AllowN(now, 1)
	return verdict{status: http.StatusUnauthorized, reason: "wrong key", first: known.TokensAt(now) < 1}
}

// admits reports whether check would let a request in. It notes nothing.
func (g *guard) admits(key string, from netip.Addr, now time.Time) bool {
	if !g.is(key) {
		return false
	}
	from = network(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	return mustWait(g.addresses[from], now) == 0
}

// is compares a key in constant time.
func (g *guard) is(key string) bool {
	sum := sha256.Sum256([]byte(key)) // of equal length, so that the comparison reveals nothing about the key's
	return key != "" && subtle.ConstantTimeCompare(sum[:], g.key[:]) == 1
}

// mustWait is how long an address has to wait for its next guess; nil stands for an address without wrong keys. The
// guard's mu must be held.
func mustWait(known *rate.Limiter, now time.Time) time.Duration {
	if known == nil {
		return 0
	}
	return time.Duration(max(0, 1-known.TokensAt(now)) * float64(time.Minute))
}

// forgetOne makes room for another address. mu must be held.
func (g *guard) forgetOne(now time.Time) {
	var oldest netip.Addr
	most := -1.0
	for addr, l := range g.addresses {
		if have := l.TokensAt(now); have > most {
			oldest, most = addr, have
		}
	}
	delete(g.addresses, oldest)
}

// network returns what counts as one address: for IPv6 the /64, which one host has to itself.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// credentials are the parts of a request that say who sent it.
type credentials struct {
	header func(lower string) string
	query  string // raw
}

func credentialsOf(r *http.Request) credentials { return credentials{r.Header.Get, r.URL.RawQuery} }

func plainCredentials(r *httpconn.Request) credentials {
	return credentials{func(name string) string { return string(r.Header(name)) }, string(r.Query)}
}

// key returns the key from the first of its three places that has one.
func (c credentials) key() string {
	if k := c.header("x-api-key"); k != "" {
		return k
	}
	if k := query(c.query, "apiKey"); k != "" {
		return k
	}
	if scheme, k, ok := strings.Cut(c.header("authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(k)
	}
	return ""
}

// name returns the client's name, unchecked.
func (c credentials) name() string {
	if name := c.header("x-api-client-name"); name != "" {
		return name
	}
	return query(c.query, "clientName")
}

// query returns the first value of a name in a raw query, as url.ParseQuery(raw).Get does, without a map of them all.
func query(raw, name string) string {
	for pair := range strings.SplitSeq(raw, "&") {
		if strings.Contains(pair, ";") {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err != nil || key != name || pair == "" {
			continue
		}
		if value, err = url.QueryUnescape(value); err == nil {
			return value
		}
	}
	return ""
}

// address returns the address of a TCP peer, or the zero Addr.
func address(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}

// remote returns the address that a TCP request came from, or the zero Addr.
func remote(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from.Addr()
}

// isLocal reports whether a request came over a Unix socket: that socket's permissions are its key.
func isLocal(r *http.Request) bool { return isUnix(local(r)) }

func isUnix(a net.Addr) bool {
	_, ok := a.(*net.UnixAddr)
	return ok
}

// local returns this side's address of the connection that a request came over.
func local(r *http.Request) net.Addr {
	a, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return a
}

// admitted answers a request without a valid key and reports whether it has one.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request) bool {
	if isLocal(r) {
		return true
	}
	from := remote(r)
	v := s.guard.check(credentialsOf(r).key(), from, time.Now())
	if v.status == 0 {
		s.httpConns.Shown(r.Context())
		return true
	}
	if v.first {
		s.log.Warn("an address has sent too many wrong keys and may try one a minute from now on", "address", from)
	}
	switch v.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="PiCloud"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(v.retryAfter.Seconds()))))
	}
	refuse(w, v.status, v.reason)
	return false
}

// named returns the client's name in a request, or answers the request.
func named(w http.ResponseWriter, r *http.Request) (string, bool) {
	name := credentialsOf(r).name()
	if err := wire.CheckName(name); err != nil {
		refuse(w, http.StatusBadRequest, err.Error()+": header X-API-Client-Name or query clientName")
		return "", false
	}
	return name, true
}
