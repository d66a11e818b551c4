package server

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
