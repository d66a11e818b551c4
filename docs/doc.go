// Package docs holds PiCloud's documents, and the tests that hold them and the code together.
package docs
