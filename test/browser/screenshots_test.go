package browser

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var screenshots = flag.String("screenshots", "", "keep the pictures that the tests take in this `directory`")

// dark and light choose the colour scheme that the page is told of.
func dark() step  { return scheme("dark") }
func light() step { return scheme("light") }

func scheme(name string) step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
		return err
	})
}

func phone() step {
	return chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch)
}

// take takes a picture of the whole page, which -screenshots keeps.
func (p *page) take(name string) {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0)`))
	picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	if len(picture) < 10_000 {
		p.t.Errorf("%s has %d bytes: an empty page?", name, len(picture))
	}
	if *screenshots == "" {
		return
	}
	if err := os.MkdirAll(*screenshots, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), picture, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// household connects the devices of a home, so that pictures and tests have something to show.
func household(t *testing.T, s *server) {
	t.Helper()
	s.join("Porch thermometer", "lamp/porch")
	s.join("Living room display", "temperature/porch", "temperature/cellar", "door", "lamp/porch")
	s.join("Heating", "temperature/porch", "temperature/cellar")
	s.join("Home Assistant", "temperature/porch", "temperature/cellar", "door", "lamp/porch", "energy")
	s.join("Doorbell", "door")
	s.join("ESP32 in the shed", "lamp/shed")
	s.join("Node-RED", "energy", "door")
	everyday(s)
}

// everyday publishes what happens at home within some seconds.
func everyday(s *server) {
	for i := range 12 {
		s.post("Porch thermometer", "temperature/porch",
			fmt.Sprintf(`{"celsius": %.1f, "humidity": 64}`, 11.2+float64(i)/10))
		s.post("Energy meter", "energy", fmt.Sprintf(`{"watts": %d, "phases": [%d, 118, 240]}`, 412+i, 54+i))
	}
	s.post("Cellar", "temperature/cellar", `"15.3 °C"`)
	s.post("Doorbell", "door", `"somebody is at the door"`)
	s.post("Home Assistant", "lamp/porch", `{"on": true, "level": 40}`)
}

// TestScreenshots takes the pictures that people look at.
func TestScreenshots(t *testing.T) {
	t.Parallel()
	both := func(p *page, name string) {
		t.Helper()
		for _, scheme := range []struct {
			name string
			step step
		}{{"light", light()}, {"dark", dark()}} {
			p.do(scheme.step)
			p.take(name + "-" + scheme.name)
		}
	}

	s := start(t)
	out := open(t, s.url+"/", light())
	out.until(`!document.querySelector('#welcome').hidden`)
	both(out, "signed-out")
	out.do(phone())
	both(out, "signed-out-phone")

	p := signedIn(t, s, light())
	p.take("nobody-yet")
	household(t, s)
	p.do(chromedp.Click(`#watch button`))
	for _, event := range []string{"temperature/porch", "door"} {
		p.do(chromedp.SetValue(`#watch-event`, event), chromedp.Click(`#watch button`))
	}
	p.until(`document.querySelectorAll('#watched li:not(.waiting)').length === 3`)
	p.do(chromedp.Click(`#publish button[type="submit"]`))
	p.shows("#publish-result", "Published")
	rounds := 1
	if *screenshots != "" {
		rounds = 10 // so that the charts have something to show
	}
	for range rounds {
		before := eval[string](p, `document.querySelector('#published-chart path.trace').getAttribute('d') ?? ''`)
		everyday(s)
		p.until(`(document.querySelector('#published-chart path.trace').getAttribute('d') ?? '') !== ` + quote(before))
	}
	both(p, "home")
	p.do(phone())
	both(p, "home-phone")
	p.do(chromedp.EmulateViewport(820, 1180))
	p.take("home-tablet-dark")

	s.stop()
	p.shows("#state", "Trying again")
	p.do(chromedp.EmulateViewport(1280, 900), light())
	p.take("away-light")
	p.forgive("WebSocket")
	p.forgive("ERR_CONNECTION_REFUSED")
}
