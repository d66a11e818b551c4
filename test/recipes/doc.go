// Package recipes runs the code of docs/recipes, as it stands there, against the real daemon.
package recipes
