//! What a hostile guest hands out by `cp`: no link of its own is followed on the host, no
//! right comes along, and a copy is there whole or not at all.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    lab.sh("mkdir -p /root/out /etc/cron.d; echo of-the-host > /etc/secret; chmod 600 /etc/secret")?;
    links(lab)?;
    rights(lab)?;
    again(lab)?;
    without_end(lab)?;
    racing(lab)?;
    killed(lab)?;
    inwards(lab)
}

fn inside(lab: &Lab, script: &str) -> Result<String> {
    lab.must(&["nsctl", "shell", "web", "sh", "-euc", script])
}

/// The first copy plants a link, the second would write through it.
fn links(lab: &Lab) -> Result<()> {
    inside(lab, "mkdir -p /srv/bag/deep; cd /srv/bag; echo '* * * * * root id' > job; ln -s /etc/cron.d cron; ln -s ../job deep/up
                 ln -s /etc/cron.d ../way; ln -s . here; ln -s here/here/../.. out; ln -s /etc/secret secret")?;
    for _ in 0..2 {
        lab.nsctl("cp web:/srv/way /root/out/way")?;
        lab.nsctl("cp --force web:/srv/bag /root/out/way")?;
        lab.nsctl("cp --force --links web:/srv/bag /root/out")?;
        lab.nsctl("cp --force web:/srv/bag/job /root/out/bag/cron")?;
        lab.nsctl("cp --force web:/srv/bag/job /root/out/bag/cron/job")?;
        lab.nsctl("cp --force web:/srv/bag/job /root/out/way/cron/job")?;
    }
    must!(
        lab.sh("find /etc/cron.d -newer /root/out -o -name job; grep -rl of-the-host /root/out || true")?
            .is_empty(),
        "{}",
        lab.sh("ls -laR /etc/cron.d /root/out")?
    );
    let kept =
        lab.sh("cd /root/out/bag; find . -type l | sort; cat deep/up/../../job 2> /dev/null || cat deep/up")?;
    must!(kept == "./deep/up\n./here\n* * * * * root id\n", "{kept}");
    let said = lab.nsctl("cp web:/srv/bag /root/out/plain")?;
    must!(said.ok() && said.stderr.contains("left out: 5 symbolic links"), "{}", said.all());
    must!(lab.sh("find /root/out/plain -type l")?.is_empty(), "links that nobody asked for");
    // The user's own link in the way, and on the way.
    lab.sh("ln -s /etc/cron.d /root/hole; mkdir /root/real; ln -s real /root/path")?;
    for target in ["/root/hole", "/root/hole/"] {
        for force in ["", "--force "] {
            refused(lab, &format!("cp {force}web:/srv/bag/job {target}"), 1, "is a link")?;
        }
    }
    lab.nsctl_ok("cp web:/srv/bag/job /root/path/job")?;
    lab.sh("cmp /root/real/job /root/out/plain/job")?;
    lab.sh("ln -s /etc/cron.d/job /root/real/bag; mkdir -p /root/deep/bag; ln -s /etc/cron.d /root/deep/bag/deep")?;
    refused(lab, "cp --force web:/srv/bag/job /root/real/bag", 1, "is a link")?;
    refused(lab, "cp --force web:/srv/bag /root/deep", 1, "/root/deep/bag/deep is a link")?;
    must!(
        lab.sh("ls -A /etc/cron.d /root/deep/bag")?.contains("deep")
            && !lab.sh("ls -A /root/deep/bag")?.contains("job"),
        "half a folder was filled"
    );
    must!(!lab.sh("ls -A /etc/cron.d")?.contains("job"), "written through a link");
    // One that is named is followed, in the guest.
    lab.nsctl_ok("cp web:/etc/os-release /root/out/")?;
    must!(
        lab.sh("stat -c %F /root/out/os-release; grep ^ID= /root/out/os-release")?
            == "regular file\nID=debian\n",
        "{}",
        lab.sh("ls -la /root/out")?
    );
    lab.nsctl("cp web:/srv/bag/secret /root/out/secret")?;
    must!(
        lab.sh("ls /root/out")?.lines().all(|name| name != "secret"),
        "a link of the guest's led to the host's file"
    );
    Ok(())
}

fn rights(lab: &Lab) -> Result<()> {
    inside(lab, "mkdir /srv/rights; cd /srv/rights; cp /bin/true suid; chown nobody suid; chmod 6777 suid; mkfifo pipe; ln suid twin
                 cp /bin/true able; setcap cap_net_raw+ep able 2> /dev/null || true; mkdir sticky; chmod 7777 sticky
                 perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"sock\", Listen => 1)'; setfattr -n user.x -v y able 2> /dev/null || true")?;
    // Whatever the guest may write of that itself, the host's root puts there.
    lab.sh("cd /var/lib/machines/web/srv/rights; mknod disk b 7 0; python3 -c 'import os; os.setxattr(\"able\", \"security.capability\", bytes.fromhex(\"0100000200200000000000000000000000000000\"))' || true")?;
    let said = lab.nsctl("cp web:/srv/rights /root/out/")?;
    must!(said.ok() && said.stderr.contains("3 devices, pipes and sockets"), "{}", said.all());
    let came = lab.sh("cd /root/out/rights; stat -c '%n %a %u:%g %F' * | sort; test suid -ef twin")?;
    must!(
        came == "able 755 0:0 regular file\nsticky 755 0:0 directory\nsuid 755 0:0 regular file\ntwin 755 0:0 regular file\n",
        "{came}"
    );
    let extra = lab
        .sh("python3 -c 'import os; print(os.listxattr(\"/root/out/rights/able\"))' 2> /dev/null || true")?;
    must!(extra.is_empty() || extra == "[]\n", "{extra}");
    refused(lab, "cp web:/srv/rights/pipe /root/out/pipe", 1, "neither a file nor a folder")?;
    refused(lab, "cp web:/srv/rights/disk /root/out/disk", 1, "neither a file nor a folder")
}

/// What copies nothing does not say that it did.
fn again(lab: &Lab) -> Result<()> {
    inside(lab, "mkdir -p /srv/twice/sub; cd /srv/twice; echo 1 > a; echo 1 > sub/b")?;
    lab.nsctl_ok("cp web:/srv/twice /root/out")?;
    refused(lab, "cp web:/srv/twice /root/out", 1, "/root/out/twice is there already")?;
    refused(lab, "cp web:/srv/twice/a /root/out/twice/a", 1, "is there already")?;
    inside(lab, "cd /srv/twice; echo 2 > a; echo 2 > sub/b; echo 2 > sub/c")?;
    lab.sh("echo mine > /root/out/twice/sub/mine")?;
    lab.nsctl_ok("cp --force web:/srv/twice /root/out")?;
    must!(
        lab.sh("cd /root/out/twice; cat a sub/b sub/c sub/mine")? == "2\n2\n2\nmine\n",
        "{}",
        lab.sh("ls -lR /root/out/twice")?
    );
    inside(lab, "cd /srv/twice; rm -r sub; echo 3 > sub; echo 3 > a")?;
    refused(lab, "cp --force web:/srv/twice /root/out", 1, "of another kind")?;
    must!(lab.sh("cat /root/out/twice/a")? == "2\n", "part of it came");
    // Another file system.
    lab.sh("mkdir /root/other; mount -t tmpfs tmpfs /root/other")?;
    lab.nsctl_ok("cp web:/srv/twice /root/other/")?;
    refused(lab, "cp web:/srv/nothing /root/out/", 1, "web:/srv/nothing does not exist")?;
    refused(lab, "cp web:/srv/twice /root/none/", 1, "is no folder")?;
    refused(lab, "cp web:/srv/twice /root/none/x", 1, "is no folder")?;
    must!(
        lab.sh("cat /root/other/twice/sub; ls -A /root/other /var/lib/nsctl/copies")?.lines().eq([
            "3",
            "/root/other:",
            "twice",
            "",
            "/var/lib/nsctl/copies:"
        ]),
        "{}",
        lab.sh("ls -AR /root/other /var/lib/nsctl/copies")?
    );
    Ok(())
}

/// Files that are larger than any disk, and that are no files at all.
fn without_end(lab: &Lab) -> Result<()> {
    inside(
        lab,
        "mkdir -p /srv/vast/proc; cd /srv/vast; truncate -s 4T hole; echo end >> hole; mount --bind /proc proc; head -c 9M /dev/zero > full",
    )?;
    refused(lab, "cp web:/srv/vast /root/out/ --max-size 8M", 1, "more than 8388608 bytes")?;
    let said = lab.nsctl("cp web:/srv/vast /root/out/")?;
    must!(said.ok() && said.stderr.contains("the kernel's own files"), "{}", said.all());
    let size = lab.sh("cd /root/out/vast; tail -c4 hole; du -sm hole | cut -f1; ls proc 2>&1 | head -n1; cmp -n 9437184 full /dev/zero; rm hole")?;
    must!(
        size.starts_with("end\n")
            && size.lines().nth(1).is_some_and(|mega| mega.parse::<u32>().is_ok_and(|mega| mega < 10)),
        "{size}"
    );
    inside(lab, "mkdir -p /srv/well; cd /srv/well; for k in $(seq 300); do mkdir d; cd d; done")?;
    refused(lab, "cp web:/srv/well /root/out/", 1, "200 deep")?;
    must!(inside(lab, "cat /proc/sys/kernel/ostype")? == "Linux\n", "no proc");
    lab.nsctl_ok("cp web:/proc/sys/kernel/ostype /root/out/ostype")?;
    must!(lab.sh("cat /root/out/ostype")? == "Linux\n", "what has no size is empty");
    Ok(())
}

/// The guest swaps a folder for a link to the host's, and a file for a link, as fast as it can.
fn racing(lab: &Lab) -> Result<()> {
    inside(
        lab,
        "mkdir -p /srv/race/d /srv/race/x; cd /srv/race; echo inside > d/secret; echo inside > f; ln -s /etc l; ln -s /etc/secret m
         cat > /srv/swap <<'end'
use strict; my ($one, $other) = @ARGV;
while (1) { syscall(316, -100, $one, -100, $other, 2) == 0 or die $! }
end
         for pair in 'd l' 'f m'; do set -- $pair
             systemd-run -q --unit=swap-$1 perl /srv/swap /srv/race/$1 /srv/race/$2
         done",
    )?;
    let tries = lab.sh(
        "came=0; for k in $(seq 40); do
             nsctl cp web:/srv/race /root/out/race-$k 2> /dev/null || true
             nsctl cp web:/srv/race/d/secret /root/out/race-d$k 2> /dev/null || true
             nsctl cp web:/srv/race/f /root/out/race-f$k 2> /dev/null || true
         done
         cat /root/out/race-*/d/secret /root/out/race-*/f /root/out/race-d* /root/out/race-f* 2> /dev/null | sort | uniq -c
         find /root/out/race-* -type l; grep -rl of-the-host /root/out || true",
    )?;
    inside(lab, "systemctl is-active swap-d swap-f; systemctl stop swap-d swap-f")?;
    must!(tries.trim().ends_with(" inside") && tries.lines().count() == 1, "{tries}");
    Ok(())
}

/// Killed before it is moved into place, it is not there; the next one takes away what is left.
fn killed(lab: &Lab) -> Result<()> {
    let cut = lab.sh("NSCTL_KILL_AT=1 nsctl-faults cp web:/srv/bag /root/out/cut && exit 1; ls -A /root/out; ls -A /var/lib/nsctl/copies")?;
    must!(!cut.lines().any(|name| name == "cut") && cut.matches(".nsctl-draft-").count() == 2, "{cut}");
    must!(
        lab.sh("stat -c '%a %u' /root/out/.nsctl-draft-* /var/lib/nsctl/copies")? == "700 0\n700 0\n",
        "others look into it"
    );
    lab.nsctl_ok("cp web:/srv/bag/job /root/real/other")?;
    must!(
        !lab.sh("ls -A /root/out /var/lib/nsctl/copies")?.contains("draft"),
        "{}",
        lab.sh("ls -A /root/out")?
    );
    // One that is at work is left alone; and one that is interrupted leaves nothing.
    lab.sh("NSCTL_STOP_AT=1 nsctl-faults cp web:/srv/bag /root/out/slow & pid=$!
            until grep -q 'State:.T' /proc/$pid/status; do :; done
            nsctl cp web:/srv/bag/job /root/real/third; ls -A /root/out | grep -q draft
            kill -CONT $pid; wait $pid; cmp /root/out/slow/job /root/real/third")?;
    Ok(())
}

/// The other way, the guest's links lead nowhere but there.
fn inwards(lab: &Lab) -> Result<()> {
    inside(
        lab,
        "ln -s /etc/cron.d /srv/host; ln -s /proc/1/root/etc/cron.d /srv/magic; mkdir -p /srv/folder",
    )?;
    lab.sh("echo from-the-host > /root/job; mkdir /root/bag; echo 1 > /root/bag/one")?;
    for target in ["/srv/host/", "/srv/magic/"] {
        lab.nsctl(&format!("cp /root/job web:{target}"))?;
    }
    must!(!lab.sh("ls /etc/cron.d")?.contains("job"), "the guest sends a file where it likes");
    lab.nsctl_ok("cp /root/bag web:/srv/folder")?;
    must!(inside(lab, "cat /srv/folder/bag/one")? == "1\n", "not in the folder");
    refused(lab, "cp /root/bag web:/srv/folder", 1, "web:/srv/folder/bag is there already")
}
