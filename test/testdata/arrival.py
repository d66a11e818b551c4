"""A client as the first PiCloud's Python client was, which publishes on one connection as soon as it has subscribed on
another, and waits for the message. Prints how many did not come, of how many. Usage: arrival.py URL TRIES [fresh], with
the key in API_KEY; fresh: with new connections each time."""

import json
import os
import sys

import requests
import websocket

url, tries, fresh = sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["fresh"]
ws_url = url.replace("http", "ws", 1)
key = {"X-API-Key": os.environ["API_KEY"]}
header = ["X-API-Key: " + os.environ["API_KEY"]]


def connect(path):
    return websocket.create_connection(ws_url + path, header=header, timeout=60)


def until_ack(ws, number):
    """Returns what came before the ack."""
    messages = []
    while True:
        m = json.loads(ws.recv())
        if m == {"action": "ack", "id": number}:
            return messages
        if m["action"] != "publish":
            sys.exit("got %r" % m)
        messages.append((m["event"], m["data"]))


def post(event, number):
    r = (requests if fresh else session).post(url + "/publish?clientName=python-post", headers=key, timeout=60,
                                             data=json.dumps({"event": event, "data": number}))
    if r.status_code != 201:
        sys.exit("%d %s" % (r.status_code, r.text))


def send(event, number):
    publisher.send(json.dumps({"action": "publish", "event": event, "data": number, "id": number}))


session = requests.Session()
subscriber = connect("/subscribe?clientName=python-sub")
publisher = connect("/publish?clientName=python-pub")
for number, ws in enumerate((subscriber, publisher)):  # the server is done with the handshakes
    ws.send(json.dumps({"action": "publish", "event": "nobody", "id": number}))
    until_ack(ws, number)
lost = 0
for number in range(tries):
    if fresh:
        subscriber.close()
        publisher.close()
        subscriber = connect("/subscribe?clientName=python-sub")
        publisher = connect("/publish?clientName=python-pub")
    event = "event %d" % number
    subscriber.send(json.dumps({"action": "subscribe", "event": event}))
    if number % 3 == 0:
        post(event, number)
    else:
        send(event, number)
        until_ack(publisher, number)
    # The message has been published: it comes before the next ack, or never.
    subscriber.send(json.dumps({"action": "unsubscribe", "event": event, "id": number}))
    messages = until_ack(subscriber, number)
    if messages not in ([], [(event, number)]):
        sys.exit("got %r" % messages)
    lost += not messages

print(lost, "of", tries)
