# What a tree may take of its disk: this kernel has the project quotas of XFS (vda) and ext4 (vdb).
nsctl stop tiny 2>&1 || end "it cannot be stopped"
tree=/var/lib/machines/tiny
for disk in vda vdb; do
    kind=$(blkid -o value -s TYPE /dev/$disk)
    mkdir -p /mnt/disk
    mount -o prjquota /dev/$disk /mnt/disk || end "$kind cannot be mounted with quotas"
    cp -a $tree /mnt/disk/ && umount /mnt/disk && mount -o prjquota /dev/$disk /var/lib/machines ||
        end "the tree cannot be copied"
    mkdir $tree/own && chown --reference=$tree $tree/own
    nsctl start tiny 2>&1 || end "it does not start on $kind"
    leader=$(machinectl show tiny -p Leader --value)
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/"$leader"/cgroup)
    mib() { guest "dd if=/dev/zero of=$1 bs=1M count=$2 > /dev/null 2>&1"; }
    mib /own/before 10 || end "$kind has no room"
    sync
    nsctl --json stats tiny | tr -d ' \n' | grep -Eq '"written":[1-9][0-9]{7}' ||
        end "stats does not tell of what it wrote to $kind: $(nsctl --json stats tiny)"
    used=$(du -sm $tree | cut -f1)
    nsctl set tiny limits.disk=$((used + 20))M 2>&1 || end "no limit on $kind"
    mib /own/some 10 || end "it may take nothing more on $kind"
    mib /own/more 30 && end "it takes more than it may on $kind"
    guest 'rm /own/more; mkdir /own/new; ln -s /proc/1/root /own/out; mkfifo /own/pipe'
    mib /own/new/more 30 && end "it takes more in a new folder on $kind"
    guest 'rm /own/new/more'
    nsctl set tiny limits.disk=200M 2>&1 || end "no other limit on $kind"
    mib /own/more 30 || end "it may not take more on $kind"
    nsctl set tiny limits.disk= 2>&1 || end "the limit stays on $kind"
    mib /own/other 200 || end "it is limited still on $kind"
    nsctl set tiny limits.disk=$((used + 20))M 2>&1 || end "no limit on a tree that has more on $kind"
    mib /own/third 1 && end "a tree that has too much takes more on $kind"
    say "what a tree takes of $kind is limited"
    nsctl set tiny limits.disk= 2>&1
    nsctl stop tiny 2>&1 || end "it cannot be stopped"
    umount --lazy /var/lib/machines
done
