//! The command line: types, and one file a verb. Nothing imports this room but `main`.

mod audit;
mod complete;
mod fault;
mod image;
mod planned;
mod progress;
mod remote;
mod report;
mod session;
pub mod text;

/// About the host as a whole.
mod host {
    pub mod deinit;
    pub mod doctor;
    pub mod events;
    pub mod explain;
    pub mod fleet;
    pub mod init;
    pub mod metrics;
    mod proposal;
    pub mod prune;
    pub mod reconcile;
    pub mod state;
    mod upstream;
    mod watchers;
    mod wireguard;
}

/// About one machine, or all of them.
mod machine {
    pub mod adopt;
    pub mod attach;
    pub mod backup;
    pub mod clone;
    pub mod cp;
    pub mod create;
    pub mod edit;
    pub mod export;
    pub mod handwritten;
    pub mod list;
    pub mod logs;
    pub mod look;
    mod origin;
    pub mod remove;
    pub mod repository;
    pub mod restore;
    pub mod rollback;
    pub mod run;
    pub mod secret;
    pub mod shell;
    pub mod show;
    pub mod snapshot;
    pub mod stats;
    pub mod top;
    pub mod upgrade;
    pub mod verify;
    pub mod view;
}

/// About bridges, ports, names and addresses.
mod network {
    pub mod bridge;
    pub mod dns;
    pub mod expose;
    pub mod open;
    pub mod pool;
    mod pool_map;
    mod push;
    pub mod reservation;
}

use std::cell::Cell;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::sys;

pub use fault::Fault;
use host::{deinit, doctor, events, explain, fleet, init, metrics, prune, reconcile, state};
use machine::{
    adopt, attach, backup, clone, cp, create, edit, export, list, logs, remove, restore, rollback, run,
    secret, shell, show, snapshot, stats, top, upgrade,
};
use network::{bridge, dns, expose, open, pool, reservation};
use remote::Named;
use report::Report;
pub use report::usage;

/// Container host manager for systemd-nspawn with routed IPv6.
#[derive(Debug, Parser)]
#[command(name = "nsctl", version, about, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// Do it on this host, by ssh(1), as root or one who may use sudo: `nsctl --host root@vps list`. Files that cp,
    /// import, export, image import, secret set, init --wireguard and create's --ssh-key and the like name are those
    /// of this side
    #[arg(long, short = 'H', value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Args)]
