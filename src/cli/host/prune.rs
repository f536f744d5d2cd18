//! `nsctl prune`: images, snapshots and secrets that nothing needs.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use crate::cli::image::kept;
use crate::cli::machine::snapshot::removal;
use crate::cli::session::{About, Session, live_bus};
use crate::cli::text::{self, agree, joined, out};
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::observed::Observed;
use crate::plan::{Plan, Step};
use crate::provision::Init;
use crate::snapshot::{Label, image};
use crate::spec::image::ImageWord;
use crate::spec::{SecretId, Spec};
use crate::sys::tree::Tree;
use crate::sys::usage;

/// Delete images that nobody boots and no definition names, snapshots that have expired, and snapshots and secrets of
/// machines that are gone
#[derive(Debug, Clone, Args)]
pub struct Prune {
    /// Show what would be deleted, and leave it
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// One that nothing needs.
#[derive(Serialize)]
struct Row {
    name: String,
    why: &'static str,
    /// Bytes that are free without it, as far as others do not share them.
    own: Option<u64>,
    #[serde(skip)]
    what: What,
}

enum What {
    Image(MachineName),
    Snapshot(MachineName, Label),
    Secret(MachineName, SecretId),
}

pub async fn run(global: &Global, args: Prune) -> Result<u8, Fault> {
    live_bus(global, "images and snapshots are deleted").await?;
    let session = Session::begin(global, About::Everybody).await?;
    let mut rows = expired(&session.spec, &session.observed);
    rows.extend(left_secrets(&session.spec, &session.observed));
    rows.extend(unused(&session.spec, &session.observed, was_never_booted));
    let hidden = |row: &Row| match &row.what {
        What::Image(name) => Some(name.to_string()),
        What::Snapshot(name, label) => Some(image(name, label)),
        What::Secret(..) => None,
    };
    let used = usage::of_images(&rows.iter().filter_map(hidden).collect::<Vec<_>>());
    rows.iter_mut().for_each(|row| row.own = hidden(row).and_then(|image| Some(used.get(&image)?.own)));
    session.progress.end();
    if args.dry_run && global.json {
        global.report.answer(&rows)?;
        return Ok(0);
    }
    if rows.is_empty() {
        session.say("there is nothing that nobody needs");
        return Ok(0);
    }
    if !global.json {
        let own = |row: &Row| row.own.map_or("-".to_owned(), text::bytes);
        let cells = rows.iter().map(|row| vec![row.name.clone(), own(row), row.why.to_owned()]);
        out!("{}", text::table(&["NAME", "OWN", "WHY"], &cells.collect::<Vec<_>>()));
    }
    if args.dry_run {
        return Ok(0);
    }
    let names = joined(rows.iter().map(|row| &row.name), ", ");
    agree(args.yes, &format!("This deletes {names}. Go on?"))?;
    let steps = rows.iter().flat_map(|row| steps(&session.observed, &row.what)).collect();
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    session.say(format!("deleted {names}"));
    Ok(0)
}

fn steps(observed: &Observed, what: &What) -> Vec<Step> {
    match what {
        What::Image(name) => vec![Step::RemoveImage { name: name.clone(), tree: None }],
        What::Snapshot(name, label) => removal(observed, name, std::slice::from_ref(label)),
        What::Secret(name, id) => {
            let path = ManagedFile::Secret(name.clone(), id.clone()).path();
            let old = observed.file(&path).map(str::to_owned);
            vec![Step::Write { path, old, new: None, mode: None }]
        }
    }
}

/// Snapshots of machines that are gone, and scheduled ones that no count keeps.
fn expired(spec: &Spec, observed: &Observed) -> Vec<Row> {
    let all = observed.snapshots();
    let machines: BTreeSet<&MachineName> = all.keys().map(|(name, _)| name).collect();
    let row = |name: &MachineName, label: Label, why| {
        let what = What::Snapshot(name.clone(), label.clone());
        Row { name: format!("{label} of {name}"), why, own: None, what }
    };
    let mut rows = Vec::new();
    for name in machines {
        let own = observed.snapshots_of(name);
        if !spec.machines.contains_key(name) && !spec.broken.contains_key(name) {
            rows.extend(own.into_keys().map(|label| row(name, label, "there is no such machine")));
            continue;
        }
        let schedule = spec.machines.get(name).and_then(|machine| machine.snapshots.as_ref());
        let Some(keep) = schedule.and_then(|schedule| schedule.keep.as_ref()) else { continue };
        let scheduled =
            |label: &Label| own.get(label)?.as_ref().filter(|record| record.scheduled).map(|r| r.taken);
        let taken: Vec<u64> = own.keys().filter_map(scheduled).collect();
        let gone = keep.expired(&taken);
        let expired = own.keys().filter(|label| scheduled(label).is_some_and(|taken| gone.contains(&taken)));
        rows.extend(expired.map(|label| row(name, label.clone(), "it has expired")));
    }
    rows
}

/// Secrets of machines that are gone.
fn left_secrets(spec: &Spec, observed: &Observed) -> Vec<Row> {
    let is_gone = |name: &MachineName| {
        !spec.machines.contains_key(name)
            && !spec.broken.contains_key(name)
            // What its unit still asks for, it still needs.
            && observed.file(&ManagedFile::UnitDropIn(name.clone()).path()).is_none()
    };
    let gone = observed.secrets().into_iter().filter(|(name, _)| is_gone(name));
    gone.map(|(name, id)| Row {
        name: format!("the secret {id} of {name}"),
        why: "there is no such machine",
        own: None,
        what: What::Secret(name, id),
    })
    .collect()
}

/// Images that were never booted, so that no machine of anybody's is lost, and that no definition names.
fn unused(spec: &Spec, observed: &Observed, is_fresh: fn(&MachineName) -> bool) -> Vec<Row> {
    // What a definition names that cannot be read is not known.
    if !spec.broken.is_empty() {
        return Vec::new();
    }
    let words = spec.machines.values().filter_map(|machine| machine.image.as_deref());
    let words = words.chain(spec.host.defaults.image.as_deref());
    let named: BTreeSet<String> = words.filter_map(image_of).collect();
    let machines: Vec<MachineName> = observed.images.iter().filter_map(|image| image.parse().ok()).collect();
    let idle = |name: &MachineName| {
        let settings = ManagedFile::Nspawn(name.clone()).path();
        !spec.machines.contains_key(name)
            && !spec.broken.contains_key(name)
            && !named.contains(name.as_str())
            && !observed.is_running(name)
            && !observed.enabled.contains(name)
            && observed.file(&settings).is_none()
            && is_fresh(name)
    };
    let idle = machines.into_iter().filter(|name| idle(name));
    idle.map(|name| Row {
        name: name.to_string(),
        why: "an image that no definition names",
        own: None,
        what: What::Image(name),
    })
    .collect()
}

/// The image that a definition's word stands for.
fn image_of(word: &str) -> Option<String> {
    match word.parse().ok()? {
        ImageWord::Name(name) => Some(name),
        other => kept(&other),
    }
}

/// A system of systemd's has its machine-id since its first boot (machine-id(5)); of others, and of disk images,
/// nobody can tell.
fn was_never_booted(name: &MachineName) -> bool {
    let Some(tree) = Tree::of(name.as_str()) else { return false };
    if !matches!(tree.guest().init, Init::Systemd(_)) {
        return false;
    }
    matches!(tree.text("etc/machine-id").as_deref().map(str::trim), None | Some("" | "uninitialized"))
}
