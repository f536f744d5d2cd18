//! `nsctl bridge create`: a bridge, its network, and its port to the LAN.

use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::cli::fault::argument;
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global, text};
use crate::name::IfName;
use crate::plan::Scope;
use crate::spec::{BridgeSpec, HOST_FILE};

/// Bridges that put machines on the LAN
#[derive(Debug, Subcommand)]
pub enum Bridge {
    /// Make a bridge of an interface, so that machines can be on its LAN
    Create(Create),
}

#[derive(Debug, Args)]
pub struct Create {
    /// The bridge's name, 15 characters at the most
    name: String,
    /// The interface that becomes its port
    #[arg(long, value_name = "IFACE")]
    uplink: String,
    /// A static address of this host on the bridge, such as 192.168.5.9/24, instead of DHCP and
    /// RA; may be given several times
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    address: Vec<String>,
    /// The default router that goes with a static address; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    gateway: Vec<String>,
    /// A VLAN that the interface carries tagged, for machines in it; may be given several times
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(2..=4094))]
    vlan: Vec<u16>,
    /// Do not ask before this host's own default route moves to the bridge
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, Bridge::Create(args): Bridge) -> Result<u8, Fault> {
    let name: IfName = argument(&args.name)?;
    let address = |word: &String| parsed(word, "an address with its length", "192.168.5.9/24");
    let gateway = |word: &String| parsed(word, "an address", "192.168.5.1 or fe80::1");
    let bridge = BridgeSpec {
        uplink: argument(&args.uplink)?,
        address: args.address.iter().map(address).collect::<Result<_, _>>()?,
        gateway: args.gateway.iter().map(gateway).collect::<Result<_, _>>()?,
        vlans: args.vlan.iter().copied().collect(),
    };
    let session = Session::begin(global, About::Nobody).await?;
    let there = session.spec.host.bridges.get(&name);
    if there.is_some_and(|there| *there != bridge) {
        return Err(Fault::new(format!("there is already a bridge named {name}, made otherwise"))
            .hint(format!("edit [bridge.{name}] in {HOST_FILE} and run `nsctl apply`")));
    }
    let others =
        session.spec.host.bridges.iter().find(|(other, b)| **other != name && b.uplink == bridge.uplink);
    if let Some((other, _)) = others {
        return Err(Fault::new(format!("{} is already the port of {other}", bridge.uplink))
            .hint(format!("put the machines on {other} instead")));
    }
    let uplink = bridge.uplink.clone();
    let mut host = session.spec.host.clone();
    host.bridges.insert(name.clone(), bridge);
    let wanted = session.change(Scope::Bridge(name.clone())).host(&host)?.settle()?;
    let plan = session.plan(&wanted)?;
    for note in &plan.notes {
        session.progress.end();
        text::err!("note: {}", text::sanitize(note));
    }
    text::agree(args.yes || plan.notes.is_empty(), "Go on?")?;
    session.perform(&plan).await?;
    session.say(format!("{name} is a bridge to the LAN of {uplink}"));
    Ok(0)
}

/// What a word means that is this.
fn parsed<T: FromStr>(word: &str, what: &str, example: &str) -> Result<T, Fault> {
    let wrong = || Fault::wrong(format!("'{}' is not {what}", word.escape_debug()));
    word.parse().map_err(|_| wrong().hint(format!("write it as {example}")))
}
