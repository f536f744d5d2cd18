//! From nothing but a local image to the first byte, copy-on-write.

use anyhow::{Context, Result};

use super::figures::{Figures, Goal, Sheet};
use super::measure::milliseconds;
use super::rivals;
use super::starts::{answered, part};
use crate::lab::{Lab, Suite, Trees};

const CREATES: usize = 7;

/// What somebody does by hand who has read the manuals: static addresses, no RA.
const BY_HAND: &str = "machinectl clone debian-13 NAME
printf '[Match]\\nName=ve-NAME\\n[Network]\\nIPv6AcceptRA=no\\n[Address]\\nAddress=fe80::1/64\\nDuplicateAddressDetection=none\\n[Address]\\nAddress=2001:db8:b:HEX::1/64\\nDuplicateAddressDetection=none\\n' > /etc/systemd/network/10-NAME.network
mkdir -p /root/hand; printf '[Match]\\nName=host0\\n[Network]\\nIPv6AcceptRA=no\\n[Address]\\nAddress=2001:db8:b:HEX::2/64\\nDuplicateAddressDetection=none\\n[Route]\\nGateway=fe80::1\\n' > /root/hand/NAME.network
printf '[Exec]\\nBoot=yes\\nParameters=systemd.firstboot=no\\n[Network]\\nVirtualEthernet=yes\\n[Files]\\nBindReadOnly=/root/hand/NAME.network:/etc/systemd/network/05-hand.network\\n' > /etc/systemd/nspawn/NAME.nspawn
networkctl reload
systemctl start systemd-nspawn@NAME";
const BY_HAND_AWAY: &str =
    "machinectl terminate NAME; until systemctl show -P ActiveState systemd-nspawn@NAME | grep -qE 'inactive|failed'; do :; done
machinectl remove NAME
rm /etc/systemd/network/10-NAME.network /root/hand/NAME.network; networkctl reload";

struct Way {
    name: &'static str,
    create: String,
    delete: String,
    address: String,
    link: String,
}

/// The ways to make the machine of one round.
fn ways(round: usize) -> Vec<Way> {
    let name = format!("made{round}");
    let hex = format!("{:x}", round + 1);
    let by_hand = |text: &str| text.replace("NAME", &name).replace("HEX", &hex);
    let mut ways = vec![
        Way {
            name: "nsctl",
            create: format!("nsctl create {name} --routed --image debian-13"),
            delete: format!("nsctl remove -y {name}"),
            // Freed subnets rest: each round has the next.
            address: format!("2001:db8:a:{hex}::2"),
            link: format!("ve-{name}"),
        },
        Way {
            name: "machinectl clone, files by hand",
            create: by_hand(BY_HAND),
            delete: by_hand(BY_HAND_AWAY),
            address: format!("2001:db8:b:{hex}::2"),
            link: format!("ve-{name}"),
        },
    ];
    ways.extend(rivals::ALL.iter().map(|rival| Way {
        name: rival.name,
        create: rival.line(&format!("create {name} {}", rival.address(round + 2))),
        delete: rival.line(&format!("delete {name}")),
        address: rival.address(round + 2),
        link: rival.link(&name),
    }));
    ways
}

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    for rival in &rivals::ALL {
        rival.set_up(&lab)?;
    }
    let measured = rounds(&lab);
    let torn_down: Result<Vec<()>> = rivals::ALL.iter().map(|rival| rival.tear_down(&lab)).collect();
    let times = measured?;
    for (way, theirs) in ways(0).iter().zip(&times).skip(1) {
        sheet.pair("create to first byte", "ms", &times[0], (way.name, theirs), Goal::Times(1.0));
    }
    share(&lab, sheet)?;
    torn_down.map(drop)
}

fn rounds(lab: &Lab) -> Result<Vec<Figures>> {
    let mut times = vec![Figures::default(); ways(0).len()];
    for round in 0..=CREATES {
        for (way, times) in ways(round).iter().zip(&mut times) {
            let (_, tcp) = answered(lab, &way.create, &way.address, &way.link)
                .with_context(|| format!("{} in round {round}", way.name))?;
            // Nobody pays for what was deleted before it.
            lab.sh(&format!("{}; sync", way.delete))?;
            if round > 0 {
                times.add(milliseconds(tcp));
            }
        }
    }
    Ok(times)
}

/// nsctl's part of the processor time that a create takes of the whole host.
fn share(lab: &Lab, sheet: &mut Sheet) -> Result<()> {
    let mut shares = Figures::default();
    for round in 0..CREATES {
        let create = format!("nsctl create own{round} --routed --image debian-13");
        shares.add(part(lab, &create, &format!("own{round}"))?);
        lab.sh(&format!("nsctl remove -y own{round}; sync"))?;
    }
    sheet.single("nsctl's share of the processor time of `create`", "%", &shares, 3.0);
    Ok(())
}
