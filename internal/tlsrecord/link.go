// Package tlsrecord is the server's record layer of TLS 1.3 (RFC 8446 §5) and of the AEAD suites of TLS 1.2 (RFC 5246
// §6) as a small value: crypto/tls makes the handshake, and then a Link opens and seals records in memory that its
// owner lends it, does no input or output, and can be saved between any two bytes.
//
// # No number twice
//
// Two different records that are sealed with the same key and number break AES-GCM (RFC 5116 §5.1.1), and a process
// may be killed between any two instructions. So an owner whose connections outlive it writes in this order:
//
//  1. Note that the writing side is at work.
//  2. Seal. If there is a new key, save it, by AppendOutKey.
//  3. Note Out, which is now beyond the number of every record that has been sealed.
//  4. Send. What the socket does not take is left to the Link, by Owe, and never sealed again.
//  5. Once nothing is owed, note how many bytes the socket has taken.
//
// It reads in this order: note that the reading side is at work; read, and Open; save a new key, by AppendInKey; note
// In; and if AtRest, note how many bytes have been read.
//
// Whoever finds the connection afterwards goes on, by Restore, with the numbers that were noted, if the socket has
// moved as many bytes each way as were noted, and otherwise ends it. Numbers count on when a key changes. If they began
// again, a new key that could not be saved would leave the old key behind with a number that it has had.
package tlsrecord

import (
	"crypto/tls"
	"errors"
)

const (
	// MaxPlaintext is the most that one record holds, RFC 8446 §5.1.
	MaxPlaintext = 1 << 14

	// Overhead is the most that a record is longer than its plaintext.
	Overhead = headerLen + 8 + tagLen

	// BufferBytes is the least that Open needs to have room for every record.
	BufferBytes = headerLen + maxCiphertext12
)

const (
	// A key is changed after so many records, in good time for AES-GCM's limit of 2^24.5 of full size (RFC 8446 §5.5);
	// TLS 1.2 has no way to change it, and the connection ends.
	maxRecords13 = 1 << 24
	maxRecords12 = 1 << 25

	// maxUseless is how many records in a row may bring nothing, as in crypto/tls.
	maxUseless = 16

	// Handshake messages, RFC 8446 §4: a type, a length of three bytes, and a body, of KeyUpdate one byte (§4.6.3).
	clientHello  = 1
	keyUpdate    = 24
	keyUpdateLen = 5
)

var (
	// ErrEnded is returned for a direction in which nothing can follow any more.
	ErrEnded = errors.New("TLS: this direction has ended")

	// ErrOwes is returned by Seal while earlier records wait to be sent.
	ErrOwes = errors.New("TLS: earlier records are still to be sent")

	// ErrWorn is returned when a key may not be used any longer and cannot be changed. The connection is to be closed.
	ErrWorn = errors.New("TLS: too many records under one key")
)

// A Link is the server's end of one TLS connection after its handshake. The methods of its reading side (Resume, Open,
// Held, AtRest, In, AppendInKey, DropInCipher) may be called by one goroutine at a time, and so may those of its
// writing side (Seal, Close, Owe, Owed, Sent, Out, AppendOutKey, DropOutCipher), at the same time. Save and Wipe need
// both sides, and Version neither.
type Link struct {
	suite   *suite
	in, out half

	held []byte // what has come of an unfinished record
	owed []byte // what has been sealed and not been sent

	message  [keyUpdateLen - 1]byte // what has come of an unfinished KeyUpdate, whose first byte is not 0
	messages uint8                  // how many bytes of it
	useless  uint8                  // records in a row that have brought nothing
	ended    bool                   // nothing is opened any more
	closed   bool                   // nothing is sealed any more
}

// Version returns the version of TLS that is spoken, such as tls.VersionTLS13. It never changes.
func (l *Link) Version() uint16 {
	if l.suite.tls13 {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// In returns the number of the next record to be opened, counted over all changes of the key.
func (l *Link) In() uint64 { return l.in.number }

// Out returns the number of the next record to be sealed, counted over all changes of the key.
func (l *Link) Out() uint64 { return l.out.number }

// Held returns how many bytes are held of an unfinished record: less than BufferBytes.
func (l *Link) Held() int { return len(l.held) }

// AtRest reports whether all that has been read has been opened. The end of the stream is an end only then: elsewhere
// it is io.ErrUnexpectedEOF. (Without close_notify nobody knows whether the peer meant it, and many do not send it.)
func (l *Link) AtRest() bool { return len(l.held) == 0 && l.messages == 0 }

// DropInCipher gives up what Open makes again when it is next needed: with AES-GCM most of a Link's memory. It is for
// connections that are not in use.
func (l *Link) DropInCipher() { l.in.dropCipher(l.suite) }

// DropOutCipher is DropInCipher for Seal.
func (l *Link) DropOutCipher() { l.out.dropCipher(l.suite) }

// Wipe clears the Link's secrets, and ends it. What the standard library's ciphers keep of a key is left to the garbage
// collector.
func (l *Link) Wipe() {
	l.in.wipe()
	l.out.wipe()
	l.held, l.owed = nil, nil
	l.ended, l.closed = true, true
}
