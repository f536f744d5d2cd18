//! What is loaded of the firewall is what its files say, rule for rule: whatever goes or comes is
//! named by plan and doctor, fixed by apply, and stands in the way of no start.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

/// What somebody does to the table, what is named of it, and whether it is about `web` alone.
const DAMAGES: [(&str, &str, bool); 16] = [
    ("flush table inet nsctl", "chain always lacks `ct state established,related accept`", false),
    ("flush chain inet nsctl forward", "chain forward lacks `oifname \"ve-*\" goto machines-in`", false),
    ("flush chain inet nsctl machines-in", "chain machines-in lacks `oifname vmap @inbound`", false),
    ("flush chain inet nsctl own-address", "chain own-address lacks", false),
    ("flush chain inet nsctl to-web", "chain to-web lacks `jump always-near`", true),
    ("flush map inet nsctl spoofed", "map spoofed lacks \"ve-web\" : \"spoofed-web\"", true),
    ("flush chain inet nsctl from-web", "chain from-web lacks `goto own-address`", true),
    ("flush map inet nsctl outbound", "map outbound lacks \"ve-web\" : goto from-web", true),
    ("flush map inet nsctl inbound", "map inbound lacks \"ve-web\" : goto to-web", true),
    ("delete element inet nsctl machines { ve-web }", "set machines lacks \"ve-web\"", true),
    ("insert rule inet nsctl to-web accept", "chain to-web has, and should not, `accept`", true),
    ("insert rule inet nsctl always accept", "chain always has, and should not, `accept`", false),
    (
        "add chain inet nsctl mine { type filter hook forward priority -5; policy drop; }",
        "chain mine is not nsctl's",
        false,
    ),
    ("add chain inet nsctl forward { policy drop; }", "chain forward lacks `type filter hook forward", false),
    (
        "add table inet nsctl { flags dormant; }",
        "table inet nsctl has, and should not, `flags dormant`",
        false,
    ),
    ("delete table inet nsctl", "somebody flushed all rules", false),
];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7777")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    for port in [
        "tcp/22 --from 2001:db8:5::1",
        "udp/5000-5010 --from 2001:db8:5:8000::/49",
        "tcp/1-65535 --from 10.0.0.0/9",
    ] {
        lab.nsctl_ok(&format!("open web {port}"))?;
    }
    nothing_to_do(lab)?;
    for (damage, says, own) in DAMAGES {
        lab.must(&["nft", damage])?;
        let plan = lab.nsctl_ok("plan")?;
        must!(plan.contains("load the firewall"), "`nft {damage}` goes unseen:\n{plan}");
        for (line, mine) in [("doctor", true), ("doctor web", true), ("doctor db", !own)] {
            let doctor = lab.nsctl(line)?;
            must!(doctor.stdout.contains(says) == mine, "`{line}` after `nft {damage}`:\n{}", doctor.all());
        }
        lab.nsctl_ok("apply --yes")?;
        nothing_to_do(lab)?;
    }
    starts(lab)?;
    // So many that the guard takes its other way.
    lab.sh("cd /var/lib/nsctl/firewall; for i in $(seq 100); do : > x$i.nft; done")?;
    starts(lab)?;
    parts(lab)?;
    lab.sh("rm /var/lib/nsctl/firewall/x*.nft").map(drop)
}

