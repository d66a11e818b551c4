package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"picloud/internal/config"
	"picloud/internal/dashboard"
	"picloud/internal/handover"
	"picloud/internal/hub"
	"picloud/internal/server"
	"picloud/internal/wire"
	"picloud/internal/wsconn"
)

const root = ".."

func TestActionsAreThoseOfTheCode(t *testing.T) {
	d := readDocument(t)
	var actions []string
	for _, a := range wire.Actions() {
		actions = append(actions, a.String())
	}
	same(t, "asyncapi.json: actions of clients", d.actions(d.said()...), actions)

	var answers []string
	for _, text := range [][]byte{
		wire.AppendDelivery(nil, []byte("e"), nil, time.Now(), []byte(`"n"`)),
		wire.AppendAck(nil, []byte("1")),
		wire.AppendError(nil, "reason", nil, nil),
	} {
		var m wire.Delivery
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		answers = append(answers, m.Action)
	}
	same(t, "asyncapi.json: actions of the server", d.actions("delivery", "ack", "error"), answers)

	contains(t, "protocol.md", spans(section(t, read(t, "docs/protocol.md"), "## Messages")),
		slices.Concat(actions, answers))
}

func TestFieldsAreThoseOfTheCode(t *testing.T) {
	d := readDocument(t)
	protocol := read(t, "docs/protocol.md")

	var message []string // wire.Message has no tags: it is never encoded
	for field := range fieldsOf(reflect.TypeFor[wire.Message]()) {
		message = append(message, strings.ToLower(field))
	}
	delivery := slices.Collect(maps.Keys(fieldsOf(reflect.TypeFor[wire.Delivery]())))
	same(t, "asyncapi.json: fields of clients", d.fields(d.said()...), message)
	same(t, "asyncapi.json: fields of the server", d.fields("delivery", "ack", "error"), delivery)
	same(t, "asyncapi.json: fields of an HTTP error", d.fields("httpError"), []string{"error"})
	same(t, "protocol.md: fields of messages", firstSpans(rows(section(t, protocol, "## Messages"))),
		slices.Concat(message, delivery))

	var all []string
	for name, of := range map[string]reflect.Type{
		"info":         reflect.TypeFor[wire.Info](),
		"subscription": reflect.TypeFor[wire.Subscription](),
		"connection":   reflect.TypeFor[wire.Connection](),
		"serverInfo":   reflect.TypeFor[wire.ServerInfo](),

		"slowClient":        reflect.TypeFor[wire.SlowClient](),
		"eventTraffic":      reflect.TypeFor[wire.EventTraffic](),
		"lastMessage":       reflect.TypeFor[wire.LastMessage](),
		"connectionTraffic": reflect.TypeFor[wire.ConnectionTraffic](),
	} {
		fields := fieldsOf(of)
		names := slices.Sorted(maps.Keys(fields))
		all = append(all, names...)
		same(t, "asyncapi.json: fields of "+name, d.fields(name), names)
		same(t, "asyncapi.json: required fields of "+name, d.Components.Schemas[name].Required, names)
		for field, goType := range fields {
			property := d.resolve(d.Components.Schemas[name].Properties[field])
			got := property.Type
			if len(property.OneOf) == 2 && property.OneOf[1].Type == "null" {
				got = d.resolve(property.OneOf[0]).Type + " or null"
			}
			if want := jsonType(goType); got != want {
				t.Errorf("asyncapi.json: %s.%s is of type %q, want %q", name, field, got, want)
			}
		}
	}
	same(t, "protocol.md: fields of the info", firstSpans(rows(section(t, protocol, "## Info"))), all)

	// Any other schema with properties would not be checked against anything.
	var objects []string
	for name, s := range d.Components.Schemas {
		if len(s.Properties) > 0 {
			objects = append(objects, name)
		}
	}
	same(t, "asyncapi.json: object schemas", objects, append(d.said(),
		"delivery", "ack", "error", "httpError", "info", "subscription", "connection", "serverInfo",
		"slowClient", "eventTraffic", "lastMessage", "connectionTraffic"))
}

