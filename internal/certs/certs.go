// Package certs makes a TLS certificate with its key, and holds one and follows its files as they change.
package certs

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is how often, at most, a handshake checks the files.
const checkEvery = time.Second

// A Pair is a certificate with its key. It is safe for concurrent use, owns no goroutine and need not be closed.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	current atomic.Pointer[tls.Certificate] // never nil, nor is its Leaf

	// checking is held while the files are checked, and guards the fields below. A handshake that does not get it at
	// once goes on without it.
	checking sync.Mutex
	checked  time.Time // when the files were last checked
	cert     stamp
	key      stamp
	failure  string // why the present files cannot be used, as logged; empty: they are in use
}

// Load reads the pair. Its error names the file, what is wrong with it and what to do. A certificate that is expired,
// or not valid yet, is only logged: this machine's clock may be the one that is wrong.
func Load(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	if err := p.load(); err != nil {
		return nil, err
	}
	return p, nil
}

// Config returns what a listener needs: TLS 1.2 or later, HTTP/1.1 only (WebSocket has no use for h2), and at each
// handshake the pair as it is in its files. Trap: http.Server.ServeTLS adds h2 again unless its Protocols are HTTP/1
// only.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: p.GetCertificate,
	}
}

// GetCertificate returns the certificate for a handshake, and never an error. When a second has passed since the files
// were last checked, it checks them first; other handshakes meanwhile get the pair that is in use and do not wait.
// Files that cannot be used leave the old pair in use and are logged once for each change.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p.checking.TryLock() {
		p.follow()
		p.checking.Unlock()
	}
	return p.current.Load(), nil
}

// Describe says in one printable line what the certificate is.
func (p *Pair) Describe() string {
	leaf := p.current.Load().Leaf
	var names []string
	for _, name := range leaf.DNSNames {
		names = append(names, strconv.Quote(name))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if names == nil {
		names = []string{"no name"}
	}
	return fmt.Sprintf("certificate for %s (subject %q), valid until %s",
		strings.Join(names, ", "), leaf.Subject, leaf.NotAfter.UTC().Format(time.RFC3339))
}

// IsSelfSigned reports whether the certificate has signed itself: a client then has to be given its file to trust it.
func (p *Pair) IsSelfSigned() bool {
	leaf := p.current.Load().Leaf
	// Not CheckSignatureFrom, which wants an authority's certificate.
	return bytes.Equal(leaf.RawIssuer, leaf.RawSubject) &&
		leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
}

// Host returns the first of hosts that the certificate is for. If it is for none of them, that is a name or an address
// in it that other machines can use, or "". In place of a * it puts label. It has no sign that means something to a
// shell, unless one of hosts has.
func (p *Pair) Host(label string, hosts ...string) string {
	leaf := p.current.Load().Leaf
	for _, host := range hosts {
		if host != "" && leaf.VerifyHostname(host) == nil {
			return host
		}
	}
	wild := ""
	for _, name := range leaf.DNSNames {
		parent, isWild := strings.CutPrefix(strings.ToLower(name), "*")
		switch {
		case isWild && wild == "" && hostName.MatchString(strings.ToLower(label+parent)):
			wild = label + parent
		case !isWild && name != "localhost" && hostName.MatchString(parent):
			return name
		}
	}
	for _, ip := range leaf.IPAddresses {
		if !ip.IsLoopback() {
			return ip.String()
		}
	}
	return wild
}

// Reload reads the files now. Its error is like Load's; the old pair then stays in use.
func (p *Pair) Reload() error {
	p.checking.Lock()
	defer p.checking.Unlock()
	p.checked = p.now()
	err := p.load()
	p.failure = ""
	if err != nil {
		p.failure = err.Error() // the caller is told; it need not be logged
	}
	return err
}

// follow puts the files into use if they have changed. checking must be held.
func (p *Pair) follow() {
	now := p.now()
	if now.Sub(p.checked) < checkEvery {
		return
	}
	p.checked = now
	changed := !p.cert.matches(p.certFile) || !p.key.matches(p.keyFile)
	// Files that could not be used are tried at each check: a chown, or a change of mode further up the path, fixes
	// them without leaving a trace in a stamp.
	if !changed && p.failure == "" {
		return
	}
	err := p.load()
	if err == nil {
		p.failure = ""
		p.log.Info("new TLS certificate in use", "certificate", p.Describe())
		return
	}
	if changed || err.Error() != p.failure {
		p.log.Error("new TLS files cannot be used, the old certificate stays in use", "error", err)
	}
	p.failure = err.Error()
}

// load reads the files and, if they are good, puts them into use.
func (p *Pair) load() error {
	// Stamps first: a change while the files are read is then seen at the next check.
	p.cert, p.key = stampOf(p.certFile), stampOf(p.keyFile)
	pair, err := read(p.certFile, p.keyFile)
	if err != nil {
		return err
	}
	p.current.Store(pair)
	if now := p.now(); now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
		p.log.Warn("TLS certificate is not valid at this time, clients will refuse it: renew it or set this machine's clock",
			"file", p.certFile, "not_before", pair.Leaf.NotBefore, "not_after", pair.Leaf.NotAfter, "now", now)
	}
	return nil
}

// A stamp tells whether a path still leads to the same file with the same contents. Its info is nil while the path
// leads nowhere.
type stamp struct{ info fs.FileInfo }

func stampOf(path string) stamp {
	info, err := os.Stat(path) // follows links: a link that now points elsewhere counts as another file
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (s stamp) matches(path string) bool {
	then, now := s.info, stampOf(path).info
	if then == nil || now == nil {
		return then == nil && now == nil
	}
	return os.SameFile(then, now) && then.Size() == now.Size() && then.ModTime().Equal(now.ModTime())
}
