//! BIRD, the routing daemon, by birdc(8).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ipnet::Ipv6Net;
use tokio::process::Command;

use crate::emit::routing::TABLE;
use crate::hint::Hint;
use crate::observed::{Bird, BirdRoute};

const SOCKET: &str = "/run/bird/bird.ctl";
/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum BirdError {
    #[error("birdc cannot be run")]
    Run(#[from] std::io::Error),
    #[error("bird does not take its configuration: {0}")]
    Refused(String),
    #[error("bird does not answer within {} s", LIMIT.as_secs())]
    Silent,
}

impl Hint for BirdError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            BirdError::Run(_) => "it comes with bird: on Debian the package bird2".into(),
            BirdError::Refused(_) => "`birdc configure check` shows the line; [routing] in /etc/nsctl/nsctl.toml says what nsctl writes".into(),
            BirdError::Silent => "`systemctl status bird` may tell why".into(),
        })
    }
}

/// What it says, and whether it did what it was asked; none where it does not run.
async fn birdc(words: &[&str]) -> Result<Option<(bool, String)>, BirdError> {
    // The socket of one that has ended stays.
    if !Path::new(SOCKET).exists() {
        return Ok(None);
    }
    tracing::debug!(call = %words.join(" "), "birdc");
    let mut command = Command::new("birdc");
    command.args(["-s", SOCKET]).args(words).env("PATH", super::build::PATH).env("LC_ALL", "C");
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(LIMIT, command.output()).await.map_err(|_| BirdError::Silent)??;
    if String::from_utf8_lossy(&output.stderr).contains("Unable to connect") {
        return Ok(None);
    }
    Ok(Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())))
}

/// Has it read its files again; what has not changed goes on undisturbed. One that does not run reads them when it
/// starts.
///
/// # Errors
/// When it does not take them: it goes on as before.
pub async fn configure() -> Result<(), BirdError> {
    let Some((false, said)) = birdc(&["configure"]).await? else { return Ok(()) };
    let lines: Vec<&str> = said.lines().skip(1).filter(|line| !line.starts_with("Reading")).collect();
    Err(BirdError::Refused(lines.join("; ")))
}

/// What it has of our file, and has learned by it.
///
/// # Errors
/// When it does not answer.
pub async fn look() -> Result<Bird, BirdError> {
    let asked = async |words: &[&str]| {
        let said = birdc(&[&["-r", "show"], words].concat()).await?;
        Ok::<_, BirdError>(said.map(|(_, said)| said))
    };
    let Some(protocols) = asked(&["protocols", "\"nsctl_*\""]).await? else { return Ok(Bird::default()) };
    let mut bird = Bird { runs: true, protocols: names(&protocols), ..Bird::default() };
    if bird.protocols.iter().any(|name| name == "nsctl_machines") {
        bird.routes = routes_of(&asked(&["route", "table", TABLE]).await?.unwrap_or_default());
        for (kind, name) in [("ospf", "nsctl_ospf"), ("babel", "nsctl_babel")] {
            if bird.protocols.iter().any(|own| own == name) {
                let said = asked(&[kind, "neighbors", name]).await?.unwrap_or_default();
                bird.neighbors = said
                    .lines()
                    .filter(|line| line.contains("fe80:"))
                    .filter(|line| is_whole(kind, line))
                    .count();
            }
        }
        let up =
            protocols.lines().filter(|line| line.starts_with("nsctl_bgp") && line.contains("Established"));
        bird.neighbors += up.count();
    }
    Ok(bird)
}

/// Of OSPF those alone that we exchange routes with.
fn is_whole(kind: &str, line: &str) -> bool {
    kind != "ospf" || line.contains("Full/") || line.contains("2-Way/")
}

fn names(said: &str) -> Vec<String> {
    let first = said.lines().filter_map(|line| line.split_whitespace().next());
    first.filter(|word| word.starts_with("nsctl_")).map(str::to_owned).collect()
}

/// The lines of `show route`: a prefix, or blank for another way to the one before, and who knows of it.
fn routes_of(said: &str) -> Vec<BirdRoute> {
    let (mut routes, mut last) = (Vec::new(), None);
    for line in said.lines().filter(|line| line.contains('[')) {
        if !line.starts_with([' ', '\t']) {
            last = line.split_whitespace().next().and_then(|word| word.parse::<Ipv6Net>().ok());
        }
        let protocol = line.split('[').nth(1).and_then(|rest| rest.split_whitespace().next());
        if let (Some(destination), Some(protocol)) = (last, protocol) {
            routes.push(BirdRoute { destination, protocol: protocol.to_owned() });
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_birdc_says() {
        let said = "BIRD 2.0.12 ready.\nTable nsctl:\n2001:db8:a:1::/64    unicast [nsctl_machines 08:27:55.753] * (200)\n\tdev ve-x\n                     unicast [nsctl_ospf 08:28:00.000] E2 (150/10/10000) [1.2.3.4]\n\tvia fe80::1 on wan0\n2001:db8:a:2::/64    unicast [nsctl_ospf 08:28:00.000] * E2 (150/10/10000) [1.2.3.4]\n\tvia fe80::1 on wan0\n";
        let routes: Vec<String> =
            routes_of(said).iter().map(|route| format!("{} {}", route.destination, route.protocol)).collect();
        assert_eq!(
            routes,
            [
                "2001:db8:a:1::/64 nsctl_machines",
                "2001:db8:a:1::/64 nsctl_ospf",
                "2001:db8:a:2::/64 nsctl_ospf"
            ]
        );
        let said = "BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\nnsctl_machines Static     nsctl      up     08:28:00.719  \nnsctl_ospf OSPF       nsctl      up     08:28:00.719  Alone\n";
        assert_eq!(names(said), ["nsctl_machines", "nsctl_ospf"]);
    }
}
