// Package quota adds up what many hold of one thing, and says when it is too much.
package quota

import "sync/atomic"

// A Quota is a sum with a limit. Nothing is refused at the limit, since what is held has mostly been taken in already:
// whoever receives from Exceeded ends what holds most. It is safe for concurrent use, and no method blocks.
type Quota struct {
	limit    int64
	used     atomic.Int64
	exceeded chan struct{}
}

// New makes a Quota, of bytes for example.
func New(limit int) *Quota { return &Quota{limit: int64(limit), exceeded: make(chan struct{}, 1)} }

// Add adds n, which may be negative, to what is held.
func (q *Quota) Add(n int) {
	if q.used.Add(int64(n)) > q.limit && n > 0 {
		select {
		case q.exceeded <- struct{}{}:
		default:
		}
	}
}

// Over reports whether more is held than may be.
func (q *Quota) Over() bool { return q.used.Load() > q.limit }

// Used is how much is held.
func (q *Quota) Used() int { return int(q.used.Load()) }

// Limit is how much may be held.
func (q *Quota) Limit() int { return int(q.limit) }

// Exceeded gets a value when more is held than may be. One value may stand for many times.
func (q *Quota) Exceeded() <-chan struct{} { return q.exceeded }
