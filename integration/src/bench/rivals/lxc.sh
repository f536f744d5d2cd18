# LXC: unprivileged containers on a bridge, snapshots of one base. Each word is a verb.
LXC=/var/lib/machines/lxc
set_up() {
    sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    systemctl -q disable --now lxc-net.service
    mkdir -p $LXC
    # LXC reaches the tree as root of the container.
    chmod 711 /var/lib/machines
    echo "lxc.lxcpath = $LXC" > /etc/lxc/lxc.conf
    for f in /etc/subuid /etc/subgid; do grep -q '^root:100000:' $f || echo root:100000:65536 >> $f; done
    # With a MAC of its own: it would change with the ports.
    ip link add br-lxc address 10:66:6a:00:00:01 type bridge forward_delay 0
    ip addr add 2001:db8:1e::1/64 dev br-lxc nodad
    ip link set br-lxc up
    # LXC has no option against duplicate address detection of its own addresses: they are set once more.
    cat > /usr/local/bin/nodad-hook <<'H'
#!/bin/sh
exec nsenter -t "$LXC_PID" -n sh -c '
ip -6 -o addr show dev eth0 scope global tentative | while read -r _ _ _ address _; do
    ip -6 addr del "$address" dev eth0; ip -6 addr add "$address" dev eth0 nodad
done'
H
    chmod 755 /usr/local/bin/nodad-hook
    mkdir $LXC/base
    # Snapshots need the btrfs driver, which maps no ids: they are shifted once, as LXC's own templates do.
    btrfs -q subvolume create $LXC/base/rootfs
    chown 100000:100000 $LXC/base/rootfs
    tar -C /var/lib/machines/debian-13 --numeric-owner --xattrs --acls --exclude='./dev/*' -cf - . |
        lxc-usernsexec -m u:0:100000:65536 -m g:0:100000:65536 -- \
            tar -C $LXC/base/rootfs --numeric-owner --xattrs --xattrs-include='*' --acls -xpf -
    cat > $LXC/base/config <<C
lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/userns.conf
lxc.arch = linux64
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.rootfs.path = btrfs:$LXC/base/rootfs
lxc.apparmor.profile = unconfined
lxc.init.cmd = /sbin/init systemd.firstboot=no
lxc.uts.name = base
lxc.net.0.type = veth
lxc.net.0.link = br-lxc
lxc.net.0.name = eth0
lxc.net.0.flags = up
lxc.net.0.ipv6.gateway = 2001:db8:1e::1
lxc.hook.start-host = /usr/local/bin/nodad-hook
C
}
create() { # NAME ADDRESS
    lxc-copy -n base -N "$1" -s 2> /dev/null
    # With a MAC that stays: the host's neighbour entry would be wrong after each start.
    mac=$(echo "$1" | md5sum | sed 's/\(..\)\(..\)\(..\).*/\1:\2:\3/')
    printf 'lxc.net.0.ipv6.address = %s/64\nlxc.net.0.hwaddr = 10:66:6a:%s\n' "$2" "$mac" >> $LXC/"$1"/config
    lxc-start -n "$1"
}
# Nothing of ours; a hook that sets the address once more, unchecked.
plain() { sed -i '/nodad-hook/d' $LXC/"$1"/config; }
hooked() { plain "$1"; echo 'lxc.hook.start-host = /usr/local/bin/nodad-hook' >> $LXC/"$1"/config; }
start() { lxc-start -n "$1"; }
stop() { lxc-stop -n "$1" -k; }
process() { lxc-info -n "$1" -pH; }
delete() { lxc-destroy -f -n "$1"; }
tear_down() {
    for name in $(lxc-ls -1); do lxc-destroy -f -n "$name"; done
    ip link del br-lxc
}
