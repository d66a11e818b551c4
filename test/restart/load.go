package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// plan is what a load consists of.
type plan struct {
	tcp, unix   target        // unix may have no address: then there is none
	clients     int           // WebSockets that stay
	subscribers int           // of those left over by the special ones, so many at most have traffic
	posters     int           // over HTTP, at the same time
	posts       int           // that there are to be at the end
	pause       time.Duration // between two messages of one source
	told        int           // the close code that ends every WebSocket, over TLS only if there is any; 0: none ends
	crash       bool          // the server is killed: what is under way then may be lost
	shut        bool          // the sockets are closed for a moment: newcomers and posts come again until they are open
}

// Of each load these are few.
const (
	publishers  = 8
	window      = 8  // messages that half of the publishers have under way
	bulk        = 60 // messages for a laggard in each step, of bulkBytes each: less than a queue's limit, 1 MiB
	bulkBytes   = 16 << 10
	smallBuffer = 64 << 10 // what the kernel keeps for them
	progress    = 10       // messages of each source between two steps

	goingAway = 1001 // a server that stops tells it when everything accepted has been delivered

	patience = 15 * time.Second // with a message whose ack a killed server may have lost
)

// A load is many clients of one server, which see to it that they are served as if nothing happened to it.
type load struct {
	plan
	tally tally
	ctx   context.Context

	all      []*event // that someone subscribes to
	sources  []*event // of them, those that have messages all the time
	pulse    *event   // of the fastest publisher
	posted   []*event // of the posters
	full     []*event // for the laggards, one each
	quiet    *event
	inPieces []*pieces
	bulk     *peer
	half     *half
	wanted   int // WebSockets that are to end
	follows  []*follower
	laggards []*follower

	stop      chan struct{}   // closed: the sources end
	passing   context.Context // that of connections which do not stay
	endPass   context.CancelFunc
	sending   sync.WaitGroup // of publishers
	coming    sync.WaitGroup // of posters and newcomers
	reading   sync.WaitGroup // of followers
	finished  atomic.Bool    // what ends now is the load's own doing
	newcomers atomic.Int64
}

// begin connects everyone and starts the traffic. When ctx ends, all connections do.
func begin(ctx context.Context, p plan, log io.Writer) (*load, error) {
	l := &load{plan: p, ctx: ctx, tally: tally{log: log}, stop: make(chan struct{})}
	l.passing, l.endPass = context.WithCancel(ctx)
	if err := l.begin(); err != nil {
		l.end()
		return nil, err
	}
	return l, nil
}

func (l *load) begin() error {
	ways := []target{l.tcp}
	if l.unix.address != "" {
		ways = append(ways, l.unix)
	}
	add := func(kind *[]*event, format string, args ...any) *event {
		e := newEvent(fmt.Sprintf(format, args...))
		l.all = append(l.all, e)
		*kind = append(*kind, e)
		return e
	}
	for n := range publishers {
		add(&l.sources, "publisher%d", n)
	}
	l.pulse = add(&l.sources, "pulse")
	for n := range l.posters {
		add(&l.posted, "poster%d", n)
	}
	l.sources = append(l.sources, l.posted...)
	l.quiet = add(new([]*event), "quiet")
	unhurt := l.told == 0 && !l.crash
	var special []*event // that are not read by everyone
	if unhurt {
		special = append(special, add(new([]*event), "halves"))
		for i := range ways {
			special = append(special, add(new([]*event), "frame%d", i), add(new([]*event), "fragments%d", i))
			add(&l.full, "full%d", i)
		}
	}

	// Who listens: first, so that nobody misses a message.
	left := l.clients - len(l.sources) + l.posters
	for _, way := range ways { // a witness of everything, at the end of each way
		if err := l.follow(way, "witness", append(special, l.sources...)...); err != nil {
			return err
		}
		left--
	}
	for i := range l.full {
		if err := l.follow(ways[i], l.full[i].name, l.full[i]); err != nil {
			return err
		}
		left--
	}
	if unhurt {
		left -= 2*len(ways) + 1 // pieces, and the bulk's publisher
	}
	for n := range max(0, left) {
		way := ways[0]
		if n%10 == 9 {
			way = ways[len(ways)-1]
		}
		of := l.quiet
		if n%2 == 1 && n/2 < l.subscribers {
			of = l.sources[n/2%len(l.sources)]
		}
		if err := l.follow(way, fmt.Sprintf("client%d", n), of); err != nil {
			return err
		}
	}

	if unhurt {
		if err := l.beginSpecial(ways, special); err != nil {
			return err
		}
	}
	for n, e := range l.sources[:publishers+1] {
		way, under := ways[0], 1
		if e != l.pulse && n%4 == 3 {
			way = ways[len(ways)-1]
		}
		if e != l.pulse && n%2 == 1 {
			under = window
		}
		l.expect(way)
		l.sending.Go(func() { l.publish(way, e, under) })
	}
	for n, e := range l.posted {
		way := ways[0]
		if way.secure || n%4 == 3 {
			way = ways[len(ways)-1]
		}
		l.coming.Go(func() { l.post(way, e, n%8 < 4) })
	}
	l.coming.Go(l.comeAndGo)
	l.between()
	return l.ctx.Err()
}

