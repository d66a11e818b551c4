package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"picloud/test/others"
)

// plan is what a load consists of.
type plan struct {
	tcp, unix   target        // unix is not used if it has no address
	clients     int           // WebSockets at the same time
	subscribers int           // at most this many of the ordinary clients have traffic
	posters     int           // over HTTP, at the same time
	posts       int           // how many there must be by the end
	pause       time.Duration // between two messages of one source
	idleFor     time.Duration // the longest pause of an idler; 0: there are none
	fill        int           // fillers at most; then a subscription may be refused
	seed        uint64        // of everything random
	plain       bool          // nobody comes, leaves, overflows or changes its mind: to measure

	told  int  // the close code that ends every WebSocket, over TLS only if there is any; 0: none ends
	crash bool // the server is killed: what is in progress then may be lost
	ends  bool // the server may have no room for all: a client may be closed, and a new one refused
	shut  bool // the sockets are closed for a moment: newcomers and posts retry until they are open
}

// Every load has few of these.
const (
	publishers  = 8
	window      = 8  // unanswered messages of half of the publishers
	bursts      = 6  // messages in one write of some publishers
	progress    = 10 // messages of each source between two steps
	mostLeavers = 60

	patience = 15 * time.Second // with an answer, before asking again
)

// A load is many clients of one server, which check that they are served as if nothing happened to it.
type load struct {
	plan
	tally tally
	ctx   context.Context
	rand  *rand.Rand // for the caller of begin, before, after and finish

	sources []*event // that always have messages
	pulse   *event   // the fastest publisher's, one of sources
	crowd   *event   // the one with many subscribers, one of sources
	posted  []*event // the posters', among sources
	foreign []*event // those of programs, among sources
	idle    []*event // the idlers'
	full    []*event // for the laggards, one each
	flood   []*event // for the slow readers, one each
	halves  *event
	pieced  []*event
	quiet   *event
	nobody  *event // to which nobody subscribes

	clients  []*client // those that stay
	fillers  []*filler
	laggards []*laggard
	brinks   []*brink
	inPieces []*pieces
	bulk     *client
	half     []*half
	halvesAt int // the number of the next half
	wanted   int // WebSockets that are to end

	stop      chan struct{}   // closed: the sources end
	passing   context.Context // for connections that do not stay
	endPass   context.CancelFunc
	calls     *calls
	step      chan struct{}  // closed when the current step is done
	stepped   time.Time      // when the last step was done
	sending   sync.WaitGroup // of publishers
	coming    sync.WaitGroup // of posters, newcomers, and all that come and go
	reading   sync.WaitGroup // of clients that stay
	departing sync.WaitGroup // of clients that leave
	finished  atomic.Bool    // the load itself ends what ends now
	newcomers atomic.Int64
	left      [waysToLeave]atomic.Int64
}

// begin connects everyone and starts the traffic. When ctx ends, all connections do.
func begin(ctx context.Context, p plan, log io.Writer) (*load, error) {
	l := &load{plan: p, ctx: ctx, tally: tally{log: log}, stop: make(chan struct{}), calls: newCalls(),
		rand: random(p.seed, "load")}
	l.passing, l.endPass = context.WithCancel(ctx)
	if err := l.begin(); err != nil {
		l.end()
		return nil, err
	}
	return l, nil
}

// random returns one client's random numbers, the same in each run with the same seed.
func random(seed uint64, name string) *rand.Rand {
	var sum uint64
	for _, c := range []byte(name) {
		sum = sum*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(seed, sum))
}

// unhurt reports whether no client may notice anything.
func (l *load) unhurt() bool { return l.told == 0 && !l.crash && !l.ends }

// mayEnd reports whether what is done to the server may end a client's connection, which is then no fault.
func (l *load) mayEnd(busy bool) bool { return l.crash && busy || l.ends }

// ways lists the ways over which clients connect.
func (l *load) ways() []target {
	if l.unix.address == "" {
		return []target{l.tcp}
	}
	return []target{l.tcp, l.unix}
}

// programs lists further ways, of TLS clients that others wrote: OpenSSL's and Python's.
func (l *load) programs() []target {
	if !l.tcp.secure {
		return nil
	}
	var ways []target
	for _, p := range others.Each() {
		way := l.tcp
		way.by = &p
		ways = append(ways, way)
	}
	return ways
}

// mostly returns the network, and for one n in every the last way.
func (l *load) mostly(n, every int) target {
	ways := l.ways()
	if n%every == every-1 {
		return ways[len(ways)-1]
	}
	return ways[0]
}

