package main

import (
	"path/filepath"

	"picloud/test/certified"
)

// certificate makes a certificate for localhost in a folder, and returns the settings that make the daemon use it and
// the client trust it.
func certificate(dir string) (settings []string, err error) {
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	settings = []string{"USE_TLS=on", "CERT_FILE=" + cert, "KEY_FILE=" + key, "SSL_CERT_FILE=" + cert}
	return settings, certified.Write(certified.New("localhost"), cert, key)
}
