package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/tracing"
	"github.com/chromedp/chromedp"
)

// Not parallel, because it measures.
func TestThousandsOfRowsStaySmooth(t *testing.T) {
	const clients, events, longest = 2000, 500, 100 * time.Millisecond
	s := start(t)
	var joining sync.WaitGroup
	for worker := range 8 {
		joining.Go(func() {
			for i := worker; i < clients; i += 8 {
				s.join(fmt.Sprintf("Sensor %04d", i), fmt.Sprintf("event %03d", i%events))
			}
		})
	}
	joining.Wait()
	p := open(t, s.url+"/")
	p.until(`!document.querySelector('#welcome').hidden`)
	eval[any](p, `void (() => {
		window.snapshots = 0;
		new MutationObserver(() => snapshots++).observe(document.querySelector('#facts'),
			{subtree: true, childList: true, characterData: true});
	})()`)
	trace := record(p)
	began := time.Now()
	p.do(chromedp.SendKeys(`#key`, key+"\n"))
	p.shows("#connections .note", "2,000")
	p.shows("#events .note", "500")
	t.Logf("the first snapshot is on the page after %v", time.Since(began).Round(time.Millisecond))
	for i := range events {
		s.post("Porch", fmt.Sprintf("event %03d", i), `{"celsius": 24.7}`)
	}

	// All the way down, frame by frame; in the end each table's last row must be there.
	for section, last := range map[string]string{"#connections": "Sensor 1999", "#events": "event 499"} {
		eval[any](p, fmt.Sprintf(`new Promise((done) => {
			const box = document.querySelector('%s .scroll');
			const step = () => {
				box.scrollTop += 1200;
				if (box.scrollTop + box.clientHeight >= box.scrollHeight - 1) done(); else requestAnimationFrame(step);
			};
			step();
		})`, section))
		p.until(fmt.Sprintf(`[...document.querySelectorAll('%s tbody tr:not(.space)')].at(-1).cells[0].innerText === %s`, section, quote(last)))
	}
	if rows := eval[int](p, `document.querySelectorAll('tbody tr').length`); rows > 100 {
		t.Errorf("%d rows are in the page, want those in view and a few", rows)
	}
	p.do(chromedp.Click(`#connections [data-sort="received"]`), chromedp.SendKeys(`#connections input`, "sensor 19"))
	p.shows("#connections .note", "100 of 2,000")
	p.do(chromedp.Click(`#events [data-sort="rate"]`))
	seen := eval[int](p, `snapshots`)
	p.until(fmt.Sprintf(`snapshots > %d`, seen+1))

	tasks := trace()
	if len(tasks) < 100 {
		t.Fatalf("%d tasks were seen", len(tasks))
	}
	slices.Sort(tasks)
	t.Logf("the longest of %d tasks took the page's thread %v", len(tasks), tasks[len(tasks)-5:])
	if took := tasks[len(tasks)-1]; took > longest {
		t.Errorf("a task took the page's thread %v, want %v at most", took, longest)
	}
	p.take("thousands")
}

func TestPageSaysThatListsAreCut(t *testing.T) {
	t.Parallel()
	s := start(t)
	var events []string
	for i := range 1001 {
		events = append(events, fmt.Sprintf("event %04d", i))
	}
	s.join("Sensor", events...)
	p := signedIn(t, s)
	p.shows("#events .note", "1,000")
	p.shows("#events-figure", "1,001")
	p.shows("#summary", "Shown are 1 of 2 connections, 1,000 of 1,001 events and 1,000 of 1,001 subscriptions.")
}

// record starts recording the tasks of the page's thread. end stops it and returns how much processor time each took:
// their wall-clock time would depend on the machine's other work.
func record(p *page) (end func() []time.Duration) {
	p.t.Helper()
	var mu sync.Mutex
	var tasks []time.Duration
	whole := make(chan struct{})
	err := chromedp.Listen(p.ctx, func(event any) {
		switch e := event.(type) {
		case *tracing.EventDataCollected:
			mu.Lock()
			defer mu.Unlock()
			for _, raw := range e.Value {
				var entry struct {
					Name string
					Tdur int64 // µs of the thread's processor time
				}
				if err := json.Unmarshal(raw, &entry); err == nil && entry.Name == "RunTask" {
					tasks = append(tasks, time.Duration(entry.Tdur)*time.Microsecond)
				}
			}
		case *tracing.EventTracingComplete:
			close(whole)
		}
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, tracing.Start, tracing.StartParams{TraceConfig: &tracing.TraceConfig{
			IncludedCategories: []string{"disabled-by-default-devtools.timeline"},
			ExcludedCategories: []string{"*"},
		}})
		return none, err
	})
	return func() []time.Duration {
		p.t.Helper()
		p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
			_, err = cdp.Call(ctx, t, tracing.End, cdp.Empty{})
			return none, err
		})
		select {
		case <-whole:
		case <-time.After(patience):
			p.t.Fatal("the trace does not end")
		}
		mu.Lock()
		defer mu.Unlock()
		return tasks
	}
}
