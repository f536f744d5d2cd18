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
