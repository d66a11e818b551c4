"""A client as the first PiCloud's Python client was: websocket-client and requests, one socket to subscribe, one to
publish, the key in a header. Usage: client.py URL, with the key in API_KEY."""

import json
import os
import sys

import requests
import websocket

url = sys.argv[1]
ws_url = url.replace("http", "ws", 1)
key = {"X-API-Key": os.environ["API_KEY"]}
header = ["X-API-Key: " + os.environ["API_KEY"]]


def receive(ws):
    ws.settimeout(30)
    return json.loads(ws.recv())


def expect(got, want):
    if got != want:
        sys.exit("got %r, want %r" % (got, want))


subscriber = websocket.create_connection(ws_url + "/subscribe?clientName=python-sub", header=header)
publisher = websocket.create_connection(ws_url + "/publish?clientName=python-pub", header=header)

for event in ("temperature", "fence"):
    subscriber.send(json.dumps({"action": "subscribe", "event": event, "id": event}))
    expect(receive(subscriber), {"action": "ack", "id": event})


def post(event, data):
    r = requests.post(url + "/publish", params={"clientName": "python-post"}, headers=key,
                      data=json.dumps({"event": event, "data": data}), timeout=30)
    expect((r.status_code, r.text), (201, ""))


def message(want_data, want_name, event="temperature"):
    m = receive(subscriber)
    if not m.pop("created_at").endswith("Z"):
        sys.exit("created_at is not UTC")
    expect(m, {"action": "publish", "event": event, "data": want_data, "client_name": want_name})


# in each way
publisher.send(json.dumps({"action": "publish", "event": "temperature", "data": "76.5 F"}))
message("76.5 F", "python-pub")
post("temperature", {"celsius": 24.7, "where": "Küche ☕"})
message({"celsius": 24.7, "where": "Küche ☕"}, "python-post")
subscriber.send(json.dumps({"action": "publish", "event": "temperature", "data": None}))
message(None, "python-sub")

# after the unsubscribe nothing comes; the fence would come after it
subscriber.send(json.dumps({"action": "unsubscribe", "event": "temperature", "id": 1}))
expect(receive(subscriber), {"action": "ack", "id": 1})
post("temperature", "nobody hears this")
post("fence", "the only one")
message("the only one", "python-post", event="fence")
subscriber.send(json.dumps({"action": "unsubscribe:all", "id": 2}))
expect(receive(subscriber), {"action": "ack", "id": 2})

info = websocket.create_connection(ws_url + "/socket/info", header=header)
snapshot = receive(info)
names = [c["client_name"] for c in snapshot["all_connections"]]
if "python-sub" not in names or snapshot["subscriptions"] != []:
    sys.exit("info shows %r" % snapshot)

info.close()
subscriber.close()
publisher.close()

r = requests.post(url + "/publish?clientName=x", headers={"X-API-Key": "wrong"}, data="{}", timeout=30)
expect((r.status_code, r.json()), (401, {"error": "wrong key"}))
print("all messages came")