func (l *load) begin() error {
	l.name()
	left, err := l.beginFollowers()
	if err != nil {
		return err
	}
	if l.unhurt() {
		if err := l.beginSpecial(); err != nil {
			return err
		}
	}
	if err := l.fillUp(); err != nil {
		return err
	}
	l.beginSources()
	l.beginPassing(left)
	l.coming.Go(l.comeAndGo)
	l.between()
	return l.ctx.Err()
}

// name makes the events.
func (l *load) name() {
	several := func(n int, format string) []*event {
		var of []*event
		for i := range n {
			of = append(of, newEvent(fmt.Sprintf(format, i)))
		}
		return of
	}
	l.sources = several(publishers, "publisher%d")
	l.pulse, l.crowd, l.quiet, l.nobody = newEvent("pulse"), newEvent("crowd"), newEvent("quiet"), newEvent("nobody")
	l.sources = append(l.sources, l.pulse, l.crowd)
	l.posted = several(l.posters, "poster%d")
	l.sources = append(l.sources, l.posted...)
	l.foreign = several(len(l.programs()), "foreign%d")
	l.sources = append(l.sources, l.foreign...)
	if !l.unhurt() {
		return
	}
	l.halves = newEvent("halves")
	l.pieced = several(2*len(l.ways()), "pieces%d")
	l.full = several(len(l.ways()), "full%d")
	if !l.plain {
		l.flood = several(len(l.ways()), "flood%d")
	}
	if l.idleFor > 0 {
		l.idle = several(idlers, "idler%d")
	}
}

// beginFollowers connects the clients that listen: first, so that they miss no message. It returns how many leavers and
// fickle clients it has left room for.
func (l *load) beginFollowers() (left int, err error) {
	everything := append(append([]*event{}, l.sources...), l.idle...)
	if l.unhurt() {
		everything = append(append(everything, l.pieced...), l.halves)
	}
	for _, way := range l.ways() { // each way has a witness of everything
		if _, err := l.follow(way, "witness", everything...); err != nil {
			return 0, err
		}
	}
	for i, way := range l.programs() {
		c, err := l.follow(way, fmt.Sprintf("quiet%d", i), l.quiet)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", way.by.Name, err)
		}
		c.busy = false
		if _, err := l.follow(way, fmt.Sprintf("hears%d", i), everything...); err != nil {
			return 0, fmt.Errorf("%s: %w", way.by.Name, err)
		}
	}
	for i, e := range l.full {
		if err := l.lag(l.ways()[i], e); err != nil {
			return 0, err
		}
	}
	others := l.plan.clients - len(l.sources) + l.posters - len(l.clients)
	if l.unhurt() {
		others -= len(l.pieced) + 1 // and the publisher of bulk
	}
	if l.told == 0 && !l.plain {
		left = max(others*3/20, 3)
		others -= left
	}
	for n := range max(0, others) {
		of := []*event{l.quiet}
		switch {
		case l.crash && n%4 != 0:
			of = []*event{l.crowd, l.posted[0]}
		case n%2 == 1 && n/2 < l.subscribers:
			of = []*event{l.sources[n/2%len(l.sources)]}
		}
		c, err := l.follow(l.mostly(n, 10), fmt.Sprintf("client%d", n), of...)
		if err != nil {
			return 0, err
		}
		c.busy = of[0] != l.quiet
	}
	return left, nil
}

// beginSpecial connects the clients that each step is to catch in the middle of something.
func (l *load) beginSpecial() error {
	for i, e := range l.pieced {
		p, err := l.ways()[i/2].open(l.ctx, "publish", e.name, 0)
		if err != nil {
			return err
		}
		p.mute = i%2 == 0
		l.inPieces = append(l.inPieces, newPieces(l, p, e, i%2 == 0))
	}
	var err error
	if l.bulk, err = l.join(l.ctx, l.tcp, "publish", "bulk", 0); err != nil {
		return err
	}
	l.reading.Go(l.bulk.listen)
	for i, e := range l.flood {
		b := &brink{name: fmt.Sprintf("slow%d", i), way: l.ways()[i], event: e, rand: random(l.seed, e.name)}
		if err := l.measure(b); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		l.brinks = append(l.brinks, b)
	}
	return nil
}

