# PiCloud's targets, each a line or a script of scripts/. `make help` lists them.

.DEFAULT_GOAL := help

# Go's own archive unpacks to /usr/local/go, and not every shell has that in its PATH.
export PATH := $(PATH):/usr/local/go/bin

# The Go that builds is the Go that is tested: see scripts/toolchain.
export GOTOOLCHAIN := $(shell awk '$$1 == "toolchain" { print $$2 }' go.mod)

.PHONY: help run build test test-code setup lint screenshots bench benchmarks fuzz cross deb apt-repo deploy test-recipes test-package test-systemd test-restart test-long test-memory test-restarts \
	test-deploy test-pi test-clean clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build and start the server; settings come from the environment
	@exec bin/picloudd

build: ## build bin/picloudd and bin/picloud
	@scripts/build bin

test: test-code test-recipes test-package test-systemd test-restart ## test everything but deploy and the emulated Pis (as root)

test-code: setup lint ## test the code, race detector on, linters and ARM binaries included
	CGO_ENABLED=1 go test -race -count=1 -timeout 20m ./...
	go test -run '^$$' -bench . -benchtime 1x ./internal/...
	PORT=0 scripts/test-run
	scripts/fuzz
	scripts/test-cross

setup: ## install what the tests need (as root), or name it
	scripts/setup

lint: setup ## check the code with gofmt, vet, staticcheck, go fix, govulncheck and shellcheck
	scripts/lint

bench: build ## put loads on the built daemon, some minutes long, and see what they cost it
	go run ./test/load

benchmarks: build ## measure all of docs/benchmarks.md anew: HARNESS=folder of the built side-by-side harness
	go run ./test/benchmarks -harness $(HARNESS)

screenshots: setup ## take pictures of the dashboard into dist/screenshots
	go test -count=1 ./test/browser -run 'Screenshots|Smooth' -screenshots=$(CURDIR)/dist/screenshots

fuzz: ## fuzz every target for FUZZTIME, three seconds by default
	scripts/fuzz

cross: ## build for ARMv6, ARMv7, arm64 and amd64 into dist/
	scripts/cross dist

deb: ## build the Debian packages for armhf, arm64 and amd64 into dist/
	scripts/deb dist

apt-repo: deb ## make a signed apt repository of them in dist/apt: SIGN_KEY=… APT_URL=https://…
	scripts/apt-repo dist/apt dist/picloud_*.deb

deploy: ## install on a Raspberry Pi over ssh: DEPLOY_USER=pi DEPLOY_HOST=raspberrypi.local
	@scripts/deploy

test-recipes: setup ## test the recipes with nginx, Caddy and Node-RED
	scripts/test-recipes

test-package: ## test the packages and the apt repository (as root)
	scripts/test-package

test-systemd: ## test the installed service under a real systemd, in a container (as root); ONLY='reloaded watched' runs those scenarios
	scripts/test-systemd

test-restart: ## test that no client notices restarts, upgrades and crashes, in a container (as root)
	scripts/test-restart

test-long: ## every kind of hostile connection, 5120 at a time; 300 publishes right behind a subscribe; 30 lives for each step of a connection over TLS; test-restart with 1000 clients, 100,000 posts, 20 restarts, 100 take-overs, 20 kill -9 and pauses of up to 110 s (as root)
	HOSTILE=all go test -count=1 -timeout 3h -v ./test/hostile
	ARRIVALS=300 go test -count=1 -v -run PublishFinds ./test
	TORTURE=30 go test -count=1 -timeout 3h -v ./test/torture
	CLIENTS=1000 POSTS=100000 RESTARTS=20 TAKEOVERS=100 CRASHES=20 IDLE=110s scripts/test-restart

test-restarts: ## measure for how long a take-over, a restart and a kill -9 let nothing be answered, with 10, 1000 and 8000 clients, plain and over TLS (as root)
	ONLY=silent SILENCE='10 1000 8000' scripts/test-restart

test-memory: ## make the server keep all that it can on an emulated machine with 512 MB free
	scripts/test-memory

test-deploy: ## test deploy with a machine in a container (as root)
	scripts/test-deploy

test-clean: ## make run and make test-code on a bare bookworm and a bare trixie (as root)
	scripts/test-clean

test-pi: build apt-repo ## boot an emulated Pi 3 and Pi Zero, install with apt, publish and subscribe (as root)
	scripts/test-pi

clean: ## remove what was built
	rm -rf bin dist
