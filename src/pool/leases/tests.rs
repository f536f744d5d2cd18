use proptest::prelude::*;

use super::*;

#[test]
fn in_another_pool_nobody_gets_what_is_anothers() {
    let mut leases = Leases::default();
    let old = pool("2001:db8:a::/48");
    for (machine, pin) in [("a", "1"), ("b", "2"), ("c", "53"), ("d", "f00a")] {
        let pin: Lease = format!("2001:db8:a:{pin}::/64").parse().unwrap();
        leases.lease(old, &name(machine), Some(pin)).unwrap();
    }
    let same = leases.renumbered(Some(old), pool("2001:db8:b::/48"), &BTreeSet::new());
    assert_eq!(same.get(&name("c")).unwrap().to_string(), "2001:db8:b:53::/64");
    // The host's and its router's are nobody's, whatever number a machine had.
    let single = leases.renumbered(Some(old), pool("2001:db8:b::/64"), &BTreeSet::new());
    assert!(single.held().is_empty());
    // What is of the new pool stays, and nobody else gets it, or what rests there.
    let rests = Resting { lease: "2001:db8:a:f001::/64".parse().unwrap(), machine: None };
    leases.used.insert(rests.lease.range());
    leases.resting.push(rests);
    let part = leases.renumbered(Some(old), pool("2001:db8:a:f000::/52"), &BTreeSet::new());
    assert_eq!(part.get(&name("d")), leases.get(&name("d")));
    assert_eq!((part.get(&name("a")), part.resting().len()), (None, 1));
    assert_eq!(part.get(&name("b")).unwrap().to_string(), "2001:db8:a:f002::/64");
    let own = BTreeSet::from(["2001:db8:b:2::1".parse().unwrap()]);
    assert_eq!(leases.renumbered(Some(old), pool("2001:db8:b::/48"), &own).get(&name("b")), None);
}

fn name(text: &str) -> MachineName {
    text.parse().unwrap()
}

fn pool(text: &str) -> Pool {
    Pool::Fixed(text.parse().unwrap())
}

#[test]
fn never_used_first_then_the_longest_rested() {
    let pool = pool("2001:db8:a::/62"); // subnets 1, 2, 3
    let mut leases = Leases::default();
    let get =
        |leases: &mut Leases, who: &str| leases.lease(pool, &name(who), None).map(|lease| lease.to_string());
    assert_eq!(get(&mut leases, "a").unwrap(), "2001:db8:a:1::/64");
    assert_eq!(get(&mut leases, "b").unwrap(), "2001:db8:a:2::/64");
    leases.release(&name("b"));
    leases.release(&name("a"));
    assert_eq!(get(&mut leases, "c").unwrap(), "2001:db8:a:3::/64");
    assert_eq!(get(&mut leases, "d").unwrap(), "2001:db8:a:2::/64");
    assert_eq!(get(&mut leases, "e").unwrap(), "2001:db8:a:1::/64");
    assert_eq!(get(&mut leases, "f"), Err(PoolError::Full(pool)));
    assert_eq!(get(&mut leases, "c").unwrap(), "2001:db8:a:3::/64", "a lease is kept");
}

#[test]
fn pins_are_checked() {
    let pool = pool("2001:db8:a::/48");
    let mut leases = Leases::default();
    let pin = |text: &str| Some(text.parse::<Lease>().unwrap());
    assert!(leases.lease(pool, &name("a"), pin("2001:db8:a:7::/64")).is_ok());
    let mut fault = |text: &str| leases.lease(pool, &name("b"), pin(text)).unwrap_err();
    assert!(matches!(fault("2001:db8:a:7::/64"), PoolError::Taken { .. }));
    assert!(matches!(fault("2001:db8:a::/64"), PoolError::HostsOwn(_)));
    assert!(matches!(fault("2001:db8:b::/64"), PoolError::Outside { .. }));
}

