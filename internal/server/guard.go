package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"iter"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"picloud/internal/httpconn"
	"picloud/internal/wire"

	"golang.org/x/time/rate"
)

// What the guard remembers at most. When there is no room, the address or network with the fewest guesses spent is
// forgotten, since it gains the least by it.
const (
	maxAddresses = 1024
	maxNetworks  = 16 // of this machine's own, which has few at a time
	maxTried     = 64 // wrong keys of one address: those that came last

	maxTriedInAll = maxAddresses * maxTried
)

// WrongKeysBytes is what all wrong keys take that are remembered.
const WrongKeysBytes = maxTriedInAll * 8

// The wider bucket: what an address has besides its own guesses when somebody there knows the key, and what the
// addresses of one of this machine's networks have together.
const (
	moreGuesses = 300
	moreEvery   = time.Minute / 10
)

// lookEvery is how often it is looked up from which addresses WebSockets are open, while one has to know.
const lookEvery = time.Second

// A guard compares keys, and slows down clients that guess them. What counts as one address is what httpconn.Network
// returns: the addresses of this machine's own IPv6 networks are such, and those of one network also count together.
type guard struct {
	key   [sha256.Size]byte
	salt  [sha256.Size]byte // of the hashes of wrong keys
	burst int
	log   *slog.Logger
	open  iter.Seq[netip.Addr]

	wrong atomic.Uint64

	mu        sync.Mutex
	addresses map[netip.Addr]*suspect // that have sent wrong keys or, of this machine's networks, any
	networks  map[netip.Addr]*subnet  // of this machine, from which wrong keys have come
	connected map[netip.Addr]bool     // from which of them a WebSocket was open
	looked    time.Time               // when that was looked up
}

// A suspect is what is known of an address.
type suspect struct {
	guesses bucket
	more    bucket   // when somebody there knows the key
	tried   []uint64 // the hashes of wrong keys, the latest last
	shown   bool     // the right key has come since the last guess
	unsure  bool     // it may have a WebSocket since that was looked up
	logged  time.Time
}

// A subnet is what is known of the addresses of one network together.
type subnet struct {
	guesses bucket
	unsure  bool // the same of an address that is not known
	logged  time.Time
}

// newGuard makes a guard that lets an address guess so often before it must wait. open yields the addresses from which
// WebSockets are open; it is called under the guard's lock.
func newGuard(key string, burst int, log *slog.Logger, open iter.Seq[netip.Addr]) *guard {
	g := &guard{
		key:       sha256.Sum256([]byte(key)),
		burst:     burst,
		log:       log,
		open:      open,
		addresses: make(map[netip.Addr]*suspect),
		networks:  make(map[netip.Addr]*subnet),
		connected: make(map[netip.Addr]bool),
	}
	rand.Read(g.salt[:])
	return g
}

// A verdict is what the guard says about a request.
type verdict struct {
	status     int           // 0: let in
	reason     string        // for the client
	retryAfter time.Duration // with 429
	warning    string        // for the operator, or ""
	about      string        // the address or network that it is about
}

// check judges a key from an address.
func (g *guard) check(key string, from netip.Addr, now time.Time) verdict {
	return g.decide(key, g.is(key), from, now)
}

// admits reports whether a key lets in. A wrong one does not count: it is still to be checked.
func (g *guard) admits(key string, from netip.Addr, now time.Time) bool {
	return g.is(key) && g.decide(key, true, from, now).status == 0
}

// is compares a key in constant time.
func (g *guard) is(key string) bool {
	sum := sha256.Sum256([]byte(key)) // of equal length, so that the comparison reveals nothing about the key's
	return key != "" && subtle.ConstantTimeCompare(sum[:], g.key[:]) == 1
}

func (g *guard) decide(key string, right bool, from netip.Addr, now time.Time) verdict {
	g.mu.Lock()
	v := g.judge(key, right, from, now)
	g.mu.Unlock()
	if v.warning != "" {
		g.log.Warn(v.warning, "address", v.about)
	}
	return v
}

