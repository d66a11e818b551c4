// Package arch holds the arrows between the packages; it is a test and nothing else.
package arch
