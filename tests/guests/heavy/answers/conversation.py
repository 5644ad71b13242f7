"""Calls of libvirt-python, good and bad, and every field of what comes back: a JSON line for each.

    conversation.py URI networks|ports CASES

CASES holds the XML of a network or of a port a line, behind a word. Run beside libvirt's own daemon and beside
netd.
"""

import json
import re
import sys

import libvirt

URI, SUBJECT, CASES = sys.argv[1:4]
UUID = "11111111-2222-3333-4444-555555555555"
FIELDS = (
    "get_error_code get_error_domain get_error_message get_error_level "
    "get_str1 get_str2 get_str3 get_int1 get_int2"
).split()

libvirt.registerErrorHandler(lambda *_: None, None)
conn = libvirt.open(URI)


def plain(value):
    """What json can print of an answer, without what each daemon chooses for itself."""
    if isinstance(value, str) and value.startswith("<network"):
        value = re.sub("<uuid>[^<]*", "<uuid>", value)
        value = re.sub(" interfaceid='[^']*'", "", value)
        return re.sub("<mac address='[^']*'", "<mac", value)
    if isinstance(value, libvirt.virNetwork):
        return ["network", value.name()]
    if isinstance(value, libvirt.virNetworkPort):
        return ["port", value.UUIDString()]
    if isinstance(value, libvirt.virConnect):
        return "a connection"
    if isinstance(value, list) and value and isinstance(value[0], libvirt.virNetwork):
        return sorted(network.name() for network in value)
    return value


def call(label, function, *arguments):
    try:
        answer = {"ok": plain(function(*arguments))}
    except libvirt.libvirtError as error:
        answer = {"error": [getattr(error, field)() for field in FIELDS]}
    print(json.dumps([label, answer], ensure_ascii=False), flush=True)
    return "ok" in answer


def forget():
    for network in conn.listAllNetworks():
        if network.isActive():
            network.destroy()
        if network.isPersistent():
            network.undefine()


def cases():
    for line in open(CASES, encoding="utf-8"):
        word, _, text = line.rstrip("\n").partition(" ")
        if word in ("refused", "taken"):
            yield text.replace("\\n", "\n")


def definitions():
    for text in cases():
        for flags in (0, libvirt.VIR_NETWORK_DEFINE_VALIDATE):
            call(f"define {flags} {text}", conn.networkDefineXMLFlags, text, flags)
            for network in conn.listAllNetworks():
                call(f"dump {flags} {text}", network.XMLDesc, libvirt.VIR_NETWORK_XML_INACTIVE)
            forget()


def ports():
    network = conn.networkCreateXML("<network><name>n1</name><bridge name='vbr1'/></network>")
    for text in cases():
        for flags in (0, libvirt.VIR_NETWORK_PORT_CREATE_VALIDATE):
            call(f"create port {flags} {text}", network.portCreateXML, text, flags)
            for port in network.listAllPorts():
                call(f"dump port {flags} {text}", port.XMLDesc)
                port.delete()
    network.destroy()


NAT = f"""<network><name>n1</name><uuid>{UUID}</uuid><forward mode='nat'/><bridge name='vbr1'/>
<ip address='192.168.177.1' netmask='255.255.255.0'><dhcp>
<range start='192.168.177.2' end='192.168.177.9'/>
<host mac='52:54:00:00:00:01' name='a' ip='192.168.177.5'/></dhcp></ip></network>"""
HOST = "<host mac='52:54:00:00:00:02' name='b' ip='192.168.177.6'/>"
MODIFY, DELETE, ADD, ADD_FIRST = 1, 2, 3, 4