/// What changes of one machine among many is loaded by itself, and all of the table where that is not what
/// it was.
fn parts(lab: &Lab) -> Result<()> {
    let of_db = || lab.sh("nft -a list chain inet nsctl to-db; nft -a list chain inet nsctl from-db");
    let open = "tcp dport 81 goto near";
    let of_web = || Ok::<_, anyhow::Error>(lab.sh("nft list chain inet nsctl to-web")?.contains(open));
    let before = of_db()?;
    for (verb, is_open) in [("open", true), ("close", false)] {
        lab.nsctl_ok(&format!("{verb} web tcp/81"))?;
        must!(of_web()? == is_open, "{verb} did nothing");
        must!(of_db()? == before, "`{verb} web` loaded db's part anew");
        nothing_to_do(lab)?;
    }
    for damage in [
        "nft delete table inet nsctl",
        "nft flush table inet nsctl",
        "nft flush chain inet nsctl forward",
        "nft flush chain inet nsctl machines-in",
        "nft flush chain inet nsctl machines-out",
        "nft insert rule inet nsctl always accept",
        "nft 'add table inet nsctl { flags dormant; }'",
        "nft flush set inet nsctl machines; nft flush map inet nsctl inbound; nft 'flush chain inet nsctl to-web; \
         delete chain inet nsctl to-web; add chain inet nsctl to-web { type filter hook forward priority 9; }'",
    ] {
        lab.sh(damage)?;
        lab.nsctl_ok("open web tcp/81")?;
        nothing_to_do(lab)?;
        lab.nsctl_ok("close web tcp/81")?;
    }
    let before = of_db()?;
    lab.nsctl_ok("set web network.token=::7 --yes")?;
    must!(
        lab.sh("nft list set inet nsctl planned")?.contains("2001:db8:a:1::7"),
        "web is not where it is planned"
    );
    must!(of_db()? == before, "`set web` loaded db's part anew");
    nothing_to_do(lab)?;
    let before = lab.sh("nft -a list chain inet nsctl to-web")?;
    // What both have is not taken away by the one that goes.
    lab.nsctl_ok("stop db")?;
    for line in ["rename db adb", "rename adb db"] {
        lab.nsctl_ok(line)?;
        let plan = lab.nsctl_ok("plan")?;
        must!(!plan.contains("firewall"), "after `{line}`:\n{plan}");
    }
    lab.nsctl_ok("remove db --yes")?;
    must!(lab.sh("nft -a list chain inet nsctl to-web")? == before, "`remove db` loaded web's part anew");
    must!(!lab.sh("nft list table inet nsctl")?.contains("-db"), "something of db is left");
    nothing_to_do(lab)
}

fn nothing_to_do(lab: &Lab) -> Result<()> {
    let plan = lab.nsctl_ok("plan")?;
    must!(plan == "nothing to do\n", "{plan}");
    Ok(())
}

/// systemd alone starts a machine with its firewall whole. What another machine has of its own
/// is nsctl's to look at.
fn starts(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("stop web")?;
    let handles = || lab.sh("nft -a list chain inet nsctl to-db; nft -a list map inet nsctl inbound");
    let before = handles()?;
    lab.sh("systemctl start systemd-nspawn@web")?;
    must!(handles()? == before, "what is as it should be was loaded anew:\n{before}");
    nothing_to_do(lab)?;
    let foreign = "add chain inet nsctl mine";
    for (at, (damage, ..)) in
        DAMAGES.iter().enumerate().filter(|(_, (damage, ..))| !damage.starts_with(foreign))
    {
        // A whole start takes long; the guard alone is what one begins with.
        if at == 0 {
            lab.nsctl_ok("stop web")?;
        }
        lab.must(&["nft", damage])?;
        lab.sh(if at == 0 {
            "systemctl start systemd-nspawn@web"
        } else {
            "sh /var/lib/nsctl/firewall-guard web ve-web"
        })?;
        let listed = lab
            .sh("nft -s list table inet nsctl | sed -e '/chain to-db/,/^\t}/d' -e 's/\"ve-db\"[^,]*, *//'")?;
        for rule in [
            "oifname vmap @inbound",
            "\"ve-web\" : goto to-web",
            "\"ve-web\" : goto from-web",
            "fib saddr . iif oif 0 goto spoofed",
            "policy accept",
        ] {
            must!(listed.contains(rule), "web starts after `nft {damage}` without `{rule}`:\n{listed}");
        }
        for rule in ["\t\taccept", "dormant", "policy drop"] {
            must!(!listed.contains(rule), "web starts after `nft {damage}` with `{rule}`:\n{listed}");
        }
    }
    // nsctl minds what others have, too.
    lab.sh("nft flush table inet nsctl; nsctl restart web")?;
    nothing_to_do(lab)
}
