//! What is done with foreign bytes, a function for each kind: used by the fuzz targets, and with
//! random bytes by tests/foreign_bytes.rs. Each ends without a panic, and says what must be so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use nsctl::emit::ini::Ini;
use nsctl::emit::{ManagedFile, Origin, render};
use nsctl::exec::{ExecStream, Token};
use nsctl::handwritten::WgQuick;
use nsctl::plan::{Scope, settle};
use nsctl::pool::Leases;
use nsctl::provision::{FirstBoot, Guest, Init, Texts, changes};
use nsctl::spec::image::{Build, ImageWord, name_for};
use nsctl::spec::{BridgePort, HostSpec, MachineSpec, Spec, Uplink, UplinkKind, edit};
use nsctl::sys::net::message;
use nsctl::sys::trace::Heard;
use nsctl::sys::{archive, ping, sockets, tarball};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// A body, by the name of its target.
pub type Body = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Body; 15] = [
    ("host_file", host_file),
    ("definition", definition),
    ("ini", ini),
    ("wg_quick", wg_quick),
    ("state", state),
    ("journal", journal),
    ("nft", nft),
    ("os_release", os_release),
    ("shadow", shadow),
    ("tar", tar),
    ("netlink", netlink),
    ("sock_diag", sock_diag),
    ("icmp", icmp),
    ("exec", exec),
    ("terminal", terminal),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// nsctl.toml: what is taken is rendered, too.
pub fn host_file(bytes: &[u8]) {
    let text = text(bytes);
    let Ok(host) = HostSpec::parse(Path::new("nsctl.toml"), &text) else { return };
    let same = edit::host(&text, &host, &host).expect("it was TOML before");
    assert_eq!(
        HostSpec::parse(Path::new("nsctl.toml"), &same).as_ref(),
        Ok(&host),
        "to say the same again changes it"
    );
    let mut other = host.clone();
    other.bridges.clear();
    other.dns = None;
    let edited = edit::host(&text, &host, &other).expect("it was TOML before");
    assert_eq!(
        HostSpec::parse(Path::new("nsctl.toml"), &edited).as_ref(),
        Ok(&other),
        "the edit is not what was meant"
    );
    rendered(&Spec { host, ..Spec::default() });
}

/// A definition: what is taken is rendered, too, and an edit that changes nothing changes nothing.
pub fn definition(bytes: &[u8]) {
    let text = text(bytes);
    let path = Path::new("/etc/nsctl/machines.d/web.toml");
    let Ok(machine) = MachineSpec::parse(path, &text) else { return };
    let mut bridged = machine.clone();
    bridged.bridge(BridgePort { bridge: "vbr0".parse().expect("a name"), vlan: Some(20) });
    let mut more = machine.clone();
    more.description = Some("x".into());
    more.limits.tasks = Some(7);
    nsctl::spec::reach::contain(&mut more);
    for wanted in [&machine, &bridged, &more] {
        let edited =
            edit::definition(&text, &machine, wanted, &Default::default()).expect("it was TOML before");
        let edited = MachineSpec::parse(path, &edited);
        assert_eq!(edited.as_ref().ok(), Some(wanted), "the edit is not what was meant");
    }
    const HOST: &str = "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"enp6s0\"\n";
    let definitions = BTreeMap::from([(path.to_owned(), Ok(text))]);
    if let Ok(spec) = Spec::parse(Some(HOST), &definitions) {
        rendered(&spec);
    }
}

/// Each rendered file is whole, and known for ours.
fn rendered(spec: &Spec) {
    let Ok(leases) = settle(spec, Leases::default(), &Scope::All) else { return };
    for (path, file) in render(spec, &leases) {
        assert_eq!(ManagedFile::parse(&path), Some(file.file), "{}", path.display());
        assert_eq!(Origin::of(&file.text), Origin::Ours, "{}", path.display());
        let _ = Ini::parse(&file.text);
    }
}

/// .nspawn, .network and .netdev files.
pub fn ini(bytes: &[u8]) {
    let text = text(bytes);
    let ini = Ini::parse(&text);
    let _ = (ini.get("Exec", "Boot"), Origin::of(&text));
    let again = Ini::parse(&ini.render());
    let sections = |ini: &Ini| ini.sections().count();
    assert!(sections(&again) >= sections(&ini), "a section is lost: {text:?}");
    let path = PathBuf::from("/etc/systemd/network/05-nsctl-ve-web.network");
    let _ = nsctl::state::rebuild(&BTreeMap::from([(path, text)]));
}

/// A file for wg-quick(8): what is taken is written, read again, and rendered; no key is shown.
pub fn wg_quick(bytes: &[u8]) {
    let text = text(bytes);
    let Ok(file) = WgQuick::parse(Path::new("wg0.conf"), &text) else { return };
    let key = file.private_key.to_string();
    let kind = UplinkKind::WireGuard(file.wireguard);
    let uplink = Uplink { interface: "wg0".parse().expect("a name"), mtu: file.mtu, kind };
    let host =
        HostSpec { whole: "2001:db8:a::/48".parse().ok(), uplink: Some(uplink), ..HostSpec::default() };
    let written = edit::fresh(&host).expect("it can be written");
    assert!(!written.contains(&key) || text.matches(&key).count() > 1, "the key is written down");
    assert_eq!(HostSpec::parse(Path::new("nsctl.toml"), &written).as_ref(), Ok(&host));
    rendered(&Spec { host, ..Spec::default() });
}

/// The state file comes back as it was.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = nsctl::state::parse(Some(&text(bytes))) {
        let again = nsctl::state::parse(Some(&nsctl::state::render(&state.leases)));
        assert_eq!(again.ok().map(|state| state.leases), Some(state.leases));
    }
}

