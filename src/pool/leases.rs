//! Who holds which subnet, and who gets which next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use super::ranges::Ranges;
use super::{Lease, Pool, PoolError, Prefix};
use crate::name::MachineName;

/// A subnet that was freed, and who held it last, if that is known: it gets it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resting {
    pub lease: Lease,
    pub machine: Option<MachineName>,
}

/// What a machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// This one, and no other.
    pub pinned: Option<Lease>,
    /// The length of its prefix, where the pool has prefixes: 64, or less for a machine that routes.
    pub length: u8,
}

/// A /64 of no more than that.
impl From<Option<Lease>> for Ask {
    fn from(pinned: Option<Lease>) -> Ask {
        Ask { pinned, length: 64 }
    }
}

/// Who holds which subnet, and which were freed.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    held: BTreeMap<MachineName, Lease>,
    /// Freed subnets, the one freed longest ago first.
    resting: Vec<Resting>,
    /// Every subnet in `held` or `resting`.
    used: Ranges,
    /// What nobody gets anew, nor the /64 around it: the host's own addresses, and its routers'.
    reserved: BTreeSet<Ipv6Addr>,
    /// What other hosts have of the same pool, and who, in words.
    elsewhere: Vec<(Lease, String)>,
}

/// What is reserved, and what others have, is seen anew each time, and no part of the record.
impl PartialEq for Leases {
    fn eq(&self, other: &Leases) -> bool {
        (&self.held, &self.resting) == (&other.held, &other.resting)
    }
}

impl Eq for Leases {}

impl Leases {
    /// Leases as they were saved.
    ///
    /// # Errors
    /// The first subnet that stands twice.
    pub fn new(held: BTreeMap<MachineName, Lease>, resting: Vec<Resting>) -> Result<Leases, Lease> {
        let mut used = Ranges::default();
        for lease in held.values().chain(resting.iter().map(|rested| &rested.lease)) {
            if !used.insert(lease.range()) {
                return Err(*lease);
            }
        }
        Ok(Leases { held, resting, used, ..Leases::default() })
    }

    pub fn get(&self, name: &MachineName) -> Option<Lease> {
        self.held.get(name).copied()
    }

    /// Machines and their subnets, by name.
    pub fn held(&self) -> &BTreeMap<MachineName, Lease> {
        &self.held
    }

    /// Freed subnets, the one freed longest ago first.
    pub fn resting(&self) -> &[Resting] {
        &self.resting
    }

    /// Who holds it, or a part of it.
    pub fn holder(&self, lease: Lease) -> Option<&MachineName> {
        self.held.iter().find(|(_, held)| held.overlaps(lease)).map(|(name, _)| name)
    }

    /// Keeps addresses from being leased. Who holds one already keeps it.
    pub fn reserve(&mut self, own: impl IntoIterator<Item = Ipv6Addr>) {
        self.reserved.extend(own);
    }

    /// Leases nothing that other hosts have, and what rests in the order in which all of them freed it. What rests here
    /// alone was freed before that.
    pub fn share(&mut self, elsewhere: Vec<(Lease, String)>, resting: Vec<Resting>) {
        self.elsewhere = elsewhere;
        let known = |lease: Lease| resting.iter().any(|rested| rested.lease.overlaps(lease));
        let mut all: Vec<Resting> = self.resting.iter().filter(|own| !known(own.lease)).cloned().collect();
        all.extend(resting.iter().filter(|rested| self.holder(rested.lease).is_none()).cloned());
        // What somebody wrote there that cannot be is no matter of ours.
        let mut seen = Ranges::default();
        all.retain(|rested| self.who_else(rested.lease).is_none() && seen.insert(rested.lease.range()));
        self.resting = all;
        self.count();
    }

    /// Who has it, or a part of it, on another host.
    fn who_else(&self, lease: Lease) -> Option<&str> {
        self.elsewhere.iter().find(|(other, _)| other.overlaps(lease)).map(|(_, who)| who.as_str())
    }

    /// What is used, from the beginning.
    fn count(&mut self) {
        self.used = Ranges::default();
        let held = self.held.values().chain(self.resting.iter().map(|rested| &rested.lease));
        for lease in held.chain(self.elsewhere.iter().map(|(lease, _)| lease)) {
            self.used.insert(lease.range());
        }
    }

