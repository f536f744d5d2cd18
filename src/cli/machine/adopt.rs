//! `nsctl adopt`: a machine made by hand becomes one of nsctl's, with the
//! settings that it has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::machine::attach::must_be_there;
use crate::cli::machine::handwritten::{self, checked, taken_over};
use crate::cli::planned::coloured;
use crate::cli::session::{About, Session};
use crate::cli::text;
use crate::cli::{Fault, Global};
use crate::emit::{ManagedFile, Origin};
use crate::handwritten::{HostEnd, definition};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Plan, Scope, Step, diff};
use crate::spec::definition_path;

/// Make a machine that was set up by hand one of nsctl's, as it is
#[derive(Debug, Clone, Args)]
pub struct Adopt {
    /// The machine's name
    #[arg(add = crate::cli::complete::any_machines())]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Adopt) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    if session.spec.machines.contains_key(&name) || session.spec.broken.contains_key(&name) {
        return Err(Fault::new(format!("'{name}' is one of nsctl's machines already"))
            .hint(format!("`nsctl show {name}` shows it")));
    }
    must_be_there(&session, &name)?;
    let nspawn = handwritten::find(&session, name.as_str())?;
    let host_end = host_end(&session, &name)?;
    if let Some(file) = &host_end {
        file.comes_after_ours(&name)?;
    }
    let addresses = addresses(&session, &name).await;
    let pool = session.spec.host.prefix();
    let mut machine = definition(&name, nspawn.as_ref(), host_end.as_ref(), pool, &addresses)?;
    machine.autostart = session.observed.enabled.contains(&name);

    let change = session.change(Scope::Machine(name.clone())).define(&name, &machine)?;
    let settings = nspawn.as_ref().map(|file| file.text.clone());
    let wanted = taken_over(checked(change, &machine, &name)?, nspawn).settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    text::err!("{}", sheet(&name, &plan, settings.as_deref(), host_end.as_ref()));
    text::agree(args.yes, "Do that?")?;
    session.perform(&plan).await?;
    session.say(format!("{name} is one of nsctl's machines now"));
    Ok(0)
}

/// The file of the host's end that networkd uses: the first by name that fits
/// (systemd.network(5)), of those in /etc.
fn host_end(session: &Session, name: &MachineName) -> Result<Option<HostEnd>, Fault> {
    let folder = Path::new("/etc/systemd/network");
    let all = session.disk.folder(folder, |file| file.ends_with(".network"))?;
    let mut theirs = all.into_iter().filter(|(_, text)| Origin::of(text) == Origin::Foreign);
    let Some((path, text)) = theirs.find(|(_, text)| HostEnd::is_for(text, name)) else { return Ok(None) };
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let drop_ins = session.disk.folder(&folder.join(format!("{file}.d")), |file| file.ends_with(".conf"))?;
    Ok(Some(HostEnd::new(path, text, drop_ins.into_values())))
}

/// The addresses that the machine has now, if it runs.
async fn addresses(session: &Session, name: &MachineName) -> Vec<IpAddr> {
    let Some(running) = session.observed.machines.get(name.as_str()) else { return Vec::new() };
    let asked = BTreeMap::from([(name.to_string(), running.clone())]);
    let found = observe::addresses(&asked).await.remove(name.as_str()).unwrap_or_default();
    found.into_iter().map(|found| found.address).collect()
}

/// What becomes of the hand-made files, as a diff; and what else happens.
fn sheet(name: &MachineName, plan: &Plan, nspawn: Option<&str>, host_end: Option<&HostEnd>) -> String {
    let mut lines: Vec<String> = plan.notes.iter().map(|note| format!("note: {note}")).collect();
    for step in &plan.steps {
        let Step::Write { path, new: Some(new), .. } = step else { continue };
        let old = if *path == ManagedFile::Nspawn(name.clone()).path() {
            nspawn
        } else if path.to_string_lossy().ends_with(&format!("-nsctl-ve-{name}.network")) {
            host_end.map(|file| file.text.as_str())
        } else if *path == definition_path(name) {
            None
        } else {
            continue;
        };
        lines.push(diff(path, old.unwrap_or_default(), new).trim_end().to_owned());
    }
    if let Some(HostEnd { path, .. }) = host_end {
        lines.push(format!("{} stays; nsctl's own file comes before it", path.display()));
    }
    coloured(&text::sanitize(&lines.join("\n"))).trim_end().to_owned()
}
