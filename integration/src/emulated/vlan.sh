# VLANs: the LAN is the broker's, on a trunk with what is untagged, and with 20 and 30.
ip link add eth1 type veth peer name trunk netns broker
ip link set eth1 up
broker ip link set trunk up
broker ip addr add 192.168.5.1/24 dev trunk
for vlan in 20 30; do
    broker ip link add link trunk name "trunk.$vlan" type vlan id "$vlan"
    broker ip addr add "192.168.$vlan.1/24" dev "trunk.$vlan"
    broker ip link set "trunk.$vlan" up
done
for name in red blue; do cp -a /var/lib/machines/tiny "/var/lib/machines/$name"; done
in_guest() { nsenter -t "$(machinectl show "$1" -p Leader --value)" -n "${@:2}"; }
# Gives a machine an address and sees whether it reaches another: "yes" or "no".
reaches() {
    in_guest "$1" ip addr replace "$3" dev "$2"
    in_guest "$1" ip link set "$2" up
    if in_guest "$1" ping -c2 -i0.3 -W"${5:-2}" "$4" > /dev/null 2>&1; then echo yes; else echo no; fi
}
vlans() { bridge vlan show dev "$1" | sed 1d | tr -s ' \t\n' ' '; }

nsctl bridge create vbr0 --uplink eth1 --address 192.168.5.2/24 2>&1 || end "no bridge"
nsctl create blue --bridge vbr0 2>&1 || end "no machine on the bridge"
[ "$(reaches blue host0 192.168.5.7/24 192.168.5.1)" = yes ] || end "a machine on the bridge does not reach the LAN"
nsctl create red --bridge vbr0 --vlan 20 2>&1 && end "a VLAN is promised on a bridge that keeps none apart"
[ -e /etc/nsctl/machines.d/red.toml ] && end "what was refused is written"

# The bridge begins to keep VLANs apart while blue talks.
nsenter -t "$(machinectl show blue -p Leader --value)" -n ping -i0.05 -W2 192.168.5.1 > /root/ping &
pinger=$!
sed -i '/^\[bridge.vbr0\]/a vlans = [20, 30]' /etc/nsctl/nsctl.toml
nsctl apply --yes 2>&1 || end "VLANs cannot be kept apart: $(journalctl -u systemd-networkd -n 20 --no-pager)"
kill -INT $pinger
wait $pinger
say "while the bridge changes: $(grep transmitted /root/ping)"
# The last may still be on its way.
[ "$(grep -c icmp_seq= /root/ping)" = "$(sed -n 's/.*icmp_seq=\([0-9]*\) .*/\1/p' /root/ping | tail -n 1)" ] ||
    end "packets were lost while the bridge changed: $(cat /root/ping)"
nsctl plan | grep -qx "nothing to do" || end "a plan after VLANs: $(nsctl plan)"
nsctl create red --bridge vbr0 --vlan 20 2>&1 || end "no machine in a VLAN"
[ "$(vlans vb-red)" = "vb-red 20 PVID Egress Untagged " ] || end "red is in: $(vlans vb-red)"
[ "$(vlans vb-blue)" = "vb-blue 1 PVID Egress Untagged " ] || end "blue is in: $(vlans vb-blue)"
[ "$(reaches red host0 192.168.20.7/24 192.168.20.1)" = yes ] || end "red does not reach its VLAN"
[ "$(reaches red host0 192.168.5.8/24 192.168.5.1)" = no ] || end "red reaches what is untagged"
[ "$(reaches red host0 192.168.5.8/24 192.168.5.7)" = no ] || end "red reaches blue"
[ "$(reaches red host0 192.168.5.8/24 192.168.5.2)" = no ] || end "red reaches the host on its bridge"
# A guest that tags its frames itself.
in_guest red ip link add link host0 name hop type vlan id 30
[ "$(reaches red hop 192.168.30.7/24 192.168.30.1)" = no ] || end "red hops to VLAN 30"
in_guest blue ip link add link host0 name hop type vlan id 20
[ "$(reaches blue hop 192.168.20.8/24 192.168.20.1)" = no ] || end "blue hops to VLAN 20"
say "in VLAN 20: red reaches it, and nobody else"

# Another VLAN: nothing of the first is left.
nsctl attach red --bridge vbr0 --vlan 30 2>&1 || end "red cannot go to VLAN 30"
[ "$(vlans vb-red)" = "vb-red 30 PVID Egress Untagged " ] || end "red is in: $(vlans vb-red)"
[ "$(reaches red host0 192.168.30.7/24 192.168.30.1)" = yes ] || end "red does not reach VLAN 30"
[ "$(reaches red host0 192.168.20.7/24 192.168.20.1)" = no ] || end "red still reaches VLAN 20"

# Somebody makes the bridge take no notice of VLANs.
ip link set vbr0 type bridge vlan_filtering 0 vlan_default_pvid 1
nsctl doctor | grep -q "does not keep VLANs apart" || end "doctor says nothing of it: $(nsctl doctor)"
nsctl restart red 2>&1 && end "red restarts though it would be anywhere"
machinectl show red > /dev/null || end "red was stopped, and cannot start"
systemctl restart systemd-nspawn@red.service && end "red starts though it would be anywhere"
nsctl apply --yes 2>&1 || end "apply does not mend it"
nsctl start red 2>&1 || end "red does not start again"
[ "$(reaches red host0 192.168.30.7/24 192.168.30.1)" = yes ] || end "red does not reach VLAN 30 any more"
[ "$(reaches red host0 192.168.5.8/24 192.168.5.1)" = no ] || end "red reaches what is untagged after all that"

