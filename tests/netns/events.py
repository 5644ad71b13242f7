"""Clients of libvirt's Python binding that listen to events: URI, how many.

Prints a line for each event, [client, network, event, detail], and ends when its input does."""

import json
import sys
import threading

import libvirt


def event_loop():
    while True:
        libvirt.virEventRunDefaultImpl()


def told(_connection, network, event, detail, client):
    print(json.dumps([client, network.name(), event, detail]), flush=True)


def closed(_connection, reason, client):
    print(json.dumps([client, "closed", reason, 0]), flush=True)


uri, count = sys.argv[1], int(sys.argv[2])
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=event_loop, daemon=True).start()
clients = []
for client in range(count):
    # Every other one may only look.
    connection = libvirt.openReadOnly(uri) if client % 2 else libvirt.open(uri)
    connection.setKeepAlive(5, 5)
    connection.registerCloseCallback(closed, client)
    callback = connection.networkEventRegisterAny(
        None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, told, client
    )
    clients.append((connection, callback))
print("ready", flush=True)
sys.stdin.read()
for connection, callback in clients:
    connection.networkEventDeregisterAny(callback)
    connection.unregisterCloseCallback()
    connection.close()
print("left", flush=True)
