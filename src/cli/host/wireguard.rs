//! `nsctl init --wireguard FILE`: the tunnel that a file for wg-quick(8) describes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::Fault;
use crate::cli::session::Session;
use crate::emit::ManagedFile;
use crate::handwritten::WgQuick;
use crate::name::IfName;
use crate::observed::Link;
use crate::pool::Prefix;
use crate::spec::{Uplink, UplinkKind, WireGuard};
use crate::sys::Disk;
use crate::visible::joined;
use ipnet::IpNet;

/// What WireGuard adds to a packet, whatever carries it (wg-quick(8)).
const OVERHEAD: u32 = 80;

/// A tunnel that is asked for.
pub struct Asked {
    interface: IfName,
    path: PathBuf,
    file: WgQuick,
    is_public: bool,
}

/// Reads the file; the tunnel is called as it is.
pub fn read(path: &Path) -> Result<Asked, Fault> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let interface: IfName = stem.parse().map_err(|error| {
        Fault::from(error).hint("the tunnel is called as the file is: INTERFACE.conf, such as wg0.conf")
    })?;
    let (text, is_public) = Disk::read_foreign(path)?;
    let file = WgQuick::parse(path, &text).map_err(|problems| {
        Fault::from(problems)
            .hint("nsctl takes the tunnel and its ways alone: take what is named out of a copy of it")
    })?;
    Ok(Asked { interface, path: path.to_owned(), file, is_public })
}

impl Asked {
    /// The uplink that it makes; says what the user should know of it.
    pub async fn uplink(&self, session: &Session, pool: Prefix) -> Result<Uplink, Fault> {
        let Asked { interface, path, file, is_public } = self;
        let device = ManagedFile::TunnelNetdev(interface.clone()).path();
        let observed = &session.observed;
        if observed.link(interface.as_str()).is_some() && observed.file(&device).is_none() {
            let what = format!("there is already an interface '{interface}', and nsctl did not make it");
            return Err(Fault::new(what)
                .hint(format!("`systemctl disable --now wg-quick@{interface}` hands it over")));
        }
        let shown = path.display();
        if let Some(net) = file.wireguard.leads_astray(pool.net()) {
            return Err(Fault::new(format!("{shown}: AllowedIPs would lead {net} of the pool to the peer"))
                .hint("AllowedIPs names what is at the other end; the pool is at this one"));
        }
        let holds = |own: &&IpNet| matches!(own, IpNet::V6(own) if own.contains(&pool.net()));
        let around = file.wireguard.address.iter().find(holds);
        if let Some(own) = around.filter(|_| !pool.is_single()) {
            let what =
                format!("{shown}: with the address {own} all of {pool} would be on the tunnel's own link");
            return Err(
                Fault::new(what).hint("the address in the tunnel has a length of its own, such as /128")
            );
        }
        let mut wireguard = file.wireguard.clone();
        for (is_v6, family) in [(true, "IPv6"), (false, "IPv4")] {
            if wireguard.takes_over(is_v6) {
                session.say(format!("note: all that this host sends to the world by {family} goes through {interface} now; `Table = off` in {shown} keeps that as it is"));
            }
        }
        if wireguard.takes_over(false) {
            fix_endpoints(session, &mut wireguard).await?;
        }
        if *is_public {
            session.say(format!(
                "note: everybody on this host can read {shown}, and the key in it: `chmod 600 {shown}`"
            ));
        }
        if !file.wireguard.takes_all() {
            let nets = joined(file.wireguard.allowed(), ", ");
            session.say(format!(
                "note: through {interface} machines reach {nets} alone, as AllowedIPs in {shown} says; ::/0 is \
                 everybody"
            ));
        }
        let mtu = file.mtu.unwrap_or_else(|| mtu_through(session));
        let kind = UplinkKind::WireGuard(wireguard);
        Ok(Uplink { interface: interface.clone(), mtu: Some(mtu), kind })
    }

    /// The files that its keys go into, which nobody but root and networkd reads.
    pub fn keys(&self) -> BTreeMap<PathBuf, String> {
        let path = |peer| ManagedFile::TunnelKey(self.interface.clone(), peer).path();
        let shared = self.file.preshared.iter().map(|(peer, key)| (Some(peer.number()), key));
        let all = std::iter::once((None, &self.file.private_key)).chain(shared);
        all.map(|(peer, key)| (path(peer), format!("{key}\n"))).collect()
    }
}

/// A name could be asked for through the tunnel alone, which waits for the answer: it is asked for now.
async fn fix_endpoints(session: &Session, wireguard: &mut WireGuard) -> Result<(), Fault> {
    for endpoint in wireguard.peer.iter_mut().filter_map(|peer| peer.endpoint.as_mut()) {
        let word = endpoint.to_string();
        if word.parse::<std::net::SocketAddr>().is_ok() {
            continue;
        }
        let mut found = tokio::net::lookup_host(&word).await.map_err(|error| {
            Fault::new(format!("the peer {word} is not found: {error}"))
                .hint("write its address into the file, where you know it")
        })?;
        if let Some(address) = found.next() {
            session.say(format!(
                "note: {word} is {address} today; once that changes, `nsctl init --wireguard` again"
            ));
            *endpoint = address.to_string().parse()?;
        }
    }
    Ok(())
}

/// What is left of the packets on the way to the peer, which does not lead through a tunnel of ours.
fn mtu_through(session: &Session) -> u32 {
    let Session { observed, spec, .. } = session;
    let tunnel = spec.host.uplink.as_ref().filter(|uplink| uplink.is_tunnel());
    let is_ours = |link: &&Link| tunnel.is_some_and(|tunnel| link.is_called(tunnel.interface.as_str()));
    let leads = observed.links.iter().filter(|link| observed.has_default_route(link) && !is_ours(link));
    let least = leads.map(|link| link.mtu).min().unwrap_or(1500);
    least.saturating_sub(OVERHEAD).clamp(1280, 65_535 - OVERHEAD)
}
