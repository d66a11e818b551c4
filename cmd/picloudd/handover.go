package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"picloud/internal/handover"
	"picloud/internal/server"
	"picloud/internal/systemd"
)

// journalBytes is how much may be written down of connections: what waits for slow readers at a restart is most of it.
// Memory is used for what is there.
const journalBytes = 64 << 20

// askTimeout is how long systemd may think about whether a stop is a restart, while the server goes on serving. On a busy
// Pi an answer takes more than a second. With what a stop may take it stays below the unit's TimeoutStopSec=.
const askTimeout = 3 * time.Second

// left is what another process has left.
type left struct {
	conns   []handover.Connection
	general []handover.Record
}

// openStore takes over what systemd has stored, or begins a store. Without a service manager, or when there can be none, the
// connections end with the process, and the store is nil.
func openStore(stored []*os.File, log *slog.Logger) (*handover.Store, left) {
	var l left
	if len(stored) > 0 {
		store, conns, general, err := server.OpenStore(stored)
		if err != nil {
			log.Warn("not all connections can be carried on", "error", err)
		}
		if store != nil {
			return store, left{conns, general}
		}
	}
	store, err := newStore(stored)
	switch {
	case err == nil:
	case errors.Is(err, systemd.ErrNoManager):
	default:
		log.Warn("connections will end with this process", "error", err)
	}
	return store, l
}

// newStore makes a store that systemd keeps, instead of old files that cannot be used.
func newStore(old []*os.File) (*handover.Store, error) {
	if !systemd.Managed() {
		return nil, systemd.ErrNoManager
	}
	for _, f := range old {
		if err := systemd.Forget(f.Name()); err != nil {
			return nil, err
		}
	}
	store, err := handover.New(journalBytes)
	if err != nil {
		return nil, err
	}
	for _, f := range store.Files() {
		if err := systemd.Store(f.Name(), f); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	return store, nil
}

// ending asks systemd whether this process will have a successor who finds the store. Without an answer there may be one.
func ending(store *handover.Store, log *slog.Logger) server.Ending {
	if store == nil {
		return server.Stop // it cannot be known
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	again, stored, err := systemd.Restarting(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // a machine that is too busy
		log.Info("taken for a restart", "error", err)
	case err != nil:
		log.Warn("taken for a restart", "error", err)
	}
	switch files := len(store.Files()); {
	case !again:
		return server.Stop
	case stored < files:
		log.Warn("the connections end: systemd has not stored what is kept of them", "stored", stored, "files", files,
			"remedy", "raise FileDescriptorStoreMax=")
		return server.Restart
	default:
		return server.HandOver
	}
}