struct Global {
    /// Work on the files below this folder alone: no D-Bus, no network
    #[arg(long, global = true, value_name = "DIR", default_value = "/", help_heading = "Everywhere")]
    root: PathBuf,
    /// Say only what was asked for and what went wrong
    #[arg(long, short, global = true, help_heading = "Everywhere", conflicts_with = "verbose")]
    quiet: bool,
    /// Show each step, and what systemd, its services and the kernel are asked
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    verbose: bool,
    /// One JSON document for scripts, errors too
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// How long to wait for another nsctl that is changing the host
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 180, help_heading = "Everywhere")]
    wait: u64,
    #[arg(skip)]
    report: Report,
    /// Another host of the fleet was first, the time before: it is asked what it has.
    #[arg(skip)]
    is_again: Cell<bool>,
    /// Where those show their progress who are at work at the same time.
    #[arg(skip)]
    lines: indicatif::MultiProgress,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Tell which prefix is routed to this host: forwarding, and the pool's unreachable route
    Init(init::Init),
    /// Take back what `init` set up: forwarding, routes, rules, names and drop-ins
    Deinit(deinit::Deinit),
    /// Make a machine, start it, and see that it answers
    Create(create::Create),
    /// Move a machine to a bridge or to a subnet of its own, also one made by hand
    Attach(attach::Attach),
    /// Make a machine that was set up by hand one of nsctl's, as it is
    Adopt(adopt::Adopt),
    /// Let the world in to ports of a routed machine
    Open(open::Port),
    /// Close ports again
    Close(open::Port),
    /// Listen for a service that speaks IPv4 alone: inside the machine, or on the host
    Expose(expose::Expose),
    /// Take such listeners away
    Unexpose(expose::Unexpose),
    /// Bridges that put machines on the LAN
    #[command(subcommand)]
    Bridge(bridge::Bridge),
    /// What machines are made from
    #[command(subcommand)]
    Image(image::Image),
    /// Show all machines, those of others too
    #[command(visible_aliases = ["ls", "ps"])]
    List(list::List),
    /// Show one machine: what was planned, and what is there
    Show(show::Show),
    /// Watch what machines use: CPU, memory, disk, network, and what is dropped
    Top(top::Top),
    /// Show what machines have used since they started, and use now
    Stats(stats::Stats),
    /// Show what happened to machines, and what happens now
    Events(events::Events),
    /// Print metrics of all machines for Prometheus
    Metrics(metrics::Metrics),
    /// Start machines, and see that they answer
    Start(run::Names),
    /// Stop machines
    Stop(run::Names),
    /// Stop machines and start them again
    #[command(visible_alias = "reboot")]
    Restart(run::Names),
    /// End machines at once, or send them a signal
    Kill(run::Kill),
    /// Have machines start with the host
    Enable(edit::Names),
    /// Have machines start with the host no longer
    Disable(edit::Names),
    /// Change settings of a machine
    Set(edit::Set),
    /// Edit a machine's definition, see what comes of it, and apply that
    Edit(edit::Edit),
    /// Secrets that machines get as credentials
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Open a shell in a machine, or run a command there
    #[command(visible_aliases = ["exec", "enter"])]
    Shell(shell::Shell),
    /// Show the journal of a machine
    Logs(logs::Logs),
    /// Copy files between this host and a machine
    Cp(cp::Cp),
    /// Make another machine of a machine
    Clone(clone::Clone),
    /// Give a machine another name
    #[command(visible_alias = "mv")]
    Rename(clone::Rename),
    /// Keep a machine as it is now
    Snapshot(snapshot::Snapshot),
    /// Make a machine what it was at a snapshot
    Rollback(rollback::Rollback),
    /// Keep machines off this host, and prove that they come back
    Backup(backup::Backup),
    /// Bring a machine back from a backup
    Restore(restore::Restore),
    /// Upgrade the packages of machines, with a way back
    Upgrade(upgrade::Upgrade),
    /// Write a machine, definition and tree, to a file
    Export(export::Export),
    /// Make the machine that `nsctl export` wrote
    Import(export::Import),
    /// Stop machines and delete them
    #[command(visible_alias = "rm")]
    Remove(remove::Remove),
    /// Show what `apply` would do, and why
    Plan(reconcile::PlanArgs),
    /// Make the host what nsctl.toml and machines.d say
    Apply(reconcile::Apply),
    /// Find what is wrong with this host and its machines, and say what fixes it
    Doctor(doctor::Doctor),
    /// Explain a key of nsctl.toml, or of a machine's definition
    Explain(explain::Explain),
    /// The hosts that share a pool, and agree by etcd on who has what of it
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    /// Delete images, snapshots and secrets that nothing needs
    Prune(prune::Prune),
    /// Show the prefix: what is leased, resting and free
    Pool,
    /// Print the names and planned addresses of routed machines
    Dns(dns::Dns),
    /// Print what gives a bridged machine a fixed address from the LAN's DHCP server
    Reservation(reservation::Reservation),
    /// The state file
    #[command(subcommand)]
    State(state::State),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Does what was asked, and says what went wrong, with hints; gives the exit status.
    pub async fn run(self) -> u8 {
        let Cli { host, global, verb } = self;
        let report = global.report.clone();
        report.begin(global.json, global.quiet);
        if global.verbose {
            sys::calls::show();
        }
        let Some(host) = host else { return report.end(verb.run(&global).await) };
        match remote::run(&host, &verb).await {
            // All has been said there.
            Ok(status) => status,
            fault => report.end(fault),
        }
    }
}

