package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"picloud/internal/utf"
)

// maxFileBytes is far above any chain; it keeps a wrong path (a disk image, a log) from being read into memory.
const maxFileBytes = 1 << 20

// certSetting and keySetting name the files as an operator sets them.
const (
	certSetting = "CERT_FILE"
	keySetting  = "KEY_FILE"
)

// read returns the pair in two PEM files, its Leaf set. The error is one line that names the setting, the file, what is
// wrong with it and what to do.
func read(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := contents(certFile)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: %w", certSetting, certFile, err)
	}
	keyPEM, err := contents(keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: %w", keySetting, keyFile, err)
	}

	block := find(certPEM, isCertificate)
	if block == nil {
		return nil, fmt.Errorf("%s=%q: %s", certSetting, certFile, missing(certPEM, certificate, key))
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: its first certificate is damaged (%w): copy it here again", certSetting,
			certFile, err)
	}

	block = find(keyPEM, isKey)
	if block == nil {
		return nil, fmt.Errorf("%s=%q: %s", keySetting, keyFile, missing(keyPEM, key, certificate))
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, fmt.Errorf("%s=%q: the key is encrypted: store it without a passphrase (openssl pkey -in FILE -out NEWFILE)",
			keySetting, keyFile)
	}

	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s=%q does not fit %s=%q (%w): use the key this certificate was made with, and put the server's own certificate first",
			keySetting, keyFile, certSetting, certFile, err)
	}
	pair.Leaf = leaf
	return &pair, nil
}

// contents reads a regular file; anything else might block or never end. A byte order mark, where pem looks for the
// first line, is skipped. The error does not name the file.
func contents(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, advise(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file: give the path of a PEM file")
	case info.Size() > maxFileBytes:
		return nil, fmt.Errorf("%d bytes are too many: give the path of a PEM file", info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, advise(err)
	}
	if utf.Is16(data) {
		return nil, errors.New("the file is UTF-16: save it as UTF-8")
	}
	return bytes.TrimPrefix(data, utf.Mark), nil
}

// advise adds the remedy to an error of the file system and drops the path, which the caller quotes.
func advise(err error) error {
	cause := err
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		cause = pathError.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: correct the path or put the file there", cause)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let the user that runs this server read it, and enter its folders", cause)
	}
	return fmt.Errorf("%w: check the path and the disk", cause)
}

// A kind is what a file is to hold.
type kind struct {
	name    string
	isBlock func(*pem.Block) bool
	isDER   func([]byte) bool // whether it is the kind, but not in PEM
	openssl string            // the command that makes PEM of that
}

var (
	certificate = kind{"certificate", isCertificate, isDERCertificate, "x509"}
	key         = kind{"key", isKey, isDERKey, "pkey"}
)

// missing says that a file holds no block of the wanted kind, and what to do.
func missing(data []byte, wanted, other kind) string {
	switch {
	case find(data, other.isBlock) != nil:
		return fmt.Sprintf("holds a %s and no %s: exchange the two paths", other.name, wanted.name)
	case wanted.isDER(data):
		return fmt.Sprintf("holds a DER %s: make a PEM file of it (openssl %s -inform DER -in FILE -out NEWFILE)",
			wanted.name, wanted.openssl)
	}
	return fmt.Sprintf("holds no PEM %s: give the path of a file with a line that begins with -----BEGIN", wanted.name)
}

func find(data []byte, is func(*pem.Block) bool) *pem.Block {
	for {
		block, rest := pem.Decode(data)
		if block == nil || is(block) {
			return block
		}
		data = rest
	}
}

func isCertificate(b *pem.Block) bool { return b.Type == "CERTIFICATE" }

func isKey(b *pem.Block) bool {
	return b.Type == "PRIVATE KEY" || strings.HasSuffix(b.Type, " PRIVATE KEY")
}

func isDERCertificate(p []byte) bool {
	_, err := x509.ParseCertificate(p)
	return err == nil
}

func isDERKey(p []byte) bool {
	_, err := x509.ParsePKCS8PrivateKey(p)
	if err != nil {
		_, err = x509.ParseECPrivateKey(p)
	}
	if err != nil {
		_, err = x509.ParsePKCS1PrivateKey(p)
	}
	return err == nil
}
