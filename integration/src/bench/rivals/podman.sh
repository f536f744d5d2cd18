# Podman: containers that run the tree's systemd in a user namespace each, on a bridge.
set_up() {
    sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    # The laboratory's hosts have no controllers for a limit of processes.
    mkdir -p /etc/containers /var/lib/machines/podman
    printf '[containers]\npids_limit = 0\n' > /etc/containers/containers.conf
    for f in /etc/subuid /etc/subgid; do grep -q ^containers: $f || echo containers:2147483647:2147483648 >> $f; done
    # On btrfs itself, not on the overlay of the host's root.
    printf '[storage]\ndriver = "overlay"\ngraphroot = "/var/lib/machines/podman"\nrunroot = "/run/containers/storage"\n' > /etc/containers/storage.conf
    podman network create --ipv6 --subnet 2001:db8:1f::/64 --gateway 2001:db8:1f::1 --disable-dns \
        --interface-name br-podman six
    tar -C /var/lib/machines/debian-13 --numeric-owner --xattrs --acls --exclude='./dev/*' -cf - . |
        podman import -q --change 'CMD ["/sbin/init","systemd.firstboot=no"]' --change 'STOPSIGNAL SIGRTMIN+3' - localhost/debian-13
}
# With the capabilities with which networkd and resolved run in the guest, as they do elsewhere.
create() { # NAME ADDRESS
    podman run -q -d --name "$1" --hostname "$1" --systemd=always --network six --ip6 "$2" \
        --userns=auto:size=65536 --cap-add NET_ADMIN,NET_RAW,SYS_ADMIN localhost/debian-13
}
start() { podman start "$1"; }
stop() { podman stop -t 10 "$1"; }
process() { podman inspect -f '{{.State.Pid}}' "$1"; }
delete() { podman rm -f -t 0 "$1"; }
tear_down() {
    podman rm -f -a -t 0
    podman rmi -f -a
    podman network rm six
    umount /var/lib/machines/podman/overlay 2> /dev/null || true
    rm -rf /var/lib/machines/podman
}
