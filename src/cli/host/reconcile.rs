//! `nsctl plan` and `nsctl apply`: the host as its files say, as a whole.

use crate::apply::StepError;
use clap::Args;
use serde::Serialize;

use crate::cli::image::{self, MAX_SIZE};
use crate::cli::machine::create::new_image;
use crate::cli::planned;
use crate::cli::session::{About, Session, bus, held, state, tell_of_journal, undecrypted};
use crate::cli::text::{self, out};
use crate::cli::{Fault, Global};
use crate::hint::Hint as _;
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Effect, Plan, Refusal, Step, Whole, spec_of, whole};
use crate::provision::FirstBoot;
use crate::spec::Spec;
use crate::spec::image::ImageWord;
use crate::state::State;
use crate::sys::{Disk, is_root};

/// Show what `apply` would do, and why
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// End with status 3 when something would change
    #[arg(long)]
    exit_code: bool,
}

/// Make the host what nsctl.toml and machines.d say
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct PlanView<'a> {
    summary: String,
    notes: &'a [String],
    effects: &'a [Effect],
    steps: Vec<StepView<'a>>,
    left_out: Vec<LeftOut>,
}

/// A machine that stays as it is, and why.
#[derive(Serialize)]
struct LeftOut {
    machine: Option<MachineName>,
    why: String,
    hint: Option<String>,
}

#[derive(Serialize)]
struct StepView<'a> {
    #[serde(flatten)]
    step: &'a Step,
    description: String,
}

pub async fn plan(global: &Global, args: PlanArgs) -> Result<u8, Fault> {
    let disk = Disk::new(&global.root);
    let bus = bus(global).await?;
    let unresolved = crate::apply::cut_short(&disk)?;
    tell_of_journal(&disk);
    if bus.is_some() && !is_root() && !global.quiet {
        text::err!("note: the firewall's rules and machines' own networks are seen by root alone");
    }
    let observed = observe::host(&disk, bus.as_ref()).await?;
    let (spec, state) = (spec_of(&observed)?, state(&observed)?);
    let mut held = held(&unresolved);
    let mut whole = everything(&spec, &state, &observed, held.clone())?;
    let lost = if bus.is_some() && is_root() { undecrypted(&disk, &whole.plan).await } else { Vec::new() };
    if !lost.is_empty() {
        held.extend(lost);
        whole = everything(&spec, &state, &observed, held)?;
    }
    let Whole { plan, left_out, .. } = whole;
    if global.json {
        let steps = plan.steps.iter().map(|step| StepView { step, description: step.describe() }).collect();
        let told = |refusal: &Refusal| LeftOut {
            machine: refusal.machine.clone(),
            why: refusal.to_string(),
            hint: refusal.hint(),
        };
        let left_out = left_out.iter().map(told).collect();
        let (summary, notes, effects) = (plan.summary(), &plan.notes, &plan.effects);
        global.report.answer(&PlanView { summary, notes, effects, steps, left_out })?;
    } else {
        out!("{}", planned::whole(&plan));
    }
    if !left_out.is_empty() || !spec.strays.is_empty() {
        // A program has read of them already.
        tell(global, &spec, if global.json { Vec::new() } else { left_out });
        return Ok(1);
    }
    Ok(if args.exit_code && !plan.steps.is_empty() { 3 } else { 0 })
}

