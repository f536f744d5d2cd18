# Incus: unprivileged containers with a routed NIC, whose address Incus sets itself; a btrfs pool.
# The client reads YAML from its input where it has one.
exec < /dev/null
set_up() {
    sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    incus storage create pool btrfs source=/var/lib/machines/incus
    cat > /usr/local/bin/nodad-hook <<'H'
#!/bin/sh
exec nsenter -t "$LXC_PID" -n sh -c '
ip -6 -o addr show dev eth0 scope global tentative | while read -r _ _ _ address _; do
    ip -6 addr del "$address" dev eth0; ip -6 addr add "$address" dev eth0 nodad
done'
H
    chmod 755 /usr/local/bin/nodad-hook
    incus profile device add default root disk path=/ pool=pool
    incus profile device add default eth0 nic nictype=routed
    # The first boot of a tree without a machine-id would ask on the console.
    incus profile set default raw.lxc "lxc.init.cmd = /sbin/init systemd.firstboot=no
lxc.hook.start-host = /usr/local/bin/nodad-hook"
    image debian-13
}
image() { # ALIAS, which is the tree's name
    work=$(mktemp -d /var/tmp/incus.XXXXXX)
    mkdir "$work/templates"
    printf 'architecture: x86_64\ncreation_date: 1700000000\ntemplates:\n  /etc/systemd/network/10-eth0.network:\n    when: [create]\n    template: eth0.tpl\n' > "$work/metadata.yaml"
    # Incus has set the address when the guest begins: its networkd is to leave it.
    printf '[Match]\nName=eth0\n[Link]\nUnmanaged=yes\n' > "$work/templates/eth0.tpl"
    tar -C "$work" -cf "$work/meta.tar" metadata.yaml templates
    tar -C /var/lib/machines/"$1" --numeric-owner --xattrs --acls -cf "$work/rootfs.tar" .
    incus image import -q "$work/meta.tar" "$work/rootfs.tar" --alias "$1"
    rm -r "$work"
    # The first container of an image unpacks it: that is no part of a create.
    incus create -q "$1" warm
    incus delete warm
}
# The host's networkd would take a ve-* for its own.
create() { incus launch -q debian-13 "$1" -d "eth0,ipv6.address=$2" -d "eth0,host_name=vr-$1"; }
# Nothing of ours; a hook that sets the address once more, unchecked.
plain() { incus config set "$1" raw.lxc 'lxc.init.cmd = /sbin/init systemd.firstboot=no'; }
hooked() { incus config set "$1" raw.lxc 'lxc.init.cmd = /sbin/init systemd.firstboot=no
lxc.hook.start-host = /usr/local/bin/nodad-hook'; }
start() { incus start "$1"; }
stop() { incus stop --force "$1"; }
process() { incus list -f csv -c p "$1"; }
delete() { incus delete --force "$1"; }
list() { incus list; }
tiny() { # FROM TO: containers of the tree of 2 MB
    incus image info tiny > /dev/null 2>&1 || image tiny
    for k in $(seq "$1" "$2"); do
        incus create -q tiny "t$k" -d "eth0,ipv6.address=2001:db8:1d:1::$k" -d "eth0,host_name=vr-t$k"
    done
    incus start $(seq -f t%g "$1" "$2")
}
tear_down() {
    for name in $(incus list -f csv -c n); do incus delete --force "$name"; done
    for image in $(incus image list -f csv -c f); do incus image delete "$image"; done
    incus profile device remove default root
    incus storage delete pool
}
