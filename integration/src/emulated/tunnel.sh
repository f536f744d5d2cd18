# 6in4: the broker is a network namespace beside the host.
ip netns add broker
ip link add wan0 type veth peer name up0 netns broker
broker ip addr add 192.0.2.1/24 dev up0
broker ip link set up0 up
broker ip link set lo up
broker ip tunnel add sit1 mode sit local 192.0.2.1 remote 192.0.2.2 ttl 255
broker ip link set sit1 up mtu 1480
broker ip addr add 2001:db8:1f0a:c::1/64 dev sit1 nodad
broker ip addr add 2001:db8:77::1/128 dev lo nodad
broker ip -6 route add 2001:db8:a::/48 dev sit1
broker sysctl -qw net.ipv6.conf.all.forwarding=1

cd /root || exit
guide nsctl init
guide nsctl init --tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48
say "$(ip -d link show he0 | tr -s ' \n' ' ')"
ping -6 -c3 -W5 2001:db8:1f0a:c::1 > /dev/null || end "the broker's end does not answer"
say "the broker's end answers"
printf '\n[defaults]\nimage = "tiny"\n' >> /etc/nsctl/nsctl.toml
guide nsctl create web --routed --open tcp/443
nsctl remove web --yes 2>&1 || end "remove fails"
sed -i '/^\[defaults\]$/,$d' /etc/nsctl/nsctl.toml
nsctl create tiny --routed 2>&1 || end "create fails"
address=$(nsctl list tiny --json | sed -n '/"addresses"/,/]/s/.*"\(2001:[^"]*\)".*/\1/p' | head -n1)
say "the machine has $address"
broker ping -6 -c3 -W5 "$address" > /dev/null || end "the machine does not answer through the tunnel"
say "the machine answers through the tunnel"
leader=$(machinectl show tiny -p Leader --value)
nsenter -t "$leader" -n ping -6 -c3 -W5 2001:db8:77::1 > /dev/null || end "the machine does not reach the world"
say "the machine reaches the world"
for link in he0 ve-tiny; do
    grep -qx 1480 "/sys/class/net/$link/mtu" || end "$link has an MTU of $(cat "/sys/class/net/$link/mtu")"
done
nsenter -t "$leader" -n ip -o link show host0 | grep -q "mtu 1480 " || end "host0: $(nsenter -t "$leader" -n ip -o link show host0)"
nsctl plan | grep -qx "nothing to do" || end "a plan after all that: $(nsctl plan)"
