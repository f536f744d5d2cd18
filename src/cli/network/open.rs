//! `nsctl open|close`: what the firewall lets in to a machine.

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::session::Session;
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::plan::{Scope, Wanted};
use crate::spec::{OpenPort, definition_path};
use crate::visible::joined;

/// A port of a machine
#[derive(Debug, Clone, Args)]
pub struct Port {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// tcp/443, udp/5000-5010; several at once
    #[arg(required = true, value_name = "PROTO/PORT[-PORT]", add = crate::cli::complete::open_ports())]
    ports: Vec<String>,
    /// Just for this prefix or address [default: everybody]
    #[arg(long, value_name = "PREFIX", add = crate::cli::complete::subnets())]
    from: Option<String>,
}

/// Whether a port is opened or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    Close,
}

pub async fn run(global: &Global, args: Port, way: Way) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let ports = ports(&args)?;
    let session = Session::begin_alone(global, &name).await?;
    let (session, wanted) =
        session.change_rules(&name, |session, scope| edited(session, scope, &name, &ports, way)).await?;
    let Some(wanted) = wanted else {
        session.say(format!("{} is open on {name} already", joined(&ports, ", ")));
        return Ok(0);
    };
    session.carry_out(&wanted).await?;
    let verb = if way == Way::Open { "open" } else { "closed" };
    session.say(format!("{} is {verb} on {name}", joined(&ports, ", ")));
    Ok(0)
}

/// What is wanted then; none where it is so already.
fn edited(
    session: &Session,
    scope: Scope,
    name: &MachineName,
    ports: &[OpenPort],
    way: Way,
) -> Result<Option<Wanted>, Fault> {
    let mut machine = session.machine(name)?.clone();
    if machine.network.bridge().is_some() {
        let what = format!("'{name}' is on a bridge, where nsctl filters nothing: all its ports are open");
        let hint = format!("`nsctl attach {name} --routed` puts it behind the firewall");
        return Err(Fault::new(what).hint(hint));
    }
    if !machine.has_firewall() {
        return Err(Fault::new(format!("'{name}' has no firewall: all its ports are open"))
            .hint(format!("take `firewall = false` out of {}", definition_path(name).display())));
    }
    let before = machine.open.clone();
    change(&mut machine.open, ports, way, name)?;
    if machine.open == before {
        return Ok(None);
    }
    Ok(Some(session.change(scope).edit(name, &machine)?.settle()?))
}

fn ports(args: &Port) -> Result<Vec<OpenPort>, Fault> {
    let from = args.from.as_ref().map(|word| format!(" from {word}")).unwrap_or_default();
    args.ports.iter().map(|word| argument(&format!("{word}{from}"))).collect()
}

fn change(open: &mut Vec<OpenPort>, ports: &[OpenPort], way: Way, name: &MachineName) -> Result<(), Fault> {
    for port in ports {
        match (way, open.contains(port)) {
            (Way::Open, false) => open.push(*port),
            (Way::Open, true) => {}
            (Way::Close, true) => open.retain(|other| other != port),
            (Way::Close, false) => {
                let hint = match open.as_slice() {
                    [] => "nothing is".to_owned(),
                    open => format!("open are: {}; name one as it stands here", joined(open, ", ")),
                };
                return Err(Fault::new(format!("{port} is not open on '{name}'")).hint(hint));
            }
        }
    }
    Ok(())
}
