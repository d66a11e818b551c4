// Package browser is tests only: of the dashboard in a real browser and of the browser client, against the real daemon.
package browser
