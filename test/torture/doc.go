// Package torture kills the real daemon at every step of what it does with a connection over TLS, and looks for a
// number that was used twice.
package torture
