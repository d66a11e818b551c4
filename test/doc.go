// Package test runs clients that others wrote against the real daemon.
package test