func TestLengthsAreThoseOfTheCode(t *testing.T) {
	d := readDocument(t)
	for name, want := range map[string]int{"event": wire.MaxEventBytes, "clientName": wire.MaxNameChars} {
		if got := d.Components.Schemas[name].MaxLength; got != want {
			t.Errorf("asyncapi.json: %s: maxLength is %d, want %d", name, got, want)
		}
	}
	if got := d.Components.Schemas["id"].OneOf[0].MaxLength; got != wire.MaxIDBytes {
		t.Errorf("asyncapi.json: id: maxLength is %d, want %d", got, wire.MaxIDBytes)
	}
	if text := section(t, read(t, "docs/protocol.md"), "## Info"); !strings.Contains(text,
		fmt.Sprintf("the first %d bytes of its data", hub.PreviewBytes)) {
		t.Errorf("protocol.md: Info does not say that a preview has %d bytes", hub.PreviewBytes)
	}
	for name, want := range map[string]int{"info.subscriptions": server.InfoEvents,
		"subscription.connections": server.InfoSubscribers} {
		schema, property, _ := strings.Cut(name, ".")
		if got := d.Components.Schemas[schema].Properties[property].MaxItems; got != want {
			t.Errorf("asyncapi.json: %s: maxItems is %d, want %d", name, got, want)
		}
	}
	if text := section(t, read(t, "docs/protocol.md"), "## Info"); !strings.Contains(text,
		fmt.Sprintf("at most %d MiB long, and lists at most %d events and, of each, %d connections",
			server.InfoBytes>>20, server.InfoEvents, server.InfoSubscribers)) {
		t.Error("protocol.md: Info does not say how much it lists")
	}
	limits := section(t, read(t, "docs/protocol.md"), "## Limits")
	for _, want := range []string{
		fmt.Sprintf("for %d bytes and the length", constant(t, "internal/hub", "subscriptionBytes")),
		fmt.Sprintf("an event for %d bytes and", constant(t, "internal/hub", "eventBytes")),
		fmt.Sprintf("a [snapshot of the info](#info) of %d MiB", server.InfoBytes>>20),
		fmt.Sprintf("an event of %d bytes", wire.MaxEventBytes),
		fmt.Sprintf("a client name of %d characters", wire.MaxNameChars),
		fmt.Sprintf("an `id` of %d bytes", wire.MaxIDBytes),
	} {
		if !strings.Contains(limits, want) {
			t.Errorf("protocol.md: Limits does not say %q", want)
		}
	}
}

func TestExamplesAreWhatTheCodeReadsAndWrites(t *testing.T) {
	d := readDocument(t)
	for name, m := range d.Components.Messages {
		if m.Payload.Ref != "" && len(m.Examples) == 0 {
			t.Errorf("asyncapi.json: message %s has no example", name)
		}
		for _, example := range m.Examples {
			if err := readable(name, example.Payload); err != nil {
				t.Errorf("asyncapi.json: message %s: %s: %v", name, example.Payload, err)
			}
		}
	}

	protocol := read(t, "docs/protocol.md")
	for heading, name := range map[string]string{
		"### What a client sends":    "publish",
		"### What a subscriber gets": "delivery",
		"### Acks and errors":        "ack",
		"## Info":                    "info",
	} {
		n := 0
		for _, block := range blocks(section(t, protocol, heading), "json") {
			for dec := json.NewDecoder(strings.NewReader(block)); ; n++ {
				var example json.RawMessage
				err := dec.Decode(&example)
				if errors.Is(err, io.EOF) {
					break
				}
				if err == nil {
					err = readable(name, example)
				}
				if err != nil {
					t.Fatalf("protocol.md: %q: %s: %v", heading, example, err)
				}
			}
		}
		if n == 0 {
			t.Errorf("protocol.md: %q has no example", heading)
		}
	}
}

