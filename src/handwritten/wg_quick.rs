//! A file for wg-quick(8), as providers hand them out: read, and no command in it run.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;

use crate::spec::wireguard::{self, Endpoint, Key, Peer, WireGuard};
use crate::spec::{Problem, Problems};

/// Seconds after which a packet keeps a NAT or a firewall open (wg(8)).
const KEEPALIVE: u16 = 25;

/// What a file says.
#[derive(Clone, PartialEq, Eq)]
pub struct WgQuick {
    pub wireguard: WireGuard,
    /// Bytes that a packet in the tunnel may have.
    pub mtu: Option<u32>,
    pub private_key: Key,
    /// Those that both ends know, by the peer's public ones.
    pub preshared: Vec<(Key, Key)>,
}

/// One [Peer], as far as it has been read.
#[derive(Default)]
struct Begun {
    public_key: Option<Key>,
    preshared: Option<Key>,
    endpoint: Option<Endpoint>,
    allowed_ips: Vec<IpNet>,
    persistent_keepalive: Option<u16>,
}

/// A line of it that sets something.
struct Setting<'t> {
    key: String,
    name: &'t str,
    value: &'t str,
    /// Where the name, and the value, stand in the text.
    places: [Range<usize>; 2],
}

struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
    /// The same, without what nobody should see.
    shown: &'t str,
    problems: Vec<Problem>,
    wireguard: WireGuard,
    mtu: Option<u32>,
    private_key: Option<Key>,
    peers: Vec<Begun>,
}

impl WgQuick {
    /// Reads one.
    ///
    /// # Errors
    /// All that is no setting of wg-quick(8), or no value of one; commands; and what is missing.
    pub fn parse(path: &Path, text: &str) -> Result<WgQuick, Problems> {
        let shown = masked(text);
        let mut reader = Reader {
            path,
            text,
            shown: &shown,
            problems: Vec::new(),
            wireguard: WireGuard::default(),
            mtu: None,
            private_key: None,
            peers: Vec::new(),
        };
        reader.read();
        reader.finish()
    }
}

impl<'t> Reader<'t> {
    fn read(&mut self) {
        let mut section = String::new();
        let mut begin = 0;
        for whole in self.text.split_inclusive('\n') {
            let at = begin;
            begin += whole.len();
            let line = whole.split('#').next().unwrap_or_default();
            let word = line.trim();
            let place = at + line.len() - line.trim_start().len()..at + line.trim_end().len();
            if word.is_empty() {
                continue;
            }
            if word.starts_with('[') {
                section = word.to_ascii_lowercase();
                match section.as_str() {
                    "[interface]" => {}
                    "[peer]" => self.peers.push(Begun::default()),
                    _ => self.wrong(
                        place,
                        format!(
                            "{} is no section of wg-quick(8): it has [Interface] and [Peer]",
                            stars(word, SECRET)
                        ),
                    ),
                }
                continue;
            }
            let Some(equals) = line.find('=') else {
                self.wrong(place, "this is no setting: KEY = VALUE");
                continue;
            };
            let (name, value) = (line[..equals].trim(), line[equals + 1..].trim());
            let places = [place.start..place.start + name.len(), place.end - value.len()..place.end];
            let setting = Setting { key: name.to_ascii_lowercase(), name, value, places };
            match section.as_str() {
                "[interface]" => self.of_interface(&setting),
                "[peer]" => self.of_peer(&setting),
                "" => self.wrong(setting.places[0].clone(), "it stands before [Interface]"),
                // The section has been named.
                _ => {}
            }
        }
    }

