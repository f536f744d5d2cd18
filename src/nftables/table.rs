//! Our table, rule for rule: what its files say, or what nft(8) lists of the kernel's,
//! and where the two are apart. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::TABLE;

/// A table as text says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// What stands outside of all blocks: flags.
    own: Vec<String>,
    /// By kind and name: "chain forward", "set machines".
    blocks: BTreeMap<String, Block>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Block {
    /// A chain's rules, in their order, or what kind of set it is.
    lines: Vec<String>,
    elements: BTreeSet<String>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// "chain forward", "set machines", "table inet nsctl".
    pub object: String,
    pub what: String,
    /// The one machine that it concerns, or its interface; none: all of them.
    pub about: Option<String>,
    /// Somebody put it there, and it goes when the table is loaded again.
    pub added: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.what)
    }
}

impl Table {
    /// Reads a listing of nft(8), or files of rules in the order in which they are loaded:
    /// blocks, and the commands that ours have.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Table {
        let mut table = Table::default();
        for text in texts {
            table.add(text);
        }
        // What packets themselves count, or put into a set, nobody has written down.
        for (name, block) in &mut table.blocks {
            if name.starts_with("counter ") {
                block.lines.clear();
            }
            if block.lines.iter().any(|line| line.starts_with("flags dynamic")) {
                block.elements.clear();
            }
        }
        table
    }

    fn add(&mut self, text: &str) {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        while let Some(line) = lines.next() {
            if line.starts_with("table ") && line.ends_with('{') {
                self.add_blocks(&mut lines);
            } else {
                self.command(line);
            }
        }
    }

    fn add_blocks<'a>(&mut self, lines: &mut impl Iterator<Item = &'a str>) {
        let mut current: Option<&mut Block> = None;
        let mut elements: Option<String> = None;
        for line in lines {
            if let Some(text) = &mut elements {
                text.push(' ');
                text.push_str(line);
            } else if let Some(begin) = line.strip_prefix("elements = {") {
                elements = Some(begin.to_owned());
            } else if line == "}" {
                if current.take().is_none() {
                    return;
                }
                continue;
            } else if let Some(name) = line.strip_suffix('{').filter(|_| current.is_none()) {
                current = Some(self.blocks.entry(name.trim().to_owned()).or_default());
                continue;
            } else {
                let lines = current.as_mut().map_or(&mut self.own, |block| &mut block.lines);
                lines.push(plain(line));
                continue;
            }
            if let Some(whole) = elements.as_ref().and_then(|text| text.strip_suffix('}')) {
                let all = whole.split(',').map(|element| element.trim().to_owned());
                if let Some(block) = &mut current {
                    block.elements.extend(all.filter(|element| !element.is_empty()));
                }
                elements = None;
            }
        }
    }

    /// `add KIND inet nsctl NAME …`; what empties is passed over, as nothing is there yet.
    fn command(&mut self, line: &str) {
        let mut words = line.splitn(6, ' ');
        let (Some("add"), Some(kind), Some("inet"), Some(TABLE)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let (name, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let inner = rest.trim_start_matches('{').trim_end_matches('}').trim();
        match kind {
            "rule" => self.blocks.entry(format!("chain {name}")).or_default().lines.push(plain(rest)),
            "element" => {
                let map = format!("map {name}");
                let known = if self.blocks.contains_key(&map) { map } else { format!("set {name}") };
                self.blocks.entry(known).or_default().elements.insert(inner.to_owned());
            }
            "chain" | "counter" => _ = self.blocks.entry(format!("{kind} {name}")).or_default(),
            "set" | "map" => {
                let lines = inner.split(';').map(str::trim).filter(|line| !line.is_empty()).map(plain);
                self.blocks.entry(format!("{kind} {name}")).or_default().lines.extend(lines);
            }
            _ => {}
        }
    }

    /// Where `loaded` is not like this one, which is as it should be.
    pub fn differences(&self, loaded: &Table) -> Vec<Difference> {
        let nothing = Block::default();
        let names: BTreeSet<&String> = self.blocks.keys().chain(loaded.blocks.keys()).collect();
        let mut found = of_lines("table inet nsctl", &self.own, &loaded.own);
        for name in names {
            let Some(loaded) = loaded.blocks.get(name) else {
                found.push(Difference::new(name, "is missing", false));
                continue;
            };
            let wanted = self.blocks.get(name);
            found.extend(wanted.is_none().then(|| Difference::new(name, "is not nsctl's", true)));
            let wanted = wanted.unwrap_or(&nothing);
            found.extend(of_lines(name, &wanted.lines, &loaded.lines));
            found.extend(of_elements(name, &wanted.elements, &loaded.elements));
        }
        found
    }

    /// What `loaded` has besides, in the words of `nft delete`: chains first, as they name sets.
    pub fn extras<'a>(&self, loaded: &'a Table) -> Vec<&'a str> {
        let mut extras: Vec<&str> = loaded.blocks.keys().map(String::as_str).collect();
        extras.retain(|name| !self.blocks.contains_key(*name));
        extras.sort_by_key(|name| !name.starts_with("chain "));
        extras
    }
}

