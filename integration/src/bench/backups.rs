//! A backup of a Debian guest, beside restic alone with the same tree: the first, and those of what has changed
//! since.

use anyhow::Result;

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use crate::lab::{Lab, Suite, Trees};

const ROUNDS: usize = 7;

/// What restic is given by hand: a snapshot, as a guest that runs goes on writing, where restic sees it at
/// the same place each time.
const BY_HAND: &str = "btrfs -q subvolume snapshot -r /var/lib/machines/web /var/lib/machines/.hand
     mount --bind /var/lib/machines/.hand /mnt; cd /mnt; restic -q backup --json . > /dev/null; cd /
     umount /mnt; btrfs -q subvolume delete /var/lib/machines/.hand";
const RESTIC: &str = "export RESTIC_PASSWORD_FILE=/etc/nsctl/backup.password RESTIC_REPOSITORY=/var/lib/machines/.hands RESTIC_CACHE_DIR=/root/cache";
const OURS: &str = "nsctl -q backup web --to /var/lib/machines/.ours";
/// Half of what it writes nobody can press.
const WORK: &str = "nsctl shell web sh -euc 'head -c 20000000 /dev/urandom > /var/tmp/noise; \
     cp -r --remove-destination /usr/share/doc /var/tmp/'; sync";

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.install("restic btrfs-progs")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    lab.sh("(umask 077; head -c 24 /dev/urandom | base64 > /etc/nsctl/backup.password)")?;
    let by_hand = format!("{RESTIC}; {BY_HAND}");
    let [mut first, mut first_by_hand, mut more, mut more_by_hand] = <[Figures; 4]>::default();
    first.add(cost(&lab, OURS)?.elapsed);
    first_by_hand.add(cost(&lab, &format!("{RESTIC}; restic -q init; {BY_HAND}"))?.elapsed);
    for _ in 0..ROUNDS {
        lab.sh(WORK)?;
        more.add(cost(&lab, OURS)?.elapsed);
        more_by_hand.add(cost(&lab, &by_hand)?.elapsed);
    }
    let goal = Goal::Times(1.1);
    sheet.in_turn("first backup of a Debian guest", "ms", &first, ("restic alone", &first_by_hand), goal);
    sheet.in_turn("backup of what has changed since", "ms", &more, ("restic alone", &more_by_hand), goal);
    Ok(())
}