// readable returns an error unless the receiver of a message of that name can read example.
func readable(name string, example []byte) error {
	strictly := func(v any) error {
		dec := json.NewDecoder(bytes.NewReader(example))
		dec.DisallowUnknownFields()
		return dec.Decode(v)
	}
	switch name {
	case "delivery", "ack", "error", "httpError":
		return strictly(new(wire.Delivery))
	case "info":
		return strictly(new(wire.Info))
	}
	_, err := wire.Decode(example)
	return err
}

func TestCloseCodesAreThoseOfTheCode(t *testing.T) {
	var want []string
	for _, file := range parse(t, "internal/wire") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Close") {
				return true
			}
			code, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				t.Fatalf("internal/wire: %s is no plain number", spec.Names[0])
			}
			want = append(want, code.Value)
			return true
		})
	}
	if len(want) == 0 {
		t.Fatal("internal/wire has no close codes")
	}
	d := readDocument(t)
	same(t, "asyncapi.json: close codes", slices.Collect(maps.Keys(d.CloseCodes)), want)
	for code, is := range d.CloseCodes {
		if is.When == "" || is.Client == "" {
			t.Errorf("asyncapi.json: close code %s does not say when it is sent and what a client does", code)
		}
	}
	same(t, "protocol.md: close codes", firstSpans(rows(section(t, read(t, "docs/protocol.md"), "### Close codes"))),
		want)
}

func TestRoutesAreThoseOfTheCode(t *testing.T) {
	paths := []string{"/"} // the dashboard's; its other files are not named
	if !slices.Contains(dashboard.Paths(), "/") {
		t.Error("the dashboard does not serve /")
	}
	for _, file := range parse(t, "internal/server") {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "HandlerFunc" {
				return true
			}
			path, ok := call.Args[1].(*ast.BasicLit)
			if !ok {
				t.Fatal("internal/server: a route's path is no literal")
			}
			text, err := strconv.Unquote(path.Value)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, text)
			return true
		})
	}

	// The server itself says which methods it allows.
	url := serve(t)
	var routes, withoutHead []string
	for _, path := range paths {
		resp := request(t, http.MethodOptions, url+path, nil)
		for method := range strings.SplitSeq(resp.Header.Get("Allow"), ", ") {
			switch method {
			case http.MethodOptions:
			case http.MethodHead:
				routes = append(routes, method+" "+path)
			default:
				routes = append(routes, method+" "+path)
				withoutHead = append(withoutHead, method+" "+path)
			}
		}
	}

	d := readDocument(t)
	var documented []string
	for name, c := range d.Channels {
		if method := c.Bindings.WS.Method; method != "" {
			documented = append(documented, method+" "+c.Address)
		}
		for _, o := range d.Operations {
			if method := o.Bindings.HTTP.Method; method != "" && o.Channel.name() == name {
				documented = append(documented, method+" "+c.Address)
			}
		}
	}
	for path, r := range d.OtherRoutes {
		for _, method := range r.Methods {
			documented = append(documented, method+" "+path)
		}
	}
	same(t, "asyncapi.json: routes", documented, routes)

	documented = nil
	for _, row := range rows(section(t, read(t, "docs/protocol.md"), "## Routes")) {
		for _, span := range spans(row[0]) {
			if strings.Contains(span, " /") {
				documented = append(documented, span)
			}
		}
	}
	same(t, "protocol.md: routes", documented, withoutHead)
}

func TestEverySecuritySchemeLetsIn(t *testing.T) {
	url := serve(t)
	if resp := request(t, http.MethodGet, url+"/info", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a key: status %d, want 401", resp.StatusCode)
	}
	d := readDocument(t)
	for name, s := range d.Components.SecuritySchemes {
		at, header := url+"/info", http.Header{}
		switch {
		case s.Type == "httpApiKey" && s.In == "header":
			header.Set(s.Name, key)
		case s.Type == "httpApiKey" && s.In == "query":
			at += "?" + s.Name + "=" + key
		case s.Type == "http" && s.Scheme == "bearer":
			header.Set("Authorization", "Bearer "+key)
		default:
			t.Errorf("%s: what is it?", name)
		}
		if resp := request(t, http.MethodGet, at, header); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, want 200", name, resp.StatusCode)
		}
	}
	for name, s := range d.Servers {
		var offered []string
		for _, r := range s.Security {
			offered = append(offered, r.name())
		}
		same(t, "asyncapi.json: security of server "+name, offered,
			slices.Collect(maps.Keys(d.Components.SecuritySchemes)))
	}
}

