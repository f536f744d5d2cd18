# Runs in the emulated host: the broker is a network namespace beside it.
set -u
say() { echo "TUNNEL: $*"; }
end() { say "$*"; systemctl --no-block poweroff; exit; }
broker() { ip netns exec broker "$@"; }

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

nsctl init --tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48 2>&1 || end "init fails"
say "$(ip -d link show he0 | tr -s ' \n' ' ')"
ping -6 -c3 -W5 2001:db8:1f0a:c::1 > /dev/null || end "the broker's end does not answer"
say "the broker's end answers"
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
nsenter -t "$leader" -n ip link show host0 | grep -q "mtu" || end "no host0"
nsctl plan | grep -qx "nothing to do" || end "a plan after all that: $(nsctl plan)"

# What a guest may eat: this kernel counts tasks and memory.
unit=systemd-nspawn@tiny.service
say "limits of a machine without any: $(systemctl show -p TasksMax -p MemoryMax $unit | tr '\n' ' ')"
[ "$(systemctl show -P TasksMax $unit)" = 8192 ] || end "no limit on tasks"
[ "$(systemctl show -P MemoryMax $unit)" != infinity ] || end "no limit on memory"
printf '[limits]\ntasks = 300\nmemory = "128M"\n' >> /etc/nsctl/machines.d/tiny.toml
nsctl apply --yes 2>&1 || end "limits cannot be set"
# systemd gives the kernel a unit's limits when it starts.
nsctl restart tiny 2>&1 || end "the machine does not start with limits"
leader=$(machinectl show tiny -p Leader --value)
group=/sys/fs/cgroup$(cut -d: -f3 /proc/"$leader"/cgroup)
# A process of the guest's, where the kernel counts it.
guest() { sh -c 'echo $$ > "$1/cgroup.procs" && exec nsenter -t "$2" -a /bin/sh -c "$3"' sh "$group" "$leader" "$1"; }
counted=/sys/fs/cgroup$(systemctl show -P ControlGroup $unit)
guest 'while sleep 1000 & do :; done' > /root/bomb 2>&1 &
timeout 120 sh -c 'until test "$(cat "$1/pids.current")" -ge 295; do sleep 0.1; done' sh "$counted" ||
    end "a fork bomb meets no limit: $(cat "$counted/pids.current" "$counted/pids.events" "$counted/pids.max"; tail -n 3 /root/bomb)"
say "a fork bomb ends at $(cat "$counted/pids.current") tasks"
[ "$(cat "$counted/pids.current")" -le 300 ] || end "a fork bomb goes on"
ping -6 -c3 -W5 "$address" > /dev/null || end "a machine full of tasks takes its network along"
nsctl restart tiny 2>&1 || end "a machine full of tasks cannot be restarted"
leader=$(machinectl show tiny -p Leader --value)
group=/sys/fs/cgroup$(cut -d: -f3 /proc/"$leader"/cgroup)
guest 'tail -c 1000000000 /dev/zero'
grep -Eq '^oom_kill [1-9]' "$counted/memory.events" || end "memory has no limit: $(cat "$counted/memory.events")"
say "a memory hog is killed; the machine's peak is $(cat "$counted/memory.peak") bytes"
[ "$(machinectl show tiny -p State --value)" = running ] || end "the machine went with its hog"
end "all is well"
