package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
)

// A log is searched by the names of its attributes, so each kind of value has one name: an error's is error.
func TestLoggedErrorsAreNamedError(t *testing.T) {
	calls := 0
	for _, p := range goList(t) {
		for _, name := range p.GoFiles {
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || !logs(call) {
					return true
				}
				calls++
				if why := misnamed(call.Args[1:]); why != "" {
					t.Errorf("%s: %s", files.Position(call.Pos()), why)
				}
				return true
			})
		}
	}
	if calls == 0 {
		t.Error("nothing logs")
	}
}

// logs reports whether a call is one to log/slog, on log or on something's log.
func logs(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
		return false
	}
	switch on := method.X.(type) {
	case *ast.Ident:
		return on.Name == "log"
	case *ast.SelectorExpr:
		return on.Sel.Name == "log"
	}
	return false
}

// misnamed says which of a log call's names and values break the rule; empty: none.
func misnamed(attributes []ast.Expr) string {
	for pair := range slices.Chunk(attributes, 2) {
		name, ok := pair[0].(*ast.BasicLit)
		if !ok || len(pair) != 2 {
			return "the attributes of a log line are literal names, each with a value"
		}
		value, ok := pair[1].(*ast.Ident)
		isError := ok && value.Name == "err"
		if name.Value == `"err"` || isError && name.Value != `"error"` {
			return fmt.Sprintf(`an error is logged as %s: name it "error"`, name.Value)
		}
	}
	return ""
}

func TestMisnamedAttributesAreFound(t *testing.T) {
	for _, tt := range []struct {
		code string
		good bool
	}{
		{`s.log.Warn("x", "error", err)`, true},
		{`log.Info("x", "port", port, "error", err)`, true},
		{`log.Info("x")`, true},
		{`log.Info("x", "err", err)`, false},
		{`log.Info("x", "err", f())`, false},
		{`p.log.Error("x", "port", port, "cause", err)`, false},
		{`log.Debug("x", "port")`, false},
		{`log.Debug("x", name, err)`, false},
	} {
		e, err := parser.ParseExpr(tt.code)
		if err != nil {
			t.Fatal(err)
		}
		call := e.(*ast.CallExpr)
		if why := misnamed(call.Args[1:]); !logs(call) || (why == "") != tt.good {
			t.Errorf("%s: %q", tt.code, why)
		}
	}
}