func TestMetricsAreThoseOfTheCode(t *testing.T) {
	resp := request(t, http.MethodGet, serve(t)+"/metrics", http.Header{"X-Api-Key": {key}})
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(string(body), -1) {
		want = append(want, m[1]+" "+m[2])
	}
	for _, row := range rows(section(t, read(t, "docs/protocol.md"), "## Metrics and health")) {
		got = append(got, strings.Trim(row[0], "`")+" "+row[1])
	}
	same(t, "protocol.md: metrics", got, want)
}

func TestSettingsAreThoseOfTheCode(t *testing.T) {
	var want, got []string
	defaults := make(map[string]string)
	for _, s := range config.Settings() {
		defaults[s.Name] = "`" + s.Default + "`"
		if s.Default == "" {
			defaults[s.Name] = "none"
		}
		want = append(want, s.Name+" "+defaults[s.Name])
	}
	for _, row := range rows(section(t, read(t, "README.md"), "## Settings")) {
		got = append(got, strings.Trim(row[0], "`")+" "+row[1])
	}
	same(t, "README.md: settings", got, want)

	limits := rows(section(t, read(t, "docs/protocol.md"), "## Limits"))
	if len(limits) == 0 {
		t.Error("protocol.md: Limits has no table")
	}
	for _, row := range limits {
		name := strings.Trim(row[1], "`")
		if name == "" { // a sum, which goes by the machine's memory: cmd/picloudd has a test of those
			continue
		}
		if want, known := defaults[name]; !known || row[2] != want {
			t.Errorf("protocol.md: limit %s is %s by default, want %q", name, row[2], want)
		}
	}
}

