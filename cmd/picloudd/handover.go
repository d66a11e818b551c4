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
	"picloud/internal/wsconn"
)

// askTimeout is how long systemd may take to say whether a stop is a restart, while the server goes on serving. On a
// busy Pi an answer takes more than a second. Together with the longest stop it stays below the unit's TimeoutStopSec=.
const askTimeout = 3 * time.Second

// left is what an earlier process has left behind.
type left struct {
	conns   []handover.Connection
	general []handover.Record
	foreign []*os.File // stored by systemd, which this version does not know
}

// openStore takes over what systemd has stored, or starts an empty store. Without a service manager, or if no store can
// be made, connections end with the process and the store is nil. Files that this version does not know belong to a
// later version: they stay stored in case it comes back.
func openStore(stored []*os.File, limits wsconn.Limits, files int, log *slog.Logger) (*handover.Store, left) {
	var l left
	known := make([]*os.File, 0, len(stored))
	for _, f := range stored {
		if handover.Owns(f.Name()) {
			known = append(known, f)
			continue
		}
		l.foreign = append(l.foreign, f)
		log.Info("systemd has stored a file that this version does not know, and leaves alone", "name", f.Name())
	}
	if len(known) > 0 {
		store, conns, general, err := server.OpenStore(known, files-spareFiles-requests(files), requests(files))
		if err != nil {
			log.Warn("not all connections can be kept over this restart", "error", err)
		}
		if store != nil {
			l.conns, l.general = conns, general
			return store, l
		}
	}
	store, err := newStore(known, server.StoreBytes(limits, requests(files)))
	switch {
	case err == nil:
	case errors.Is(err, systemd.ErrNoManager):
	default:
		log.Warn("connections will end with this process", "error", err)
	}
	return store, l
}

// newStore makes a store for systemd to keep, in place of old files that cannot be used.
func newStore(old []*os.File, bytes int) (*handover.Store, error) {
	if !systemd.Managed() {
		return nil, systemd.ErrNoManager
	}
	for _, f := range old {
		if err := systemd.Forget(f.Name()); err != nil {
			return nil, err
		}
	}
	store, err := handover.New(bytes)
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

// keepSecrets has the store keep what connections with TLS need to go on, or not.
func keepSecrets(store *handover.Store, on bool, log *slog.Logger) {
	if store == nil {
		return
	}
	err := store.KeepSecrets(on, func(f *os.File) error {
		// One of that name that could not be read would be stored beside it, and found first.
		if err := systemd.Forget(f.Name()); err != nil {
			return err
		}
		return systemd.Store(f.Name(), f)
	})
	if err != nil {
		log.Warn("connections over TLS will end with this process", "error", err)
	}
}

// ending asks systemd whether this process will have a successor that finds the store. Without an answer it assumes
// one, and so it does if this process ends for systemd to start the next. foreign counts the other files that are
// stored.
func ending(store *handover.Store, foreign int, restarts bool, log *slog.Logger) server.Ending {
	if store == nil {
		return server.Stop // it cannot be known
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	again, stored, err := systemd.Restarting(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // the machine is too busy
		log.Info("systemd does not say whether this is a restart: taken for one", "error", err)
	case err != nil:
		log.Warn("systemd does not say whether this is a restart: taken for one", "error", err)
	}
	switch files := len(store.Files()) + foreign; {
	case !again && !restarts:
		return server.Stop
	case stored < files:
		log.Warn("the connections end: systemd has not stored what is kept of them", "stored", stored, "files", files,
			"remedy", "raise FileDescriptorStoreMax=")
		return server.Restart
	default:
		return server.HandOver
	}
}
