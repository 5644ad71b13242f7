# What fog-libvirt and ruby-libvirt, which it stands on, say of networks: a line for each call, errors included.
#
# The same is run on libvirt's own driver and on netd: the lines must be the same.

require 'fog/libvirt'

XML = <<~END
  <network>
    <name>fog</name>
    <uuid>5f0ed1a8-c6d1-4b2a-9c57-000000000060</uuid>
    <forward mode='nat'/>
    <bridge name='virbr60' stp='on' delay='0'/>
    <mac address='52:54:00:aa:bb:60'/>
    <ip address='10.20.60.1' netmask='255.255.255.0'>
      <dhcp>
        <range start='10.20.60.2' end='10.20.60.99'/>
      </dhcp>
    </ip>
  </network>
END
UUID = XML[%r{<uuid>(.*)</uuid>}, 1]
HOST = "<host mac='52:54:00:00:00:07' name='seven' ip='10.20.60.7'/>"
ADD, DELETE, DHCP_HOST, LIVE, CONFIG = 3, 2, 4, 1, 2

# Prints the answer of a call, or its error, and returns the answer.
def said(what)
  answer = yield
  shown = answer.respond_to?(:attributes) ? answer.attributes : answer
  shown = shown.class if shown.is_a?(Libvirt::Network)
  puts "#{what}: #{shown.inspect}"
  answer
rescue Libvirt::Error, Fog::Errors::Error => e
  code = e.is_a?(Libvirt::Error) ? " #{e.libvirt_code} #{e.libvirt_component} #{e.libvirt_message}" : ''
  puts "#{what}: #{e.class}#{code}: #{e.message}"
end

# The same without the words of the error, for which netd deliberately has its own.
def refused(what)
  yield
  puts "#{what}: no error"
rescue Libvirt::Error => e
  puts "#{what}: #{e.class} #{e.libvirt_code} #{e.libvirt_component}"
end

compute = Fog::Compute.new(provider: 'libvirt', libvirt_uri: ARGV[0])
client = compute.client
said('none') { compute.networks.all.to_a }
said('none by name') { compute.networks.all(name: 'fog') }
said('none by UUID') { compute.networks.get(UUID) }
network = said('define') { client.define_network_xml(XML) }
said('what is down') { compute.list_networks }
said('start') { network.create }
said('start again') { network.create }
said('list') { compute.list_networks }
said('all') { compute.networks.all.map(&:attributes) }
said('by name') { compute.networks.all(name: 'fog').map(&:attributes) }
said('by UUID') { compute.networks.get(UUID) }
said('leases') { compute.networks.get(UUID).dhcp_leases('52:54:00:00:00:07') }
said('leases of all') { compute.dhcp_leases(UUID, nil) }
said('leases of no address') { compute.dhcp_leases(UUID, 'x') }
said('leases of nobody') { compute.dhcp_leases(UUID.sub('5', '6'), nil) }
%i[name uuid bridge_name active? persistent? autostart? xml_desc].each do |question|
  said(question) { network.public_send(question) }
end
said('autostart on') { network.autostart = true }
said('autostart') { network.autostart? }
said('add a host') { network.update(ADD, DHCP_HOST, -1, HOST, LIVE | CONFIG) }
said('add it again') { network.update(ADD, DHCP_HOST, -1, HOST, LIVE | CONFIG) }
said('delete it') { network.update(DELETE, DHCP_HOST, -1, HOST, LIVE | CONFIG) }
said('numbers') { [client.num_of_networks, client.num_of_defined_networks] }
said('names') { [client.list_networks, client.list_defined_networks] }
said('all of libvirt') { client.list_all_networks.map(&:name) }
said('lookup of nobody') { client.lookup_network_by_name('nobody') }
refused('no XML') { client.define_network_xml('<network>') }
said('shutdown') { compute.networks.get(UUID).shutdown }
said('shutdown again') { compute.destroy_network(UUID) }
said('undefine') { network.undefine }
transient = said('transient') { client.create_network_xml(XML) }
said('persistent?') { transient.persistent? }
said('destroy') { transient.destroy }
said('gone') { compute.list_networks }