// judge is check for a key that has been compared. An address that has no guesses left is refused whatever it sends:
// otherwise it could go on guessing and only look for the one answer that differs. mu must be held.
func (g *guard) judge(key string, right bool, from netip.Addr, now time.Time) verdict {
	a, own := g.addresses[from], subnetOf(from)
	n := g.networks[own]
	wait := max(a.wait(now), n.wait(now))
	if wait > 0 {
		if known := g.knows(from, a, n, now); !known || a.waitMore(now) > 0 {
			return g.refuse(from, a, n, known, now)
		}
	}
	switch {
	case key == "":
		return verdict{status: http.StatusUnauthorized,
			reason: "a key is required: header X-API-Key, query apiKey, or Authorization: Bearer"}
	case right:
		if a == nil && own.IsValid() {
			a = g.suspect(from, 0, now) // so that it is let in when its neighbours have no guesses left
		}
		if a != nil {
			a.shown, a.unsure = true, a.unsure || !g.connected[from]
		}
		return verdict{}
	}
	g.wrong.Add(1)
	if a == nil {
		a = g.suspect(from, math.Inf(1), now)
	}
	if !a.repeats(g.hash(key)) {
		if wait > 0 || a.shown && a.more.wait(now) == 0 {
			a.more.take(now, moreGuesses, moreEvery)
		} else {
			a.guesses.take(now, g.burst, time.Minute)
			if own.IsValid() {
				g.subnet(own, now).guesses.take(now, max(moreGuesses, g.burst), moreEvery)
			}
		}
		a.shown = false
	}
	return verdict{status: http.StatusUnauthorized, reason: "wrong key"}
}

// What the log says when an address or a network is refused from now on, and what that means for others.
const (
	addressRefused = "an address has sent too many wrong keys and may try one a minute from now on: others who share it are refused too, even with the right key, as long as no WebSocket is open from it"
	sharedRefused  = "an address from which clients are let in has sent too many wrong keys and may try ten a minute from now on: all who share it are refused, even with the right key; WebSockets that are open stay"
	networkRefused = "the addresses of a network have sent too many wrong keys and may try ten a minute together from now on: each of them is refused, even with the right key, unless a WebSocket is open from it or it has just sent the right key"
)

// refuse is what becomes of any key from an address that has no guesses left. mu must be held.
func (g *guard) refuse(from netip.Addr, a *suspect, n *subnet, known bool, now time.Time) verdict {
	v := verdict{status: http.StatusTooManyRequests, reason: "too many wrong keys from this address",
		retryAfter: max(a.wait(now), n.wait(now))}
	switch {
	case known:
		v.retryAfter = min(v.retryAfter, a.more.wait(now))
		if isDue(&a.logged, now) {
			v.warning, v.about = sharedRefused, name(from)
		}
	case a.wait(now) > 0:
		if isDue(&a.logged, now) {
			v.warning, v.about = addressRefused, name(from)
		}
	default:
		v.reason = "too many wrong keys from this network"
		if isDue(&n.logged, now) {
			v.warning, v.about = networkRefused, name(subnetOf(from))
		}
	}
	return v
}

// knows reports whether somebody at an address knows the key: it has come since the last guess, or a WebSocket is open
// from there. That is looked up once every lookEvery at most, and when the address may have got one since. mu must be
// held.
func (g *guard) knows(from netip.Addr, a *suspect, n *subnet, now time.Time) bool {
	if a != nil && a.shown {
		return true
	}
	if unsure := a != nil && a.unsure || a == nil && n.unsure; unsure || now.Sub(g.looked) >= lookEvery {
		g.look(now)
		if a != nil {
			a.unsure = false
		} else {
			n.unsure = false
		}
	}
	return g.connected[from]
}

// look notes from which of the known addresses and networks WebSockets are open. mu must be held.
func (g *guard) look(now time.Time) {
	clear(g.connected)
	g.looked = now
	for peer := range g.open {
		// As an address of an own network, and as one from elsewhere: the end of its connection on this side would tell
		// which, and is not known.
		for _, from := range []netip.Addr{httpconn.Network(peer, peer), httpconn.Network(peer, netip.Addr{})} {
			if g.addresses[from] != nil || g.networks[subnetOf(from)] != nil {
				g.connected[from] = true
			}
		}
	}
}

// suspect begins to know an address. If there is no room, one that has spent at most so many guesses is forgotten for
// it; without such a one suspect returns nil. mu must be held.
func (g *guard) suspect(from netip.Addr, most float64, now time.Time) *suspect {
	if len(g.addresses) >= maxAddresses && !forgetOne(g.addresses, most, now) {
		return nil
	}
	a := &suspect{unsure: true}
	g.addresses[from] = a
	return a
}

// subnet returns what is known of a network, from now on at least. mu must be held.
func (g *guard) subnet(own netip.Addr, now time.Time) *subnet {
	n := g.networks[own]
	if n == nil {
		if len(g.networks) >= maxNetworks {
			forgetOne(g.networks, math.Inf(1), now)
		}
		n = &subnet{unsure: true}
		g.networks[own] = n
	}
	return n
}

// hash is what is remembered of a wrong key, which may be almost the right one.
func (g *guard) hash(key string) uint64 {
	sum := sha256.Sum256(slices.Concat(g.salt[:], []byte(key)))
	return binary.LittleEndian.Uint64(sum[:])
}

