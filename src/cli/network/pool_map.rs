//! The pool as a picture: a block for each /64, or address, in the rows where somebody has one. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::pool::{Lease, Pool};

/// Blocks in a row: their number is a round one in hexadecimal, and a row fits 60 columns.
const ROW: u128 = 32;
/// No picture is higher: with more to show, a block is more.
const ROWS: usize = 16;
/// How much of a block that is several is leased.
const PARTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const HOST: char = '◆';
const RESTING: char = '▒';
const FREE: char = '·';
/// Neighbours are told apart.
const COLOURS: [&str; 2] = ["\x1b[32m", "\x1b[36m"];

/// A part of the pool, by the numbers of the first and the last.
type Span = (u128, u128);

struct Map {
    pool: Pool,
    size: u128,
    held: Vec<Span>,
    resting: Vec<Span>,
    /// How many /64 or addresses a block is.
    block: u128,
}

/// The picture, if there is anything in it.
pub fn draw(pool: Pool, held: &[Lease], resting: &[Lease]) -> Option<String> {
    let begin = pool.lease(0)?.range().0;
    let spans = |leases: &[Lease]| -> Vec<Span> {
        let all = leases.iter().filter(|lease| pool.contains(**lease)).map(|lease| lease.range());
        let mut spans: Vec<Span> = all.map(|(first, last)| (first - begin, last - begin)).collect();
        spans.sort_unstable();
        spans
    };
    let (held, resting) = (spans(held), spans(resting));
    if held.is_empty() && resting.is_empty() {
        return None;
    }
    let mut map = Map { pool, size: pool.size(), held, resting, block: 1 };
    let rows = loop {
        match map.rows() {
            Some(rows) => break rows,
            None => map.block *= 2,
        }
    };
    let mut text = String::new();
    let mut next = 0;
    for row in rows {
        let free = (row - next) * ROW * map.block;
        if free > 0 {
            let _ = writeln!(text, "{:>24}", format!("{free} free"));
        }
        let _ = writeln!(text, "{:>22}  {}", map.label(row), map.row(row));
        next = row + 1;
    }
    let free = map.size.saturating_sub(next * ROW * map.block);
    if free > 0 {
        let many = if free < 1_000_000_000 { format!("{free} free") } else { "all else is free".to_owned() };
        let _ = writeln!(text, "{many:>24}");
    }
    let _ = write!(
        text,
        "{:>22}  {HOST} host  █ leased  {RESTING} resting  {FREE} free  (a block: {})",
        "",
        map.share()
    );
    Some(text)
}

impl Map {
    /// The rows in which there is anything; none where they are too many.
    fn rows(&self) -> Option<BTreeSet<u128>> {
        let mut rows = BTreeSet::from([0]);
        if self.pool.is_single() {
            rows.clear();
        }
        for (first, last) in self.held.iter().chain(&self.resting) {
            let (first, last) = (first / (ROW * self.block), last / (ROW * self.block));
            if last - first >= ROWS as u128 {
                return None;
            }
            rows.extend(first..=last);
        }
        (rows.len() <= ROWS).then_some(rows)
    }

    /// Where a row begins.
    fn label(&self, row: u128) -> String {
        let number = row * ROW * self.block;
        match u64::try_from(number).ok().and_then(|number| self.pool.lease(number)) {
            Some(Lease::Subnet(subnet)) => subnet.net().network().to_string(),
            Some(Lease::Address(address)) => address.to_string(),
            Some(Lease::Number(number)) => format!("number {number:#x}"),
            None => String::new(),
        }
    }

    fn row(&self, row: u128) -> String {
        let begin = row * ROW;
        let blocks = (begin..begin + ROW).take_while(|block| block * self.block < self.size);
        let mut text = String::new();
        for block in blocks {
            match self.at(block) {
                (letter, Some(colour)) => _ = write!(text, "{colour}{letter}\x1b[0m"),
                (letter, None) => text.push(letter),
            }
        }
        text
    }

    /// What a block is, and its colour.
    fn at(&self, block: u128) -> (char, Option<&'static str>) {
        let span = (block * self.block, (block + 1) * self.block - 1);
        let common = |(first, last): &Span| (*last.min(&span.1) + 1).saturating_sub(*first.max(&span.0));
        let leased: u128 = self.held.iter().map(common).sum();
        if leased > 0 {
            let part = (leased * 8).div_ceil(self.block).clamp(1, 8);
            let whose = self.held.iter().position(|held| common(held) > 0).unwrap_or_default();
            return (PARTS[part as usize - 1], Some(COLOURS[whose % 2]));
        }
        if self.resting.iter().any(|span| common(span) > 0) {
            return (RESTING, Some("\x1b[33m"));
        }
        let first = u64::try_from(span.0).ok().and_then(|number| self.pool.lease(number));
        let hosts = self.block == 1 && first.is_some_and(|lease| self.pool.is_hosts_own(lease));
        (if hosts { HOST } else { FREE }, None)
    }

    /// What a block is, in words.
    fn share(&self) -> String {
        match (self.pool.is_single(), self.block) {
            (true, 1) => "an address".to_owned(),
            (true, count) => format!("{count} addresses"),
            (false, count) => format!("a /{}", 64 - count.ilog2()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(pool: &str, held: &[&str], resting: &[&str]) -> String {
        let pool = Pool::Fixed(pool.parse().unwrap());
        let leases = |all: &[&str]| -> Vec<Lease> { all.iter().map(|text| text.parse().unwrap()).collect() };
        let text = draw(pool, &leases(held), &leases(resting)).unwrap_or_default();
        text.replace(COLOURS[0], "").replace(COLOURS[1], "").replace("\x1b[33m", "").replace("\x1b[0m", "")
    }

    #[test]
    fn pictures() {
        let crowd: Vec<String> = (1..600).map(|number| format!("2001:db8:a:{number:x}::/64")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        let all = [
            drawn("2001:db8:a::/48", &["2001:db8:a:1::/64", "2001:db8:a:2::/64"], &["2001:db8:a:4::/64"]),
            drawn("2001:db8:a::/48", &["2001:db8:a:10::/60", "2001:db8:a:ffff::/64"], &[]),
            drawn("2001:db8:a::/62", &["2001:db8:a:3::/64"], &[]),
            drawn("2001:db8:b::/64", &["2001:db8:b::100/128"], &["2001:db8:b::abcd/128"]),
            drawn("2001:db8:a::/48", &crowd, &[]),
        ];
        assert_eq!(drawn("2001:db8:a::/48", &[], &[]), "");
        insta::assert_snapshot!(all.join("\n---\n"));
    }

    #[test]
    fn it_is_never_wide_nor_high() {
        for length in [32, 48, 56, 63] {
            let (pool, all) = (format!("2001:db8::/{length}"), format!("2001:db8::/{}", length.max(33)));
            let text = drawn(&pool, &[&all], &[]);
            assert!(text.lines().count() <= 2 * ROWS + 2, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }
}
