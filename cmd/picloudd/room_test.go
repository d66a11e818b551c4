package main

import (
	"strconv"
	"strings"
	"testing"

	"picloud/internal/config"
	"picloud/internal/handover"
	"picloud/internal/server"
	"picloud/internal/wsconn"
)

// The store has room for whatever the settings allow, and the unit's limit of open files suffices for the default.
func TestSettingsAndStoreFitTogether(t *testing.T) {
	const unitFiles = 32768 // LimitNOFILE= of picloud.service
	for _, s := range config.Settings() {
		if s.Name != "MAX_CONNECTIONS" {
			continue
		}
		_, text, _ := strings.Cut(s.Allowed, " to ")
		most, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if most > server.MaxConnections {
			t.Errorf("MAX_CONNECTIONS can be %d, and a store has room for %d", most, server.MaxConnections)
		}
		for _, n := range []int{1, most} {
			if bytes := server.StoreBytes(wsconn.Limits{Connections: n}, requests(1<<20)); bytes > handover.MaxJournal {
				t.Errorf("for %d connections a store of %d bytes is needed, and there can be %d", n, bytes,
					handover.MaxJournal)
			}
		}
		preset, err := strconv.Atoi(s.Default)
		if err != nil {
			t.Fatal(err)
		}
		if need, room := preset+requests(unitFiles), handover.Room(unitFiles); need > room {
			t.Errorf("the unit's files have room to keep %d connections, and the defaults allow %d", room, need)
		}
		return
	}
	t.Error("there is no MAX_CONNECTIONS")
}
