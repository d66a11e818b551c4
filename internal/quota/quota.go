// Package quota adds up what many hold of one thing, and ends those who hold most when it is too much.
package quota

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Quota is a sum with a limit. Nothing is refused at the limit, since what is held has mostly been taken in already:
// whoever adds to it calls Relieve, or leaves that to Run. It is safe for concurrent use.
type Quota struct {
	limit     int64
	used      atomic.Int64
	exceeded  chan struct{}
	relieving sync.Mutex
}

// A Share is what one holds.
type Share struct {
	Held  int
	Since time.Time // of several that hold the same, the earliest is ended first
	End   func()    // it may give back what is held only a moment later
}

// New makes a Quota, of bytes for example.
func New(limit int) *Quota { return &Quota{limit: int64(limit), exceeded: make(chan struct{}, 1)} }

// Add adds n, which may be negative, to what is held. It does not block.
func (q *Quota) Add(n int) {
	if q.used.Add(int64(n)) > q.limit && n > 0 {
		select {
		case q.exceeded <- struct{}{}:
		default:
		}
	}
}

// Over reports whether more is held than may be.
func (q *Quota) Over() bool { return q.Used() > q.Limit() }

// Used is how much is held.
func (q *Quota) Used() int { return int(q.used.Load()) }

// Limit is how much may be held.
func (q *Quota) Limit() int { return int(q.limit) }

// Relieve ends those who hold most, as many as it takes until no more is held than may be. It waits for another call
// that is under way.
func (q *Quota) Relieve(shares ...iter.Seq[Share]) {
	q.relieving.Lock()
	defer q.relieving.Unlock()
	excess := q.Used() - q.Limit()
	if excess <= 0 {
		return
	}
	var all []Share
	for _, list := range shares {
		all = slices.AppendSeq(all, list)
	}
	End(all, excess)
}

// End ends those who hold most, as many as it takes to give back excess, and returns what is still lacking. It sorts
// the shares.
func End(shares []Share, excess int) (lacking int) {
	slices.SortFunc(shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Held, a.Held), a.Since.Compare(b.Since))
	})
	for _, s := range shares {
		if excess <= 0 {
			break
		}
		s.End()
		excess -= s.Held
	}
	return max(excess, 0)
}

// Run is Relieve whenever more is held than may be, until ctx ends.
func (q *Quota) Run(ctx context.Context, shares ...iter.Seq[Share]) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.exceeded:
			q.Relieve(shares...)
		}
	}
}
