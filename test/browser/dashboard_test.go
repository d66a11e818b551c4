package browser

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func TestSignInShowsWhoComesAndGoes(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := open(t, s.url+"/")
	p.do(chromedp.SendKeys(`#key`, key+"\n"))
	p.shows("#state", "Live")
	p.shows("#connections .empty", "Nobody is connected yet.")
	p.shows("#summary", "Nobody is connected yet")

	porch := s.join("Porch", "door")
	s.join("Attic", "door", "lamp")
	s.post("Cellar", "door", `"open"`)
	p.rows("#connections", "Attic", "Porch")
	p.rows("#events", "door", "lamp")
	p.shows("#connections tbody", "door, lamp")
	p.shows("#events tbody", `"open" Cellar`)
	p.shows("#connections-figure", "2")
	p.shows("#summary", "2 clients are connected")

	porch.Close()
	p.rows("#connections", "Attic")

	p.do(chromedp.Click(`#sign-out`))
	p.until(`document.activeElement.id === 'key'`)
	if left := eval[string](p, `document.querySelector('#board').textContent`); strings.Contains(left, "Attic") {
		t.Error("what was shown is still in the page after signing out")
	}
	p.do(chromedp.Reload())
	p.until(`!document.querySelector('#welcome').hidden`)
}

func TestWrongKeySaysSo(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := open(t, s.url+"/")
	p.do(chromedp.SendKeys(`#key`, "wrong\n"))
	p.shows("#sign-in-error", "The server does not know this key.")
	p.until(`document.querySelector('#board').hidden && document.activeElement.id === 'key'`)
	// The browser reports what failed; the page cannot prevent that.
	p.forgive("401")
	if n := s.wrongKeys(); n != 1 {
		t.Errorf("one wrong key has cost %d tries", n)
	}

	p.do(chromedp.SetValue(`#key`, key), chromedp.Click(`#sign-in button`))
	p.shows("#state", "Live")
	if left := eval[string](p, `document.querySelector('#sign-in-error').textContent + document.querySelector('#key').value`); left != "" {
		t.Errorf("after signing in the form still has %q", left)
	}
}

func TestTooManyWrongKeysSaysHowLong(t *testing.T) {
	t.Parallel()
	s := start(t, "MAX_WRONG_KEYS=1")
	p := open(t, s.url+"/")
	p.do(chromedp.SendKeys(`#key`, "wrong\n"))
	p.shows("#sign-in-error", "The server does not know this key.")
	p.do(chromedp.SetValue(`#key`, key), chromedp.Click(`#sign-in button`))
	p.until(`/the next try is possible in (60|[1-5]?\d) s\./.test(document.querySelector('#sign-in-error').innerText)`)

	// A remembered key is not forgotten for it, nor is it asked for.
	eval[any](p, `void localStorage.setItem('picloud.key', `+quote(key)+`)`)
	p.do(chromedp.Reload())
	p.until(`/next try is possible in \d+ s\. Trying again…/.test(document.querySelector('#state').innerText)`)
	p.until(`!document.querySelector('#board').hidden && localStorage.getItem('picloud.key') === ` + quote(key))
	p.forgive("401")
	p.forgive("429")
	p.forgive("WebSocket")
}

func TestOnlyTheKeyThatIsRefusedIsForgotten(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := open(t, s.url+"/")
	kept := func(want string) {
		t.Helper()
		p.until(`localStorage.getItem('picloud.key') === ` + want)
	}
	// As in another tab: this one still asks.
	eval[any](p, `void localStorage.setItem('picloud.key', `+quote(key)+`)`)
	p.do(chromedp.SendKeys(`#key`, "wrong\n"))
	p.shows("#sign-in-error", "The server does not know this key.")
	kept(quote(key))
	p.do(chromedp.Reload())
	p.shows("#state", "Live")

	eval[any](p, `void localStorage.setItem('picloud.key', 'old')`)
	p.do(chromedp.Reload())
	p.shows("#sign-in-error", "The server does not know this key. It may have been changed.")
	kept("null")
	if n := s.wrongKeys(); n != 2 {
		t.Errorf("two wrong keys have cost %d tries", n)
	}
	p.forgive("401")
}

func TestChangedKeyAsksAgain(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := signedIn(t, s)
	s.stop()
	p.shows("#state", "Trying again")
	at := s.port()
	s.run([]string{"PORT=" + at, "API_KEY=another"})
	p.shows("#sign-in-error", "The server does not know this key.")
	p.until(`!document.querySelector('#welcome').hidden && localStorage.getItem('picloud.key') === null`)
	p.forgive("WebSocket")
	p.forgive("ERR_CONNECTION")
	p.forgive("401")
}

func TestLinkSignsInOnceAndLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s := start(t)
	link := s.link()
	p := open(t, link)
	p.shows("#state", "Live")
	if got := eval[string](p, `location.href`); got != s.url+"/" {
		t.Errorf("the address is %s, want %s/", got, s.url)
	}
	if n := eval[int](p, `history.length`); n > 2 { // the blank page and this one
		t.Errorf("the history has %d entries", n)
	}
	p.do(chromedp.Reload())
	p.shows("#state", "Live")

	p.do(chromedp.Click(`#sign-out`))
	p.until(`localStorage.getItem('picloud.key') === null`)
	// A link followed while the page is open signs in too, whether signed in or out.
	follow := func(link string) {
		t.Helper()
		_, fragment, _ := strings.Cut(link, "#")
		eval[any](p, `void (location.hash = `+quote(fragment)+`)`)
		p.until(`location.hash === ''`)
	}
	published := func() {
		t.Helper()
		p.shows("#state", "Live")
		p.do(chromedp.Click(`#publish button[type="submit"]`))
		p.shows("#publish-result", "Published at")
	}
	watched := func() {
		t.Helper()
		p.do(chromedp.Click(`#watch button`))
		p.until(`document.querySelector('#watched li:not(.waiting)')`)
	}
	follow(s.link())
	published()
	watched()
	follow(s.link())
	p.until(`!document.querySelector('#watched li')`) // it begins anew
	published()

	// One that is used up does no harm to who is signed in: not while the page is open, nor when it is opened with it.
	watched()
	follow(link)
	p.until(`performance.getEntriesByType('resource').filter(({name}) => name.endsWith('/sign-in')).length === 3`)
	p.do(chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#messages", "Hello from the dashboard")
	p.do(chromedp.Navigate("about:blank"), chromedp.Navigate(link))
	p.shows("#state", "Live")
	p.until(`location.hash === '' && localStorage.getItem('picloud.key') === ` + quote(key))
	p.do(chromedp.Click(`#sign-out`))
	follow(link)
	p.shows("#sign-in-error", "This link has been used or is out of date")
	p.until(`document.querySelector('#board').hidden`)
	p.forgive("401")

	// A link with a key in it is none: it could be a stranger's.
	eval[any](p, `void (location.hash = '#key=`+key+`')`)
	p.do(chromedp.Reload())
	p.until(`!document.querySelector('#welcome').hidden && localStorage.getItem('picloud.key') === null`)
}

