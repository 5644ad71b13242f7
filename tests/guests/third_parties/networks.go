// Calls go-libvirt's functions of networks, as Terraform's provider and others do, and prints what they
// answer. The same is run on libvirt's own driver and on netd: the lines must be the same.
package main

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

const xml = `<network>
  <name>one</name>
  <uuid>5f0ed1a8-c6d1-4b2a-9c57-000000000091</uuid>
  <forward mode='nat'/>
  <bridge name='virbr91' stp='on' delay='0'/>
  <mac address='52:54:00:aa:bb:91'/>
  <ip address='10.20.91.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.20.91.2' end='10.20.91.99'/>
    </dhcp>
  </ip>
</network>
`

const port = `<networkport>
  <uuid>34b5f4a4-9f0a-4b3f-8d6a-0a5a5a5a5a5a</uuid>
  <owner><name>g1</name><uuid>3f0e8a3c-0a1b-4c5d-8e9f-a0b1c2d3e4f5</uuid></owner>
  <mac address='52:54:00:00:00:05'/>
</networkport>
`

// said prints the answer to a call, or its error as the library knows it.
func said(what string, answer any, err error) {
	var refused libvirt.Error
	switch {
	case errors.As(err, &refused):
		fmt.Printf("%s: error %d: %s\n", what, refused.Code, refused.Message)
	case err != nil:
		fmt.Printf("%s: error: %v\n", what, err)
	default:
		fmt.Printf("%s: %v\n", what, answer)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	dialer := dialers.NewLocal(dialers.WithSocket(os.Args[1]))
	l := libvirt.NewWithDialer(dialer)
	must(l.ConnectToURI(libvirt.ConnectURI(os.Args[2])))
	version, err := l.ConnectGetLibVersion()
	said("version", version, err)
	callback, err := l.ConnectNetworkEventRegisterAny(int32(libvirt.NetworkEventIDLifecycle), nil)
	said("register for events", callback, err)

	network, err := l.NetworkDefineXML(xml)
	said("define", network.Name, err)
	again, err := l.NetworkDefineXMLFlags(xml, 0)
	said("define again", again.UUID == network.UUID, err)
	whole(l, network, "defined")
	said("autostart on", nil, l.NetworkSetAutostart(network, 1))
	said("start", nil, l.NetworkCreate(network))
	said("start again", nil, l.NetworkCreate(network))
	whole(l, network, "running")
	changes(l, network)
	ports(l, network)

	_, err = l.NetworkLookupByName("nobody")
	said("look up nobody", nil, err)
	_, err = l.NetworkLookupByUUID(libvirt.UUID{1})
	said("look up nobody's UUID", nil, err)
	found, err := l.NetworkLookupByName("one")
	said("look up", found.UUID == network.UUID, err)
	said("destroy", nil, l.NetworkDestroy(network))
	said("destroy again", nil, l.NetworkDestroy(network))
	said("undefine", nil, l.NetworkUndefine(network))
	said("undefine again", nil, l.NetworkUndefine(network))
	all(l)
	said("deregister", nil, l.ConnectNetworkEventDeregisterAny(callback))
	must(l.Disconnect())
}

// whole asks everything that there is to ask of a network.
func whole(l *libvirt.Libvirt, network libvirt.Network, what string) {
	all(l)
	active, err := l.NetworkIsActive(network)
	said(what+": active", active, err)
	persistent, err := l.NetworkIsPersistent(network)
	said(what+": persistent", persistent, err)
	autostart, err := l.NetworkGetAutostart(network)
	said(what+": autostart", autostart, err)
	bridge, err := l.NetworkGetBridgeName(network)
	said(what+": bridge", bridge, err)
	for _, flags := range []uint32{0, uint32(libvirt.NetworkXMLInactive)} {
		text, err := l.NetworkGetXMLDesc(network, flags)
		said(fmt.Sprintf("%s: XML %d", what, flags), text, err)
	}
	leases, count, err := l.NetworkGetDhcpLeases(network, nil, 1, 0)
	said(what+": leases", fmt.Sprint(len(leases), count), err)
}

// all lists networks, without a flag and by each.
func all(l *libvirt.Libvirt) {
	for _, flags := range []libvirt.ConnectListAllNetworksFlags{0, 1, 2, 4, 8, 16, 32, 64} {
		networks, count, err := l.ConnectListAllNetworks(1, flags)
		var names []string
		for _, network := range networks {
			names = append(names, network.Name)
		}
		sort.Strings(names)
		said(fmt.Sprintf("networks %d", flags), fmt.Sprint(names, count), err)
	}
	active, err := l.ConnectNumOfNetworks()
	said("number active", active, err)
	defined, err := l.ConnectListDefinedNetworks(100)
	said("names defined", defined, err)
}

// changes has entries added and deleted, in the order of arguments that the daemon says it has.
func changes(l *libvirt.Libvirt, network libvirt.Network) {
	both := libvirt.NetworkUpdateAffectLive | libvirt.NetworkUpdateAffectConfig
	host := `<host mac='52:54:00:00:00:07' name='seven' ip='10.20.91.7'/>`
	for _, command := range []libvirt.NetworkUpdateCommand{
		libvirt.NetworkUpdateCommandAddLast, libvirt.NetworkUpdateCommandAddLast,
		libvirt.NetworkUpdateCommandDelete, libvirt.NetworkUpdateCommandDelete,
	} {
		err := l.NetworkUpdateCompat(network, command, libvirt.NetworkSectionIPDhcpHost, -1, host, both)
		said(fmt.Sprintf("update %d", command), nil, err)
	}
	name := `<host ip='10.20.91.8'><hostname>eight</hostname></host>`
	err := l.NetworkUpdateCompat(
		network, libvirt.NetworkUpdateCommandAddFirst, libvirt.NetworkSectionDNSHost, -1, name, both)
	said("add a name", nil, err)
	text, err := l.NetworkGetXMLDesc(network, 0)
	said("XML with a name", text, err)
	title := libvirt.OptString{"a title"}
	said("title", nil, l.NetworkSetMetadata(network, 1, title, nil, nil, uint32(both)))
	got, err := l.NetworkGetMetadata(network, 1, nil, 0)
	said("title is", got, err)
	_, err = l.NetworkGetMetadata(network, 0, nil, 0)
	said("description", nil, err)
}

// ports makes one for a guest that nobody runs, and deletes it.
func ports(l *libvirt.Libvirt, network libvirt.Network) {
	made, err := l.NetworkPortCreateXML(network, port, 0)
	said("make a port", made.UUID, err)
	_, err = l.NetworkPortCreateXML(network, port, 0)
	said("make it again", nil, err)
	listed, count, err := l.NetworkListAllPorts(network, 1, 0)
	said("ports", fmt.Sprint(len(listed), count), err)
	text, err := l.NetworkPortGetXMLDesc(made, 0)
	said("XML of the port", text, err)
	parameters, _, err := l.NetworkPortGetParameters(made, 16, 0)
	said("parameters of the port", len(parameters), err)
	said("delete the port", nil, l.NetworkPortDelete(made, 0))
	said("delete it again", nil, l.NetworkPortDelete(made, 0))
}
