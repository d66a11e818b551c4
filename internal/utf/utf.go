// Package utf tells how a text was saved that should be UTF-8.
package utf

// Mark is UTF-8's byte order mark, which editors and shells of Windows put in front of a text.
var Mark = []byte("\ufeff")

// Is16 reports whether p begins with a byte order mark of UTF-16, or, without one, with a character of ASCII.
func Is16(p []byte) bool {
	return len(p) >= 2 && ((p[0] == 0) != (p[1] == 0) || p[0] == 0xff && p[1] == 0xfe || p[0] == 0xfe && p[1] == 0xff)
}
