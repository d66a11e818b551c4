#!/usr/bin/env bash
# A client of nothing but curl and bash: POST with curl, and the WebSocket by hand over bash's /dev/tcp.
# Usage: client.sh URL, with the key in API_KEY.
set -eu
url=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
hostport=${url#http://}
exec 3<>"/dev/tcp/${hostport%:*}/${hostport#*:}"
: >"$dir/out"
cat <&3 >"$dir/out" & # ends when the connection does

# frame TEXT: prints a masked text frame of up to 125 bytes; the mask is 0.
frame() {
	printf "\\201\\$(printf %o $((128 + ${#1})))\\000\\000\\000\\000%s" "$1"
}

# wait_for TEXT: waits until the server has sent it.
wait_for() {
	n=0
	until grep -aqF "$1" "$dir/out"; do
		n=$((n + 1))
		if [ "$n" -gt 300 ]; then
			echo "never came: $1" >&2
			exit 1
		fi
		sleep 0.1
	done
}

post() {
	curl -sS --fail-with-body -H "X-API-Key: $API_KEY" "$url/publish?clientName=curl" -d "$1"
}

printf 'GET /subscribe?clientName=shell HTTP/1.1\r\nHost: picloud\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-API-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n' "$API_KEY" >&3
frame '{"action":"subscribe","event":"bell","id":1}' >&3
wait_for '{"action":"ack","id":1}'

post '{"event":"bell","data":"by post"}'
wait_for '"data":"by post"'
frame '{"action":"publish","event":"bell","data":"by socket"}' >&3
wait_for '"data":"by socket"'

frame '{"action":"unsubscribe","event":"bell","id":2}' >&3
wait_for '{"action":"ack","id":2}'
post '{"event":"bell","data":"nobody hears this"}'
frame '{"action":"publish","event":"bell","data":"this neither","id":3}' >&3
wait_for '{"action":"ack","id":3}'
if grep -aqE 'nobody hears|this neither' "$dir/out"; then
	echo "a message came after unsubscribe" >&2
	exit 1
fi
curl -sS --fail-with-body -H "X-API-Key: $API_KEY" "$url/info" | grep -qF '"client_name":"shell"'
status=$(curl -s -o "$dir/error" -w '%{http_code}' -H 'X-API-Key: wrong' "$url/info")
[ "$status" = 401 ] && grep -qF '{"error":"wrong key"}' "$dir/error"
printf '\210\200\000\000\000\000' >&3 # a close frame; the server answers it and ends the connection
wait
echo "all messages came"
