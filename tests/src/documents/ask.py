"""Asks a libvirt daemon, or netd, about documents: a JSON line in, a JSON line out.

    ask.py URI FOLDER

FOLDER is where the daemon keeps dnsmasq's files. A document is a definition of a network; what comes back is a list of
steps and of what each of them led to: a value, or code, domain and words of the error.
"""

import json
import os
import sys

import libvirt

URI, FOLDER = sys.argv[1:3]
INACTIVE = libvirt.VIR_NETWORK_XML_INACTIVE
VALIDATE = libvirt.VIR_NETWORK_DEFINE_VALIDATE

libvirt.registerErrorHandler(lambda *_: None, None)
conn = libvirt.open(URI)


class Steps:
    def __init__(self):
        self.all = []

    def take(self, label, function, *arguments):
        """The function's result, or None where it fails; both are noted."""
        try:
            result = function(*arguments)
        except libvirt.libvirtError as error:
            answer = [error.get_error_code(), error.get_error_domain(), error.get_error_message()]
            self.all.append([label, {"error": answer}])
            return None
        self.all.append([label, {"ok": result if isinstance(result, str) else None}])
        return result

    def dump(self, label, network):
        self.take(f"{label}, stored", network.XMLDesc, INACTIVE)
        self.take(f"{label}, live", network.XMLDesc, 0)

    def files(self, label, name):
        found = {}
        for kind in ("conf", "hostsfile", "addnhosts"):
            try:
                with open(os.path.join(FOLDER, f"{name}.{kind}"), encoding="utf-8") as file:
                    found[kind] = file.read()
            except FileNotFoundError:
                pass
        self.all.append([label, {"files": found}])


def updates(steps, network, changes, when):
    for number, (command, section, index, xml, flags) in enumerate(changes):
        label = f"{when} change {number}"
        if steps.take(label, network.update, command, section, index, xml, flags) is not None:
            steps.dump(label, network)


def run(document):
    steps = Steps()
    xml = document["xml"]
    network = steps.take("validate", conn.networkDefineXMLFlags, xml, VALIDATE)
    if network is not None:
        network.undefine()
    network = steps.take("define", conn.networkDefineXMLFlags, xml, 0)
    if network is None:
        return steps.all
    name = network.name()
    try:
        steps.dump("defined", network)
        updates(steps, network, document["changes"], "stored")
        if document["start"] and steps.take("start", network.create) is not None:
            steps.dump("started", network)
            steps.files("files", name)
            updates(steps, network, document["live"], "live")
            if document["live"]:
                steps.files("files after changes", name)
    finally:
        if network.isActive():
            network.destroy()
        network.undefine()
    return steps.all


# Left by one who did not get to the end.
for left in conn.listAllNetworks():
    if left.isActive():
        left.destroy()
    if left.isPersistent():
        left.undefine()

for line in sys.stdin:
    print(json.dumps(run(json.loads(line)), ensure_ascii=False), flush=True)