// beginSources starts the clients that publish all the time.
func (l *load) beginSources() {
	for n, e := range l.sources[:publishers+2] {
		p := publisher{way: l.mostly(n, 4), event: e, rand: random(l.seed, e.name), under: 1, burst: 1}
		switch {
		case e == l.pulse:
			p.way = l.tcp
		case e == l.crowd:
			p.way, p.under, p.burst, p.hears = l.tcp, bursts, bursts, l.crash
		case n%4 == 2:
			p.under, p.burst = window, bursts
		case n%2 == 1:
			p.under = window
		}
		if e != l.pulse && n >= publishers/2 {
			p.hears = true
		}
		l.expect(p.way.secure)
		l.sending.Go(func() { l.publish(p) })
	}
	for i, way := range l.programs() {
		e := l.foreign[i]
		p := publisher{way: way, event: e, rand: random(l.seed, e.name), under: window, burst: bursts}
		l.expect(way.secure)
		l.sending.Go(func() { l.publish(p) })
	}
	for n, e := range l.posted {
		way := l.mostly(n, 4)
		// What over TLS cannot outlive the server is not counted as told, and a restart may break off a handshake.
		if way.secure && (!l.unhurt() || n%8 >= 4) {
			way = l.unix
		}
		l.coming.Go(func() { l.post(way, e, n%8 < 4) })
	}
	for n, e := range l.idle {
		i := &idler{caller: caller{way: l.mostly(n, 4)}, event: e, rand: random(l.seed, e.name), always: n == 0}
		l.calls.enter()
		l.coming.Go(func() { l.sitIdle(i) })
	}
}

// beginPassing starts the clients that come and go, and those whose subscriptions come and go.
func (l *load) beginPassing(clients int) {
	for n := range clients {
		if n%3 == 0 {
			f := &fickle{name: fmt.Sprintf("fickle%d", n), way: l.mostly(n/3, 4)}
			f.rand = random(l.seed, f.name)
			l.coming.Go(func() { l.waver(f) })
			continue
		}
		if n > 3*mostLeavers {
			continue
		}
		v := &leaver{name: fmt.Sprintf("leaver%d", n), way: l.mostly(n, 5)}
		v.rand = random(l.seed, v.name)
		l.calls.enter()
		l.coming.Go(func() { l.comeAndLeave(v) })
	}
}

// toldAll reports whether all WebSockets are to be closed with the code told.
func (l *load) toldAll() bool { return l.told != 0 && !l.tcp.secure }

// want is the code that a connection must be closed with, or 0 if it must live on.
func (l *load) want(secure bool) int {
	if l.told != 0 && secure == l.tcp.secure {
		return l.told
	}
	return 0
}

// expect counts a connection that stays among those to be closed, if it is to be.
func (l *load) expect(secure bool) {
	if l.want(secure) != 0 {
		l.wanted++
	}
}

// over reports whether the load itself ends what ends now.
func (l *load) over() bool { return l.finished.Load() || l.ctx.Err() != nil }

// ended records the end of a connection that was to stay.
func (l *load) ended(p *peer, err error, busy bool) {
	switch {
	case l.over():
	case l.mayEnd(busy):
		l.tally.expected(&l.tally.cut)
	default:
		l.tally.closing(p.name, err, l.want(p.secure))
	}
}

// refuse records a connection that could not be made.
func (l *load) refuse(name string, err error) {
	if l.ctx.Err() == nil && !l.toldAll() {
		l.tally.count(&l.tally.refused, 1, "%s: %v", name, err)
	}
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	case <-l.ctx.Done():
		return true
	default:
		return false
	}
}

// comeAndGo connects one newcomer after another.
func (l *load) comeAndGo() {
	for ; !l.stopped(); l.rest() {
		p, err := l.tcp.open(l.passing, "subscribe", "newcomer", 0)
		if err == nil {
			err = p.ask(`{"action":"subscribe","event":"newcomers","id":0}`)
			p.nc.Close()
		}
		switch {
		case err == nil:
			l.newcomers.Add(1)
		case l.shut, l.ends, l.fill > 0, l.toldAll():
		case !errors.Is(err, errRefused) && (l.crash || l.want(l.tcp.secure) != 0): // it was ended like the others
		default:
			l.refuse("a newcomer", err)
		}
	}
}

// end closes what is open.
func (l *load) end() {
	l.finished.Store(true)
	l.endPass()
	for _, c := range l.clients {
		c.nc.Close()
	}
	for _, pc := range l.inPieces {
		pc.peer.nc.Close()
	}
	if l.bulk != nil {
		l.bulk.nc.Close()
	}
}
