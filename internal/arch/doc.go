// Package arch checks the arrows between the packages, that one Go builds them, and the name of errors in the log; it
// is tests only.
package arch