    /// Whether the host, or a router of its, has an address of it.
    fn is_reserved(&self, pool: Pool, lease: Lease) -> bool {
        let taken = |own: &Ipv6Addr| lease.number().is_none() && lease.holds(*own);
        pool.is_hosts_own(lease) || self.reserved.iter().any(taken)
    }

    /// Leases a subnet to `name`: the pinned one, the one that it holds, the one that it held
    /// last, or the next. Never-used subnets go first, then the one freed longest ago.
    ///
    /// # Errors
    /// When the pool is full, or the pinned subnet cannot be had.
    pub fn lease(&mut self, pool: Pool, name: &MachineName, ask: impl Into<Ask>) -> Result<Lease, PoolError> {
        let (ask, held): (Ask, _) = (ask.into(), self.get(name));
        let lease = match (ask.pinned, held) {
            (Some(pin), Some(held)) if pin == held => return Ok(held),
            (None, Some(held)) if pool.contains(held) && held.resized(ask.length) == held => return Ok(held),
            (Some(pin), _) => self.check_pin(pool, name, pin)?,
            (None, None) => self.find(pool, name, ask.length)?,
            (None, Some(held)) => self.resize(pool, name, held, ask.length)?,
        };
        self.release(name);
        self.take(lease);
        self.held.insert(name.clone(), lease);
        Ok(lease)
    }

    /// Another one for who holds one of another length, or of another pool: if it can be the same but
    /// for its length, and in any case as if that were free.
    fn resize(&self, pool: Pool, name: &MachineName, held: Lease, length: u8) -> Result<Lease, PoolError> {
        let mut others = self.clone();
        others.release(name);
        let same = held.resized(length);
        let is_free = pool.contains(same)
            && !others.is_reserved(pool, same)
            && others.holder(same).is_none()
            && self.who_else(same).is_none();
        if is_free { Ok(same) } else { others.find(pool, name, length) }
    }

    fn find(&self, pool: Pool, name: &MachineName, length: u8) -> Result<Lease, PoolError> {
        let again = || self.held_last(pool, name, length).or_else(|| self.next(pool, length));
        let full = if length < 64 { PoolError::NoRoom { pool, length } } else { PoolError::Full(pool) };
        again().ok_or(full)
    }

    /// Of what rests, only what has no part in it goes on resting; what is left of the rest was
    /// never used.
    fn take(&mut self, lease: Lease) {
        if self.used.insert(lease.range()) {
            return;
        }
        self.resting.retain(|rested| !rested.lease.overlaps(lease));
        self.count();
        self.used.insert(lease.range());
    }

    fn check_pin(&self, pool: Pool, name: &MachineName, pin: Lease) -> Result<Lease, PoolError> {
        if !pool.contains(pin) {
            return Err(PoolError::Outside { lease: pin, pool });
        }
        if self.is_reserved(pool, pin) {
            return Err(PoolError::HostsOwn(pin));
        }
        if let Some(holder) = self.who_else(pin) {
            return Err(PoolError::Elsewhere { lease: pin, holder: holder.to_owned() });
        }
        let mut others = self.held.iter().filter(|(holder, held)| *holder != name && held.overlaps(pin));
        match others.next() {
            Some((holder, _)) => Err(PoolError::Taken { lease: pin, holder: holder.clone() }),
            None => Ok(pin),
        }
    }

    fn next(&self, pool: Pool, length: u8) -> Option<Lease> {
        let around = |rested: &Resting| rested.lease.resized(length);
        let is_free = |lease: &Lease| {
            pool.contains(*lease) && !self.is_reserved(pool, *lease) && self.who_else(*lease).is_none()
        };
        let mut rested = self.rested(pool).map(around);
        self.never_used(pool, length)
            .or_else(|| rested.find(|lease| is_free(lease) && self.holder(*lease).is_none()))
    }

    /// What rests in a pool, the one freed longest ago first.
    fn rested(&self, pool: Pool) -> impl DoubleEndedIterator<Item = &Resting> {
        self.resting
            .iter()
            .filter(move |rested| pool.contains(rested.lease) && !self.is_reserved(pool, rested.lease))
    }

    /// What a machine of this name held last, if nobody else has it since.
    fn held_last(&self, pool: Pool, name: &MachineName, length: u8) -> Option<Lease> {
        let is_last = |rested: &&Resting| {
            rested.machine.as_ref() == Some(name) && rested.lease.resized(length) == rested.lease
        };
        Some(self.rested(pool).rfind(is_last)?.lease)
    }