# Section, and what is done there one after the other.
UPDATES = {
    1: [(ADD, "<bridge name='x'/>"), (DELETE, "<bridge/>")],
    2: [(MODIFY, "<domain name='x'/>")],
    3: [(ADD, "<ip address='1.2.3.4'/>")],
    6: [(MODIFY, "<forward mode='nat'/>")],
    8: [(ADD, "<pf dev='x'/>")],
    4: [
        (ADD, HOST),
        (ADD, HOST),
        (ADD, "<host mac='52:54:00:00:00:02' name='c' ip='192.168.177.7'/>"),
        (ADD, "<host mac='52:54:00:00:00:03' name='c' ip='192.168.177.6'/>"),
        (ADD, "<host mac='52:54:00:00:00:03' name='b' ip='192.168.177.7'/>"),
        (ADD_FIRST, "<host mac='52:54:00:00:00:09' name='z' ip='192.168.177.8'/>"),
        (MODIFY, "<host mac='52:54:00:00:00:02' name='bb' ip='192.168.177.7'/>"),
        (MODIFY, "<host mac='52:54:00:00:00:77' name='q' ip='192.168.177.99'/>"),
        (MODIFY, "<host mac='52:54:00:00:00:02'/>"),
        (DELETE, "<host mac='52:54:00:00:00:77'/>"),
        (DELETE, "<host ip='192.168.177.99'/>"),
        (DELETE, "<host mac='52:54:00:00:00:02' name='nope'/>"),
        (DELETE, "<host mac='52:54:00:00:00:02'/>"),
        (DELETE, "<host ip='192.168.177.8'/>"),
        (DELETE, "<host/>"),
        (ADD, "<host mac='52:54:00:00:00:12'/>"),
        (ADD, "<range start='192.168.177.2' end='192.168.177.3'/>"),
        (ADD, "<host"),
        (ADD, ""),
        (ADD, "<host mac='x' ip='192.168.177.9'/>"),
        (ADD, "<host mac='52:54:00:00:00:12' ip='fd00::1'/>"),
        (ADD, "<host mac='52:54:00:00:00:12' ip='192.168.177.19' bogus='1'/>"),
        (DELETE, "<host mac='52:54:00:00:00:12'/>"),
    ],
    5: [
        (ADD, "<range start='192.168.177.20' end='192.168.177.29'/>"),
        (ADD, "<range start='192.168.177.20' end='192.168.177.29'/>"),
        (ADD, "<range start='192.168.178.20' end='192.168.178.29'/>"),
        (MODIFY, "<range start='192.168.177.20' end='192.168.177.30'/>"),
        (DELETE, "<range start='192.168.177.21' end='192.168.177.29'/>"),
        (DELETE, "<range start='192.168.177.20' end='192.168.177.29'/>"),
        (ADD, "<range start='192.168.177.20'/>"),
    ],
    7: [
        (MODIFY, "<interface dev='eth9'/>"),
        (DELETE, "<interface dev='eth9'/>"),
        (ADD, "<interface/>"),
        (ADD, "<interface dev='eth9'/>"),
        (ADD, "<interface dev='eth9'/>"),
        (ADD, "<interface dev='eth8'/>"),
        (DELETE, "<interface dev='eth9'/>"),
        (DELETE, "<interface dev='eth8'/>"),
    ],
    9: [
        (ADD, "<portgroup name='p1'/>"),
        (ADD, "<portgroup name='p1'/>"),
        (ADD, "<portgroup name='p2' default='yes'/>"),
        (ADD, "<portgroup name='p3' default='yes'/>"),
        (MODIFY, "<portgroup name='p1'><bandwidth><inbound average='9'/></bandwidth></portgroup>"),
        (MODIFY, "<portgroup name='p1' default='yes'/>"),
        (MODIFY, "<portgroup name='nope'/>"),
        (DELETE, "<portgroup name='nope'/>"),
        (ADD_FIRST, "<portgroup name='p0'/>"),
        (ADD, "<portgroup/>"),
        (ADD, "<bridge/>"),
        (DELETE, "<portgroup name='p0'/>"),
        (DELETE, "<portgroup name='p1'/>"),
        (DELETE, "<portgroup name='p2'/>"),
    ],
    10: [
        (ADD, "<host ip='192.168.177.50'><hostname>h1</hostname></host>"),
        (ADD, "<host ip='192.168.177.50'><hostname>h9</hostname></host>"),
        (MODIFY, "<host ip='192.168.177.50'><hostname>h3</hostname></host>"),
        (MODIFY, "<host ip='192.168.177.51'><hostname>h3</hostname></host>"),
        (DELETE, "<host ip='192.168.177.51'/>"),
        (DELETE, "<host><hostname>nope</hostname></host>"),
        (DELETE, "<host ip='192.168.177.50'/>"),
        (ADD, "<host ip='192.168.177.50'/>"),
        (ADD, "<host><hostname>a</hostname></host>"),
        (DELETE, "<host/>"),
    ],
    11: [
        (ADD, "<txt name='t1' value='v1'/>"),
        (ADD, "<txt name='t1' value='v1'/>"),
        (MODIFY, "<txt name='t1' value='v2'/>"),
        (MODIFY, "<txt name='t9' value='v2'/>"),
        (MODIFY, "<txt name='t1'/>"),
        (DELETE, "<txt name='t9'/>"),
        (DELETE, "<txt name='t1'/>"),
        (ADD, "<txt name='t1'/>"),
        (ADD, "<host/>"),
    ],
    12: [
        (ADD, "<srv service='s' protocol='tcp' target='t' port='5'/>"),
        (ADD, "<srv service='s' protocol='tcp' target='t' port='5'/>"),
        (MODIFY, "<srv service='s' protocol='tcp' target='t' port='5'/>"),
        (DELETE, "<srv service='q' protocol='tcp'/>"),
        (ADD, "<srv service='s' protocol='tcp' target='t2' port='6'/>"),
        (DELETE, "<srv service='s' protocol='tcp'/>"),
        (DELETE, "<srv service='s' protocol='tcp' target='t' port='5'/>"),
        (DELETE, "<srv service='s' protocol='tcp'/>"),
        (DELETE, "<srv/>"),
    ],
}


