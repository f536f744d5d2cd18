//! `nsctl backup verify`: the proof that a machine comes up from its backup.

use crate::backup::{Backup, Contents, Proof, age};
use crate::cli::fault::argument;
use crate::cli::machine::backup::note_down;
use crate::cli::machine::repository::{contents_of, find, profiles_with, repository, spec, this_host};
use crate::cli::machine::snapshot::moment;
use crate::cli::session::{About, Session, lost};
use crate::cli::{Fault, Global};
use crate::emit::{ManagedFile, Trial};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Plan, Step};
use crate::spec::{MachineSpec, Problems, Repository, bytes, definition_path, reach};
use crate::sys::backups::Store;
use crate::sys::{self, Disk, kernel, trial};

/// Proves the latest backup of a machine, and writes down what came of that.
pub async fn verify(global: &Global, name: &MachineName, from: Option<&str>) -> Result<(), Fault> {
    let spec = spec(global)?;
    let repository = repository(from, &spec)?;
    let disk = Disk::new(&global.root);
    let store = Store::of(&disk, &repository)?;
    let backup = find(&store, &repository, name, None, None).await?;
    // What somebody else put there nobody here has agreed to start.
    if backup.on != this_host() {
        return Err(Fault::new(format!("the backups of '{name}' at {repository} are of {}", backup.host))
            .hint(format!("they are proved there; here, `nsctl restore {name} --as NEW` brings one back")));
    }
    let contents = contents_of(&store, &backup).await?;
    let profiles = profiles_with(&observe::definitions(&disk)?, &contents);
    let written = profiles.machine(&definition_path(name), &contents.record.definition).map_err(Problems)?;
    let machine = allowed(written, spec.machines.get(name));
    let begun = sys::now();
    let proved = prove(global, (name, &machine), contents, &backup, repository).await;
    // What is not its own fault tells nothing of it.
    if let Err(fault) = &proved
        && !fault.is_unproved()
    {
        return proved;
    }
    let (when, taken, id) = (sys::seconds_since_1970(), backup.taken, backup.id.clone());
    let why = proved.as_ref().err().map(ToString::to_string);
    note_down(global, name, |history| history.proof = Some(Proof { when, taken, id, why })).await?;
    proved.map_err(|fault| {
        fault.hint(format!(
            "`nsctl restore {name} {} --as {name}-tried --no-start` brings it back to look into",
            backup.id
        ))
    })?;
    global.report.say(format!(
        "{name} comes up from its backup {} of {}, {} old, and does what it did ({:.0} s)",
        backup.id,
        moment(backup.taken),
        age(when, backup.taken),
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// What it may do here is what its definition says today.
fn allowed(mut machine: MachineSpec, today: Option<&MachineSpec>) -> MachineSpec {
    match today {
        Some(today) => {
            machine.bind.retain(|bind| today.bind.contains(bind));
            machine.bind_read_only.retain(|bind| today.bind_read_only.contains(bind));
            machine.secret.retain(|id| today.secret.contains(id));
            if machine.nspawn != today.nspawn {
                machine.nspawn.clear();
            }
        }
        None => {
            reach::contain(&mut machine);
            machine.secret.clear();
        }
    }
    machine
}

/// Brings it back under a name that nobody else has, starts it, and deletes it again.
async fn prove(
    global: &Global,
    (name, machine): (&MachineName, &MachineSpec),
    contents: Contents,
    backup: &Backup,
    from: Repository,
) -> Result<(), Fault> {
    // No label of a snapshot is that.
    let image = format!(".{name}{TRIAL}");
    let session = Session::begin(global, About::Nobody).await?;
    let trial = trial(&session, (name, machine), contents).await?;
    let disk = session.spec.host.limits(machine).disk.as_deref().and_then(bytes);
    let (machine, id) = (name.clone(), backup.id.clone());
    let steps = vec![
        Step::Restore { machine, image: image.clone(), from, id, disk },
        Step::Prove { image: image.clone(), trial },
        Step::RemoveSnapshot { image },
    ];
    session.perform(&Plan { steps, ..Plan::default() }).await.map(drop)
}

/// What a tree on trial is called, behind its machine.
const TRIAL: &str = "@+trial";

async fn trial(
    session: &Session,
    (name, machine): (&MachineName, &MachineSpec),
    contents: Contents,
) -> Result<Trial, Fault> {
    let number = kernel::random()? & 0xffff_ffff;
    let own: MachineName = argument(&format!("trial-{number:08x}"))?;
    let routed = machine.network.routed();
    let address = routed.and_then(|routed| routed.planned(contents.record.lease?).address());
    let secrets = machine.secret.iter().filter(|id| session.observed.has_secret(name, id));
    let all: Vec<_> = secrets.map(|id| (name.clone(), id.clone())).collect();
    let lost = lost(&session.disk, &all).await;
    if let Some(((_, id), why)) = lost.into_iter().next() {
        return Err(
            Fault::new(format!("its secret {id} {why}")).hint(format!("`nsctl secret set {name} {id}`"))
        );
    }
    let secrets: Vec<_> = all.into_iter().map(|(_, id)| id).collect();
    let nspawn = session.observed.file(&ManagedFile::Nspawn(name.clone()).path());
    let trial = Trial::of(own, machine, contents.vitals, address, trial::is_quiet);
    let trial = trial.with_units(nspawn.unwrap_or_default());
    Ok(trial.limited(name, &session.spec.host.limits(machine)).with_secrets(name, &secrets))
}
