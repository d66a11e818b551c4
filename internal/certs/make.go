package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Hosts are the names and addresses that a certificate is for, each once.
type Hosts struct {
	Names     []string // in small letters
	Addresses []netip.Addr
}

// OwnHosts returns those of this machine: its names on the network, the addresses of its interfaces but for link-local
// ones, which are no use without a zone, and those that it has for itself.
func OwnHosts() (Hosts, error) {
	var h Hosts
	if name, err := os.Hostname(); err == nil && h.Add(name) == nil { // a kernel without a name says (none)
		short, _, _ := strings.Cut(name, ".")
		if short != "localhost" && len(h.Addresses) == 0 {
			h.Add(short)
			h.Add(short + ".local") // multicast DNS
		}
	}
	h.Add("localhost")
	list, err := net.InterfaceAddrs()
	if err != nil {
		return Hosts{}, fmt.Errorf("find this machine's addresses: %w", err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			h.Add(n.IP.String())
		}
	}
	h.Add("127.0.0.1")
	h.Add("::1")
	return h, nil
}

// hostName is a name as DNS and certificates have it; the first label may be a *.
var hostName = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// Add adds a name or an address.
func (h *Hosts) Add(word string) error {
	if a, err := netip.ParseAddr(word); err == nil {
		switch {
		case a.Zone() != "":
			return fmt.Errorf("%q: an address in a certificate has no zone", word)
		case a.IsUnspecified():
			return fmt.Errorf("%q: is no machine's address", word)
		case !slices.Contains(h.Addresses, a.Unmap()):
			h.Addresses = append(h.Addresses, a.Unmap())
		}
		return nil
	}
	name := strings.TrimSuffix(strings.ToLower(word), ".")
	last := name[strings.LastIndex(name, ".")+1:]
	if len(name) > 253 || !hostName.MatchString(name) || strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("%q: must be a host's name, such as raspberrypi.local, or its address, such as 192.168.1.5",
			word)
	}
	if !slices.Contains(h.Names, name) {
		h.Names = append(h.Names, name)
	}
	return nil
}

// goodFor is how long a new certificate is valid: what iOS and macOS accept at most of one that a user has told them to
// trust.
const goodFor = 825 * 24 * time.Hour

// notBefore is when every new certificate becomes valid. A Pi has no clock of its own: until it has the time from the
// network, that of the server that makes a certificate, or of a client that checks it, can be years behind; but systemd
// does not let it be before its own release, which is later than this. Apple's bound on what lies between NotBefore and
// NotAfter is for a NotBefore after July 1, 2019 only (support.apple.com/103769).
var notBefore = time.Date(2019, time.January, 1, 0, 0, 0, 0, time.UTC)

// A Made is a new certificate with its key.
type Made struct {
	Cert, Key []byte // PEM
	Leaf      *x509.Certificate
}

// Make makes a key, and a certificate for hosts that it signs itself. The certificate is to be trusted as it is, and
// vouches for no other: whoever gets hold of the key can pass for this server only.
func Make(hosts Hosts, now time.Time) (*Made, error) {
	if now.Before(notBefore) {
		return nil, fmt.Errorf("this machine's clock says %s: set it, or wait until it has the time from the network",
			now.UTC().Format(time.DateOnly))
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	// Two certificates with the same names may be in one file of trusted ones: the identifier tells them apart
	// (RFC 7093 §2).
	id := sha256.Sum256(public)
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"PiCloud"}, CommonName: commonName(hosts)},
		NotBefore:             notBefore,
		NotAfter:              now.Add(goodFor),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:20],
		AuthorityKeyId:        id[:20],
		DNSNames:              hosts.Names,
	}
	for _, a := range hosts.Addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Made{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		Leaf: leaf,
	}, nil
}

// commonName is for people, who see it in lists: clients go by the other names. It has 64 characters at most (RFC 5280,
// appendix A.1).
func commonName(hosts Hosts) string {
	for _, name := range hosts.Names {
		if len(name) <= 64 {
			return name
		}
	}
	return "picloud"
}
