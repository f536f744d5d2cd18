//! `nsctl dns --push`: the names of machines, kept in a zone of the world.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::dns::Dns;
use crate::cli::machine::look::look;
use crate::cli::machine::view::Row;
use crate::cli::session::must_be_root;
use crate::cli::{Fault, Global};
use crate::emit::names;
use crate::hint::Hint as _;
use crate::observe;
use crate::plan::spec_of;
use crate::publish::{Change, Published, Record, changes};
use crate::spec::push::Push;
use crate::spec::{Ipv4, Spec};
use crate::sys::Disk;
use crate::sys::nsupdate::{self, UpdateError};

/// What this host has published; nothing else of the zone is ever touched.
const RECORD: &str = "/var/lib/nsctl/published.json";

pub async fn run(global: &Global, args: &Dns) -> Result<u8, Fault> {
    must_be_root(global)?;
    let disk = Disk::new(&global.root);
    let spec = spec_of(&observe::host(&disk, None).await?)?;
    let Some(push) = spec.host.dns.as_ref().and_then(|dns| dns.push.clone()) else {
        return Err(Fault::new("nsctl.toml does not say where names are published")
            .hint("[dns.push] zone = \"example.org\", server = \"ADDRESS\", key = \"/etc/nsctl/tsig.key\""));
    };
    let mark = mark(&disk)?;
    must_be_private(&push.key)?;
    let looked = look(global, &[]).await?;
    let wanted = wanted(&looked.rows, &spec);
    let mut record = recall(&disk, &push)?;
    let mut due = changes(&record, &wanted, !args.if_changed);
    // What a definition wants that cannot be read is not known.
    due.retain(|change| {
        !change.addresses.is_empty()
            || !spec.broken.keys().any(|name| name.as_str().eq_ignore_ascii_case(&change.name))
    });
    // Names are remembered before anybody else hears of them.
    for change in due.iter().filter(|change| !change.addresses.is_empty()) {
        record.names.entry(change.name.clone()).or_default();
    }
    keep(&disk, &record)?;
    let mut faults = 0;
    for change in &due {
        match publish(change, &push, &mark).await {
            Ok(said) => {
                settle(&mut record, change);
                global.report.say(said);
            }
            Err(fault) => {
                faults += 1;
                global.report.fault(&fault);
            }
        }
    }
    keep(&disk, &record)?;
    if due.is_empty() {
        global.report.say("nothing has changed");
    }
    Ok(u8::from(faults > 0))
}

/// By whose mark the names are known: another on each host, and no secret of it.
fn mark(disk: &Disk) -> Result<String, Fault> {
    let id = disk.read(Path::new("/etc/machine-id"))?.and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| {
        Fault::new("this host has no machine-id, by which its names are known")
            .hint("`systemd-machine-id-setup`")
    })?;
    Ok(format!("nsctl={}", crate::identity::host_mark(id)))
}

/// Who reads the key may change the zone.
fn must_be_private(key: &Path) -> Result<(), Fault> {
    let (_, is_public) = Disk::read_foreign(key)?;
    if is_public {
        let shown = key.display();
        let what = format!("everybody on this host can read {shown}, and change the zone by it");
        return Err(Fault::new(what).hint(format!(
            "`chmod 640 {shown}`; if it has been so for long, have the server give you another"
        )));
    }
    Ok(())
}

/// The addresses by which the world reaches machines: those that are planned, today's where the
/// prefix is delegated.
fn wanted(rows: &[Row], spec: &Spec) -> Published {
    let mut wanted = Published::new();
    for row in rows {
        let Some(machine) = row.name.parse().ok().and_then(|name| spec.machines.get(&name)) else { continue };
        let v6 = row.network.address.filter(|address| !address.is_unique_local()).map(IpAddr::V6);
        let v4 = machine.ipv4.and_then(Ipv4::address).map(IpAddr::V4);
        let addresses: BTreeSet<IpAddr> = v6.into_iter().chain(v4).collect();
        let name = row.name.to_ascii_lowercase();
        let is_routed = machine.network.routed().is_some();
        if is_routed && !addresses.is_empty() && !names::is_reserved(&name) {
            wanted.entry(name).or_default().extend(addresses);
        }
    }
    wanted
}

fn recall(disk: &Disk, push: &Push) -> Result<Record, Fault> {
    let text = disk.read(Path::new(RECORD))?;
    let record: Record = match text {
        None => Record::default(),
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            Fault::new(format!("{RECORD} makes no sense: {error}")).hint(format!(
                "delete it: names of machines that are gone since stay in {} then, until you take them out",
                push.zone
            ))
        })?,
    };
    if !record.names.is_empty() && record.zone != push.zone {
        let what = format!("this host has published names in {}, and they are still there", record.zone);
        return Err(Fault::new(what).hint(format!(
            "take them out with that zone in nsctl.toml, or delete {RECORD} if they are gone"
        )));
    }
    Ok(Record { zone: push.zone.clone(), ..record })
}

fn keep(disk: &Disk, record: &Record) -> Result<(), Fault> {
    let text = serde_json::to_string(record).map_err(|error| Fault::new(error.to_string()))?;
    Ok(disk.write_private(Path::new(RECORD), &text)?)
}

/// What has come about.
fn settle(record: &mut Record, change: &Change) {
    if change.addresses.is_empty() {
        record.names.remove(&change.name);
    } else {
        record.names.insert(change.name.clone(), change.addresses.clone());
    }
}

/// Changes one name, if it is ours or nobody's; says what it is now.
async fn publish(change: &Change, push: &Push, mark: &str) -> Result<String, Fault> {
    let whole = format!("{}.{}", change.name, push.zone);
    let failed = |error: UpdateError| {
        let hint = error.hint();
        let fault = Fault::new(format!("{whole} is not published: {error}"));
        hint.into_iter().fold(fault, Fault::hint)
    };
    let list: Vec<String> = change.addresses.iter().map(ToString::to_string).collect();
    match nsupdate::send(&push.key, &change.of_ours(push, mark)).await {
        Ok(()) if list.is_empty() => return Ok(format!("{whole} is gone")),
        Ok(()) => return Ok(format!("{whole} is {}", list.join(", "))),
        // Nothing of ours is left there.
        Err(UpdateError::Prerequisite) if list.is_empty() => return Ok(format!("{whole} was gone already")),
        Err(UpdateError::Prerequisite) => {}
        Err(error) => return Err(failed(error)),
    }
    match nsupdate::send(&push.key, &change.of_new(push, mark)).await {
        Ok(()) => Ok(format!("{whole} is {}", list.join(", "))),
        Err(UpdateError::Prerequisite) => {
            let what = format!("{whole} is somebody else's: there is no TXT record \"{mark}\"");
            let other = format!("give '{0}' another name: `nsctl rename {0} NEW`", change.name);
            Err(Fault::new(what).hint(format!("take it out of the zone, or {other}")))
        }
        Err(error) => Err(failed(error)),
    }
}