#[test]
fn a_single_prefix_has_an_address_for_each() {
    let pool = pool("2001:db8:b::/64");
    let mut leases = Leases::default();
    leases.reserve(["2001:db8:b::101".parse().unwrap()]);
    let mut get = |who: &str, pin: Option<&str>| {
        let pin = pin.map(|pin| pin.parse().unwrap());
        leases.lease(pool, &name(who), pin).map(|lease| lease.to_string())
    };
    assert_eq!(get("a", None).unwrap(), "2001:db8:b::100/128");
    assert_eq!(get("b", None).unwrap(), "2001:db8:b::102/128", "::101 is the host's");
    assert_eq!(get("c", Some("2001:db8:b::c0de/128")).unwrap(), "2001:db8:b::c0de/128");
    for own in ["2001:db8:b::/128", "2001:db8:b::53/128", "2001:db8:b::101/128"] {
        assert!(matches!(get("d", Some(own)), Err(PoolError::HostsOwn(_))), "{own}");
    }
    assert_eq!(get("d", Some("2001:db8:b::7/128")).unwrap(), "2001:db8:b::7/128");
    assert!(matches!(get("d", Some("2001:db8:c::7/128")), Err(PoolError::Outside { .. })));
    assert!(matches!(get("d", Some("2001:db8:b::/64")), Err(PoolError::Outside { .. })));
}

#[test]
fn a_subnet_of_the_host_is_no_machines() {
    let pool = pool("2001:db8:a::/48");
    let mut leases = Leases::default();
    leases.reserve(["2001:db8:a:1::9".parse().unwrap(), "fe80::1".parse().unwrap()]);
    assert_eq!(leases.lease(pool, &name("a"), None).unwrap().to_string(), "2001:db8:a:2::/64");
    let own = Some("2001:db8:a:1::/64".parse().unwrap());
    assert!(matches!(leases.lease(pool, &name("b"), own), Err(PoolError::HostsOwn(_))));
}

#[test]
fn the_last_address_of_a_pool_is_leased() {
    let pool = pool("2001:db8:b::5:0/112");
    let mut leases = Leases::default();
    leases.lease(pool, &name("last"), Some("2001:db8:b::5:ffff/128".parse().unwrap())).unwrap();
    for k in 0x100..0xffff {
        leases.lease(pool, &name(&format!("m{k}")), None).unwrap();
    }
    assert_eq!(leases.lease(pool, &name("more"), None), Err(PoolError::Full(pool)));
}

#[test]
fn more_than_a_64_lies_between_two_others() {
    let pool = pool("2001:db8:a::/56");
    let mut leases = Leases::default();
    let get = |leases: &mut Leases, who: &str, length: u8| {
        let ask = Ask { pinned: None, length };
        leases.lease(pool, &name(who), ask).map(|lease| lease.to_string())
    };
    assert_eq!(get(&mut leases, "a", 64).unwrap(), "2001:db8:a:1::/64");
    assert_eq!(get(&mut leases, "wide", 60).unwrap(), "2001:db8:a:10::/60");
    assert_eq!(get(&mut leases, "b", 64).unwrap(), "2001:db8:a:2::/64", "no room is lost");
    assert_eq!(get(&mut leases, "wide", 60).unwrap(), "2001:db8:a:10::/60", "a lease is kept");
    assert_eq!(get(&mut leases, "c", 57).unwrap(), "2001:db8:a:80::/57");
    assert_eq!(
        get(&mut leases, "d", 57).unwrap_err().to_string(),
        "the pool 2001:db8:a::/56 has no /57 left that is free from end to end"
    );
    let pin = Some("2001:db8:a:1f::/64".parse().unwrap());
    assert!(matches!(leases.lease(pool, &name("d"), pin), Err(PoolError::Taken { .. })));
    leases.release(&name("c"));
    assert_eq!(get(&mut leases, "d", 58).unwrap(), "2001:db8:a:40::/58");
    assert_eq!(get(&mut leases, "e", 58).unwrap(), "2001:db8:a:80::/58", "what rests is cut");
    assert_eq!(get(&mut leases, "f", 58).unwrap(), "2001:db8:a:c0::/58");
}

#[test]
fn who_asks_for_another_length_stays_where_it_can() {
    let pool = pool("2001:db8:a::/60");
    let mut leases = Leases::default();
    let mut get = |who: &str, length: u8| {
        let ask = Ask { pinned: None, length };
        leases.lease(pool, &name(who), ask).unwrap().to_string()
    };
    assert_eq!(get("web", 61), "2001:db8:a:8::/61");
    assert_eq!(get("web", 62), "2001:db8:a:8::/62", "the same beginning");
    assert_eq!(get("db", 62), "2001:db8:a:4::/62");
    assert_eq!(get("web", 61), "2001:db8:a:8::/61", "nobody else is in it");
}

