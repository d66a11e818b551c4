package server

import (
	"sync"
	"testing"
)

// A handshake that is under way when the process hands over is answered by it, and the connection lives on.
func TestNewcomersLiveOnOverRestarts(t *testing.T) {
	l := found(t)
	stop := make(chan struct{})
	var coming sync.WaitGroup
	for range 4 {
		coming.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := l.subscriber(t, "Newcomer")
				p.ask(`{"action":"subscribe","event":"e","id":1}`)
				p.Close()
			}
		})
	}
	for range 60 {
		l.restart()
	}
	close(stop)
	coming.Wait()
}
