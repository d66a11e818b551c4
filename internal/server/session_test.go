package server

import (
	"errors"
	"testing"

	"picloud/internal/wire"
)

func TestEveryActionThatDecodesIsDone(t *testing.T) {
	sv := start(t)
	for _, action := range wire.Actions() {
		word := action.String()
		sv.subscriber(t, word).ask(`{"action":"` + word + `","event":"` + word + `","id":1}`)
	}
}

// An action that has a word but does nothing is not a missing one.
func TestActionThatNothingDoesIsAnsweredAsUnknown(t *testing.T) {
	s, _ := newServer(t)
	defer s.release()
	ss := &session{server: s}
	undone := wire.Action(len(wire.Actions()) + 1)
	if err := ss.do(&wire.Message{Action: undone, Event: []byte("e")}); !errors.Is(err, wire.ErrActionUnknown) {
		t.Errorf("got error %q, want %q", err, wire.ErrActionUnknown)
	}
	if err := ss.do(&wire.Message{Event: []byte("e")}); !errors.Is(err, wire.ErrActionMissing) {
		t.Errorf("without an action: got error %q, want %q", err, wire.ErrActionMissing)
	}
}