[ "$(vlans vb-red)" = "vb-red 30 PVID Egress Untagged " ] || end "red is in after all that: $(vlans vb-red)"

# Taken off its bridge while it runs, and put back.
for machine in red:30 blue:1; do
    name=${machine%:*}
    ip link set "vb-$name" nomaster
    say "taken off: $(ip -o link show "vb-$name" | grep -o 'master [^ ]*')"
    nsctl apply --yes 2>&1 || end "$name cannot be put back"
    [ "$(vlans "vb-$name")" = "vb-$name ${machine#*:} PVID Egress Untagged " ] || end "$name is put back into: $(vlans "vb-$name")"
done
[ "$(reaches red host0 192.168.30.7/24 192.168.30.1)" = yes ] || end "red, put back, does not reach VLAN 30"
[ "$(reaches blue host0 192.168.5.7/24 192.168.5.1)" = yes ] || end "blue, put back, does not reach the LAN"
bridge vlan del dev vb-blue vid 1
nsctl doctor | grep -q "vb-blue is in no VLAN of vbr0" || end "doctor does not see that blue is nowhere: $(nsctl doctor)"
networkctl reconfigure vb-blue
timeout 20 sh -c 'until bridge vlan show dev vb-blue | grep -q PVID; do sleep 0.2; done' || end "the hint for it does not help"
ip link add link eth1 name tap type vlan id 20
nsctl doctor | grep -q "tap is a VLAN of eth1" || end "doctor does not see who takes VLAN 20: $(nsctl doctor)"
ip link del tap

# Routed, and in a VLAN by a second interface.
nsctl attach tiny --routed --bridge vbr0 --vlan 20 2>&1 || end "tiny gets no second interface"
leader=$(machinectl show tiny -p Leader --value)
broker ping -6 -c3 -W5 "$address" > /dev/null || end "tiny is not reached at its prefix any more"
[ "$(vlans vb-tiny)" = "vb-tiny 20 PVID Egress Untagged " ] || end "tiny is in: $(vlans vb-tiny)"
[ "$(reaches tiny lan0 192.168.20.9/24 192.168.20.1)" = yes ] || end "tiny does not reach its VLAN"
[ "$(nsctl list tiny --json | grep -c '"vlan": 20')" = 1 ] || end "list: $(nsctl list tiny --json)"
nsctl plan | grep -qx "nothing to do" || end "a plan after a second interface: $(nsctl plan)"
nsctl doctor | grep -e vb-tiny -e vbr0 && end "doctor finds something about the bridge"
say "tiny is routed, and in VLAN 20"

# As the host boots: the bridge is made of its files alone.
systemctl stop systemd-networkd.socket systemd-networkd
ip link del vbr0
systemctl start systemd-networkd
timeout 60 sh -c 'until bridge vlan show dev vb-red | grep -q 30; do sleep 0.2; done' || end "no VLANs after a restart: $(bridge vlan show; ip -o link | grep -e vbr0 -e eth1 -e vb-; networkctl; journalctl -u systemd-networkd -n 40 --no-pager)"
[ "$(cat /sys/class/net/vbr0/bridge/vlan_filtering)$(cat /sys/class/net/vbr0/bridge/default_pvid)" = 10 ] || end "the bridge is made otherwise: $(ip -d link show vbr0)"
timeout 60 sh -c 'until ping -c1 -W1 192.168.5.1 > /dev/null; do sleep 0.2; done' || end "the host does not reach its LAN: $(bridge vlan show)"
[ "$(reaches red host0 192.168.30.7/24 192.168.30.1 10)" = yes ] || end "red does not reach VLAN 30 after a restart"
[ "$(reaches red host0 192.168.5.8/24 192.168.5.1)" = no ] || end "red reaches what is untagged after a restart"
[ "$(reaches blue host0 192.168.5.7/24 192.168.5.1)" = yes ] || end "blue is cut off after a restart"

# Nothing is left.
nsctl remove red --yes 2>&1 || end "red stays"
nsctl attach tiny --routed 2>&1 || end "tiny keeps its second interface"
leader=$(machinectl show tiny -p Leader --value)
[ "$(ls /sys/class/net | grep -c -e vb-red -e vb-tiny)" = 0 ] || end "links are left: $(ls /sys/class/net)"
sed -i '/^vlans = /d' /etc/nsctl/nsctl.toml
nsctl apply --yes 2>&1 || end "the bridge cannot stop"
[ "$(cat /sys/class/net/vbr0/bridge/vlan_filtering)" = 0 ] || end "VLANs are still kept apart"
[ "$(reaches blue host0 192.168.5.7/24 192.168.5.1)" = yes ] || end "blue is cut off without VLANs"
nsctl remove blue --yes 2>&1 || end "blue stays"