    /// The lowest from the first on that nobody ever had.
    fn never_used(&self, pool: Pool, length: u8) -> Option<Lease> {
        let begin = pool.lease(0)?.range().0;
        let size = pool.lease(0)?.resized(length).size();
        let mut at = begin + u128::from(pool.first());
        loop {
            at = self.used.first_free(at, size)?;
            let lease = pool.lease(u64::try_from(at - begin).ok()?)?.resized(length);
            if !self.is_reserved(pool, lease) {
                return pool.contains(lease).then_some(lease);
            }
            at += size;
        }
    }

    /// The same machines in another pool: what is of it stays; of others, where both pools are of one kind,
    /// each gets the subnet of the same number if that is free, and else none yet. What rests of the old
    /// pool is forgotten. `own` are addresses of the host and of its routers.
    #[must_use]
    pub fn renumbered(&self, from: Option<Pool>, to: Pool, own: &BTreeSet<Ipv6Addr>) -> Leases {
        const LOOKED_AT: u64 = 1 << 16;
        let stays = |lease: Lease| to.contains(lease);
        let fixed = from.and_then(Pool::fixed);
        let first = fixed.map_or(0, Prefix::first);
        let all = (first..first + LOOKED_AT).filter_map(|number| Some((fixed?.lease(number)?, number)));
        let numbers: BTreeMap<Lease, u64> = all.collect();
        let alike = from.is_some_and(|from| from.is_single() == to.is_single());
        let moved = |lease: Lease| {
            let number = lease.number().map(u64::from).or_else(|| numbers.get(&lease).copied())?;
            to.lease(number).filter(|lease| alike && number >= to.first() && stays(*lease))
        };
        let (stay, go): (Vec<_>, Vec<_>) = self.held.iter().partition(|(_, lease)| stays(**lease));
        let mut leases = Leases { reserved: own.clone(), ..Leases::default() };
        for (name, lease) in stay {
            leases.used.insert(lease.range());
            leases.held.insert(name.clone(), *lease);
        }
        for rested in self.resting.iter().filter(|rested| stays(rested.lease)) {
            leases.used.insert(rested.lease.range());
            leases.resting.push(rested.clone());
        }
        for (name, lease) in go {
            let free = moved(*lease).filter(|lease| !leases.is_reserved(to, *lease));
            if let Some(lease) = free.filter(|lease| leases.used.insert(lease.range())) {
                leases.held.insert(name.clone(), lease);
            }
        }
        leases
    }

    /// Gives what one machine holds to another, which is the same under a new name.
    pub fn rename(&mut self, name: &MachineName, new: &MachineName) {
        if let Some(lease) = self.held.remove(name) {
            self.held.insert(new.clone(), lease);
        }
    }

    /// Frees what `name` holds; the subnet then rests.
    pub fn release(&mut self, name: &MachineName) -> Option<Lease> {
        let lease = self.held.remove(name)?;
        self.resting.push(Resting { lease, machine: Some(name.clone()) });
        Some(lease)
    }

    /// These leases without what a command wrote that is taken back: machines have what they
    /// had before it, unless others have changed that since.
    #[must_use]
    pub fn take_back(&self, written: &Leases, before: &Leases) -> Leases {
        let (mut held, mut resting) = (self.held.clone(), self.resting.clone());
        let changed = |name: &&MachineName| written.get(name) != before.get(name);
        let names = written.held.keys().chain(before.held.keys()).filter(changed);
        let undone: Vec<&MachineName> = names
            .filter(|name| self.get(name) == written.get(name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        for name in &undone {
            held.remove(*name);
        }
        for name in undone {
            let is_free = |lease: &Lease| !held.values().any(|taken| taken.overlaps(*lease));
            if let Some(lease) = before.get(name).filter(is_free) {
                resting.retain(|rested| !rested.lease.overlaps(lease));
                held.insert(name.clone(), lease);
            }
        }
        // What rested comes back where nobody has a part of it since.
        let mut used = Ranges::default();
        held.values().chain(resting.iter().map(|rested| &rested.lease)).for_each(|lease| {
            used.insert(lease.range());
        });
        resting.extend(before.resting.iter().filter(|rested| used.insert(rested.lease.range())).cloned());
        Leases::new(held, resting)
            .map_or_else(|_| self.clone(), |leases| Leases { reserved: self.reserved.clone(), ..leases })
    }
}

#[cfg(test)]
mod tests;
