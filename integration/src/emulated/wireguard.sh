# The same prefix through WireGuard: the broker is the peer.
umask 077
for key in peer own other; do wg genkey > /root/$key.key; done
wg genpsk > /root/psk
umask 022
broker ip link del sit1
broker ip link add wgp type wireguard
know() {
    broker wg set wgp listen-port 51820 private-key /root/peer.key peer "$(wg pubkey < "/root/$1.key")" \
        preshared-key /root/psk allowed-ips 2001:db8:9::2/128,2001:db8:a::/48,10.9.0.2/32
}
know own
broker ip link set wgp up mtu 1420
broker ip addr add 2001:db8:9::1/64 dev wgp nodad
broker ip addr add 10.9.0.1/24 dev wgp
broker ip addr add 203.0.113.1/32 dev lo
broker ip -6 route add 2001:db8:a::/48 dev wgp
# A file as a provider hands it out, with one of our keys; more of [Interface], AllowedIPs, and the peer's host.
file() {
    printf '[Interface]\nPrivateKey = %s\nAddress = 2001:db8:9::2/64\n%b\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = %s\nEndpoint = %s:51820\n' \
        "$(cat "/root/$1.key")" "${2:-}" "$(wg pubkey < /root/peer.key)" "$(cat /root/psk)" "${3:-::/0}" "${4:-192.0.2.1}" > /root/wg0.conf
}
# The MTU of the tunnel, and of both ends of the veth.
mtu() {
    for link in wg0 ve-tiny; do
        grep -qx "$1" "/sys/class/net/$link/mtu" || end "$link has an MTU of $(cat "/sys/class/net/$link/mtu"), not $1"
    done
    nsenter -t "$leader" -n ip -o link show host0 | grep -q "mtu $1 " || end "host0: $(nsenter -t "$leader" -n ip -o link show host0)"
}
file own
init() { nsctl init --wireguard /root/wg0.conf --pool 2001:db8:a::/48 2>&1 || end "init --wireguard fails: $(ip -d link; networkctl status wg0 --no-pager -n 30)"; }
world() {
    timeout 60 sh -c 'until ip netns exec broker ping -6 -c1 -W1 "$1" > /dev/null 2>&1; do sleep 0.2; done' sh "$address"
    broker ping -6 -c3 -W5 "$address" > /dev/null || end "the machine does not answer through WireGuard, $1"
    nsenter -t "$leader" -n ping -6 -c3 -W5 2001:db8:77::1 > /dev/null || end "the machine does not reach the world through WireGuard, $1"
    say "through WireGuard, $1: the machine answers, and reaches the world"
}
way() { ip -6 route get 2001:db8:77::1 2>&1 | tr -s ' \n' ' '; }

guide chmod 600 wg0.conf
guide nsctl init --wireguard wg0.conf --pool 2001:db8:a::/48
ip link show he0 > /dev/null 2>&1 && end "he0 is still there"
nsctl apply --yes 2>&1 || end "apply fails"
leader=$(machinectl show tiny -p Leader --value)
world "as the file says"
mtu 1420
way | grep -q "dev wg0" || end "the host's own way is not through the tunnel: $(way)"
for key in /etc/systemd/network/05-nsctl-tunnel-wg0*.key /etc/systemd/network/05-nsctl-tunnel-wg0*.psk; do
    of=$(stat -c '%a %U %G' "$key")
    [ "$of" = "640 root systemd-network" ] || end "the $key is readable: $of"
done
grep -rqF "$(cat /root/own.key)" /etc/nsctl /var/lib/nsctl && end "the key is written down elsewhere"
nsctl plan | grep -qx "nothing to do" || end "a plan after all that: $(nsctl plan)"
guide nsctl doctor
key=/etc/systemd/network/05-nsctl-tunnel-wg0.key
for wrong in "chmod 644:everybody" "chgrp root:networkd cannot"; do
    ${wrong%:*} $key
    nsctl doctor | grep -q "${wrong#*:}" || end "doctor says nothing of a key after ${wrong%:*}: $(nsctl doctor)"
    nsctl doctor --fix --yes > /dev/null || end "doctor fixes no key after ${wrong%:*}"
    [ "$(stat -c '%a %G' $key)" = "640 systemd-network" ] || end "the key is still $(stat -c '%a %G' $key)"
done

# Another key, and nothing else.
know other
broker wg set wgp peer "$(wg pubkey < /root/own.key)" remove
file other
init
world "with another key"

# An MTU of the file's.
file other "MTU = 1412"
init
nsctl apply --yes 2>&1 || end "apply fails with another MTU"
leader=$(machinectl show tiny -p Leader --value)
mtu 1412
world "with another MTU"

# All of both families, and a peer by its name: as a rented server's file has it.
echo "192.0.2.1 vpn.example.net" >> /etc/hosts
file other "Address = 10.9.0.2/32" "0.0.0.0/0, ::/0" vpn.example.net
init
nsctl apply --yes 2>&1 || end "apply fails with both families"
leader=$(machinectl show tiny -p Leader --value)
world "with all of both families"
ip route get 203.0.113.1 | grep -q "dev wg0" || end "IPv4 goes elsewhere: $(ip route get 203.0.113.1)"
ping -c3 -W5 203.0.113.1 > /dev/null || end "no IPv4 through WireGuard: $(ip rule; ip route show table all | grep wg0)"
ip route get 192.0.2.1 mark "$(wg show wg0 fwmark)" | grep -q "dev wan0" || end "the tunnel goes through itself"
grep -q vpn.example.net /etc/systemd/network/05-nsctl-tunnel-wg0.netdev && end "who the peer is would be asked through the tunnel"

# A table of the user's.
file other "Table = 1234"
init
world "by a table of the user's"
ip -6 route show table 1234 | grep -q "default dev wg0" || end "table 1234: $(ip -6 route show table 1234)"
way | grep -q "dev wg0" && end "the host's own way is through the tunnel: $(way)"

# The host's own ways stay.
file other "Table = off"
init
ip -6 rule | grep -q 'fwmark' && end "a rule is left: $(ip -6 rule)"
way | grep -q "dev wg0" && end "the host's own way is through the tunnel, though the file says no: $(way)"
world "while the host's own way is another"
ip -6 route get 2001:db8:77::1 from 2001:db8:a::1 | grep -q "dev wg0" || end "what the host sends from the pool goes elsewhere"

# As the host boots: from its files alone.
networkctl reload
ip link del wg0
systemctl restart systemd-networkd
timeout 60 sh -c 'until ip -6 addr show dev wg0 2> /dev/null | grep -q 2001:db8:9::2; do sleep 0.2; done' || end "no wg0 after networkd's restart"
world "after a restart of networkd"
