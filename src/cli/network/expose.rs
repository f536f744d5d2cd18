//! `nsctl expose|unexpose`: ways in to a service that speaks IPv4 alone.

use std::net::SocketAddr;

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::plan::Scope;
use crate::spec::{Expose as Spec, MachineSpec, OpenPort};

/// Listen for a service that speaks IPv4 alone
#[derive(Debug, Clone, Args)]
pub struct Expose {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// The port on the machine's IPv6 address: tcp/8080
    #[arg(value_name = "PROTO/PORT")]
    port: String,
    /// Listen inside the machine, on IPv6, for a service that listens here
    /// [default: 127.0.0.1 and the same port, unless --host stands alone]
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Option<SocketAddr>,
    /// Listen on this port of the host, on IPv4, and lead to the machine's IPv6 address
    #[arg(long, value_name = "PORT")]
    host: Option<u16>,
}

/// Take such listeners away
#[derive(Debug, Clone, Args)]
pub struct Unexpose {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// The port on the machine's IPv6 address: tcp/8080
    #[arg(value_name = "PROTO/PORT", add = crate::cli::complete::exposed_ports())]
    port: String,
    /// Just the listener inside the machine
    #[arg(long, conflicts_with = "host")]
    inside: bool,
    /// Just the listener on the host
    #[arg(long)]
    host: bool,
}

pub async fn expose(global: &Global, args: Expose) -> Result<u8, Fault> {
    let port: OpenPort = argument(&args.port)?;
    let inside = args.to.is_some() || args.host.is_none();
    let to = inside.then(|| args.to.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port.first))));
    let asked = Spec { port, to, host: args.host };
    if let Some(fault) = asked.fault() {
        return Err(Fault::wrong(fault).hint("for example `nsctl expose web tcp/8080 --to 127.0.0.1:8080`"));
    }
    change(global, &args.name, |machine, _| {
        match machine.expose.iter_mut().find(|there| there.port == port) {
            None => machine.expose.push(asked.clone()),
            Some(there) => {
                there.to = asked.to.or(there.to);
                there.host = asked.host.or(there.host);
            }
        }
        let mut said = Vec::new();
        if let Some(to) = asked.to {
            let closed = machine.is_filtered() && !machine.open.iter().any(|open| open.lets_in(port));
            let hint = format!("; the firewall lets nobody in yet: `nsctl open {} {port}`", args.name);
            let more = if closed { &hint } else { "" };
            said.push(format!("{port} of {} leads to {to} inside{more}", args.name));
        }
        let host = asked.host;
        said.extend(
            host.map(|host| format!("port {host} of this host's IPv4 leads to {port} of {}", args.name)),
        );
        Ok(said.join("\n"))
    })
    .await
}

pub async fn unexpose(global: &Global, args: Unexpose) -> Result<u8, Fault> {
    let port: OpenPort = argument(&args.port)?;
    change(global, &args.name, |machine, name| {
        let there = machine.expose.iter_mut().find(|there| there.port == port);
        let (inside, host) =
            there.as_ref().map_or((false, false), |there| (there.to.is_some(), there.host.is_some()));
        let (inside, host) = (inside && !args.host, host && !args.inside);
        let Some(there) = there.filter(|_| inside || host) else {
            return Err(Fault::new(format!("{port} is not exposed on '{name}' in that way"))
                .hint(format!("`nsctl show {name}` shows what is")));
        };
        if inside {
            there.to = None;
        }
        if host {
            there.host = None;
        }
        let left = match (there.to, there.host) {
            (Some(to), _) => format!("; it still leads to {to} inside"),
            (None, Some(host)) => format!("; port {host} of this host's IPv4 still leads there"),
            (None, None) => String::new(),
        };
        machine.expose.retain(|there| there.to.is_some() || there.host.is_some());
        let what = if inside && !host {
            " inside"
        } else if host && !inside {
            " by this host"
        } else {
            ""
        };
        Ok(format!("{port} of {name} is exposed{what} no longer{left}"))
    })
    .await
}

/// Changes what a definition exposes, and carries it out.
async fn change(
    global: &Global,
    word: &str,
    edit: impl FnOnce(&mut MachineSpec, &MachineName) -> Result<String, Fault>,
) -> Result<u8, Fault> {
    let name: MachineName = argument(word)?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    let mut machine = session.machine(&name)?.clone();
    let said = edit(&mut machine, &name)?;
    for port in machine.expose.iter().filter_map(|expose| expose.host) {
        one_leads_there(&session, port, &name)?;
    }
    session.make(session.change(Scope::Machine(name.clone())).edit(&name, &machine)?).await?;
    session.say(said);
    Ok(0)
}

/// A port of the host leads to one machine.
fn one_leads_there(session: &Session, port: u16, name: &MachineName) -> Result<(), Fault> {
    let others = session.spec.machines.iter().filter(|(other, _)| *other != name);
    let mut taken =
        others.filter(|(_, machine)| machine.expose.iter().any(|expose| expose.host == Some(port)));
    match taken.next() {
        None => Ok(()),
        Some((other, _)) => {
            let (one, other) = (name.min(other), name.max(other));
            Err(Fault::new(format!("port {port} of the host is to lead to both '{one}' and '{other}'"))
                .hint("choose another with --host PORT"))
        }
    }
}