/// Without what nft(8) remarks: since 1.1.4 how much is in a set.
fn plain(line: &str) -> String {
    let line = line.split_once("\t#").map_or(line, |(line, _)| line);
    line.trim_end_matches(';').to_owned()
}

fn of_lines(object: &str, wanted: &[String], loaded: &[String]) -> Vec<Difference> {
    if wanted == loaded {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (these, those, word, added) in
        [(wanted, loaded, "lacks", false), (loaded, wanted, "has, and should not,", true)]
    {
        let mut left: Vec<&String> = those.iter().collect();
        for line in these {
            match left.iter().position(|other| *other == line) {
                Some(at) => _ = left.swap_remove(at),
                None => found.push(Difference::new(object, &format!("{word} `{line}`"), added)),
            }
        }
    }
    if found.is_empty() {
        found.push(Difference::new(object, "has its rules in another order", false));
    }
    found
}

fn of_elements(object: &str, wanted: &BTreeSet<String>, loaded: &BTreeSet<String>) -> Vec<Difference> {
    let one = |element: &String, word: &str, added: bool| Difference {
        about: element.split('"').nth(1).map(str::to_owned),
        ..Difference::new(object, &format!("{word} {element}"), added)
    };
    let missing = wanted.difference(loaded).map(|element| one(element, "lacks", false));
    missing
        .chain(loaded.difference(wanted).map(|element| one(element, "has, and should not,", true)))
        .collect()
}

impl Difference {
    /// A machine's own chain concerns that one alone.
    fn new(object: &str, what: &str, added: bool) -> Difference {
        let own = object.strip_prefix("chain to-").or_else(|| object.strip_prefix("chain from-"));
        let about = own.map(str::to_owned);
        Difference { object: object.to_owned(), what: what.to_owned(), about, added }
    }

    /// The whole table is gone.
    pub fn gone() -> Difference {
        Difference::new("table inet nsctl", "is not loaded: somebody flushed all rules", false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 2] = [
        "# Written by somebody\nadd table inet nsctl\nadd set inet nsctl machines { type ifname; }\n\
         add map inet nsctl inbound { type ifname : verdict; }\nflush table inet nsctl\n\
         table inet nsctl {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\
         \t\toifname vmap @inbound\n\t}\n\n\tchain own {\n\t\tfib saddr . iif oif 0 counter drop\n\t}\n}\n\
         include \"/x/*.nft\"\n",
        "add counter inet nsctl refused-web\nadd chain inet nsctl to-web\nadd rule inet nsctl to-web jump always\nadd rule inet nsctl to-web counter drop\n\
         add element inet nsctl machines { \"ve-web\" }\nadd element inet nsctl machines { \"ve-db\" }\n\
         add element inet nsctl inbound { \"ve-web\" : goto to-web }\n",
    ];
    const LISTED: &str = "table inet nsctl {
	counter refused-web {
		packets 3 bytes 180
	}

	set machines {
		type ifname
		elements = { \"ve-db\",
			     \"ve-web\" }
	}

	map inbound {
		type ifname : verdict
		elements = { \"ve-web\" : goto to-web }
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname vmap @inbound
	}

	chain own {
		fib saddr . iif oif 0 counter drop
	}

	chain to-web {
		jump always
		counter drop
	}
}
";

    fn told(listed: &str) -> Vec<String> {
        let found = Table::read(FILES).differences(&Table::read([listed]));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_listing_is_what_the_files_say() {
        assert_eq!(told(LISTED), Vec::<String>::new());
        assert_eq!(Table::read(FILES), Table::read([LISTED]));
    }

    #[test]
    fn whatever_line_goes_or_comes_is_found() {
        let lines: Vec<&str> = LISTED.lines().collect();
        for at in 1..lines.len() - 1 {
            let line = lines[at].trim();
            let text = |lines: Vec<&str>| lines.join("\n");
            if !line.is_empty()
                && line != "}"
                && !line.ends_with('{')
                && !line.contains("elements")
                && !line.starts_with("packets")
                && !line.starts_with('"')
            {
                let mut gone = lines.clone();
                gone.remove(at);
                assert_eq!(told(&text(gone)).len(), 1, "{line}");
                let mut twice = lines.clone();
                twice.insert(at, "\t\taccept");
                assert!(told(&text(twice))[0].contains("has, and should not, `accept`"), "{line}");
            }
        }
    }

    #[test]
    fn what_packets_put_into_a_set_is_nobodys() {
        let files = "add table inet nsctl\nadd set inet nsctl near { type ipv6_addr; size 65536; flags dynamic,timeout; }";
        let listed = "table inet nsctl {\n\tset near {\n\t\ttype ipv6_addr\n\t\tsize 65536\t# count 1\n\t\tflags dynamic,timeout\n\
            \t\telements = { fe80::1 expires 28s, fe80::2 }\n\t}\n}\n";
        assert_eq!(Table::read([files]), Table::read([listed]));
        assert_ne!(Table::read([files]), Table::read([listed.replace("65536", "3").as_str()]));
    }

    #[test]
    fn blocks_elements_flags_and_order_count() {
        for (old, new, says) in [
            ("\"ve-db\",\n\t\t\t     ", "", "set machines lacks \"ve-db\""),
            ("goto to-web }", "accept }", "map inbound lacks \"ve-web\" : goto to-web"),
            ("policy accept", "policy drop", "chain forward lacks `type filter"),
            (
                "table inet nsctl {",
                "table inet nsctl {\n\tflags dormant\n",
                "table inet nsctl has, and should not, `flags dormant`",
            ),
            ("\tchain own", "\tchain mine {\n\t}\n\n\tchain own", "chain mine is not nsctl's"),
            ("\tchain to-web {\n\t\tjump always\n\t\tcounter drop\n\t}\n", "", "chain to-web is missing"),
            (
                "jump always\n\t\tcounter drop",
                "counter drop\n\t\tjump always",
                "chain to-web has its rules in another order",
            ),
        ] {
            let listed = LISTED.replace(old, new);
            assert_ne!(listed, LISTED);
            assert!(told(&listed).iter().any(|line| line.starts_with(says)), "{says}: {:?}", told(&listed));
        }
    }

    #[test]
    fn what_concerns_one_machine_names_it() {
        let listed = LISTED.replace("jump always", "accept").replace("\"ve-db\",", "");
        let found = Table::read(FILES).differences(&Table::read([listed.as_str()]));
        let about: BTreeSet<Option<&str>> = found.iter().map(|one| one.about.as_deref()).collect();
        assert_eq!(about, [Some("web"), Some("ve-db")].into());
    }

    #[test]
    fn what_goes_when_it_is_loaded_again() {
        let listed = LISTED
            .replace("\tchain own", "\tset a {\n\t\ttype ipv4_addr\n\t}\n\tchain mine {\n\t}\n\n\tchain own");
        let loaded = Table::read([listed.as_str()]);
        assert_eq!(Table::read(FILES).extras(&loaded), ["chain mine", "set a"]);
    }
}