def updates(net, when, flags):
    for section, steps in UPDATES.items():
        for command, xml in steps:
            label = f"{when} update {command} {section} {xml}"
            call(label, net.update, command, section, -1, xml, flags)
        call(f"{when} dump after section {section}", net.XMLDesc)
    for index in (0, 5, -5):
        call(f"{when} update index {index}", net.update, ADD, 4, index, HOST, flags)
        call(f"{when} take back", net.update, DELETE, 4, -1, HOST, flags)


def metadata(net, when, flags):
    def get(kind, uri=None):
        call(f"{when} metadata {kind} {uri}", net.metadata, kind, uri, flags)

    def set_to(kind, text, key=None, uri=None):
        label = f"{when} setMetadata {kind} {text!r} {key} {uri}"
        call(label, net.setMetadata, kind, text, key, uri, flags)

    for kind, uri in ((0, None), (1, None), (2, "urn:a"), (2, None), (2, ""), (0, "urn:a"), (7, None)):
        get(kind, uri)
    set_to(0, "d", "", "")
    set_to(0, "d")
    set_to(1, "a\nb")
    set_to(1, "t")
    set_to(2, "<x/>", "k", "urn:a")
    set_to(2, "<x/>", None, "urn:a")
    set_to(2, "<x", "k", "urn:a")
    set_to(2, "<x/><y/>", "k", "urn:a")
    set_to(9, "x")
    for kind, uri in ((0, None), (1, None), (2, "urn:a")):
        get(kind, uri)
    call(f"{when} dump with metadata", net.XMLDesc)
    for kind, uri in ((2, "urn:a"), (2, "urn:a"), (1, None), (0, None)):
        set_to(kind, None, None, uri)
    set_to(1, "")
    call(f"{when} dump without metadata", net.XMLDesc)


def connection():
    for name in (
        "getType getVersion getLibVersion getHostname getCapabilities isSecure isEncrypted isAlive "
        "numOfNetworks listNetworks listDefinedNetworks numOfDefinedNetworks getInfo numOfDomains "
        "listAllDomains listAllStoragePools listInterfaces getFreeMemory listSecrets listNWFilters"
    ).split():
        call(name, getattr(conn, name))
    call("getMaxVcpus", conn.getMaxVcpus, "x")
    for name in ("none", "", "a/b"):
        call(f"lookup {name}", conn.networkLookupByName, name)
    call("lookup uuid", conn.networkLookupByUUIDString, UUID)
    for flags in (64, 0x40000000):
        call(f"list {flags}", conn.listAllNetworks, flags)
    for flags in (2, 6):
        call(f"define with flags {flags}", conn.networkDefineXMLFlags, NAT, flags)
        call(f"create with flags {flags}", conn.networkCreateXMLFlags, NAT, flags)


