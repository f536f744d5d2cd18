# Becomes PID 1 of a throwaway host. Run by unshare(1) with fresh namespaces;
# TREE is the read-only root tree, REPO a repository of packages, RUN the folder
# of this one host, STORE what is its disk.
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$STORE/upper,workdir=$STORE/work" "$RUN/root"
cd "$RUN/root"
mkdir -p proc sys dev run tmp mnt var/lib/machines repository
mount --bind "$STORE/machines" var/lib/machines
mount --bind -o ro "$REPO" repository
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666,mode=0620,gid=5
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run -o mode=0755
mount -t tmpfs tmpfs tmp -o mode=1777
mkdir -p run/lab
mount --bind "$RUN/door" run/lab
pivot_root . mnt
cd /
umount -l mnt
# As systemd has it where it is in no container: what a unit's credentials are in is mounted so that others see it.
mount --make-rshared /
# PID 1 tells the harness through NOTIFY_SOCKET when the boot is over (sd_notify(3)).
exec env -i container=lab NOTIFY_SOCKET=/run/lab/notify PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
