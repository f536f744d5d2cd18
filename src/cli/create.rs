//! `nsctl create`: a machine from nothing to its first answer.

use std::path::Path;

use clap::Args;

use super::handmade::{Handwritten, absorb, checked};
use super::session::Session;
use super::{Fault, Global};
use crate::name::MachineName;
use crate::plan::{NewImage, Refusal, Scope, Wanted, settle};
use crate::spec::{Ipv4, MachineSpec, Network, Routed, definition_path, edit};
use crate::state::State;

/// Make a machine, start it, and see that it answers
#[derive(Debug, Args)]
pub struct Create {
    /// The machine's name
    name: String,
    #[command(flatten)]
    place: Place,
    /// An image's name, or the path of a tar file [default: an existing tree of that name, else
    /// defaults.image]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Let the world in to this port: tcp/443, udp/5000-5010, "tcp/22 from 2001:db8::/32"; may be
    /// given several times
    #[arg(long, value_name = "PROTO/PORT")]
    open: Vec<String>,
    /// A private IPv4 address behind the host's own, or none [default: defaults.ipv4, else none]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "nat|none")]
    ipv4: Option<Ipv4>,
    /// Do not start it now; it still starts with the host
    #[arg(long)]
    no_start: bool,
}

/// How a machine meets the world.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Place {
    /// Give it a /64 of the pool, routed by this host
    #[arg(long)]
    routed: bool,
    /// Put it on this bridge; its addresses come from the LAN
    #[arg(long, value_name = "BR")]
    bridge: Option<String>,
}

impl Place {
    pub fn network(&self) -> Result<Network, Fault> {
        Ok(match &self.bridge {
            Some(bridge) => Network::Bridge(bridge.parse()?),
            None => Network::Routed(Routed::default()),
        })
    }
}

pub async fn run(global: &Global, args: Create) -> Result<u8, Fault> {
    let name: MachineName = args.name.parse()?;
    let network = args.place.network()?;
    let open = super::open::parse(&args.open)?;
    if matches!(network, Network::Bridge(_)) && (args.ipv4.is_some() || !open.is_empty()) {
        return Err(Fault::new(
            "--open and --ipv4 are for routed machines: a bridged one is a host of the LAN",
        )
        .hint("leave them away, or make it --routed"));
    }
    let session = Session::begin(global).await?;
    refuse_taken(&session, &name)?;
    let word = source(&session, &name, args.image.as_deref())?;
    let handwritten = Handwritten::find(&session, name.as_str())?;
    // An image may come with settings of its own; those of the machine's name go before.
    let of_image = match word.as_deref().filter(|word| session.observed.images.contains(*word)) {
        Some(image) if handwritten.is_none() => Handwritten::find(&session, image)?,
        _ => None,
    };
    let mut machine = MachineSpec { image: word.clone(), open, ipv4: args.ipv4, ..MachineSpec::new(network) };
    absorb(&mut machine, handwritten.as_ref().or(of_image.as_ref()));

    let mut spec = session.spec.clone();
    let definition = checked(&definition_path(&name), edit::new_definition(&machine))?;
    spec.machines.insert(name.clone(), machine);
    let scope = Scope::Machine(name.clone());
    let leases = settle(&spec, session.state.leases.clone(), &scope)?;
    let mut wanted = Wanted::new(spec, State { leases, ..session.state.clone() }, scope);
    wanted.inputs.insert(definition_path(&name), Some(definition));
    wanted.images.extend(word.map(|word| new_image(&word, &name)).transpose()?);
    if let Some(file) = handwritten {
        file.take_over(&mut wanted);
    }
    if !args.no_start && session.observed.live {
        wanted.start.insert(name.clone());
    }
    session.carry_out(&wanted).await?;
    if wanted.start.is_empty() {
        let subnet = wanted.leases.get(&name).map_or(String::new(), |subnet| format!(" with {subnet}"));
        let next = if session.observed.live {
            format!("`nsctl start {name}` starts it")
        } else {
            format!("its tree is not made below --root: put it into var/lib/machines/{name}")
        };
        session.say(format!("created {name}{subnet}; {next}"));
    }
    Ok(0)
}

fn refuse_taken(session: &Session, name: &MachineName) -> Result<(), Fault> {
    if session.spec.machines.contains_key(name) {
        return Err(Fault::new(format!("there is already a machine named '{name}'"))
            .hint(format!("`nsctl show {name}` shows it, `nsctl remove {name}` removes it")));
    }
    if session.observed.is_running(name) {
        return Err(Fault::new(format!("'{name}' is running already, and nsctl did not make it"))
            .hint(format!("`nsctl attach {name} --routed` gives it a subnet as it is")));
    }
    Ok(())
}

/// The word for the image that the tree is made from; none where the tree is there.
fn source(session: &Session, name: &MachineName, asked: Option<&str>) -> Result<Option<String>, Fault> {
    if let Some(word) = asked {
        return Ok(Some(word.to_owned()));
    }
    let images = &session.observed.images;
    if images.contains(name.as_str()) || !session.observed.live {
        return Ok(None);
    }
    if let Some(default) = &session.spec.host.defaults.image {
        return Ok(Some(default.clone()));
    }
    let there_are: Vec<String> = images.iter().cloned().collect();
    Err(Fault::from(vec![Refusal::NoImage { image: name.to_string(), there_are }])
        .hint("or set a default in /etc/nsctl/nsctl.toml: [defaults] image = \"…\""))
}

/// A path holds a slash or ends as archives do; anything else is an image's name.
pub fn new_image(word: &str, name: &MachineName) -> Result<NewImage, Fault> {
    let archive =
        [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"].iter().any(|end| word.ends_with(end));
    if !archive && !word.contains('/') {
        return Ok(NewImage::Clone { from: word.to_owned(), to: name.clone() });
    }
    let file = std::path::absolute(Path::new(word))?;
    if !file.is_file() {
        let what = if file.exists() { "is not a file" } else { "does not exist" };
        return Err(Fault::new(format!("the image {} {what}", file.display())).hint(
            "--image takes the path of a tar file, or the name of an image: `machinectl list-images`",
        ));
    }
    Ok(NewImage::Tar { file, to: name.clone() })
}