// The file that the package installs shows every setting with its default, as a comment; uncommenting all of them
// changes nothing.
func TestShippedSettingsAreThoseOfTheCode(t *testing.T) {
	var want, got []string
	for _, s := range config.Settings() {
		want = append(want, s.Name+"="+s.Default)
	}
	values := make(map[string]string)
	for line := range strings.Lines(read(t, "packaging/debian/picloud.default")) {
		text := strings.TrimSpace(line)
		name, value, ok := strings.Cut(strings.TrimPrefix(text, "#"), "=")
		if !ok || strings.Contains(name, " ") {
			if text != "" && !strings.HasPrefix(text, "# ") && text != "#" {
				t.Errorf("picloud.default: %q is neither a setting nor a comment", text)
			}
			continue
		}
		if !strings.HasPrefix(text, "#") {
			t.Errorf("picloud.default: %s is set: a new default of the code would not count", name)
		}
		if _, twice := values[name]; twice {
			t.Errorf("picloud.default: %s is there twice", name)
		}
		values[name] = value
		got = append(got, name+"="+value)
	}
	same(t, "picloud.default", got, want)

	preset, err := config.Parse(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if shipped, err := config.Parse(func(name string) string { return values[name] }); err != nil || shipped != preset {
		t.Errorf("picloud.default gives other settings than no file: %v", err)
	}
}

func TestSettingsInTheManualAreThoseOfTheCode(t *testing.T) {
	var want, got []string
	for _, s := range config.Settings() {
		want = append(want, s.Name+"="+s.Default)
	}
	_, settings, _ := strings.Cut(read(t, "packaging/man/picloud.5"), "\n.SH SETTINGS\n")
	settings, _, _ = strings.Cut(settings, "\n.SH ")
	for _, entry := range strings.Split("\n"+settings, "\n.TP\n")[1:] {
		name, text, _ := strings.Cut(strings.TrimPrefix(entry, ".B "), "\n")
		preset := ""
		if m := regexp.MustCompile(`(?m)\bDefault: (\S+)\.$`).FindStringSubmatch(text); m != nil {
			preset = m[1]
		}
		got = append(got, name+"="+preset)
	}
	same(t, "picloud.5", got, want)
	if len(got) != len(want) {
		t.Errorf("picloud.5: %d settings, want %d", len(got), len(want))
	}
}

func TestTargetsInTheDocumentsExist(t *testing.T) {
	targets := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, name := range []string{"README.md", "docs/benchmarks.md"} {
		text := read(t, name)
		code := strings.Join(slices.Concat(spans(text), indented(text), blocks(text, "")), "\n")
		mentioned := regexp.MustCompile(`\bmake ([a-z][a-z-]*)`).FindAllStringSubmatch(code, -1)
		if len(mentioned) == 0 {
			t.Errorf("%s mentions no target", name)
		}
		for _, m := range mentioned {
			if !targets[m[1]] {
				t.Errorf("%s says %q: the Makefile has no such target", name, m[0])
			}
		}
	}
}

func TestGoInTheDocumentsIsTheOneThatBuilds(t *testing.T) {
	found := regexp.MustCompile(`(?m)^toolchain (\S+)$`).FindStringSubmatch(read(t, "go.mod"))
	if found == nil {
		t.Fatal("go.mod names no toolchain")
	}
	for _, name := range []string{"README.md", "docs/security.md"} {
		versions := regexp.MustCompile(`\bgo1\.\d+[.\d]*\d\b`).FindAllString(read(t, name), -1)
		same(t, name+": versions of Go", versions, found[1:])
	}
}

func TestSuitesAreThoseOfTheCode(t *testing.T) {
	want := make(map[string][]string) // by version
	for _, file := range parse(t, "internal/tlsrecord") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Names[0].Name != "suites" {
				return true
			}
			for _, element := range spec.Values[0].(*ast.CompositeLit).Elts {
				fields := element.(*ast.CompositeLit).Elts
				version := "1.2"
				if fields[1].(*ast.Ident).Name == "true" {
					version = "1.3"
				}
				want[version] = append(want[version], fields[0].(*ast.SelectorExpr).Sel.Name)
			}
			return false
		})
	}
	if len(want["1.2"]) == 0 || len(want["1.3"]) == 0 {
		t.Fatalf("internal/tlsrecord has the suites %v", want)
	}
	got := make(map[string][]string)
	for _, row := range rows(section(t, read(t, "docs/security.md"), "## What TLS is offered")) {
		version, kind, _ := strings.Cut(row[0], ",")
		for _, name := range spans(row[1]) {
			got[version] = append(got[version], name)
			if isRSA := strings.Contains(name, "_RSA_"); version == "1.2" && isRSA != strings.HasSuffix(kind, "an RSA certificate") {
				t.Errorf("security.md: %s is for another certificate", name)
			}
		}
	}
	for version := range want {
		same(t, "security.md: suites of "+version, got[version], want[version])
	}
}

// What the documents say of a unit is a line of it.
func TestDirectivesInTheDocumentsAreThoseOfTheUnits(t *testing.T) {
	var lines []string
	for _, unit := range []string{"picloud.service", "picloud.socket"} {
		lines = append(lines, strings.Split(read(t, "systemd/"+unit), "\n")...)
	}
	found := 0
	for _, said := range spans(read(t, "docs/security.md")) {
		if !regexp.MustCompile(`^[A-Z][A-Za-z]+=`).MatchString(said) {
			continue
		}
		found++
		if !slices.ContainsFunc(lines, func(line string) bool {
			return line == said || strings.HasSuffix(said, "=") && strings.HasPrefix(line, said)
		}) {
			t.Errorf("security.md: no unit has %s", said)
		}
	}
	if found == 0 {
		t.Error("security.md says nothing of the units")
	}
}

