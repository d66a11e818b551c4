// Package certified makes certificates for tests of TLS, and clients that trust one.
package certified

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// Server returns a server's configuration with a certificate for localhost and 127.0.0.1, the same each time: to be
// cloned before it is changed. Its key is of ECDSA: with one of RSA, such as net/http/httptest has, a handshake takes
// ten times as long.
func Server() *tls.Config { return once().server }

// Client returns the configuration of a client that trusts the certificate and no other. It is the caller's.
func Client() *tls.Config { return once().client.Clone() }

// Hello returns what a client says first, the record of RFC 8446 §4.1.2: another one each time.
func Hello() string {
	ours, theirs := net.Pipe()
	go func() {
		tls.Client(ours, Client()).Handshake()
		ours.Close()
	}()
	defer theirs.Close()
	record := make([]byte, 16<<10)
	n, err := theirs.Read(record)
	if err != nil {
		panic(err)
	}
	return string(record[:n])
}

type ends struct{ server, client *tls.Config }

var once = sync.OnceValue(func() ends {
	cert := New("localhost", "127.0.0.1")
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		panic(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(leaf)
	return ends{&tls.Config{Certificates: []tls.Certificate{cert}},
		&tls.Config{RootCAs: trusted, ServerName: "localhost"}}
})

// New makes a certificate that is signed by its own key, of ECDSA, for names and addresses. It is valid for a day.
func New(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return By(key, names...)
}

// By is New with that key. It panics where the key can sign nothing.
func By(key crypto.Signer, names ...string) tls.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(fmt.Errorf("make a certificate: %w", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Write writes a certificate and its key, as PEM, to two files. Each appears, or is replaced, in one step.
func Write(cert tls.Certificate, certFile, keyFile string) error {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(write(keyFile, "PRIVATE KEY", key), write(certFile, "CERTIFICATE", cert.Certificate[0]))
}

func write(file, kind string, der []byte) error {
	fresh := file + ".new"
	if err := os.WriteFile(fresh, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}