impl Verb {
    /// The files that it is called with, which it reads or makes itself.
    fn named(&self) -> Vec<Named> {
        match self {
            Verb::Create(args) => args.named(),
            Verb::Cp(args) => args.named().into_iter().collect(),
            Verb::Import(args) => vec![args.named()],
            Verb::Export(args) => vec![args.named()],
            Verb::Image(args) => args.named().into_iter().collect(),
            Verb::Init(args) => args.named().into_iter().collect(),
            Verb::Secret(args) => args.named().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Another time where another host of the fleet was first to what this one chose: it has another then.
    async fn run(self, global: &Global) -> Result<u8, Fault> {
        const TRIES: u32 = 20;
        for _ in 1..TRIES {
            match self.clone().run_once(global).await {
                Err(fault) if fault.is_outrun() => global.is_again.set(true),
                done => return done,
            }
        }
        self.run_once(global).await
    }

    async fn run_once(self, global: &Global) -> Result<u8, Fault> {
        if sys::what_is_at(&global.root) != Some(sys::Thing::Folder) {
            let what = format!("{} is not a folder", global.root.display());
            return Err(Fault::new(what).hint("name the folder that holds the files of a host"));
        }
        if global.root != Path::new("/") {
            sys::may_open_many_files();
        }
        match self {
            Verb::Init(args) => init::run(global, args).await,
            Verb::Deinit(args) => deinit::run(global, args).await,
            Verb::Create(args) => create::run(global, args).await,
            Verb::Attach(args) => attach::run(global, args).await,
            Verb::Adopt(args) => adopt::run(global, args).await,
            Verb::Open(args) => open::run(global, args, open::Way::Open).await,
            Verb::Close(args) => open::run(global, args, open::Way::Close).await,
            Verb::Expose(args) => expose::expose(global, args).await,
            Verb::Unexpose(args) => expose::unexpose(global, args).await,
            Verb::Bridge(args) => bridge::run(global, args).await,
            Verb::Image(args) => image::run(global, args).await,
            Verb::List(args) => list::run(global, args).await,
            Verb::Show(args) => show::run(global, args).await,
            Verb::Top(args) => top::run(global, args).await,
            Verb::Stats(args) => stats::run(global, args).await,
            Verb::Events(args) => events::run(global, args).await,
            Verb::Metrics(args) => metrics::run(global, args).await,
            Verb::Start(args) => run::run(global, args, run::Way::Start).await,
            Verb::Stop(args) => run::run(global, args, run::Way::Stop).await,
            Verb::Restart(args) => run::run(global, args, run::Way::Restart).await,
            Verb::Kill(args) => run::kill(global, args).await,
            Verb::Enable(args) => edit::autostart(global, args, true).await,
            Verb::Disable(args) => edit::autostart(global, args, false).await,
            Verb::Set(args) => edit::set(global, args).await,
            Verb::Edit(args) => edit::edit(global, args).await,
            Verb::Secret(args) => secret::run(global, args).await,
            Verb::Shell(args) => shell::run(global, args).await,
            Verb::Logs(args) => logs::run(global, args).await,
            Verb::Cp(args) => cp::run(global, args).await,
            Verb::Clone(args) => clone::clone(global, args).await,
            Verb::Rename(args) => clone::rename(global, args).await,
            Verb::Snapshot(args) => snapshot::run(global, args).await,
            Verb::Rollback(args) => rollback::run(global, args).await,
            Verb::Backup(args) => backup::run(global, args).await,
            Verb::Restore(args) => restore::run(global, args).await,
            Verb::Upgrade(args) => upgrade::run(global, args).await,
            Verb::Export(args) => export::export(global, args).await,
            Verb::Import(args) => export::import(global, args).await,
            Verb::Remove(args) => remove::run(global, args).await,
            Verb::Plan(args) => reconcile::plan(global, args).await,
            Verb::Apply(args) => reconcile::apply(global, args).await,
            Verb::Doctor(args) => doctor::run(global, args).await,
            Verb::Explain(args) => explain::run(global, &args),
            Verb::Fleet(args) => fleet::run(global, args).await,
            Verb::Prune(args) => prune::run(global, args).await,
            Verb::Pool => pool::run(global).await,
            Verb::Dns(args) => dns::run(global, args).await,
            Verb::Reservation(args) => reservation::run(global, args).await,
            Verb::State(args) => state::run(global, args).await,
            Verb::Completions { shell } => {
                global.report.print(complete::script(shell)?);
                Ok(0)
            }
        }
    }
}
