//! One machine among many: what changes or starts it alone reads its files and no others', so that it
//! takes no longer than where there are no others.

use super::{About, Session, not_below_root, state, with_starts};
use crate::cli::{Fault, Global};
use crate::emit::{self, ManagedFile, Owner};
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Scope, Step, Wanted, plan, spec_of};
use crate::spec::{Ipv4, MachineSpec, Spec, definition_path};
use crate::state::State;

/// What is known of a few machines by their own files.
type Alone = (Observed, Spec, State);

impl Session {
    /// Locks the host, and reads what one machine has of its own where there are many; else everything.
    pub async fn begin_alone(global: &Global, name: &MachineName) -> Result<Session, Fault> {
        let names = [name];
        let host = Session::take(global, About::Those(&names)).await?;
        if host.bus.is_some()
            && let Some((mut observed, spec, state)) = host.alone(&names).await?
        {
            for (path, rendered) in emit::render(&spec, &state.leases) {
                if rendered.file.owner() == Owner::Machine(name.clone()) {
                    observed.files.extend(host.disk.read(&path)?.map(|text| (path, text)));
                }
            }
            return Ok(Session { is_alone: true, ..host.known(observed, spec, state) });
        }
        host.read_all(About::Those(&names)).await
    }

    /// Just what a start needs to know: it is to begin at once.
    pub async fn begin_to_start(global: &Global, about: About<'_>) -> Result<Session, Fault> {
        let host = Session::take(global, about).await?;
        if let About::Those(names) = about
            && let Some((observed, spec, state)) = host.alone(names).await?
        {
            return Ok(host.known(observed, spec, state));
        }
        let observed = observe::running(&host.disk, host.bus.as_ref().ok_or_else(not_below_root)?).await?;
        let (spec, state) = (spec_of(&observed)?, state(&observed)?);
        let observed = with_starts(&host.disk, observed, &spec, about);
        Ok(host.known(observed, spec, state))
    }

    /// None where there are few machines, or these cannot be understood by themselves.
    async fn alone(&self, names: &[&MachineName]) -> Result<Option<Alone>, Fault> {
        let bus = self.bus.as_ref().ok_or_else(not_below_root)?;
        // What cannot be read is told by who reads everything.
        let Ok(Some(observed)) = observe::alone(&self.disk, bus, names).await else { return Ok(None) };
        let (Ok(spec), Ok(state)) = (spec_of(&observed), state(&observed)) else { return Ok(None) };
        let is_plain = |name: &&MachineName| spec.machines.get(*name).is_some_and(stands_alone);
        if !names.iter().all(is_plain) {
            return Ok(None);
        }
        let observed = with_starts(&self.disk, observed, &spec, About::Those(names));
        Ok(Some((observed, spec, state)))
    }

    /// What a verb edits of one machine's rules, planned; everything is read for it unless the rules are all that
    /// changes, and nothing is wrong.
    pub async fn change_rules(
        mut self,
        name: &MachineName,
        edit: impl Fn(&Session, Scope) -> Result<Option<Wanted>, Fault>,
    ) -> Result<(Session, Option<Wanted>), Fault> {
        if self.is_alone {
            let wanted = edit(&self, Scope::Alone(name.clone()));
            if wanted.as_ref().is_ok_and(|wanted| self.is_of_rules(name, wanted.as_ref())) {
                return Ok((self, wanted?));
            }
            self = self.read_all(About::Those(&[name])).await?;
        }
        let wanted = edit(&self, Scope::Machine(name.clone()))?;
        Ok((self, wanted))
    }

    fn is_of_rules(&self, name: &MachineName, wanted: Option<&Wanted>) -> bool {
        let paths = [definition_path(name), ManagedFile::MachineFirewall(name.clone()).path()];
        let is_one = |step: &Step| match step {
            Step::Write { path, .. } => paths.contains(path),
            Step::ReloadFirewall { .. } => true,
            step => step.is_check() || step.is_health(),
        };
        wanted
            .is_none_or(|wanted| plan(wanted, &self.observed).is_ok_and(|plan| plan.steps.iter().all(is_one)))
    }
}

/// Whether nothing that it wants can be wrong because of another machine, or names one; and it has no secrets, which
/// are in files of their own.
fn stands_alone(machine: &MachineSpec) -> bool {
    let shares =
        machine.network.routed().is_none_or(|routed| routed.subnet.is_some() || !routed.routes.is_empty());
    let address = matches!(machine.ipv4, Some(Ipv4::Address(_)));
    !shares && !address && machine.expose.is_empty() && machine.after.is_empty() && machine.secret.is_empty()
}
