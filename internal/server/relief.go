package server

import (
	"context"
	"slices"
	"time"

	"picloud/internal/quota"
)

// KeylessShare is the part of what may wait that belongs to those who have not shown the key. The others have the rest
// to themselves.
const KeylessShare = 8

// relieve sees to it that no more waits than may. Whoever has added to it calls this, so that a publisher is kept from
// adding more meanwhile.
func (s *Server) relieve() {
	if s.waiting.Over() {
		s.waiting.Relieve(s.wsConns.Waiting(), s.httpConns.Waiting())
	}
}

// How often one looks at what the kernel holds: rarely, and often while it is more than half of what it may.
const (
	tcpCalm = time.Second
	tcpBusy = 100 * time.Millisecond
)

// watchTCP sees to it, until ctx ends, that the kernel has memory left for TCP. What it holds for a socket is bounded,
// tcp(7), but not for thousands of them, and past the limit for all (tcp_mem) none of the machine's sockets gets on.
func (s *Server) watchTCP(ctx context.Context) {
	timer := time.NewTimer(tcpCalm)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		held, err := tcpBytes()
		if err != nil {
			s.log.Warn("what the kernel holds for TCP connections cannot be told, and so is not bounded", "error", err)
			return
		}
		next := tcpCalm
		if held > s.cfg.TCPBytes/2 {
			next = tcpBusy
		}
		if held > s.cfg.TCPBytes {
			s.relieveTCP(held, s.cfg.TCPBytes)
		}
		timer.Reset(next)
	}
}

// relieveTCP ends those for whom the kernel holds most, as many as it takes: first those who have not shown the key,
// then those who take nothing of what is sent to them. What is not the server's is for others to give back: it may have
// half for itself.
func (s *Server) relieveTCP(held, limit int) {
	without := slices.Collect(s.httpConns.Buffered(false))
	with := slices.AppendSeq(slices.Collect(s.httpConns.Buffered(true)), s.wsConns.Buffered())
	ours := 0
	for _, share := range slices.Concat(without, with) {
		ours += share.Held
	}
	excess := min(held-limit, ours-limit/2)
	if excess <= 0 {
		return
	}
	if s.tcpWarning.due() {
		s.log.Warn("the kernel's memory for TCP runs short: the connections for which it holds most are closed",
			"bytes", held, "limit", limit, "for_picloud", ours)
	}
	quota.End(with, quota.End(without, excess))
}
