package certified

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// meet makes a handshake and returns the client's error.
func meet(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		defer a.Close()
		tls.Server(a, server).Handshake()
		io.Copy(io.Discard, a)
	}()
	return tls.Client(b, client).Handshake()
}

func TestClientTrustsThisCertificateAndNoOther(t *testing.T) {
	byAddress := Client()
	byAddress.ServerName = "127.0.0.1"
	for _, client := range []*tls.Config{Client(), byAddress} {
		if err := meet(Server(), client); err != nil {
			t.Errorf("%s: %v", client.ServerName, err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if meet(&tls.Config{Certificates: []tls.Certificate{By(key)}}, Client()) == nil {
		t.Error("another certificate is trusted")
	}
}