func TestFilesThatOutliveTheProcessAreThoseOfTheCode(t *testing.T) {
	s, err := handover.New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.KeepSecrets(true, func(*os.File) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range s.Files() {
		want = append(want, f.Name())
	}
	same(t, "restart.md: files", firstSpans(rows(section(t, read(t, "docs/restart.md"), "## How it works"))), want)

	var got []string
	for _, row := range rows(section(t, read(t, "docs/security.md"), "## Where the secrets are")) {
		if !strings.HasPrefix(row[0], "`/") { // which is a file on the card
			got = append(got, spans(row[1])...)
		}
	}
	same(t, "security.md: files", got, want)
}

func TestRoomsAndArrowsAreThoseOfTheCode(t *testing.T) {
	want := make(map[string][]string) // by folder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		if path != root && skipped(e) {
			return fs.SkipDir
		}
		room, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, file := range parse(t, room) {
			imports := want[room]
			for _, spec := range file.Imports {
				if inner, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), "picloud/"); ok {
					imports = append(imports, strings.TrimPrefix(inner, "internal/"))
				}
			}
			want[room] = imports
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]string)
	for _, row := range rows(section(t, read(t, "docs/architecture.md"), "## The rooms")) {
		got[strings.Trim(row[0], "`")] = spans(row[2])
	}
	same(t, "architecture.md: rooms", slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want)))
	for room := range got {
		same(t, "architecture.md: imports of "+room, got[room], want[room])
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != root && skipped(e) {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], ":") {
				continue
			}
			file, fragment, _ := strings.Cut(m[1], "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			target, err := os.Stat(to)
			if err != nil {
				t.Errorf("%s: link to %s: %v", path, m[1], err)
				continue
			}
			if fragment == "" || target.IsDir() {
				continue
			}
			text, err := os.ReadFile(to)
			if err != nil {
				return err
			}
			if !slices.Contains(anchors(string(text)), fragment) {
				t.Errorf("%s: link to %s: no such heading", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// skipped says which folders are not the project's own text.
func skipped(e fs.DirEntry) bool {
	name := e.Name()
	return strings.HasPrefix(name, ".") || name == "bin" || name == "dist" || name == "testdata"
}

// A document is asyncapi.json, as far as it is checked.
type document struct {
	Servers  map[string]struct{ Security []reference }
	Channels map[string]struct {
		Address  string
		Messages map[string]reference
		Bindings struct{ WS struct{ Method string } }
	}
	Operations map[string]struct {
		Action   string
		Channel  reference
		Messages []reference
		Bindings struct{ HTTP struct{ Method string } }
	}
	Components struct {
		SecuritySchemes map[string]struct{ Type, In, Name, Scheme string }
		Messages        map[string]struct {
			Payload  reference
			Examples []struct{ Payload json.RawMessage }
		}
		Schemas map[string]schema
	}
	CloseCodes  map[string]struct{ When, Client string } `json:"x-close-codes"`
	OtherRoutes map[string]struct{ Methods []string }    `json:"x-other-routes"`
}

type reference struct {
	Ref string `json:"$ref"`
}

// name is the last part of the reference.
func (r reference) name() string { return r.Ref[strings.LastIndex(r.Ref, "/")+1:] }

type schema struct {
	reference
	Type       string
	Const      string
	MaxLength  int
	MaxItems   int
	Required   []string
	Properties map[string]schema
	OneOf      []schema
}

func readDocument(t *testing.T) document {
	t.Helper()
	var d document
	if err := json.Unmarshal([]byte(read(t, "docs/asyncapi.json")), &d); err != nil {
		t.Fatalf("asyncapi.json: %v", err)
	}
	return d
}

// said returns the schemas of what clients send.
func (d document) said() []string {
	var list []string
	for _, o := range d.Operations {
		if o.Action != "receive" {
			continue
		}
		channel := d.Channels[o.Channel.name()]
		for _, m := range o.Messages {
			list = append(list, d.Components.Messages[channel.Messages[m.name()].name()].Payload.name())
		}
	}
	return list
}

// actions returns the values that the schemas' action can have.
func (d document) actions(schemas ...string) []string {
	var list []string
	for _, name := range schemas {
		list = append(list, d.Components.Schemas[name].Properties["action"].Const)
	}
	return list
}

// fields returns all the fields that the schemas have.
func (d document) fields(schemas ...string) []string {
	var list []string
	for _, name := range schemas {
		list = slices.AppendSeq(list, maps.Keys(d.Components.Schemas[name].Properties))
	}
	return list
}

func (d document) resolve(s schema) schema {
	if s.Ref != "" {
		return d.Components.Schemas[s.name()]
	}
	return s
}

// fieldsOf returns a struct's fields by their JSON names.
func fieldsOf(of reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields
}

func jsonType(of reflect.Type) string {
	switch {
	case of == reflect.TypeFor[time.Time](), of.Kind() == reflect.String:
		return "string"
	case of.Kind() == reflect.Slice:
		return "array"
	case of.Kind() == reflect.Struct:
		return "object"
	case of.Kind() == reflect.Pointer:
		return jsonType(of.Elem()) + " or null"
	case of.Kind() == reflect.Bool:
		return "boolean"
	case of.Kind() == reflect.Float64:
		return "number"
	default:
		return "integer"
	}
}

const key = "sesame"

// serve runs a real server and returns its URL.
func serve(t *testing.T) string {
	t.Helper()
	s, err := server.New(server.Config{
		Key:     key,
		Version: "v0",
		Limits: wsconn.Limits{
			Connections: 8, MessageBytes: 1 << 10, QueueBytes: 4 << 10, PingEvery: time.Minute,
			PeerTimeout: time.Minute,
		},
		Subscriptions: 8,
		HeaderTimeout: time.Minute,
		WrongKeys:     8,
		Requests:      8,
	}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

func request(t *testing.T, method, url string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// parse reads a package's files, except its tests.
func parse(t *testing.T, folder string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

// constant returns the value of a package's constant that is a plain number.
func constant(t *testing.T, folder, name string) (value int) {
	t.Helper()
	found := false
	for _, file := range parse(t, folder) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Names[0].Name != name || len(spec.Values) == 0 {
				return true
			}
			if number, ok := spec.Values[0].(*ast.BasicLit); ok {
				var err error
				value, err = strconv.Atoi(number.Value)
				found = err == nil
			}
			return true
		})
	}
	if !found {
		t.Fatalf("%s: there is no plain number %s", folder, name)
	}
	return value
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the text under a heading, up to the next heading of its level or above.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut("\n"+text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	level := strings.Count(strings.Fields(heading)[0], "#")
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^#{1,%d} `, level)).FindStringIndex(rest)
	if end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// rows returns the cells of all tables in text, without their headers.
func rows(text string) [][]string {
	var list [][]string
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		isHeader := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "| ---")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || isHeader {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		list = append(list, cells)
	}
	return list
}

// firstSpans returns the code spans in the first cell of each row.
func firstSpans(rows [][]string) []string {
	var list []string
	for _, row := range rows {
		list = append(list, spans(row[0])...)
	}
	return list
}

var span = regexp.MustCompile("`([^`\n]+)`")

func spans(text string) []string {
	var list []string
	for _, m := range span.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// indented returns the lines that are code because of their indent.
func indented(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			list = append(list, line)
		}
	}
	return list
}

// blocks returns the fenced code of a language; of all languages when it is empty.
func blocks(text, language string) []string {
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		if language == "" || language == m[1] {
			list = append(list, m[2])
		}
	}
	return list
}

// anchors returns the fragments that may link to the headings, as the usual renderers make them.
func anchors(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			slug := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			list = append(list, strings.ReplaceAll(slug, " ", "-"))
		}
	}
	return list
}

// same compares two sets.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	contains(t, what, got, want)
	for _, s := range slices.Compact(slices.Sorted(slices.Values(got))) {
		if !slices.Contains(want, s) {
			t.Errorf("%s: %q is not in the code", what, s)
		}
	}
}

func contains(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, s := range slices.Compact(slices.Sorted(slices.Values(want))) {
		if !slices.Contains(got, s) {
			t.Errorf("%s: %q is missing", what, s)
		}
	}
}
