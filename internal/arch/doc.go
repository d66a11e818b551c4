// Package arch holds the arrows between the packages, and the name of errors in the log; it is a test and nothing else.
package arch
