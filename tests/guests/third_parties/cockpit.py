"""Does what Cockpit's page of virtual networks does, through cockpit-bridge and libvirt-dbus, and prints what
comes back: the page's JavaScript sends these very D-Bus calls to its bridge.

The same is run on libvirt's own driver and on netd: the lines must be the same.
"""

import json
import re
import subprocess

CONNECT, NETWORK = "org.libvirt.Connect", "org.libvirt.Network"
PROPERTIES = "org.freedesktop.DBus.Properties"
QEMU = "/org/libvirt/QEMU"
ADD_LAST, DELETE, DHCP_HOST, LIVE, CONFIG = 3, 2, 4, 1, 2
DEFINED, UNDEFINED, STARTED, STOPPED = range(4)

# As the page writes it.
XML = (
    '<network><name>page</name><forward mode="nat"/><domain name="page" localOnly="yes"/>'
    '<ip address="10.20.80.1" netmask="255.255.255.0">'
    '<dhcp><range start="10.20.80.2" end="10.20.80.99"/></dhcp></ip>'
    '<ip family="ipv6" address="fd00:80::1" prefix="64"/></network>'
)


class Bridge:
    """cockpit-bridge with one channel, to libvirt-dbus."""

    def __init__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(["cockpit-bridge"], stdin=pipe, stdout=pipe)
        self.events = []
        self.serial = 0
        self.control(command="init", version=1, host="localhost")
        self.control(
            command="open", channel="dbus", payload="dbus-json3", bus="system", name="org.libvirt"
        )
        # Networks' own signals come at any time and say only that something is to be read again.
        self.send("dbus", {"add-match": {"interface": CONNECT, "member": "NetworkEvent"}})

    def control(self, **message):
        self.send("", message)

    def send(self, channel, message):
        frame = f"{channel}\n{json.dumps(message)}".encode()
        self.process.stdin.write(f"{len(frame)}\n".encode() + frame)
        self.process.stdin.flush()

    def receive(self):
        """The next message of the channel."""
        while True:
            length = self.process.stdout.readline()
            if not length:
                raise EOFError("cockpit-bridge ended")
            frame = self.process.stdout.read(int(length))
            channel, _, payload = frame.partition(b"\n")
            message = json.loads(payload)
            if channel == b"dbus":
                return message
            if message.get("problem"):
                raise OSError(f"cockpit-bridge: {message}")

    def note(self, message):
        if "signal" in message:
            path, event = message["signal"][3][:2]
            self.events.append((path, event))

    def call(self, path, interface, method, signature, *arguments):
        self.serial += 1
        call = {"call": [path, interface, method, list(arguments)], "id": str(self.serial)}
        self.send("dbus", call | {"type": signature, "timeout": 30000})
        while True:
            message = self.receive()
            if message.get("id") == str(self.serial):
                return message
            self.note(message)

    def wait_for(self, event):
        while event not in [number for _, number in self.events]:
            self.note(self.receive())


def plain(text):
    """Without what each daemon chooses for itself, and what netd deliberately says otherwise."""
    text = text.replace("(null)", "")
    text = re.sub("_[0-9a-f]{8}(_[0-9a-f]{4}){3}_[0-9a-f]{12}", "UUID", text)
    text = re.sub("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    return re.sub("52:54:00(:[0-9a-f]{2}){3}'/>", "MAC'/>", text)


bridge = Bridge()


def said(what, path, interface, method, signature="", *arguments):
    """Prints the answer of a call, or its error, and returns what the answer holds."""
    message = bridge.call(path, interface, method, signature, *arguments)
    answer = message.get("reply") or message.get("error")
    print(f"{what}:", "" if "reply" in message else "error", plain(json.dumps(answer)), flush=True)
    return message["reply"][0] if "reply" in message else None


def refused(what, path, interface, method, signature, *arguments):
    """The same of a call that is refused, in words of its own by netd."""
    message = bridge.call(path, interface, method, signature, *arguments)
    print(f"{what}:", message["error"][0], flush=True)


def look(path):
    """What the page reads of a network."""
    said("properties", path, PROPERTIES, "GetAll", "s", NETWORK)
    said("XML", path, NETWORK, "GetXMLDesc", "u", 0)


def static_host(what, path, command, host, flags):
    entry = f"<host mac='{host[0]}' ip='{host[1]}' />"
    said(what, path, NETWORK, "Update", "uuisu", command, DHCP_HOST, 0, entry, flags)


def main():
    said("version", QEMU, PROPERTIES, "Get", "ss", CONNECT, "LibVersion")
    said("none", QEMU, CONNECT, "ListNetworks", "u", 0)
    said("define", QEMU, CONNECT, "NetworkDefineXML", "s", XML)
    [path] = said("one", QEMU, CONNECT, "ListNetworks", "u", 0)[0]
    bridge.wait_for(DEFINED)
    look(path)
    refused("define a second of that name", QEMU, CONNECT, "NetworkDefineXML", "s", XML)
    said("activate", path, NETWORK, "Create")
    bridge.wait_for(STARTED)
    look(path)
    said("activate again", path, NETWORK, "Create")
    said("by name", QEMU, CONNECT, "NetworkLookupByName", "s", "page")
    on = {"t": "b", "v": True}
    said("autostart", path, PROPERTIES, "Set", "ssv", NETWORK, "Autostart", on)
    guest = ("52:54:00:00:00:07", "10.20.80.7")
    static_host("add a host", path, ADD_LAST, guest, LIVE | CONFIG)
    static_host("add it again", path, ADD_LAST, guest, LIVE | CONFIG)
    look(path)
    static_host("delete it", path, DELETE, guest, LIVE | CONFIG)
    static_host("delete it again", path, DELETE, guest, LIVE | CONFIG)
    said("leases", path, NETWORK, "GetDHCPLeases", "su", "", 0)
    said("deactivate", path, NETWORK, "Destroy")
    bridge.wait_for(STOPPED)
    look(path)
    static_host("add a host to what is down", path, ADD_LAST, guest, CONFIG)
    said("undefine", path, NETWORK, "Undefine")
    bridge.wait_for(UNDEFINED)
    said("none", QEMU, CONNECT, "ListNetworks", "u", 0)
    look(path)
    print("events:", [(plain(path), event) for path, event in bridge.events])


main()
