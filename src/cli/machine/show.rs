//! `nsctl show`: one machine, what was planned beside what is there.

use crate::backup::History;
use crate::cli::fault::unknown;
use clap::Args;

use crate::cli::machine::look::{look, mark_old};
use crate::cli::machine::origin;
use crate::cli::machine::view::Row;
use crate::cli::report::CheckView;
use crate::cli::text::{self, out};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::spec::{Expose, Limits, OpenPort, definition_path};
use crate::sys::{self, Disk, processes};

/// Show one machine: what was planned, and what is there
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// The machine's name
    #[arg(add = crate::cli::complete::any_machines())]
    name: String,
    /// Show where each of its settings comes from: its definition, a profile, the defaults of nsctl.toml, or nsctl
    #[arg(long)]
    origin: bool,
}

pub async fn run(global: &Global, args: Show) -> Result<u8, Fault> {
    if args.origin {
        return origin::run(global, &args.name);
    }
    let mut rows = look(global, std::slice::from_ref(&args.name)).await?.rows;
    with_ages(&mut rows);
    let Some(row) = rows.iter().find(|row| row.name == args.name) else {
        return Err(unknown(&args.name, rows.iter().map(|row| row.name.as_str())));
    };
    if global.json {
        global.report.answer(row)?;
    } else {
        out!("{}", sheet(global, row));
    }
    Ok(0)
}

fn sheet(global: &Global, row: &Row) -> String {
    let mut lines = vec![("name", row.name.clone()), ("state", row.state.clone())];
    let mut add = |key, value: Option<String>| lines.extend(value.map(|value| (key, value)));
    add("description", row.description.clone());
    add("running for", row.uptime.map(duration));
    add("PID", row.pid.map(|pid| pid.to_string()));
    add("autostart", row.autostart.map(|on| if on { "starts with the host" } else { "no" }.to_owned()));
    add("image", row.image.clone());
    add("network", Some(row.network.mode.word().to_owned()));
    add("prefix", row.network.prefix.map(|prefix| prefix.to_string()));
    let routes = &row.network.routes;
    add("routes", (!routes.is_empty()).then(|| text::joined(routes, ", ")));
    add("number", row.network.number.map(|number| format!("{number:#x} of the delegated prefix")));
    let planned = row.network.address.map(|address| match row.own_choice {
        Some(own) => format!("{address}; its guest gave itself {own}, which no name leads to"),
        None => address.to_string(),
    });
    add("planned", planned);
    add("bridge", row.network.lan());
    let mut has: Vec<String> = row.addresses.iter().map(|address| mark_old(row, address)).collect();
    if has.is_empty() && row.state == "running" {
        has.push("no global address".into());
    }
    for address in has {
        add("has", Some(address));
    }
    let open =
        |ports: &[OpenPort]| if ports.is_empty() { "nothing".into() } else { text::joined(ports, ", ") };
    add("open", row.open.as_deref().map(open));
    for expose in &row.exposed {
        add("exposed", Some(exposed(expose)));
    }
    add("interface", row.host_interface.clone());
    add("MAC", row.mac.clone().filter(|_| row.network.bridge.is_some()));
    add("DUID", row.duid.clone());
    add("restart", row.restart.map(|restart| restart.word().to_owned()));
    add("starts after", (!row.after.is_empty()).then(|| text::joined(&row.after, ", ")));
    add("check", row.check.as_ref().map(|check| format!("{}: {}", check.asked, passes(check))));
    add("limits", row.limits.as_ref().map(limits));
    let read_only = row.bind_read_only.iter().map(|path| format!("{path} (to read)"));
    for path in row.bind.iter().cloned().chain(read_only) {
        add("bind", Some(path));
    }
    for device in &row.device {
        add("device", Some(device.clone()));
    }
    add("secrets", (!row.secret.is_empty()).then(|| text::joined(&row.secret, ", ")));
    let has_backups = row.backup != History::default();
    add("backup", has_backups.then(|| row.backup.words(sys::seconds_since_1970())));
    add("root's uid", row.uid_shift.map(|uid| uid.to_string()));
    for line in &row.drift {
        add("drift", Some(line.clone()));
    }
    let definition = row.name.parse::<MachineName>().ok().map(|name| definition_path(&name));
    let definition = definition.filter(|path| Disk::new(&global.root).exists(path));
    add("definition", definition.map(|path| path.display().to_string()));
    text::joined(lines.iter().map(|(key, value)| format!("{key:>12}  {}", text::sanitize(value))), "\n")
}

/// Since when machines run.
pub fn with_ages(rows: &mut [Row]) {
    for row in rows {
        row.uptime = row.pid.and_then(processes::age).map(|age| age.as_secs());
    }
}

/// So many seconds, in the two units that matter.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn passes(check: &CheckView) -> String {
    check.why.clone().map_or_else(|| "passes".to_owned(), |why| format!("fails, as {why}"))
}

fn limits(limits: &Limits) -> String {
    let text = |what: &str, said: &Option<String>| said.as_ref().map(|said| format!("{what} {said}"));
    let weight = |what: &str, said: Option<u64>| said.map(|said| format!("{what} {said}"));
    let all = [
        text("memory", &limits.memory),
        text("memory-high", &limits.memory_high),
        text("swap", &limits.swap),
        text("cpu", &limits.cpu),
        weight("cpu-weight", limits.cpu_weight),
        text("cpus", &limits.cpus),
        weight("io-weight", limits.io_weight),
        text("io-read", &limits.io_read),
        text("io-write", &limits.io_write),
        text("disk", &limits.disk),
        limits.tasks.map(|tasks| format!("{tasks} tasks")),
    ];
    text::joined(all.into_iter().flatten(), ", ")
}

/// Where connections to a port go, in words.
fn exposed(expose: &Expose) -> String {
    let inside = expose.to.map(|to| format!(", handed on to {to} inside"));
    let host = expose.host.map(|port| format!(", also at port {port} of this host's IPv4"));
    format!("{}{}{}", expose.port, inside.unwrap_or_default(), host.unwrap_or_default())
}
