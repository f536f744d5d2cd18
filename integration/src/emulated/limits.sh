# What a guest may eat: this kernel counts tasks and memory.
unit=systemd-nspawn@tiny.service
say "limits of a machine without any: $(systemctl show -p TasksMax -p MemoryMax $unit | tr '\n' ' ')"
[ "$(systemctl show -P TasksMax $unit)" = 8192 ] || end "no limit on tasks"
[ "$(systemctl show -P MemoryMax $unit)" != infinity ] || end "no limit on memory"
printf '[limits]\ntasks = 300\nmemory = "128M"\n' >> /etc/nsctl/machines.d/tiny.toml
leader=$(machinectl show tiny -p Leader --value)
kernel() { cat "/sys/fs/cgroup$(systemctl show -P ControlGroup $unit)/$1"; }
nsctl apply --yes 2>&1 || end "limits cannot be set"
[ "$(kernel memory.max) $(kernel pids.max)" = "134217728 300" ] || end "the kernel has other limits: $(kernel memory.max) $(kernel pids.max)"
nsctl set tiny limits.cpu=50% limits.cpu-weight=200 limits.memory-high=100M limits.swap=0 2>&1 || end "more limits cannot be set"
have="$(kernel cpu.max) $(kernel cpu.weight) $(kernel memory.high) $(kernel memory.swap.max)"
[ "$have" = "50000 100000 200 104857600 0" ] || end "the kernel has other limits: $have"
nsctl set tiny limits.cpu= limits.cpu-weight= limits.memory-high= limits.swap= 2>&1 || end "limits cannot be taken away"
have="$(kernel cpu.max) $(kernel cpu.weight) $(kernel memory.high) $(kernel memory.swap.max)"
[ "$have" = "max 100000 100 max max" ] || end "limits stay: $have"
[ "$(machinectl show tiny -p Leader --value)" = "$leader" ] || end "the machine was restarted for its limits"
say "limits change while a machine runs"
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$leader"/cgroup)
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
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$leader"/cgroup)
guest 'tail -c 1000000000 /dev/zero'
grep -Eq '^oom_kill [1-9]' "$counted/memory.events" || end "memory has no limit: $(cat "$counted/memory.events")"
say "a memory hog is killed; the machine's peak is $(cat "$counted/memory.peak") bytes"
[ "$(machinectl show tiny -p State --value)" = running ] || end "the machine went with its hog"
counts=$(nsctl --json stats tiny | tr -d ' \n')
for count in memory memory_peak tasks oom_kills; do
    echo "$counts" | grep -q "\"$count\":[1-9]" || end "stats does not tell of $count: $counts"
done
echo "$counts" | grep -q '"io":{"read":[0-9]' || end "stats does not tell of its disk: $counts"
timeout 60 sh -c 'until nsctl events tiny | grep -q "  oom  "; do sleep 1; done' || end "events tells of no hog: $(nsctl events tiny)"
nsctl metrics | grep -q '^nsctl_machine_oom_kills_total{machine="tiny"} [1-9]' || end "metrics tells of no hog"
say "what the machine uses is counted, and that its hog was killed"
