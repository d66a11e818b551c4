package browser

import (
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestAxeFindsNoViolation(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("testdata/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("%v: scripts/setup installs it", err)
	}
	s := start(t)
	check := func(p *page, what string) {
		t.Helper()
		found := eval[[]string](p, `axe.run({resultTypes: ['violations']}).then(({violations}) =>
			violations.flatMap(({id, help, nodes}) => nodes.map((node) =>
				id + ': ' + help + ': ' + node.html + ' ' + node.any.map((check) => check.message).join('; '))))`)
		if len(found) > 0 {
			t.Errorf("%s:\n%s", what, strings.Join(found, "\n"))
		}
	}
	// Evaluated from outside, so the page's own policy does not block it.
	load := chromedp.Evaluate[chromedp.Void](string(axe) + "; void 0")

	p := open(t, s.url+"/", light())
	p.until(`!document.querySelector('#welcome').hidden`)
	p.do(load)
	check(p, "signed out, light")
	p.do(dark())
	check(p, "signed out, dark")
	p.do(chromedp.SendKeys(`#key`, "wrong\n"))
	p.shows("#sign-in-error", "does not know")
	p.forgive("401")
	check(p, "wrong key, dark")

	p.do(light(), chromedp.SetValue(`#key`, key), chromedp.Click(`#sign-in button`))
	p.shows("#events .empty", "No client")
	check(p, "nobody yet, light")
	household(t, s)
	p.do(chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	p.do(chromedp.Click(`#publish button[type="submit"]`))
	s.post("Porch", "hello", `{"json": true}`)
	p.shows("#messages .tag", "JSON")
	p.until(`document.querySelectorAll('#events tbody tr:not(.space)').length === 7`)
	check(p, "busy, light")
	p.do(dark())
	check(p, "busy, dark")
	p.do(phone())
	check(p, "busy, dark, phone")
	s.stop()
	p.shows("#state", "Trying again")
	check(p, "away, dark, phone")
	p.do(light(), chromedp.EmulateViewport(1280, 900))
	check(p, "away, light")
	p.forgive("WebSocket")
	p.forgive("ERR_CONNECTION_REFUSED")
}
