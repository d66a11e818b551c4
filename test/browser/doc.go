// Package browser is tests only: the dashboard in a real browser and the browser client, against the real daemon.
package browser
