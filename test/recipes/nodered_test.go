//go:build heavy

package recipes

import (
	"os"
	"testing"
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
	path := file(t, "flows.json", put(t, string(flow), "http://raspberrypi.local:9000/publish", p.url+"/publish",
		"ws://raspberrypi.local:9000/subscribe", "ws://"+p.address+"/subscribe", "PUT THE KEY HERE", apiKey))
	d := cook(t, nil, nil, "node", red, "--userDir", t.TempDir(), "--port", freePort(t), path)
	d.prints("Started flows")
	p.gets("greeting", `"76.5 F"`, "Node-RED")
	for _, data := range []string{"12 F", "13 F"} {
		p.hasSubscriber("temperature", "Node-RED")
		p.publish("temperature", `"`+data+`"`)
		d.prints(data)
		p.end()
		p.begin()
	}
}