pub async fn apply(global: &Global, args: Apply) -> Result<u8, Fault> {
    let mut session = Session::begin(global, About::Everybody).await?;
    let routed = session.spec.machines.iter().filter(|(_, machine)| machine.network.routed().is_some());
    let leaseless = routed.map(|(name, _)| name).filter(|name| session.state.leases.get(name).is_none());
    let leaseless: Vec<MachineName> = leaseless.cloned().collect();
    if !leaseless.is_empty() {
        session.ask_neighbours(&leaseless.iter().collect::<Vec<_>>()).await?;
    }
    let mut held = session.held(|_| true);
    let judged = |held| everything(&session.spec, &session.state, &session.observed, held);
    let mut whole = judged(held.clone())?;
    let mut taken = elsewhere(&whole.plan).await?;
    taken.extend(session.undecrypted(&whole.plan).await);
    taken.extend(session.unheard(&whole.plan).await);
    if !taken.is_empty() {
        // They stay as they are, and hold up nobody else.
        held.extend(taken);
        whole = judged(held)?;
    }
    let Whole { plan, left_out, .. } = whole;
    session.progress.end();
    crate::apply::modes::follow(&session.disk, session.observed.files.keys())?;
    if plan.steps.is_empty() {
        plan.notes.iter().for_each(|note| session.note(note));
        session.say(plan.summary());
    } else {
        if args.yes {
            plan.notes.iter().for_each(|note| session.note(note));
        } else if !global.quiet {
            plan.notes.iter().for_each(|note| global.report.note(note));
            text::err!("{}", if global.verbose { planned::whole(&plan) } else { planned::brief(&plan) });
        }
        text::agree(args.yes || !plan.takes_away(), "Do that?")?;
        for word in to_make(&session.spec, &session.observed) {
            image::ensure(global, &word).await?;
        }
        session.perform(&plan).await?;
    }
    if left_out.is_empty() && session.spec.strays.is_empty() {
        return Ok(0);
    }
    session.progress.end();
    tell(global, &session.spec, left_out);
    Ok(1)
}

/// Says which machines stay as they are, and why.
fn tell(global: &Global, spec: &Spec, left_out: Vec<Refusal>) {
    let hint = "name the file after its machine, or move it away";
    let strays = spec.strays.iter().map(|problem| Refusal::of_host(problem, hint));
    global.report.fault(&Fault::from(left_out.into_iter().chain(strays).collect::<Vec<_>>()));
}

/// The host as its files say: machines without a tree get one of their image,
/// and those that start with the host run.
pub fn everything(
    spec: &Spec,
    state: &State,
    observed: &Observed,
    held: Vec<Refusal>,
) -> Result<Whole, Vec<Refusal>> {
    let live = spec.machines.iter().filter(|_| observed.live);
    let treeless = live.filter(|(name, _)| !observed.images.contains(name.as_str()));
    let images = treeless.filter_map(|(name, machine)| {
        let word = machine.image.as_deref()?;
        let image = word.parse().map_err(Fault::from);
        let image = image.and_then(|word| new_image(&word, name, FirstBoot::default(), MAX_SIZE));
        let hint =
            "image = \"…\" takes a tar file, a disk image, a folder, or an image's name: `nsctl image list`";
        let unmade = |fault: Fault| Refusal::of(name, format!("'{name}' cannot be made: {fault}"), hint);
        Some((name.clone(), image.map_err(unmade)))
    });
    let made = to_make(spec, observed).into_iter().filter_map(|word| image::kept(&word)).collect();
    whole(spec, state, observed, &images.collect(), made, held)
}

/// Machines that would start with an address which somebody else on the link has.
async fn elsewhere(plan: &Plan) -> Result<Vec<Refusal>, Fault> {
    let mut refusals = Vec::new();
    for step in &plan.steps {
        let Step::Probe { link, addresses } = step else { continue };
        for error in crate::apply::taken(link, addresses).await? {
            let hint = error.hint().unwrap_or_default();
            if let StepError::Elsewhere { machine, .. } = &error {
                refusals.push(Refusal::of(machine, format!("'{machine}' does not start: {error}"), hint));
            }
        }
    }
    Ok(refusals)
}

/// The images that are made before the machines of them are.
fn to_make(spec: &Spec, observed: &Observed) -> Vec<ImageWord> {
    let treeless =
        spec.machines.iter().filter(|(name, _)| observed.live && !observed.images.contains(name.as_str()));
    let words = treeless.filter_map(|(_, machine)| machine.image.as_deref()?.parse::<ImageWord>().ok());
    words.filter(|word| image::kept(word).is_some_and(|name| !observed.images.contains(&name))).collect()
}