def unknown_numbers(net):
    for command, section in ((0, 4), (5, 4), (3, 0), (3, 13), (2147483647, 4), (3, 2147483647)):
        label = f"update {command} of section {section}"
        call(label, net.update, command, section, -1, HOST, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG)
    call("update with flags 4", net.update, ADD, 4, -1, HOST, 4)
    call("metadata with flags 8", net.metadata, 0, None, 8)
    call("setMetadata with flags 8", net.setMetadata, 0, "x", None, None, 8)
    for flags in (2, 0x80):
        call(f"dump with flags {flags}", net.XMLDesc, flags)
    for mac in (None, "52:54:00:00:00:01", "x", ""):
        call(f"leases of {mac}", net.DHCPLeases, mac)
    call("leases with flags", net.DHCPLeases, None, 1)


STATES = "isActive isPersistent autostart bridgeName".split()


def states(net, when):
    for name in STATES:
        call(f"{when} {name}", getattr(net, name))


def life():
    net = conn.networkDefineXML(NAT)
    states(net, "defined")
    unknown_numbers(net)
    call("destroy inactive", net.destroy)
    call("live update of an inactive one", net.update, ADD, 4, -1, HOST, 1)
    call("live metadata of an inactive one", net.metadata, 0, None, 1)
    updates(net, "inactive", 2)
    metadata(net, "inactive", 0)
    for on in (1, 1, 0):
        call(f"autostart {on}", net.setAutostart, on)
        states(net, f"autostart {on}")
    call("start", net.create)
    call("start again", net.create)
    states(net, "active")
    call("dump active", net.XMLDesc)
    call("dump active, inactive", net.XMLDesc, 1)
    for when, flags in (("live", 1), ("both", 3), ("current", 0)):
        updates(net, when, flags)
        metadata(net, when, flags)
    call("create an active one", conn.networkCreateXML, NAT)
    other = UUID.replace("1111", "2222", 1)
    renamed = NAT.replace("n1", "n2").replace("vbr1", "vbr2")
    call("define with another uuid", conn.networkDefineXML, NAT.replace(UUID, other))
    call("define with another name", conn.networkDefineXML, renamed)
    call("create with another uuid", conn.networkCreateXML, NAT.replace(UUID, other))
    call("create with another name", conn.networkCreateXML, renamed)
    bridge = "<network><name>n3</name><bridge name='vbr1'/></network>"
    call("define with the same bridge", conn.networkDefineXML, bridge)
    second = conn.networkDefineXML(renamed.replace(UUID, other))
    call("start in the same subnet", second.create)
    call("undefine", second.undefine)
    call("create on a device that is there", conn.networkCreateXML, bridge.replace("vbr1", "lo"))
    call("leases", net.DHCPLeases)
    call("ports", net.listAllPorts)
    call("undefine an active one", net.undefine)
    states(net, "transient")
    call("undefine a transient one", net.undefine)
    call("autostart of a transient one", net.setAutostart, 1)
    call("config update of a transient one", net.update, ADD, 4, -1, HOST, 2)
    call("config metadata of a transient one", net.metadata, 0, None, 2)
    call("dump transient, inactive", net.XMLDesc, 1)
    call("destroy", net.destroy)
    gone(net)
    call("create transient", conn.networkCreateXML, NAT)
    net = conn.networkLookupByName("n1")
    call("start a transient one", net.create)
    call("destroy a transient one", net.destroy)


def gone(net):
    for name in STATES + "destroy create undefine XMLDesc DHCPLeases listAllPorts".split():
        call(f"gone {name}", getattr(net, name))
    call("gone setAutostart", net.setAutostart, 1)
    call("gone metadata", net.metadata, 0, None)
    call("gone setMetadata", net.setMetadata, 0, "x", None, None)
    call("gone update", net.update, ADD, 4, -1, HOST)


def read_only():
    reader = libvirt.openReadOnly(URI)
    call("read-only list", reader.listAllNetworks)
    call("read-only define", reader.networkDefineXML, NAT)
    call("read-only create", reader.networkCreateXML, NAT)
    conn.networkDefineXML(NAT)
    net = reader.networkLookupByName("n1")
    for name in "destroy create undefine XMLDesc".split():
        call(f"read-only {name}", getattr(net, name))
    call("read-only setAutostart", net.setAutostart, 1)
    call("read-only setMetadata", net.setMetadata, 0, "x", None, None)
    call("read-only metadata", net.metadata, 0, None)
    call("read-only update", net.update, ADD, 4, -1, HOST)
    forget()


forget()
if SUBJECT == "ports":
    ports()
else:
    connection()
    life()
    forget()
    read_only()
    definitions()
