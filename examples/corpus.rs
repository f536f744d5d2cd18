//! Writes a corpus of real files for the fuzzer: what nsctl makes of the examples, what this kernel
//! says, what tar(1) packs and nft(8) lists. `corpus FOLDER`: a folder for each target.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nsctl::observed::Observed;
use nsctl::plan::{Scope, Step, Wanted, plan, settle};
use nsctl::spec::{MACHINES_DIR, Spec};
use nsctl::state::State;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;

type Done = Result<(), Box<dyn Error>>;

struct Corpus(PathBuf);

impl Corpus {
    fn put(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) -> Done {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    }
}

fn main() -> Done {
    let folder = std::env::args().nth(1).ok_or("usage: corpus FOLDER")?;
    let corpus = Corpus(folder.into());
    examples(&corpus)?;
    kernel(&corpus)?;
    tars(&corpus)?;
    corpus.put("os_release", "own", fs::read("/etc/os-release")?)?;
    pings(&corpus)
}

/// The rendered files, the state and the journal of the examples, and what nft makes of the rules.
fn examples(corpus: &Corpus) -> Done {
    let host =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/host_file/nsctl.toml"))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/definition");
    let mut definitions = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let place = Path::new(MACHINES_DIR).join(path.file_name().ok_or("no name")?);
        definitions.insert(place, Ok(fs::read_to_string(path)?));
    }
    let spec = Spec::parse(Some(&host), &definitions)?;
    let leases = settle(&spec, State::default().leases, &Scope::All).map_err(|e| format!("{e:?}"))?;
    let state = State { leases, ..State::default() };
    corpus.put("state", "examples", nsctl::state::render(&state.leases))?;
    let planned = plan(&Wanted::new(spec, state, Scope::All), &Observed::default());
    let steps = planned.map_err(|e| format!("{e:?}"))?.steps;
    for (at, step) in steps.iter().enumerate() {
        let Step::Write { path, new: Some(text), .. } = step else { continue };
        corpus.put("ini", &at.to_string(), text)?;
        if path.ends_with("firewall.nft") {
            let rules = corpus.0.join("rules.nft");
            fs::write(&rules, text)?;
            let list = format!("nft -f {} && nft -j list ruleset", rules.display());
            let listed = Command::new("unshare").args(["-rn", "sh", "-c", &list]).output()?;
            corpus.put("nft", "ours", listed.stdout)?;
            fs::remove_file(rules)?;
        }
    }
    let whole = serde_json::json!({
        "version": 1, "command": "apply", "fate": "undo", "reached": steps.len(), "steps": steps,
    });
    corpus.put("journal", "whole", whole.to_string())?;
    for (at, step) in steps.iter().enumerate() {
        let one = serde_json::json!({
            "version": 1, "command": "x", "fate": "finish", "reached": 0, "steps": [step],
        });
        corpus.put("journal", &at.to_string(), one.to_string())?;
    }
    Ok(())
}

/// What the kernel answers when asked for all links, addresses, routes and sockets.
fn kernel(corpus: &Corpus) -> Done {
    for (name, message) in [
        ("links", Message::GetLink(Default::default())),
        ("addresses", Message::GetAddress(Default::default())),
        ("routes", Message::GetRoute(Default::default())),
    ] {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        corpus.put("netlink", name, socket.recv_from_full()?.0)?;
    }
    // A listening socket of IPv6, as struct inet_diag_msg has it (linux/inet_diag.h).
    let mut answer = vec![88, 0, 0, 0, 20, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 0, 0, 0, 22, 0, 0];
    answer.resize(88, 0);
    corpus.put("sock_diag", "one", &answer)?;
    answer.extend([20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    corpus.put("sock_diag", "done", answer)
}

fn tars(corpus: &Corpus) -> Done {
    let tree = corpus.0.join("tree");
    fs::create_dir_all(tree.join("usr/lib/systemd"))?;
    fs::create_dir_all(tree.join("sbin"))?;
    fs::write(tree.join("usr/lib/systemd/systemd"), "x")?;
    fs::write(tree.join("n".repeat(120)), "a long name")?;
    let _ = std::os::unix::fs::symlink("../bin/busybox", tree.join("sbin/init"));
    fs::File::create(tree.join("sparse"))?.set_len(1 << 20)?;
    for format in ["gnu", "pax", "ustar", "v7", "oldgnu"] {
        let words = ["-S", &format!("--format={format}"), "-cf", "-", "."];
        let out = Command::new("tar").arg("-C").arg(&tree).args(words).output()?;
        corpus.put("tar", format, out.stdout)?;
    }
    fs::remove_dir_all(tree)?;
    let mut header = tar::Header::new_ustar();
    header.set_path("nsctl-definition.toml")?;
    header.set_size(5);
    header.set_cksum();
    corpus.put("tar", "exported", [header.as_bytes(), &b"a = 1"[..], &[0; 507]].concat())
}

fn pings(corpus: &Corpus) -> Done {
    let about = |kind: u8| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
        message.resize(52, 0);
        message.extend([1, 2, 3, 4]);
        message
    };
    for kind in 1..=3 {
        corpus.put("icmp", &kind.to_string(), about(kind))?;
    }
    corpus.put("icmp", "reply", [129, 0, 0, 0, 1, 2, 3, 4])
}
