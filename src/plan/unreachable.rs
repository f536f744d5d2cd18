//! Unreachable routes whose files go: networkd of systemd 252 leaves them.

use ipnet::Ipv6Net;

use super::Step;
use crate::emit::ManagedFile;
use crate::emit::ini::Ini;

/// What the kernel takes where a route names none (ip-route(8)).
const USUAL_METRIC: u32 = 1024;

/// Takes away what was unreachable by one of these files, and is so by none any more: each with its text of
/// before, and of now.
pub fn dropped<'a>(
    files: impl Iterator<Item = (&'a ManagedFile, Option<&'a str>, Option<&'a str>)>,
) -> Option<Step> {
    let mine =
        files.filter(|(file, ..)| matches!(file, ManagedFile::PoolNetwork | ManagedFile::RoutesDropIn(_)));
    let (old, new): (Vec<_>, Vec<_>) = mine.map(|(_, old, new)| (routes(old), routes(new))).unzip();
    let new = new.concat();
    let routes: Vec<(Ipv6Net, u32)> = old.concat().into_iter().filter(|route| !new.contains(route)).collect();
    (!routes.is_empty()).then_some(Step::DropUnreachable { routes })
}

/// The routes of a file of ours, and their metrics.
fn routes(text: Option<&str>) -> Vec<(Ipv6Net, u32)> {
    let ini = Ini::parse(text.unwrap_or_default());
    let sections = ini.sections().filter(|(name, _)| *name == "Route");
    let routes = sections.filter_map(|(_, settings)| {
        let get = |wanted: &str| settings.iter().find(|(key, _)| key == wanted).map(|(_, value)| value);
        let metric = get("Metric").and_then(|metric| metric.parse().ok()).unwrap_or(USUAL_METRIC);
        Some((get("Destination")?.parse().ok()?, metric))
    });
    routes.collect()
}
