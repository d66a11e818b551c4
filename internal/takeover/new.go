package takeover

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
)

// A Claim is the old process, to the new one. Its methods are called one after the other, and block until the old
// process has answered or is gone.
type Claim struct{ conn *net.UnixConn }

// Ask asks the process that listens at path for its work, and decodes its terms.
func Ask(path string, value any) (*Claim, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("ask for the work: %w", err)
	}
	m, _, err := expect(c, terms)
	if err == nil {
		err = json.Unmarshal(m.Terms, value)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("ask for the work: %w", err)
	}
	return &Claim{c}, nil
}

// Ready says that this process can do the work. Files follows.
func (c *Claim) Ready() error {
	if err := say(c.conn, message{Kind: ready}); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}

// Files returns the work's files.
func (c *Claim) Files() ([]*os.File, error) {
	_, with, err := expect(c.conn, files)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	return with, nil
}

// Restart says that only a restart will do, and why. It takes the place of Ready, and ends the conversation.
func (c *Claim) Restart(why string) error {
	defer c.conn.Close()
	return say(c.conn, message{Kind: restart, Why: why})
}

// Begin says that the work is this process's own from now on. After an error it is not.
func (c *Claim) Begin() error {
	if err := say(c.conn, message{Kind: begins}); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}

// Alone returns when nobody else has anything to do with the work, or an error if the old process has ended without a
// word. It ends the conversation.
func (c *Claim) Alone() error {
	defer c.conn.Close()
	if _, _, err := expect(c.conn, leaves); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}
