//! The change of one machine's part of our table, in the words of nft(8). Pure.

use super::TABLE;

/// The commands that put what a file says in the place of what it said before, in one transaction: the
/// rest of the table is not looked at. They fail where the table has not what the file said before.
///
/// Files of machines are lists of `add` commands, one a line.
pub fn commands(old: Option<&str>, new: Option<&str>) -> String {
    let (old, new) = (added(old), added(new));
    let of = |lines: &[&str], kinds: &[&str]| -> Vec<String> {
        let mine = |line: &&&str| kinds.iter().any(|kind| line.starts_with(&format!("{kind} ")));
        lines.iter().filter(mine).map(|line| (*line).to_owned()).collect()
    };
    let gone = |kinds: &[&str]| -> Vec<String> {
        of(&old, kinds).into_iter().filter(|line| !new.contains(&line.as_str())).collect()
    };
    let say = |verb: &'static str, lines: Vec<String>| {
        lines.into_iter().map(move |line| format!("{verb} {line}\n"))
    };
    let there = of(&new, &["counter", "chain"]);
    let (elements, chains) = (gone(&["element"]), gone(&["chain"]));
    // What has a name is there before it is named, and goes when nobody names it any more.
    say("add", there)
        .chain(say("flush", of(&new, &["chain"])))
        .chain(say("delete", elements))
        .chain(say("add", of(&new, &["rule", "element"])))
        .chain(say("flush", chains.clone()))
        .chain(say("delete", chains))
        .chain(say("delete", gone(&["counter"])))
        .collect()
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
            commands(Some(OLD), Some(&new)),
            "add counter inet nsctl refused-web\nadd chain inet nsctl to-web\nflush chain inet nsctl to-web\n\
             delete element inet nsctl planned { 2001:db8::2 }\nadd rule inet nsctl to-web jump always\n\
             add rule inet nsctl to-web tcp dport 22 accept\nadd element inet nsctl planned { 2001:db8::3 }\n\
             add element inet nsctl inbound { \"ve-web\" : goto to-web }\n"
        );
    }

    #[test]
    fn what_goes_leaves_nothing() {
        assert_eq!(
            commands(Some(OLD), None),
            "delete element inet nsctl planned { 2001:db8::2 }\n\
             delete element inet nsctl inbound { \"ve-web\" : goto to-web }\nflush chain inet nsctl to-web\n\
             delete chain inet nsctl to-web\ndelete counter inet nsctl refused-web\n"
        );
        assert_eq!(commands(None, None), "");
    }

    #[test]
    fn what_comes_is_what_the_file_says() {
        let commands = commands(None, Some(OLD));
        assert!(OLD.lines().skip(1).all(|line| commands.contains(line)));
        assert!(!commands.contains("delete"));
    }
}
