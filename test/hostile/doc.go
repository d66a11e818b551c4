// Package hostile is tests only: of the real daemon, whether it serves newcomers beside more hostile connections than
// it has places.
package hostile
