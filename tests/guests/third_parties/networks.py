"""Calls libvirt-python's functions of networks and prints what they answer, errors and events included.

The same is run on libvirt's own driver and on netd: the lines must be the same.
"""

import sys
import threading
import time

import libvirt

XML = """<network>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <forward mode='nat'/>
  <bridge name='{bridge}' stp='on' delay='0'/>
  <mac address='52:54:00:aa:bb:{last}'/>
  <ip address='10.20.{number}.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.20.{number}.2' end='10.20.{number}.99'/>
    </dhcp>
  </ip>
</network>
"""
UUID = "5f0ed1a8-c6d1-4b2a-9c57-0000000000{:02d}"


def xml(name, number):
    return XML.format(
        name=name, uuid=UUID.format(number), bridge=f"virbr{number}", number=number, last=f"{number:02x}"
    )


def said(what, function, *arguments):
    """Prints the answer or the error of a call, and returns the answer."""
    try:
        answer = function(*arguments)
    except libvirt.libvirtError as error:
        print(f"{what}: error {error.get_error_code()} of {error.get_error_domain()}: {error}")
        return None
    if isinstance(answer, (libvirt.virNetwork, libvirt.virNetworkPort)):
        print(f"{what}: {type(answer).__name__}")
    elif isinstance(answer, list):
        print(f"{what}: {sorted(str(getattr(one, 'name', lambda: one)()) for one in answer)}")
    else:
        print(f"{what}: {answer!r}")
    return answer


def refused(what, function, *arguments):
    """Prints code and domain of the error of a call whose words netd deliberately has its own for."""
    try:
        function(*arguments)
    except libvirt.libvirtError as error:
        print(f"{what}: error {error.get_error_code()} of {error.get_error_domain()}")
    else:
        print(f"{what}: no error")


def update(network, what, command, section, text, flags):
    said(what, network.update, command, section, -1, text, flags)


def main():
    libvirt.registerErrorHandler(lambda context, error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=loop, daemon=True).start()
    connection = libvirt.open(sys.argv[1])
    events = []

    def lifecycle(_connection, network, event, detail, _opaque):
        events.append(f"{network.name()} {event} {detail}")

    registered = connection.networkEventRegisterAny(
        None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lifecycle, None
    )
    network = said("define", connection.networkDefineXML, xml("one", 91))
    for what, call in [
        ("name", network.name),
        ("UUID", network.UUIDString),
        ("bridge", network.bridgeName),
        ("active", network.isActive),
        ("persistent", network.isPersistent),
        ("autostart", network.autostart),
        ("destroy what is down", network.destroy),
        ("leases of what is down", network.DHCPLeases),
    ]:
        said(what, call)
    said("autostart on", network.setAutostart, 1)
    said("start", network.create)
    said("start again", network.create)
    said("XML", network.XMLDesc)
    said("inactive XML", network.XMLDesc, libvirt.VIR_NETWORK_XML_INACTIVE)
    said("leases", network.DHCPLeases)
    said("ports", network.listAllPorts)
    changes(network)
    said("lookup", connection.networkLookupByName, "one")
    said("lookup of nobody", connection.networkLookupByName, "nobody")
    said("lookup by UUID", connection.networkLookupByUUIDString, UUID.format(99))
    transient = said("create", connection.networkCreateXML, xml("two", 92))
    said("all", connection.listAllNetworks)
    said("persistent", connection.listAllNetworks, libvirt.VIR_CONNECT_LIST_NETWORKS_PERSISTENT)
    said("active", connection.listNetworks)
    said("defined", connection.listDefinedNetworks)
    said("autostart of transient", transient.setAutostart, 1)
    said("undefine transient", transient.undefine)
    said("destroy transient", transient.destroy)
    said("use what is gone", transient.isActive)
    refused("same name, other UUID", connection.networkDefineXML, xml("one", 93))
    refused("no XML", connection.networkDefineXML, "<network")
    said("destroy", network.destroy)
    said("undefine", network.undefine)
    said("all", connection.listAllNetworks)
    wait_for(events, "one 1 0")
    print("events:", events)
    said("deregister", connection.networkEventDeregisterAny, registered)


def changes(network):
    both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    add, delete = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    host = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    entry = "<host mac='52:54:00:00:00:07' name='seven' ip='10.20.91.7'/>"
    update(network, "add a host", add, host, entry, both)
    update(network, "add it again", add, host, entry, both)
    update(network, "delete it", delete, host, entry, both)
    update(network, "delete it again", delete, host, entry, both)
    names = libvirt.VIR_NETWORK_SECTION_DNS_HOST
    entry = "<host ip='10.20.91.8'><hostname>eight</hostname></host>"
    update(network, "add a name", add, names, entry, both)
    said("XML with a name", network.XMLDesc)


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


def wait_for(events, last):
    end = time.monotonic() + 60
    while last not in events and time.monotonic() < end:
        time.sleep(0.02)


main()
