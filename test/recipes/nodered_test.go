//go:build heavy

package recipes

import (
	"os"
	"testing"

	"picloud/test/snippet"
)

// scripts/test-recipes says where Node-RED is.
const nodeRED = "NODE_RED"

func TestNodeREDSubscribesPublishesAndComesBack(t *testing.T) {
	red := os.Getenv(nodeRED)
	if red == "" {
		t.Fatalf("%s is not set: run scripts/test-recipes", nodeRED)
	}
	flow, err := os.ReadFile("../../docs/recipes/node-red.json")
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t)
	p.subscribe("greeting")
	// What the page tells the reader to set.
	flows := func(key string) string {
		return snippet.Put(t, string(flow), "http://raspberrypi.local:9000/publish", p.url+"/publish",
			"ws://raspberrypi.local:9000/subscribe", "ws://"+p.address+"/subscribe", "PUT THE KEY HERE", key)
	}
	path := file(t, "flows.json", flows(apiKey))
	d := cook(t, nil, nil, "node", red, "--userDir", t.TempDir(), "--port", freePort(t), path)
	d.prints("Started flows")
	p.gets("greeting", `"76.5 F"`, "Node-RED")
	for _, again := range []string{"12 F", "13 F"} {
		p.hasSubscriber("temperature", "Node-RED")
		for _, data := range messages(t) {
			p.publish("temperature", data)
		}
		p.publish("temperature", quote(t, again))
		d.prints("76.5 F")
		d.prints("two")
		d.prints(again)
		p.end()
		p.begin()
	}

	// With a wrong key it says so, and stands in nobody's way.
	path = file(t, "flows.json", flows("wrong"))
	d = cook(t, nil, nil, "node", red, "--userDir", t.TempDir(), "--port", freePort(t), path)
	d.prints("[debug:201: published] 401")
	p.hasSubscriber("greeting", "test")
}
