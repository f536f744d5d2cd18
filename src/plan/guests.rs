//! Where each guest will really be: one that reads no file of networkd's takes its address from
//! the router's prefix and its own MAC address, which depends on the host and its name.

use super::{NewImage, Source, Wanted};
use crate::identity;
use crate::name::MachineName;
use crate::observed::{Observed, Stranger};
use crate::spec::Spec;

/// Of machines whose trees are there.
pub fn heed(spec: &mut Spec, observed: &Observed) {
    heed_as(spec, observed, |name| {
        observed.strangers.get(name.as_str()).map(|_| true).or_else(|| has_tree(name, observed))
    });
}

/// The same, of machines too whose trees are to be made, or to get another name.
pub fn settled(wanted: &Wanted, observed: &Observed) -> Wanted {
    let mut settled = wanted.clone();
    heed_as(&mut settled.spec, observed, |name| {
        if let Some(image) = wanted.images.iter().find(|image| image.to == *name) {
            return will_be(image, observed);
        }
        let tree = wanted.rename_tree.as_ref().filter(|(_, to)| to == name).map_or(name, |(from, _)| from);
        observed.strangers.get(tree.as_str()).map(|_| true).or_else(|| has_tree(tree, observed))
    });
    settled
}

/// Not a stranger where its tree has been looked at.
fn has_tree(name: &MachineName, observed: &Observed) -> Option<bool> {
    observed.images.contains(name.as_str()).then_some(false)
}

/// Whether it will be a stranger; none: that is seen once its tree is there.
fn will_be(image: &NewImage, observed: &Observed) -> Option<bool> {
    let Source::Clone(from) = &image.source else { return None };
    let stranger = observed.strangers.get(from);
    Some(stranger.is_some_and(|stranger| image.first_boot.is_none() || *stranger == Stranger::Always))
}

fn heed_as(spec: &mut Spec, observed: &Observed, is_stranger: impl Fn(&MachineName) -> Option<bool>) {
    for (name, machine) in &mut spec.machines {
        if let Some(is_stranger) = is_stranger(name) {
            machine.network.choose(if is_stranger { host_part(name, observed) } else { None });
        }
    }
}

/// What a guest of this name gives itself.
pub fn host_part(name: &MachineName, observed: &Observed) -> Option<u64> {
    let host = observed.machine_id.as_deref()?.parse().ok()?;
    identity::host_part(&identity::mac(host, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scope;
    use crate::provision::FirstBoot;
    use crate::spec::definition_path;
    use crate::state::State;

    fn host() -> Observed {
        let always = ["tiny", "image"].map(|name| (name.to_owned(), Stranger::Always));
        let fresh = ("fresh".to_owned(), Stranger::UntilProvisioned);
        Observed {
            machine_id: Some("0123456789abcdef0123456789abcdef".into()),
            images: ["tiny", "web", "image", "fresh"].map(str::to_owned).into(),
            strangers: always.into_iter().chain([fresh]).collect(),
            ..Observed::default()
        }
    }

    fn chosen(spec: &Spec, name: &str) -> Option<u64> {
        let part = spec.machines[&name.parse().unwrap()].network.routed().unwrap().host_part();
        (part != 2).then_some(part)
    }

    fn spec(names: &[&str]) -> Spec {
        let routed = |name: &&str| {
            let token = if *name == "five" { "token = \"::5\"\n" } else { "" };
            (definition_path(&name.parse().unwrap()), format!("[network]\nmode = \"routed\"\n{token}"))
        };
        Spec::parse(
            Some("pool = \"2001:db8:a::/48\""),
            &crate::spec::readable(&names.iter().map(routed).collect()),
        )
        .unwrap()
    }

    #[test]
    fn a_guest_without_networkd_is_where_its_mac_address_puts_it() {
        let mut there = spec(&["tiny", "web"]);
        heed(&mut there, &host());
        let tiny = chosen(&there, "tiny").unwrap();
        assert_eq!(tiny >> 24 & 0xffff, 0xfffe);
        assert_eq!(chosen(&there, "web"), None);
    }

    #[test]
    fn it_is_known_before_its_tree_is() {
        let observed = host();
        let names = ["a", "b", "c", "d", "five"];
        let mut wanted = Wanted::new(spec(&names), State::default(), Scope::All);
        let image = |from: &str, to: &str, first_boot| NewImage {
            source: Source::Clone(from.into()),
            to: to.parse().unwrap(),
            first_boot,
        };
        wanted.images = vec![
            image("image", "a", Some(FirstBoot::default())),
            image("fresh", "b", Some(FirstBoot::default())),
            image("fresh", "c", None),
            image("image", "five", None),
        ];
        wanted.rename_tree = Some(("tiny".parse().unwrap(), "d".parse().unwrap()));
        let settled = settled(&wanted, &observed).spec;
        assert!(chosen(&settled, "a").is_some() && chosen(&settled, "c").is_some());
        assert_eq!((chosen(&settled, "b"), chosen(&settled, "five")), (None, Some(5)));
        assert_eq!(chosen(&settled, "d"), host_part(&"d".parse().unwrap(), &observed));
    }
}
