package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"picloud/internal/certs"
)

// makeCert writes a new key and a certificate for this machine and for others by the names that are given, into files
// that do not exist yet, and tells a person what to do with them. On an error it leaves no file behind.
//
// Only its owner may read the key. What root makes where the service is installed, the service's group may read too, as
// it may the key for clients: the service needs it, and must not be able to change it.
func makeCert(daemon string, others []string, getenv func(string) string, stdout io.Writer) (err error) {
	hosts, err := certs.OwnHosts()
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	for _, word := range others {
		if err := hosts.Add(word); err != nil {
			return fmt.Errorf("make certificate: %w", err)
		}
	}
	pair, err := certs.Make(hosts, time.Now())
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	keyFile := fromAnywhere(cmp.Or(getenv("KEY_FILE"), "key.pem"))
	certFile := fromAnywhere(cmp.Or(getenv("CERT_FILE"), "cert.pem"))
	if keyFile == certFile {
		return fmt.Errorf("make certificate: KEY_FILE and CERT_FILE are both %s: they must be two files", keyFile)
	}
	for _, file := range []string{keyFile, certFile} { // before the other one is made
		if _, err := os.Lstat(file); err == nil {
			return existsAlready(file)
		}
	}
	gid, isInstalled := serviceGroup()
	isForService := isInstalled && os.Geteuid() == 0
	if err := create(keyFile, pair.Key, func(f *os.File) error {
		if isForService {
			return share(f, gid)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := create(certFile, pair.Cert, func(f *os.File) error { return f.Chmod(0o644) }); err != nil {
		return errors.Join(err, os.Remove(keyFile))
	}
	return tellOfCert(stdout, made{daemon: daemon, keyFile: keyFile, certFile: certFile, leaf: pair.Leaf,
		isForService: isForService && !isHidden(certFile) && !isHidden(keyFile), bySudo: getenv("SUDO_USER") != ""})
}

func existsAlready(file string) error {
	return fmt.Errorf("make certificate: %s is there already and stays as it is: move it away, or set KEY_FILE and CERT_FILE to other paths", file)
}

// create writes a file that does not exist yet, and is for its owner only unless admit says otherwise. On an error
// there is none.
func create(path string, text []byte, admit func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return existsAlready(path)
	}
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = admit(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("make certificate: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// isHidden reports whether the service's sandbox hides a file: systemd/picloud.service.
func isHidden(path string) bool {
	for _, folder := range []string{"/home/", "/root/", "/run/user/", "/boot/", "/tmp/", "/var/tmp/"} {
		if strings.HasPrefix(path, folder) {
			return true
		}
	}
	return false
}

// made is what makeCert has made.
type made struct {
	daemon            string // as it was called
	keyFile, certFile string
	leaf              *x509.Certificate
	isForService      bool
	bySudo            bool // another user than who is told may read the key
}

// tellOfCert says what was made, and what to do with it.
func tellOfCert(w io.Writer, m made) error {
	var addresses []string
	for _, ip := range m.leaf.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	sum := sha256.Sum256(m.leaf.Raw)
	fmt.Fprintf(w, `Made a key and a certificate:

  key          %s
  certificate  %s
  names        %s
  addresses    %s
  valid until  %s
  SHA-256      %s

`, m.keyFile, m.certFile, strings.Join(m.leaf.DNSNames, ", "), strings.Join(addresses, ", "),
		m.leaf.NotAfter.Format(time.DateOnly), strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"))
	if m.isForService {
		fmt.Fprintf(w, `To have the service use them:

  printf '%%s\n' USE_TLS=on %s %s | sudo tee -a /etc/default/picloud
  sudo systemctl restart picloud
`, quote("KEY_FILE="+m.keyFile), quote("CERT_FILE="+m.certFile))
	} else {
		sudo := ""
		if m.bySudo {
			sudo = "sudo "
		}
		fmt.Fprintf(w, `To serve with them:

  %sUSE_TLS=on KEY_FILE=%s CERT_FILE=%s %s
`, sudo, quote(m.keyFile), quote(m.certFile), quote(m.daemon))
	}
	_, err := fmt.Fprintf(w, `
Clients have to trust the certificate. Copy its file to them, and not the key: curl takes it with
--cacert FILE, picloud with --ca FILE or in PICLOUD_CA.
`)
	return err
}

// fromAnywhere makes a path good in every folder, if that can be done.
func fromAnywhere(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}

// plainWord is what a shell takes as it stands.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote makes text one word of a shell's line.
func quote(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
