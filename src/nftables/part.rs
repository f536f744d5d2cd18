//! The change of one machine's part of our table, in the words of nft(8). Pure.

use super::TABLE;

/// What a file said, and what it says now; none: it is not there.
pub type FileChange = (Option<String>, Option<String>);

/// The commands that put what files say in the place of what they said before, in one transaction: the
/// rest of the table is not looked at. They fail where the table has not what the files said before.
///
/// Files of machines are lists of `add` commands, one a line. What one of them gives up another may have taken: what
/// goes, goes of all files before anything comes.
pub fn commands(changes: &[FileChange]) -> String {
    let old: Vec<&str> = changes.iter().flat_map(|(old, _)| added(old.as_deref())).collect();
    let new: Vec<&str> = changes.iter().flat_map(|(_, new)| added(new.as_deref())).collect();
    let of = |lines: &[&str], kinds: &[&str]| -> Vec<String> {
        let mine = |line: &&&str| kinds.iter().any(|kind| line.starts_with(&format!("{kind} ")));
        lines.iter().filter(mine).map(|line| (*line).to_owned()).collect()
    };
    let gone = |kind: &str| -> Vec<String> {
        of(&old, &[kind]).into_iter().filter(|line| !new.contains(&line.as_str())).collect()
    };
    let say = |verb: &'static str, lines: Vec<String>| {
        lines.into_iter().map(move |line| format!("{verb} {line}\n"))
    };
    let chains = gone("chain");
    // What has a name is there before it is named, and goes when nobody names it any more.
    say("add", of(&new, &["counter", "chain"]))
        .chain(say("flush", of(&new, &["chain"])))
        .chain(say("delete", gone("element")))
        .chain(say("add", of(&new, &["rule", "element"])))
        .chain(say("flush", chains.clone()))
        .chain(say("delete", chains))
        .chain(say("delete", gone("counter")))
        .collect()
}

/// What all machines share, in a transaction that changes a part: its chains are as their file says whatever somebody
/// did to them, and what is in sets and maps stays. A table that was put to sleep is awake when it is added again.
pub fn shared(file: &str) -> String {
    let chains = file.lines().filter_map(|line| line.strip_prefix("\tchain ")?.strip_suffix(" {"));
    let empty =
        chains.map(|chain| format!("add chain inet {TABLE} {chain}\nflush chain inet {TABLE} {chain}\n"));
    let stays = file.lines().filter(|line| !line.starts_with("flush ") && !line.starts_with("include "));
    let stays: String = stays.map(|line| format!("{line}\n")).collect();
    format!("add table inet {TABLE}\n{}{stays}", empty.collect::<String>())
}

/// What a file adds to the table, without that word.
fn added(text: Option<&str>) -> Vec<&str> {
    let lines = text.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("add "));
    lines.filter(|line| line.split(' ').nth(2) == Some(TABLE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "# Written by somebody\nadd counter inet nsctl refused-web\nadd chain inet nsctl to-web\n\
        add rule inet nsctl to-web jump always\nadd element inet nsctl planned { 2001:db8::2 }\n\
        add element inet nsctl inbound { \"ve-web\" : goto to-web }\n";

    #[test]
    fn what_changes_is_in_one_transaction() {
        let new = OLD
            .replace("jump always\n", "jump always\nadd rule inet nsctl to-web tcp dport 22 accept\n")
            .replace("db8::2", "db8::3");
        assert_eq!(
            commands(&[(Some(OLD.into()), Some(new))]),
            "add counter inet nsctl refused-web\nadd chain inet nsctl to-web\nflush chain inet nsctl to-web\n\
             delete element inet nsctl planned { 2001:db8::2 }\nadd rule inet nsctl to-web jump always\n\
             add rule inet nsctl to-web tcp dport 22 accept\nadd element inet nsctl planned { 2001:db8::3 }\n\
             add element inet nsctl inbound { \"ve-web\" : goto to-web }\n"
        );
    }

    #[test]
    fn what_goes_leaves_nothing() {
        assert_eq!(
            commands(&[(Some(OLD.into()), None)]),
            "delete element inet nsctl planned { 2001:db8::2 }\n\
             delete element inet nsctl inbound { \"ve-web\" : goto to-web }\nflush chain inet nsctl to-web\n\
             delete chain inet nsctl to-web\ndelete counter inet nsctl refused-web\n"
        );
        assert_eq!(commands(&[(None, None)]), "");
    }

    #[test]
    fn what_one_gives_up_another_keeps() {
        let (one, other) = (OLD, OLD.replace("web", "db").replace("db8::2", "db8::3"));
        let swapped = |text: &str| {
            text.replace("db8::2", "db8::x").replace("db8::3", "db8::2").replace("db8::x", "db8::3")
        };
        let change = |old: &str, new: &str| (Some(old.to_owned()), Some(new.to_owned()));
        let both = commands(&[change(one, &swapped(one)), change(&other, &swapped(&other))]);
        assert!(!both.contains("delete"), "{both}");
        let renamed = commands(&[(None, Some(one.replace("web", "aweb"))), (Some(one.to_owned()), None)]);
        let (goes, comes) = (renamed.find("delete element").unwrap(), renamed.find("add element").unwrap());
        assert!(goes < comes && !renamed.contains("delete element inet nsctl planned"), "{renamed}");
    }

    #[test]
    fn shared_chains_are_as_their_file_says() {
        let file = "add table inet nsctl\nadd map inet nsctl inbound { type ifname : verdict; }\n\nflush table inet nsctl\n\
            flush map inet nsctl inbound\n\ntable inet nsctl {\n\tchain forward {\n\t\taccept\n\t}\n}\n\ninclude \"x\"\n";
        let said = shared(file);
        assert!(said.contains("flush chain inet nsctl forward\n") && said.contains("\t\taccept\n"));
        assert!(!said.contains("flush table") && !said.contains("flush map") && !said.contains("include"));
    }

    #[test]
    fn what_comes_is_what_the_file_says() {
        let commands = commands(&[(None, Some(OLD.to_owned()))]);
        assert!(OLD.lines().skip(1).all(|line| commands.contains(line)));
        assert!(!commands.contains("delete"));
    }
}