// wait is how long an address must wait for a guess; nil stands for one that is not known.
func (a *suspect) wait(now time.Time) time.Duration {
	if a == nil {
		return 0
	}
	return a.guesses.wait(now)
}

// waitMore is wait for the guesses that it has besides.
func (a *suspect) waitMore(now time.Time) time.Duration {
	if a == nil {
		return 0
	}
	return a.more.wait(now)
}

func (a *suspect) spent(now time.Time) float64 { return a.guesses.spent(now) + a.more.spent(now) }

// repeats reports whether a wrong key has come before, and remembers it as the latest.
func (a *suspect) repeats(hash uint64) bool {
	i := slices.Index(a.tried, hash)
	switch {
	case i >= 0:
		a.tried = slices.Delete(a.tried, i, i+1)
	case len(a.tried) == maxTried:
		a.tried = slices.Delete(a.tried, 0, 1)
	}
	a.tried = append(a.tried, hash)
	return i >= 0
}

func (n *subnet) wait(now time.Time) time.Duration {
	if n == nil {
		return 0
	}
	return n.guesses.wait(now)
}

func (n *subnet) spent(now time.Time) float64 { return n.guesses.spent(now) }

// A bucket holds guesses; what is taken comes back one by one. The zero bucket is full.
type bucket struct {
	limiter *rate.Limiter
	every   time.Duration
}

// take takes a guess, of a bucket of that size to which one comes back so often.
func (b *bucket) take(now time.Time, size int, every time.Duration) {
	if b.limiter == nil {
		*b = bucket{rate.NewLimiter(rate.Every(every), size), every}
	}
	b.limiter.AllowN(now, 1)
}

// wait is how long it takes until there is a guess.
func (b bucket) wait(now time.Time) time.Duration {
	if b.limiter == nil {
		return 0
	}
	return time.Duration(max(0, 1-b.limiter.TokensAt(now)) * float64(b.every))
}

// spent is how many guesses have not come back yet.
func (b bucket) spent(now time.Time) float64 {
	if b.limiter == nil {
		return 0
	}
	return float64(b.limiter.Burst()) - b.limiter.TokensAt(now)
}

// isDue reports whether a refusal is to be logged, and notes it: one a minute, within which a guess has come back. The
// refusals after that are new ones.
func isDue(logged *time.Time, now time.Time) bool {
	if now.Sub(*logged) < time.Minute {
		return false
	}
	*logged = now
	return true
}

// forgetOne forgets who has spent the fewest guesses, unless those are more than most, and reports whether it did.
func forgetOne[S interface{ spent(time.Time) float64 }](of map[netip.Addr]S, most float64, now time.Time) bool {
	var who netip.Addr
	least := math.Inf(1)
	for from, s := range of {
		if n := s.spent(now); n < least {
			if who, least = from, n; n == 0 {
				break
			}
		}
	}
	if least > most {
		return false
	}
	delete(of, who)
	return true
}

// subnetOf returns the network of one of its addresses that count by themselves, or the zero Addr: IPv4 addresses and
// whole networks from elsewhere have none.
func subnetOf(from netip.Addr) netip.Addr {
	if !from.Is6() {
		return netip.Addr{}
	}
	if p, _ := from.Prefix(64); p.Addr() != from {
		return p.Addr()
	}
	return netip.Addr{}
}

// name is how the log calls what counts as one address.
func name(from netip.Addr) string {
	if from.Is6() && !subnetOf(from).IsValid() {
		return from.String() + "/64"
	}
	return from.String()
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

// origin returns what counts as the address that a TCP request came from.
func origin(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return httpconn.Network(from.Addr(), httpconn.Address(local(r)))
}

// plainOrigin is origin for a plain request.
func plainOrigin(r *httpconn.Request) netip.Addr {
	return httpconn.Network(httpconn.Address(r.Remote), httpconn.Address(r.Local))
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

// peers yields the addresses from which WebSockets are open.
func (s *Server) peers(yield func(netip.Addr) bool) {
	for _, c := range s.wsConns.All() {
		if from, err := netip.ParseAddrPort(c.Addr()); err == nil && !yield(from.Addr()) {
			return
		}
	}
}

// admitted answers a request without a valid key and reports whether it has one.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request) bool {
	if isLocal(r) {
		return true
	}
	v := s.guard.check(credentialsOf(r).key(), origin(r), time.Now())
	if v.status == 0 {
		s.httpConns.Shown(r.Context())
		return true
	}
	v.answer(w)
	return false
}

// answer answers a request that is not let in.
func (v verdict) answer(w http.ResponseWriter) {
	switch v.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="PiCloud"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(v.retryAfter.Seconds()))))
	}
	refuse(w, v.status, v.reason)
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