    fn wrong(&mut self, place: Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::at(self.path, self.shown, Some(place), message));
    }

    fn of_interface(&mut self, setting: &Setting) {
        match setting.key.as_str() {
            "privatekey" => self.private_key = self.value(setting),
            "address" => {
                let more = self.nets(setting);
                self.wireguard.address.extend(more);
            }
            // Words that are no addresses are domains to search.
            "dns" => {
                let servers = list(setting.value).filter_map(|word| word.parse::<IpAddr>().ok());
                self.wireguard.dns.extend(servers);
            }
            "listenport" => self.wireguard.listen_port = self.value(setting),
            "fwmark" => self.wireguard.fwmark = self.number(setting).filter(|mark| *mark > 0),
            "mtu" => {
                self.mtu = self.value(setting);
                if self.mtu.is_some_and(|mtu| !(1280..=65535).contains(&mtu)) {
                    self.wrong(setting.places[1].clone(), "IPv6 needs 1280 bytes at least (RFC 8200 5)");
                }
            }
            "table" => self.wireguard.table = self.value(setting).unwrap_or_default(),
            // Nothing but nsctl.toml is kept of it.
            "saveconfig" => {}
            "preup" | "postup" | "predown" | "postdown" => self.wrong(
                setting.places[0].clone(),
                format!("{} is a command: nsctl runs none of a file's", setting.name),
            ),
            _ => self.unknown(setting, "Interface"),
        }
    }

    fn of_peer(&mut self, setting: &Setting) {
        let Some(mut peer) = self.peers.pop() else { return };
        match setting.key.as_str() {
            "publickey" => peer.public_key = self.value(setting),
            "presharedkey" => peer.preshared = self.value(setting),
            "allowedips" => {
                let more = self.nets(setting);
                peer.allowed_ips.extend(more.iter().map(IpNet::trunc));
            }
            "endpoint" => peer.endpoint = self.value(setting),
            "persistentkeepalive" => peer.persistent_keepalive = self.number(setting),
            _ => self.unknown(setting, "Peer"),
        }
        self.peers.push(peer);
    }

    fn unknown(&mut self, setting: &Setting, section: &str) {
        let name = stars(setting.name, SECRET);
        let message = format!("{} is no setting of [{section}] in wg-quick(8)", name.escape_debug());
        self.wrong(setting.places[0].clone(), message);
    }

    fn value<T: FromStr<Err: std::fmt::Display>>(&mut self, setting: &Setting) -> Option<T> {
        let value = setting.value.parse();
        value.map_err(|error: T::Err| self.wrong(setting.places[1].clone(), error.to_string())).ok()
    }

    /// A number, also in hexadecimal, or "off" for none.
    fn number<T: TryFrom<u32> + Default>(&mut self, setting: &Setting) -> Option<T> {
        let number = match setting.value.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None if setting.value.eq_ignore_ascii_case("off") => Some(0),
            None => setting.value.parse().ok(),
        };
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.wrong(setting.places[1].clone(), "a number, or off");
        }
        number
    }

    fn nets(&mut self, setting: &Setting) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for word in list(setting.value) {
            match wireguard::net(word) {
                Some(net) => nets.push(net),
                None => self.wrong(
                    setting.places[1].clone(),
                    format!("'{}' is no address", stars(word, SECRET).escape_debug()),
                ),
            }
        }
        nets
    }

    /// All that it says, if nothing is wrong or missing.
    fn finish(self) -> Result<WgQuick, Problems> {
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        let missing = |what: &str| Problems(vec![Problem::whole(self.path, what)]);
        let private_key = self.private_key.ok_or_else(|| missing("[Interface] has no PrivateKey"))?;
        let (mut wireguard, mut preshared) = (self.wireguard, Vec::new());
        for Begun { public_key, preshared: key, endpoint, allowed_ips, persistent_keepalive } in self.peers {
            let public_key = public_key.ok_or_else(|| missing("a [Peer] has no PublicKey"))?;
            let has_key = key.is_some();
            // Whom we go to knows where we are only when it has heard from us.
            let keepalive = persistent_keepalive.or(endpoint.as_ref().map(|_| KEEPALIVE));
            preshared.extend(key.map(|key| (public_key.clone(), key)));
            wireguard.peer.push(Peer {
                public_key,
                preshared: has_key,
                endpoint,
                allowed_ips,
                persistent_keepalive: keepalive.filter(|seconds| *seconds > 0),
            });
        }
        match wireguard.fault() {
            Some(fault) => Err(missing(fault)),
            None => Ok(WgQuick { wireguard, mtu: self.mtu, private_key, preshared }),
        }
    }
}

