// Package recipes runs the code of the documents, as it stands there, against the real daemon.
package recipes
