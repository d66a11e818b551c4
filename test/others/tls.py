"""A TLS client of Python's ssl: what comes on standard input, which is a socket, goes to the server, and what the server
sends is written to the same socket. The certificate is not checked. Usage: tls.py VERSION HOST PORT, where VERSION is
one of ssl.TLSVersion, such as TLSv1_2."""

import select
import socket
import ssl
import sys

version, host, port = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
local = socket.socket(fileno=0)
# Without suppress_ragged_eofs=False an end without close_notify would look like one with it.
server = context.wrap_socket(socket.create_connection((host, port)), suppress_ragged_eofs=False)
while True:
    ready = select.select([local, server], [], [])[0] if server.pending() == 0 else [server]
    if local in ready:
        data = local.recv(1 << 14)
        if not data:
            break
        server.sendall(data)
    if server in ready:
        server.setblocking(False)  # there may be no more than a part of a record, or a ticket
        try:
            data = server.recv(1 << 14)
        except ssl.SSLWantReadError:
            continue
        finally:
            server.setblocking(True)
        if not data:
            break
        local.sendall(data)
server.close()