#[test]
fn what_was_cut_and_is_taken_back_takes_nothing_from_others() {
    let pool = pool("2001:db8:a::/56");
    let wide = |length| Ask { pinned: None, length };
    let mut before = Leases::default();
    before.lease(pool, &name("old"), wide(57)).unwrap();
    before.lease(pool, &name("low"), wide(58)).unwrap();
    before.release(&name("old"));
    let mut written = before.clone();
    written.lease(pool, &name("web"), wide(58)).unwrap();
    assert_eq!(written.take_back(&written, &before), before, "all of it rests again");
    let mut now = written.clone();
    let other = now.lease(pool, &name("other"), wide(58)).unwrap();
    let back = now.take_back(&written, &before);
    assert_eq!((back.get(&name("web")), back.get(&name("other"))), (None, Some(other)));
    assert!(back.resting().is_empty(), "{back:?}");
}

#[test]
fn what_a_machine_held_last_it_gets_again() {
    let pool = pool("2001:db8:a::/48");
    let mut leases = Leases::default();
    let get = |leases: &mut Leases, who: &str| leases.lease(pool, &name(who), None).unwrap();
    let (web, _) = (get(&mut leases, "web"), get(&mut leases, "db"));
    leases.release(&name("web"));
    assert_ne!(get(&mut leases, "new"), web);
    assert_eq!(get(&mut leases, "web"), web);
}

#[test]
fn what_is_taken_back_leaves_what_others_did_since() {
    let pool = pool("2001:db8:a::/48");
    let mut before = Leases::default();
    before.lease(pool, &name("old"), None).unwrap();
    let mut written = before.clone();
    written.lease(pool, &name("web"), None).unwrap();
    written.release(&name("old"));
    assert_eq!(written.take_back(&written, &before), before);
    let mut now = written.clone();
    now.lease(pool, &name("other"), None).unwrap();
    let back = now.take_back(&written, &before);
    assert_eq!(back.get(&name("other")), now.get(&name("other")));
    assert_eq!((back.get(&name("web")), back.get(&name("old"))), (None, before.get(&name("old"))));
}

#[derive(Debug, Clone)]
enum Action {
    Lease(u8),
    Release(u8),
    Pin(u8, u16, u8),
    Wide(u8, u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        (0..12u8).prop_map(Action::Lease),
        (0..12u8).prop_map(Action::Release),
        (0..12u8, 0..20u16, 58..=64u8).prop_map(|(who, at, length)| Action::Pin(who, at, length)),
        (0..12u8, 58..=64u8).prop_map(|(who, length)| Action::Wide(who, length)),
    ];
    proptest::collection::vec(action, 0..80)
}

proptest! {
    #[test]
    fn nothing_is_ever_held_twice(length in 32u8..=112, actions in actions()) {
        let pool = pool(&format!("2001:db8::/{length}"));
        let mut leases = Leases::default();
        for action in actions {
            let who = |k: u8| name(&format!("m{k}"));
            match action {
                Action::Lease(k) => { let _ = leases.lease(pool, &who(k), None); }
                Action::Release(k) => { leases.release(&who(k)); }
                Action::Pin(k, at, length) => {
                    if let Some(pin) = pool.lease(u64::from(at)) {
                        let _ = leases.lease(pool, &who(k), Some(pin.resized(length)));
                    }
                }
                Action::Wide(k, length) => {
                    let ask = Ask { pinned: None, length };
                    if let Ok(lease) = leases.lease(pool, &who(k), ask) {
                        prop_assert!(lease.subnet().is_none_or(|subnet| subnet.length() == length));
                    }
                }
            }
            let saved = Leases::new(leases.held().clone(), leases.resting().to_vec());
            prop_assert_eq!(saved.as_ref(), Ok(&leases));
            prop_assert_eq!(&saved.unwrap().used, &leases.used);
            prop_assert!(leases.held().values().all(|s| pool.contains(*s) && !pool.is_hosts_own(*s)));
        }
    }
}