func TestPublishIsSeenToArrive(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := signedIn(t, s)
	p.do(chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')?.innerText.includes('hello')`)
	p.do(chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#publish-result", "Published at")
	p.shows("#messages", "Hello from the dashboard")

	message := `{"big": 12345678901234567890, "list": [1, {"a": null}]}`
	p.do(chromedp.Click(`#as-json`), chromedp.SetValue(`#publish-data`, message),
		chromedp.Click(`#publish button[type="submit"]`))
	p.until(`document.querySelector('#messages li:first-child pre').textContent === '{\n  "big": 12345678901234567890,\n  "list": [\n    1,\n    {\n      "a": null\n    }\n  ]\n}'`)
	p.do(chromedp.Click(`#pretty`))
	p.until(`document.querySelector('#messages li:first-child pre').textContent === '{"big":12345678901234567890,"list":[1,{"a":null}]}'`)

	p.do(chromedp.SetValue(`#publish-data`, `{"broken`), chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#publish-result", "Not JSON")
	p.until(`document.querySelectorAll('#messages li').length === 2`)

	p.do(chromedp.Click(`#pause`))
	s.post("Porch", "hello", `"while paused"`)
	p.shows("#pause", "Resume (1)")
	if shown := eval[string](p, `document.querySelector('#messages').innerText`); strings.Contains(shown,
		"while paused") {
		t.Error("a message was shown while paused")
	}
	p.do(chromedp.Click(`#pause`))
	p.shows("#messages li:first-child", "while paused")
	p.shows("#messages li:first-child", "Porch")

	p.do(chromedp.Click(`#clear`))
	p.until(`document.querySelector('#messages').hidden && document.querySelectorAll('#messages li').length === 0`)
	p.do(chromedp.Click(`#watched button`))
	p.until(`document.querySelectorAll('#watched li').length === 0`)
	s.post("Porch", "hello", `"nobody watches"`)
	p.rows("#connections") // a page that watches nothing is not a client
	p.until(`document.querySelectorAll('#messages li').length === 0`)
}

func TestCopyPutsTheTextIntoTheClipboard(t *testing.T) {
	t.Parallel()
	s := start(t)
	// Like most servers at home, whose pages have no navigator.clipboard.
	p := signedIn(t, s, chromedp.Func(withoutClipboard))
	eval[any](p, `void document.addEventListener('copy', () => { window.copied = getSelection().toString() || document.activeElement.value })`)
	p.do(chromedp.Click(`[data-copy="publish-code"]`))
	p.shows(`[data-copy="publish-code"]`, "Copied")
	if got, want := eval[string](p, `copied`),
		eval[string](p, `document.querySelector('#publish-code').textContent`); got != want {
		t.Errorf("copied %q, want %q", got, want)
	}
}

func withoutClipboard(ctx context.Context, t *chromedp.Target) error {
	_, err := cdp.Call(ctx, t, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{
		Source: `Object.defineProperty(navigator, 'clipboard', {value: undefined})`,
	})
	return err
}

func TestMarkupInNamesAndDataIsText(t *testing.T) {
	t.Parallel()
	const markup = `<img src=x onerror="document.title='owned'">`
	s := start(t)
	s.join(markup, markup)
	s.post(markup, markup, quote(markup))
	p := signedIn(t, s)
	p.rows("#connections", markup)
	p.rows("#events", markup)
	p.do(chromedp.SetValue(`#watch-event`, markup), chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	s.post(markup, markup, quote(markup))
	p.shows("#messages pre", markup)
	p.do(chromedp.SetValue(`#name`, markup), chromedp.SetValue(`#publish-event`, markup),
		chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#publish-result", "Published")
	if n := eval[int](p, `document.querySelectorAll('img').length`); n != 1 {
		t.Errorf("there are %d images, want the logo only", n)
	}
	if title := eval[string](p, `document.title`); !strings.HasPrefix(title, "PiCloud") {
		t.Errorf("the title is %q", title)
	}
}

func TestWhatHidesInNamesAndDataIsShown(t *testing.T) {
	t.Parallel()
	const name, event, family = "Po\u200brch\u202e", "door\u3164", "👩🏽\u200d🚒❤\ufe0f\u200d🔥"
	const shownName, shownEvent = "Po⟨U+200B⟩rch⟨U+202E⟩", "door⟨U+3164⟩"
	s := start(t)
	s.join(name, event)
	s.join(family, "玄関")
	s.post(name, event, quote("one\u202etwo"))
	p := signedIn(t, s)
	p.rows("#connections", family, shownName)
	p.rows("#events", shownEvent, "玄関")
	p.shows("#connections tbody", shownEvent)
	p.shows("#events tbody", `"one⟨U+202E⟩two" `+shownName)
	p.do(chromedp.SendKeys(`#connections input`, shownName))
	p.rows("#connections", shownName)

	// What is watched is the event itself.
	p.do(chromedp.Click(`#events [aria-label="Watch ` + shownEvent + `"]`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	p.shows("#watched", shownEvent)
	s.post(name, event, quote("one\u202etwo\n\tthree\u2800"))
	p.until(`document.querySelector('#messages pre')?.textContent === 'one⟨U+202E⟩two\n\tthree⟨U+2800⟩'`)
	p.shows("#messages li", shownEvent)
	p.shows("#messages li", shownName)
	// The line for elsewhere has the event as it is, or it would not work.
	if html := eval[string](p, `(() => {
			const page = document.body.cloneNode(true);
			page.querySelector('#watch-code').remove();
			return page.outerHTML;
		})()`); strings.ContainsAny(html, "\u200b\u202e\u3164\u2800") {
		t.Errorf("something hides in %+q", html)
	}
}

func TestServerThatGoesAwayIsShownAndComesBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := signedIn(t, s)
	p.do(chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	s.stop()
	p.shows("#state", "Trying again")
	p.until(`document.querySelector('#board').classList.contains('stale') && document.querySelector('#watched li.waiting')`)
	p.do(chromedp.SetValue(`#publish-data`, "written while it was away"),
		chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#publish-result", "It will be published when the server is back.")

	s.again()
	p.shows("#state", "Live")
	p.shows("#publish-result", "Published at")
	p.shows("#messages", "written while it was away")
	p.until(`!document.querySelector('#board').classList.contains('stale') && document.querySelector('#watched li:not(.waiting)')`)
	p.forgive("WebSocket")
	p.forgive("426 (Upgrade Required)") // once the server is back, it is asked why it failed
	p.forgive("ERR_CONNECTION_REFUSED")
}

func TestTablesSortAndFilter(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i, name := range []string{"sensor 10", "sensor 9", "Attic"} {
		events := []string{"common"}
		for n := range i {
			events = append(events, fmt.Sprint("extra ", n))
		}
		s.join(name, events...)
	}
	s.post("x", "extra 1", `1`)
	p := signedIn(t, s)
	p.rows("#connections", "Attic", "sensor 9", "sensor 10")
	p.do(chromedp.Click(`#connections [data-sort="name"]`))
	p.rows("#connections", "sensor 10", "sensor 9", "Attic")
	p.until(`document.querySelector('#connections th').getAttribute('aria-sort') === 'descending'`)
	p.do(chromedp.Click(`#connections [data-sort="subscriptions"]`))
	p.rows("#connections", "Attic", "sensor 9", "sensor 10")
	p.do(chromedp.Click(`#connections [data-sort="since"]`)) // the newest first
	p.rows("#connections", "Attic", "sensor 9", "sensor 10")
	p.do(chromedp.SendKeys(`#connections input`, "SENSOR"))
	p.rows("#connections", "sensor 9", "sensor 10")
	p.shows("#connections .note", "2 of 3")
	p.do(chromedp.SendKeys(`#connections input`, "x"))
	p.rows("#connections")
	p.shows("#connections .empty", "Nothing here has that in it.")

	p.rows("#events", "common", "extra 0", "extra 1")
	p.do(chromedp.Click(`#events [data-sort="subscribers"]`))
	p.rows("#events", "common", "extra 0", "extra 1")
	p.do(chromedp.Click(`#events [data-sort="age"]`))
	p.rows("#events", "extra 1", "common", "extra 0")
}

func TestServerPanelSaysWhatTheServerIs(t *testing.T) {
	t.Parallel()
	s := start(t, "MAX_CONNECTIONS=4", "MAX_SUBSCRIPTIONS=3", "MAX_MESSAGE_BYTES=2K", "LED=led:nothing")
	s.join("Porch", "a", "b")
	p := signedIn(t, s)
	p.shows("#facts", s.port())
	p.shows("#facts", "does not work")
	p.shows("#facts", "MiB")
	p.shows("#limits", "2 of 4")
	p.shows("#limits", "at most 2 of 3")
	p.shows("#limits", "up to 2 KiB")
	p.shows("#slow-clients-note", "None.")
	p.until(`document.querySelector('#limits meter').value === 0.5`)
}

// Over TLS the page is the same: its files, requests and WebSockets go over https and wss, it says what TLS is in use,
// and it comes back by itself.
func TestDashboardOverTLS(t *testing.T) {
	t.Parallel()
	s := start(t, secured...)
	p := open(t, s.link(), light())
	p.shows("#state", "Live")
	if at := eval[string](p, `location.href`); !strings.HasPrefix(at, "https://") {
		t.Errorf("the page is at %s", at)
	}
	// Nobody keeps them: it was started by hand.
	p.shows("#facts", "on; a restart ends its connections, and clients come back")
	household(t, s)
	p.until(`document.querySelectorAll('#connections tbody tr:not(.space)').length === 7`)
	p.until(`[...document.querySelectorAll('#connections td.address')].every((cell) => / · TLS 1\.3$/.test(cell.innerText))`)
	p.do(chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	p.do(chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#messages", "Hello from the dashboard")
	p.shows("#publish-code", "https://")
	p.take("tls-light")
	p.do(phone())
	p.until(`[...document.querySelectorAll('#connections tr:not(.space) td')].every((cell) => cell.scrollHeight <= cell.clientHeight + 1)`)
	p.take("tls-phone-light")

	s.stop()
	p.shows("#state", "Trying again")
	s.again()
	p.shows("#state", "Live")
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	s.post("Porch", "hello", `"back again"`)
	p.shows("#messages", "back again")
	p.forgive("WebSocket")
	p.forgive("426 (Upgrade Required)") // once the server is back, it is asked why it failed
	p.forgive("ERR_CONNECTION_REFUSED")
}

// Without TLS it says that, too, and of no connection.
func TestDashboardWithoutTLSSaysSo(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.join("Porch", "door")
	p := signedIn(t, s)
	p.rows("#connections", "Porch")
	p.shows("#facts", "off: what flows can be read on the network")
	if got := eval[string](p, `document.querySelector('#connections tbody').innerText`); strings.Contains(got, "TLS") {
		t.Errorf("a connection without TLS: %q", got)
	}
}

func TestPhone(t *testing.T) {
	t.Parallel()
	s := start(t)
	household(t, s)
	s.join(strings.Repeat("W", 128), strings.Repeat("an-event-with-a-long-name", 10))
	p := signedIn(t, s, phone())
	p.until(`document.querySelectorAll('#connections tbody tr:not(.space)').length === 8`)
	p.do(chromedp.Click(`#watch button`))
	p.until(`document.querySelector('#watched li:not(.waiting)')`)
	s.post("Porch", "hello", quote(strings.Repeat("x", 5000)))
	p.until(`document.querySelector('#messages li')`)
	if wide := eval[int](p, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("the page is %d pixels wide on a phone of 390", wide)
	}
	// WCAG 2.2, target size.
	small := eval[[]string](p, `[...document.querySelectorAll('button, a, input:not([type="radio"], [type="checkbox"]), textarea')]
		.filter((e) => e.checkVisibility()).map((e) => [e, e.getBoundingClientRect()])
		.filter(([, box]) => box.width < 24 || box.height < 24)
		.map(([e, box]) => e.outerHTML + ' ' + box.width + '×' + box.height)`)
	if len(small) > 0 {
		t.Errorf("too small to touch:\n%s", strings.Join(small, "\n"))
	}
	// All rows have a card's height, which the table relies on.
	heights := eval[[]float64](p, `[...new Set([...document.querySelectorAll('tbody tr:not(.space)')].map((row) => row.getBoundingClientRect().height))]`)
	if len(heights) != 1 {
		t.Errorf("rows are %v pixels high, want all the same", heights)
	}
	p.until(`[...document.querySelectorAll('#connections tr:not(.space) td')].every((cell) => cell.scrollHeight <= cell.clientHeight + 1)`)
}

func TestDarkMode(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := open(t, s.url+"/", light())
	brightness := func() int {
		return eval[int](p, `getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)`)
	}
	if got := brightness(); got < 600 {
		t.Errorf("by day the page's ground is %d of 765", got)
	}
	p.do(dark())
	if got := brightness(); got > 150 {
		t.Errorf("by night the page's ground is %d of 765", got)
	}
}

func TestKeyboardAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.join("Porch", "door")
	p := open(t, s.url+"/")
	p.until(`document.activeElement.id === 'key'`)
	p.do(chromedp.KeyEvent(key), chromedp.KeyEvent(kb.Enter))
	p.rows("#events", "door")

	// tab presses Tab until the element has the focus, which must be visible.
	tab := func(selector string) {
		t.Helper()
		for range 60 {
			p.do(chromedp.KeyEvent(kb.Tab))
			if eval[bool](p, `document.activeElement.matches(`+quote(selector)+`)`) {
				if outline := eval[string](p,
					`getComputedStyle(document.activeElement.closest('.choice label') ?? document.activeElement).outlineStyle`); outline != "solid" {
					t.Errorf("%s has the focus and does not show it: outline %s", selector, outline)
				}
				return
			}
		}
		t.Fatalf("the tab key does not reach %s", selector)
	}
	tab(`#events input[type="search"]`)
	tab(`#events [data-sort="name"]`)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.until(`document.querySelector('#events th').getAttribute('aria-sort') === 'descending'`)
	tab(`#events td.watch button`)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.until(`document.querySelector('#watched li:not(.waiting)')?.innerText.includes('door')`)
	tab(`#connections .scroll`)
	tab(`#languages input`)
	p.do(chromedp.KeyEvent(kb.ArrowRight))
	p.shows("#publish-code", "picloud --url")
	tab(`#publish-event`)
	p.do(chromedp.KeyEvent("a", chromedp.KeyModifiers(kb.ModifierCtrl)), chromedp.KeyEvent("door"))
	tab(`#publish button[type="submit"]`)
	p.do(chromedp.KeyEvent(" "))
	p.shows("#messages", "Hello from the dashboard")
	tab(`#watched button`)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.until(`document.querySelectorAll('#watched li').length === 0 && document.activeElement.id === 'watch-event'`)
}
