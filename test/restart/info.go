package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// connected returns how many clients of that name the server has.
func (l *load) connected(name string) (int, error) {
	info, err := l.info()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, c := range info {
		if c.Name == name {
			n++
		}
	}
	return n, nil
}

// A connection is an entry of the info.
type connection struct {
	Name string `json:"client_name"`
}

// info returns the connected clients, as the server lists them.
func (l *load) info() ([]connection, error) {
	way := l.tcp
	if way.secure {
		way = l.unix
	}
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	nc, err := way.dial(ctx, 0)
	for err != nil && l.shut && ctx.Err() == nil {
		time.Sleep(l.pause)
		nc, err = way.dial(ctx, 0)
	}
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if _, err := fmt.Fprintf(nc, "GET /info HTTP/1.1\r\nHost: picloud\r\nConnection: close\r\nX-API-Key: %s\r\n\r\n",
		way.key); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var info struct {
		All []connection `json:"all_connections"`
	}
	if err := json.NewDecoder(res.Body).Decode(&info); err != nil {
		return nil, fmt.Errorf("info: %s: %w", res.Status, err)
	}
	return info.All, nil
}

// gone waits until the server no longer lists any client that has left. If it never does, that is a fault.
func (l *load) gone() error {
	for limit := time.Now().Add(4 * patience); ; {
		all, err := l.info()
		if err != nil {
			return err
		}
		left := 0
		for _, c := range all {
			if strings.HasPrefix(c.Name, "leaver") || c.Name == "newcomer" {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(limit) {
			l.tally.count(&l.tally.kept, left, "the server has %d clients that have left", left)
			return nil
		}
		select {
		case <-time.After(l.pause):
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
}
