// Package certified has a certificate for tests of TLS, and clients that trust it.
package certified

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Server returns a server's configuration with a certificate for localhost and 127.0.0.1, the same each time: to be
// cloned before it is changed. Its key is of ECDSA: with one of RSA, such as net/http/httptest has, a handshake takes
// ten times as long.
func Server() *tls.Config { return once().server }

// Client returns the configuration of a client that trusts the certificate and no other. It is the caller's.
func Client() *tls.Config { return once().client.Clone() }

type ends struct{ server, client *tls.Config }

var once = sync.OnceValue(func() ends {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := By(key)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		panic(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(leaf)
	return ends{&tls.Config{Certificates: []tls.Certificate{cert}},
		&tls.Config{RootCAs: trusted, ServerName: "localhost"}}
})

// By makes such a certificate with another key. It panics where the key can sign none.
func By(key crypto.Signer) tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(fmt.Errorf("make a certificate: %w", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