/// The text as it may be shown: stars for all that is a key, or should be one, but public ones. A word
/// as long as most of a key is taken for one wherever it stands.
fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let name = line.split(['=', ':']).next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_public = name == "publickey";
        let is_secret = !is_public && name.ends_with("key");
        let value = line.find(['=', ':']).filter(|_| is_secret).unwrap_or(line.len());
        shown.push_str(&stars(&line[..value], if is_public { usize::MAX } else { SECRET }));
        shown.push_str(&stars(&line[value..], 2));
    }
    shown
}

/// No setting's name, address or host is a word so long.
const SECRET: usize = 40;

/// Stars, a byte each, for words of at least so many bytes.
fn stars(text: &str, length: usize) -> String {
    let is_between = |c: char| c.is_whitespace() || ",;:[]".contains(c);
    let words = text.split_inclusive(is_between).map(|word| {
        let end = word.trim_end_matches(is_between).len();
        if end >= length { "*".repeat(end) + &word[end..] } else { word.to_owned() }
    });
    words.collect()
}

/// Words between commas.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn read(text: &str) -> Result<WgQuick, String> {
        let text = text.replace("KEY", KEY);
        WgQuick::parse(Path::new("wg0.conf"), &text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_a_provider_hands_out() {
        let text = "# Route64\n[Interface]\nPrivateKey = KEY\naddress=2001:db8:9::2/64, 10.9.0.2 # both\nDNS = 2001:db8::53, lan\n\
                    MTU = 1412\nFwMark = 0xca6c\nTable = off\nSaveConfig = true\n\n[Peer]\nPublicKey = KEY\nPresharedKey=KEY\n\
                    AllowedIPs = ::/0\nAllowedIPs = 10.9.0.1/24\nEndpoint = vpn.example.org:51820\nPersistentKeepalive = 25\n";
        let WgQuick { wireguard, mtu, private_key, preshared } = read(text).ok().unwrap();
        assert_eq!((mtu, private_key.to_string().as_str(), preshared.len()), (Some(1412), KEY, 1));
        insta::assert_snapshot!(toml::to_string(&wireguard).unwrap());
    }

    #[test]
    fn keys_are_not_shown() {
        let text = "[Interface]\nPrivateKey = KEYx\nPrivatKey=secret\nSomething = KEY\nPrivateKey KEY\nPrivateKey: KEY\nKEY\nAddress = KEY, 10.9.0.2\n\
                    MTU =\n[KEY]\n[Peer]\nPublicKey = KEYKEY\nPreSharedKey = ßß\n";
        let said = read(text).err().unwrap();
        assert_eq!(said.matches(&KEY[..20]).count(), 2, "{said}");
        insta::assert_snapshot!(said);
    }

    #[test]
    fn what_is_wrong_is_shown_in_its_line() {
        let text = "MTU = 1400\n[Interface]\nPrivateKey = short\nAddress = 2001:db8:9::2/640\nPostUp = rm -rf /\nMTU = 70000\n\
                    Colour = red\nTable = main\nhello\n[Peer]\nEndpoint = nowhere\nPersistentKeepalive = 70000\n[Lan]\nA = b\n";
        insta::assert_snapshot!(read(text).err().unwrap());
        for (text, says) in [
            ("", "no PrivateKey"),
            ("[Interface]\nPrivateKey = KEY\n", "address"),
            ("[Interface]\nPrivateKey = KEY\nAddress = 10.9.0.2\n", "another end"),
            ("[Interface]\nPrivateKey = KEY\nAddress = 10.9.0.2\n[Peer]\n", "no PublicKey"),
        ] {
            let said = read(text).err().unwrap();
            assert!(said.contains(says), "{said}");
        }
    }
}
