package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLoadSaysWhichFileWhatAndWhatToDo(t *testing.T) {
	id, stranger := issue(t, "pi"), issue(t, "stranger")
	_, otherKind, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certBlock, _ := pem.Decode(id.cert)
	keyBlock, _ := pem.Decode(id.key)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const derKey = `KEY_FILE="KEY": holds a DER key: make a PEM file of it (openssl pkey -inform DER -in FILE -out NEWFILE)`
	damaged := encode("CERTIFICATE", certBlock.Bytes[:100])
	encrypted := encode("ENCRYPTED PRIVATE KEY", []byte("opaque"))
	oldEncrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("opaque"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}})

	absent := func(t *testing.T, path string) {}
	file := func(data []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { put(t, path, data) }
	}
	folder := func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(t *testing.T, path string) {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name      string
		cert, key func(*testing.T, string)
		want      string // CERT and KEY stand in for the paths
	}{
		{"no certificate file", absent, file(id.key),
			`CERT_FILE="CERT": no such file or directory: correct the path or put the file there`},
		{"no key file", file(id.cert), absent,
			`KEY_FILE="KEY": no such file or directory: correct the path or put the file there`},
		{"folder", folder, file(id.key),
			`CERT_FILE="CERT": not a regular file: give the path of a PEM file`},
		{"pipe", file(id.cert), fifo,
			`KEY_FILE="KEY": not a regular file: give the path of a PEM file`},
		{"huge", file(id.cert), file(make([]byte, maxFileBytes+1)),
			`KEY_FILE="KEY": 1048577 bytes are too many: give the path of a PEM file`},
		{"empty", file(nil), file(id.key),
			`CERT_FILE="CERT": holds no PEM certificate: give the path of a file with a line that begins with -----BEGIN`},
		{"empty key", file(id.cert), file(nil),
			`KEY_FILE="KEY": holds no PEM key: give the path of a file with a line that begins with -----BEGIN`},
		{"UTF-16", file([]byte("\xff\xfe-\x00")), file(id.key),
			`CERT_FILE="CERT": the file is UTF-16: save it as UTF-8`},
		{"UTF-16 key", file(id.cert), file([]byte("\xfe\xff\x00-")),
			`KEY_FILE="KEY": the file is UTF-16: save it as UTF-8`},
		{"UTF-16 without a mark", file([]byte("-\x00-\x00")), file(id.key),
			`CERT_FILE="CERT": the file is UTF-16: save it as UTF-8`},
		{"UTF-16 key without a mark", file(id.cert), file([]byte("\x00-\x00-")),
			`KEY_FILE="KEY": the file is UTF-16: save it as UTF-8`},
		{"DER", file(certBlock.Bytes), file(id.key),
			`CERT_FILE="CERT": holds a DER certificate: make a PEM file of it (openssl x509 -inform DER -in FILE -out NEWFILE)`},
		{"DER key", file(id.cert), file(keyBlock.Bytes), derKey},
		{"DER key of an older form", file(id.cert), file(sec1), derKey},
		{"DER key of RSA's own form", file(id.cert), file(x509.MarshalPKCS1PrivateKey(rsaKey)), derKey},
		{"something else in DER", file(keyBlock.Bytes), file(id.key),
			`CERT_FILE="CERT": holds no PEM certificate: give the path of a file with a line that begins with -----BEGIN`},
		{"exchanged", file(id.key), file(id.cert),
			`CERT_FILE="CERT": holds a key and no certificate: exchange the two paths`},
		{"certificate twice", file(id.cert), file(id.cert),
			`KEY_FILE="KEY": holds a certificate and no key: exchange the two paths`},
		{"damaged certificate", file(damaged), file(id.key),
			`CERT_FILE="CERT": its first certificate is damaged (x509: malformed certificate): copy it here again`},
		{"encrypted key", file(id.cert), file(encrypted),
			`KEY_FILE="KEY": the key is encrypted: store it without a passphrase (openssl pkey -in FILE -out NEWFILE)`},
		{"key encrypted the old way", file(id.cert), file(oldEncrypted),
			`KEY_FILE="KEY": the key is encrypted: store it without a passphrase (openssl pkey -in FILE -out NEWFILE)`},
		{"another's key", file(id.cert), file(stranger.key),
			`KEY_FILE="KEY" does not fit CERT_FILE="CERT" (tls: private key does not match public key): use the key this certificate was made with, and put the server's own certificate first`},
		{"key of another kind", file(id.cert), file(encodeKey(t, otherKind)),
			`KEY_FILE="KEY" does not fit CERT_FILE="CERT" (tls: private key type does not match public key type): use the key this certificate was made with, and put the server's own certificate first`},
		{"chain in the wrong order", file(append(bytes.Clone(stranger.cert), id.cert...)), file(id.key),
			`KEY_FILE="KEY" does not fit CERT_FILE="CERT" (tls: private key does not match public key): use the key this certificate was made with, and put the server's own certificate first`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
			tt.cert(t, cert)
			tt.key(t, key)
			_, err := Load(cert, key, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatalf("loaded, want the error %s", tt.want)
			}
			got := strings.NewReplacer(cert, "CERT", key, "KEY").Replace(err.Error())
			if got != tt.want {
				t.Errorf("\ngot  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Some tools write the key, the certificate and its chain into one file.
func TestOneFileMayHoldBoth(t *testing.T) {
	id := issue(t, "pi")
	path := filepath.Join(t.TempDir(), "all.pem")
	put(t, path, append(bytes.Clone(id.key), id.cert...))
	if _, err := Load(path, path, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

func TestByteOrderMarkIsSkipped(t *testing.T) {
	id := issue(t, "pi")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	put(t, cert, append([]byte("\ufeff"), id.cert...))
	put(t, key, append([]byte("\ufeff"), id.key...))
	if _, err := Load(cert, key, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// Permissions do not apply to root, so the system's error is made here.
func TestUnreadableFileSaysWhoMustReadIt(t *testing.T) {
	err := advise(&fs.PathError{Op: "open", Path: "a\nb", Err: syscall.EACCES})
	const want = "permission denied: let the user that runs this server read it, and enter its folders"
	if err.Error() != want {
		t.Errorf("got %s, want %s", err, want)
	}
	if !errors.Is(err, fs.ErrPermission) {
		t.Error("the cause is lost")
	}
}