func (l *load) beginSpecial(ways []target, special []*event) error {
	l.half = &half{way: ways[0], event: special[0]}
	for i, way := range ways {
		for n, e := range special[1+2*i : 3+2*i] {
			p, err := l.open(way, "publish", e.name, 0)
			if err != nil {
				return err
			}
			p.mute = n == 0
			l.inPieces = append(l.inPieces, newPieces(l, p, e, n == 0))
		}
	}
	var err error
	l.bulk, err = l.open(ways[0], "publish", "bulk", 0)
	return err
}

// open makes a connection that stays.
func (l *load) open(way target, route, name string, receiveBytes int) (*peer, error) {
	return way.open(l.ctx, route, name, receiveBytes)
}

// toldAll says whether everyone is to be told that it is over.
func (l *load) toldAll() bool { return l.told != 0 && !l.tcp.secure }

// want is the code that a connection is to end with, 0 when it is to live.
func (l *load) want(secure bool) int {
	if l.told != 0 && secure == l.tcp.secure {
		return l.told
	}
	return 0
}

func (l *load) expect(way target) {
	if l.want(way.secure) != 0 {
		l.wanted++
	}
}

// ended is the end of a connection that was to stay.
func (l *load) ended(p *peer, err error, busy bool) {
	p.nc.Close()
	switch {
	case l.finished.Load(), l.ctx.Err() != nil:
	case l.crash && busy:
		l.tally.count(&l.tally.cut, 1, "%s: %v", p.name, err)
	default:
		l.tally.closing(p, err, l.want(p.secure))
	}
}

// A follower subscribes to events and keeps account of them.
type follower struct {
	*peer
	events map[string]*event
	got    map[string]*sequence
	cut    bool // it has ended, and by a crash that is no fault

	// A laggard reads only when it is its turn, and then a step's bulk: its queue is full before.
	turn, took chan struct{}
}

// last is the data of each event's last message.
const last = `"last"`

// follow begins a follower, which subscribes at once. Who subscribes to one of the full events is a laggard.
func (l *load) follow(way target, name string, events ...*event) error {
	f := &follower{events: make(map[string]*event), got: make(map[string]*sequence)}
	receive := 0
	if slices.Contains(l.full, events[0]) {
		receive = smallBuffer
		f.turn, f.took = make(chan struct{}), make(chan struct{})
		l.laggards = append(l.laggards, f)
	}
	var err error
	if f.peer, err = l.open(way, "subscribe", name, receive); err != nil {
		return err
	}
	l.expect(way)
	l.follows = append(l.follows, f)
	for _, e := range events {
		if err := f.ask(fmt.Sprintf(`{"action":"subscribe","event":%q,"id":0}`, e.name)); err != nil {
			return err
		}
		f.events[e.name], f.got[e.name] = e, new(sequence)
	}
	l.reading.Go(func() {
		if f.took != nil {
			defer close(f.took)
		}
		if err := f.run(l.ctx); err != nil {
			busy := f.events[l.quiet.name] == nil
			f.cut = l.crash && busy
			l.ended(f.peer, err, busy)
		}
	})
	return nil
}

