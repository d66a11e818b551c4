package server

import (
	"cmp"
	"context"
	"slices"
)

// KeylessShare is the part of what may wait that belongs to those who have not shown the key. The others have the rest
// to themselves.
const KeylessShare = 8

// relieve ends those for whom most waits, if more waits in all than may. Whoever has added to it calls this, so that a
// publisher is kept from adding more meanwhile.
func (s *Server) relieve() {
	if !s.waiting.Over() {
		return
	}
	s.relieving.Lock()
	defer s.relieving.Unlock()
	type queue struct {
		bytes int
		end   func()
	}
	var queues []queue
	add := func(bytes int, end func()) { queues = append(queues, queue{bytes, end}) }
	s.wsConns.Waiting(add)
	s.httpConns.Waiting(add)
	slices.SortFunc(queues, func(a, b queue) int { return cmp.Compare(b.bytes, a.bytes) })
	// Some of what is ended gives its memory back only a moment later.
	excess := s.waiting.Used() - s.waiting.Limit()
	for _, q := range queues {
		if excess <= 0 {
			break
		}
		q.end()
		excess -= q.bytes
	}
}

// relieveAlways is relieve, whoever has added something, until ctx ends.
func (s *Server) relieveAlways(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.waiting.Exceeded():
			s.relieve()
		}
	}
}
