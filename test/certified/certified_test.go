package certified

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// meet makes a handshake and returns the client's error. (A net.Pipe has no room: who says why it ends may wait for
// ever.)
func meet(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		a, err := l.Accept()
		if err != nil {
			return
		}
		defer a.Close()
		tls.Server(a, server).Handshake()
		io.Copy(io.Discard, a)
	}()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	return tls.Client(b, client).Handshake()
}

func TestClientTrustsThisCertificateAndNoOther(t *testing.T) {
	byAddress := Client()
	byAddress.ServerName = "127.0.0.1"
	for _, client := range []*tls.Config{Client(), byAddress} {
		if err := meet(t, Server(), client); err != nil {
			t.Errorf("%s: %v", client.ServerName, err)
		}
	}
	other := New("localhost", "127.0.0.1")
	if meet(t, &tls.Config{Certificates: []tls.Certificate{other}}, Client()) == nil {
		t.Error("another certificate is trusted")
	}
}