/// The journal; its steps can be told and undone.
pub fn journal(bytes: &[u8]) {
    if let Ok(journal) = serde_json::from_slice::<nsctl::apply::Journal>(bytes) {
        let undo = nsctl::plan::undo(&journal.steps);
        let _: Vec<String> = journal.steps.iter().chain(&undo).map(nsctl::plan::Step::describe).collect();
    }
}

/// What nft(8) lists, as JSON and as text.
pub fn nft(bytes: &[u8]) {
    let table = nsctl::nftables::table::Table::read([text(bytes).as_str()]);
    assert_eq!(table.differences(&table), [], "a table is not what it is");
    if let Ok(listed) = serde_json::from_slice(bytes) {
        let _ = nsctl::nftables::read(&listed);
    }
}

/// os-release(5), and the words for images.
pub fn os_release(bytes: &[u8]) {
    let text = text(bytes);
    let _ = (Build::of_host(&text), name_for(&text));
    for word in text.lines().take(64) {
        if let Ok(known) = word.parse::<ImageWord>() {
            assert_eq!(known.to_string().parse().ok(), Some(known), "{word:?}");
        }
    }
}

/// A guest's shadow(5): nobody but root gets the password.
pub fn shadow(bytes: &[u8]) {
    let text = text(bytes);
    let init = Init::Systemd(257);
    let guest = Guest { init, shadow: Some(text.clone()), ..Guest::default() };
    let texts = Texts { password_hash: Some("$6$hash".into()), ..Texts::default() };
    let Ok(web) = "web".parse() else { return };
    for change in changes(&guest, &FirstBoot::default(), &texts, &web, "1").into_iter().flatten() {
        if let nsctl::provision::TreeEdit::Write { path, text: new, .. } = change
            && path == "etc/shadow"
        {
            let others = |text: &str| {
                text.split_terminator('\n')
                    .filter(|line| !line.starts_with("root:"))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(others(&text), others(&new));
        }
    }
}

/// An archive on its way: nothing of it is lost but its padding.
pub fn tar(bytes: &[u8]) {
    let mut passed = Vec::new();
    tarball::pass_on(bytes, &mut passed).expect("memory can be read and written");
    let content = |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != 0).collect::<Vec<_>>();
    assert_eq!(content(&passed), content(bytes));
    assert!(passed.len() <= bytes.len());
    let _ = (archive::definition(bytes).expect("memory can be read"), archive::init(bytes));
}

/// The kernel's links, addresses and routes.
pub fn netlink(mut bytes: &[u8]) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        if let NetlinkPayload::InnerMessage(inner) = &message.payload {
            match inner {
                RouteNetlinkMessage::NewLink(link) => _ = message::link(link),
                RouteNetlinkMessage::NewAddress(address) => _ = message::address(address),
                RouteNetlinkMessage::NewRoute(route) => {
                    _ = (message::main_route(route), message::next_hops(route), message::is_multicast(route));
                }
                _ => {}
            }
        }
        let length = (message.header.length as usize).max(16).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
}

/// The sockets that listen.
pub fn sock_diag(bytes: &[u8]) {
    let _ = sockets::read(bytes, &mut std::collections::BTreeSet::new());
}

/// Answers to pings.
pub fn icmp(bytes: &[u8]) {
    let heard = Heard::of(bytes, [1, 2], [3, 4]);
    assert!(heard != Some(Heard::Reply) || ping::is_reply(bytes, [1, 2]));
}

/// A terminal's output: the same, however it is cut.
pub fn exec(bytes: &[u8]) {
    let (length, bytes) =
        bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first) + 1, rest));
    let token = Token::new(7);
    let cut = |piece: usize| {
        let (mut stream, mut said) = (ExecStream::new(token.clone()), Vec::new());
        for piece in bytes.chunks(piece) {
            let (text, status) = stream.feed(piece);
            said.extend(text);
            if status.is_some() {
                return (said, status);
            }
        }
        said.extend(stream.rest());
        (said, None)
    };
    assert_eq!(cut(length), cut(usize::MAX));
}

/// What a guest says, on its way to a terminal.
pub fn terminal(bytes: &[u8]) {
    let clean = nsctl::cli::text::sanitize(&text(bytes));
    assert!(clean.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')), "{clean:?}");
}