// run reads until the last message of each event has come.
func (f *follower) run(ctx context.Context) error {
	if err := f.await(ctx); err != nil {
		return err
	}
	for left := len(f.events); left > 0; {
		_, payload, err := f.read()
		if err != nil {
			return err
		}
		name, data, ok := delivery(string(payload))
		s := f.got[name]
		n, err := strconv.Atoi(data)
		switch {
		case !ok || s == nil:
			return fmt.Errorf("got %.100s", payload)
		case data == last:
			left--
		case err != nil:
			return err
		default:
			s.got(n)
			if n%bulk != bulk-1 || f.took == nil {
				continue
			}
			f.took <- struct{}{}
			if err := f.await(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits for the turn of a laggard.
func (f *follower) await(ctx context.Context) error {
	if f.turn == nil {
		return nil
	}
	select {
	case <-f.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// delivery reads what the server makes of a message of this program's: data is the first element of its list.
func delivery(text string) (event, data string, ok bool) {
	text, ok = strings.CutPrefix(text, `{"action":"publish","event":"`)
	event, text, found := strings.Cut(text, `","data":[`)
	end := strings.IndexAny(text, ",]")
	if !ok || !found || end < 0 {
		return "", "", false
	}
	return event, text[:end], true
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

func (l *load) rest() {
	select {
	case <-time.After(l.pause):
	case <-l.stop:
	case <-l.ctx.Done():
	}
}

// refused is a connection that could not be made.
func (l *load) refused(name string, err error) {
	if l.ctx.Err() == nil && !l.toldAll() {
		l.tally.count(&l.tally.refused, 1, "%s: %v", name, err)
	}
}

// publish is a source over a WebSocket, which has so many messages under way.
func (l *load) publish(way target, e *event, under int) {
	defer e.end()
	for next := 0; !l.stopped(); {
		p, err := l.open(way, "publish", e.name, 0)
		if err != nil {
			l.refused(e.name, err)
			return
		}
		next = l.publishOver(p, e, next, under)
		if !l.crash {
			return
		}
	}
}

// publishOver publishes over one connection until the load stops or the connection ends, and returns the next number.
func (l *load) publishOver(p *peer, e *event, first, under int) (next int) {
	var done atomic.Bool
	places, ended := make(chan struct{}, under), make(chan struct{})
	go func() {
		defer close(ended)
		for n := first; ; n++ {
			if l.crash { // its ack may be lost, and there may be no other behind it
				p.nc.SetReadDeadline(time.Now().Add(patience))
			}
			_, payload, err := p.read()
			var id int
			switch {
			case done.Load():
				return
			case errors.Is(err, os.ErrDeadlineExceeded):
				l.tally.count(&l.tally.unacked, 1, "%s: no ack of message %d, and the connection lives", p.name, n)
				p.nc.Close()
				return
			case err != nil:
				l.ended(p, err, true)
				return
			}
			if _, err := fmt.Sscanf(string(payload), `{"action":"ack","id":%d}`, &id); err != nil || id < n {
				if l.want(p.secure) == 0 { // who is told is refused before
					l.tally.count(&l.tally.strange, 1, "%s: got %.100s, want the ack of %d", p.name, payload, n)
				}
				<-places
				continue
			}
			for ; n < id; n++ {
				l.tally.count(&l.tally.unacked, 1, "%s: got the ack of %d and none of %d", p.name, id, n)
				<-places
			}
			e.accept(n)
			<-places
		}
	}()
	take := func() bool {
		select {
		case places <- struct{}{}:
			return true
		case <-ended:
			return false
		}
	}
	for next = first; !l.stopped() && take(); next++ {
		if p.text(`{"event":%q,"data":[%d],"id":%d}`, e.name, next, next) != nil {
			break // and reading tells why
		}
		l.rest()
	}
	for range under {
		if !take() {
			if missing := next - e.count(); missing > 0 && l.want(p.secure) == 0 && !l.crash {
				l.tally.count(&l.tally.unacked, missing, "%s: %d messages without an ack", p.name, missing)
			}
			return next + 1
		}
	}
	done.Store(true)
	p.nc.Close()
	<-ended
	return next
}

// post is a source over HTTP, with one connection for all its posts or one for each.
func (l *load) post(way target, e *event, keep bool) {
	defer e.end()
	var nc net.Conn
	var br *bufio.Reader
	for n := 0; !l.stopped(); n++ {
		if nc == nil {
			var err error
			switch nc, err = way.dial(l.passing, 0); {
			case err != nil && l.shut:
				n--
				l.rest()
				continue
			case err != nil:
				l.refused(e.name, err)
				return
			}
			br = bufio.NewReader(nc)
		}
		_, err := nc.Write(request(way, e, n, keep))
		if err == nil {
			err = created(br)
		}
		switch {
		case err == nil:
			e.accept(n)
		case l.passing.Err() != nil || l.toldAll():
			nc.Close()
			return
		case l.shut:
			n-- // nobody had taken it
		default:
			l.tally.count(&l.tally.failed, 1, "%s, connection kept: %v: %v", e.name, keep, err)
		}
		if err != nil || !keep {
			nc.Close()
			nc = nil
		}
		l.rest()
	}
	if nc != nil {
		nc.Close()
	}
}

// request is the post of an event's message.
func request(way target, e *event, n int, keep bool) []byte {
	body := fmt.Sprintf(`{"event":%q,"data":[%d]}`, e.name, n)
	connection := "close"
	if keep {
		connection = "keep-alive"
	}
	return fmt.Appendf(nil, "POST /publish HTTP/1.1\r\nHost: picloud\r\nConnection: %s\r\nX-API-Key: %s\r\nX-API-Client-Name: %s\r\nContent-Length: %d\r\n\r\n%s",
		connection, way.key, e.name, len(body), body)
}

// created reads the answer to a post.
func created(br *bufio.Reader) error {
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s %s", res.Status, body)
	}
	return err
}

// comeAndGo is one newcomer after the other.
func (l *load) comeAndGo() {
	for !l.stopped() {
		p, err := l.tcp.open(l.passing, "subscribe", "newcomer", 0)
		if err == nil {
			err = p.ask(`{"action":"subscribe","event":"newcomers","id":0}`)
			p.nc.Close()
		}
		switch {
		case err == nil:
			l.newcomers.Add(1)
		case l.shut, l.toldAll():
		case !errors.Is(err, errRefused) && (l.crash || l.want(l.tcp.secure) != 0): // it was there when its like ended
		default:
			l.refused("a newcomer", err)
		}
		l.rest()
	}
}

// Pieces is a client that is in the middle of one message all the time: of a frame, of which it sends one byte in each
// step, or between frames.
type pieces struct {
	peer  *peer
	event *event
	rest  []byte // of the frame; nil: it sends fragments
	parts []string
	pongs int
	in    chan string // what comes, but for pings
}

func newPieces(l *load, p *peer, e *event, inFrame bool) *pieces {
	pc := &pieces{peer: p, event: e, in: make(chan string, 1)}
	message := fmt.Sprintf(`{"event":%q,"data":[0],"id":0}`, e.name)
	if inFrame {
		pc.rest = frame(final|opText, []byte(message))
	} else {
		pc.parts = strings.Split(message, "")
	}
	go func() {
		defer close(pc.in)
		for {
			_, payload, err := p.read()
			if err != nil {
				l.ended(p, err, true)
				return
			}
			pc.in <- string(payload)
		}
	}()
	return pc
}

// step sends the next byte or fragment, and behind a fragment a ping.
func (pc *pieces) step() error {
	switch {
	case len(pc.rest) > 1:
		err := pc.peer.write(pc.rest[:1])
		pc.rest = pc.rest[1:]
		return err
	case len(pc.parts) > 1:
		first := byte(opMore)
		if pc.pongs == 0 {
			first = opText
		}
		ping := fmt.Sprint(pc.pongs)
		pc.pongs++
		err := pc.peer.write(append(frame(first, []byte(pc.parts[0])), frame(final|opPing, []byte(ping))...))
		pc.parts = pc.parts[1:]
		if err == nil {
			err = pc.expect(ping)
		}
		return err
	}
	return nil
}

func (pc *pieces) expect(want string) error {
	if got, ok := <-pc.in; !ok || got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// finish sends what is left.
func (pc *pieces) finish() error {
	b := pc.rest
	if b == nil {
		b = frame(final|opMore, []byte(strings.Join(pc.parts, "")))
	}
	if err := pc.peer.write(b); err != nil {
		return err
	}
	if err := pc.expect(`{"action":"ack","id":0}`); err != nil {
		return err
	}
	pc.event.accept(0)
	return nil
}

// A half is a client that has sent half of a post when a step is done, and sends the other half behind it.
type half struct {
	way   target
	event *event
	n     int
	nc    net.Conn
	left  []byte
}

func (h *half) first(ctx context.Context) error {
	var err error
	if h.nc, err = h.way.dial(ctx, 0); err != nil {
		return err
	}
	b := request(h.way, h.event, h.n, true)
	h.n++
	_, err = h.nc.Write(b[:len(b)-3])
	h.left = b[len(b)-3:]
	return err
}

func (h *half) second() error {
	defer h.nc.Close()
	if _, err := h.nc.Write(h.left); err != nil {
		return err
	}
	if err := created(bufio.NewReader(h.nc)); err != nil {
		return err
	}
	h.event.accept(h.n - 1)
	return nil
}

// before is what comes in front of each step.
func (l *load) before() {
	for _, pc := range l.inPieces {
		if err := pc.step(); err != nil {
			l.tally.count(&l.tally.strange, 1, "%s: %v", pc.peer.name, err)
		}
	}
	if l.half != nil {
		if err := l.half.first(l.ctx); err != nil {
			l.tally.count(&l.tally.failed, 1, "half a post: %v", err)
		}
	}
	for _, e := range l.full {
		for range bulk {
			message := fmt.Sprintf(`{"event":%q,"data":[%d,%q],"id":0}`, e.name, e.count(), strings.Repeat("x", bulkBytes))
			if err := l.bulk.ask(message); err != nil {
				l.ended(l.bulk, err, true)
				l.full, l.bulk = nil, nil
				return
			}
			e.accept(e.count())
		}
	}
}

// after is what comes behind each step.
func (l *load) after() {
	if l.half != nil && l.half.nc != nil {
		if err := l.half.second(); err != nil {
			l.tally.count(&l.tally.failed, 1, "the other half of a post: %v", err)
		}
	}
	for _, f := range l.laggards {
		select {
		case f.turn <- struct{}{}:
			<-f.took
		case <-f.took: // its connection has ended
		}
	}
	if !l.toldAll() {
		l.between()
	}
}

// between waits until each source has got on, or is over.
func (l *load) between() {
	var counts []int
	for _, e := range l.sources {
		counts = append(counts, e.count())
	}
	for i, e := range l.sources {
		e.await(counts[i] + progress)
		if l.ctx.Err() != nil && e.count() < counts[i]+progress {
			l.tally.count(&l.tally.strange, 1, "%s: no answer behind message %d", e.name, e.top-1)
		}
	}
}

// finish ends the traffic, sees to it that everyone has got everything, and closes the connections.
func (l *load) finish() error {
	for _, e := range l.posted {
		if !l.toldAll() {
			e.await((l.posts + l.posters - 1) / l.posters)
		}
	}
	if l.toldAll() {
		l.sending.Wait()
		l.reading.Wait()
		l.endPass() // there may be no machine any more that would answer
	}
	close(l.stop)
	l.sending.Wait()
	l.coming.Wait()
	for _, f := range l.laggards {
		select {
		case f.turn <- struct{}{}: // for the last message
		case <-f.took:
		}
	}
	for _, pc := range l.inPieces {
		if err := pc.finish(); err != nil {
			l.tally.count(&l.tally.unacked, 1, "%s: %v", pc.peer.name, err)
		}
	}
	if !l.toldAll() {
		if err := l.last(); err != nil {
			l.tally.count(&l.tally.strange, 1, "the last messages: %v", err)
		}
	}
	l.reading.Wait()
	err := l.ctx.Err()
	l.end()
	for _, f := range l.follows {
		for name, e := range f.events {
			// Who comes back misses what is published until then, by the next server too.
			if want := l.want(f.secure); !f.cut && (want == 0 || want == goingAway) {
				l.tally.sequence(f.name, e, f.got[name])
			}
		}
	}
	if err == nil && l.tally.told != l.wanted {
		err = fmt.Errorf("%d of %d clients were told %d", l.tally.told, l.wanted, l.told)
	}
	return err
}

// last publishes what tells the followers that there is no more, and to those that had nothing to read their only message.
func (l *load) last() error {
	way := l.tcp
	if way.secure {
		way = l.unix
	}
	p, err := l.open(way, "publish", "last", 0)
	if err != nil {
		return err
	}
	defer p.nc.Close()
	if err := p.ask(fmt.Sprintf(`{"event":%q,"data":[0],"id":0}`, l.quiet.name)); err != nil {
		return err
	}
	l.quiet.accept(0)
	for _, e := range l.all {
		if err := p.ask(fmt.Sprintf(`{"event":%q,"data":[%s],"id":0}`, e.name, last)); err != nil {
			return err
		}
	}
	return nil
}

// end closes what is open.
func (l *load) end() {
	l.finished.Store(true)
	for _, f := range l.follows {
		f.nc.Close()
	}
	for _, pc := range l.inPieces {
		pc.peer.nc.Close()
	}
	if l.bulk != nil {
		l.bulk.nc.Close()
	}
}
