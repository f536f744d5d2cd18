//! Public names follow a delegated prefix: a real BIND is told within a minute, what is somebody
//! else's there stays, and what goes here goes there.

use std::time::Duration;

use anyhow::Result;

use super::delegated::delegate;
use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const UNITS: [(&str, &str); 3] = [
    ("nsctl-dns.service", include_str!("../../../units/nsctl-dns.service")),
    ("nsctl-dns.timer", include_str!("../../../units/nsctl-dns.timer")),
    ("nsctl-dns.path", include_str!("../../../units/nsctl-dns.path")),
];
const NAMED: &str = r#"
include "/etc/nsctl/tsig.key";
options { directory "/var/cache/bind"; pid-file none; listen-on { none; }; listen-on-v6 port 5353 { ::1; }; recursion no; dnssec-validation no; };
zone "example.org" { type primary; file "/var/cache/bind/example.org"; update-policy { grant nsctl zonesub ANY; }; };
"#;
const ZONE: &str = "$TTL 60\n@ IN SOA ns hostmaster 1 60 60 600 60\n@ IN NS ns\nns IN AAAA ::1\ntaken IN AAAA 2001:db8:dead::1\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router
        .script("for p in 1 2; do ip -6 route add 2001:db8:${p}00::/40 via 2001:db8:ffff::2 dev up0; done")?;
    let isp = delegate(lab, "2001:db8:100::")?;
    lab.nsctl_ok("init --delegated wan0")?;
    refused(lab, "dns --push", 1, "does not say where names are published")?;
    server(lab)?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    lab.sh("chmod 644 /etc/nsctl/tsig.key")?;
    refused(lab, "dns --push", 1, "everybody on this host can read /etc/nsctl/tsig.key")?;
    lab.sh("chmod 640 /etc/nsctl/tsig.key; chgrp bind /etc/nsctl/tsig.key")?;
    must!(asked(lab, "web", "AAAA")?.is_empty(), "it was published all the same");
    let said = lab.nsctl_ok("dns --push")?;
    let old = now(lab, "web")?;
    must!(
        old.starts_with("2001:db8:100:") && said.contains(&format!("web.example.org is {old}\n")),
        "{said}"
    );
    must!(asked(lab, "web", "AAAA")? == old, "{}", asked(lab, "web", "AAAA")?);
    must!(asked(lab, "web", "TXT")?.starts_with("\"nsctl="), "{}", asked(lab, "web", "TXT")?);
    must!(lab.nsctl_ok("dns --push --if-changed")? == "nothing has changed\n", "it is told again");
    // What somebody took out comes back with the next whole push.
    update(lab, "update delete web.example.org. AAAA")?;
    lab.nsctl_ok("dns --push")?;
    must!(asked(lab, "web", "AAAA")? == old, "{}", asked(lab, "web", "AAAA")?);

    others(lab)?;
    silent(lab)?;

    for (name, text) in UNITS {
        fs_err::write(lab.root()?.join("etc/systemd/system").join(name), text)?;
    }
    lab.sh("cp /usr/local/bin/nsctl /usr/bin/nsctl; systemctl daemon-reload")?;
    let said =
        lab.run(&["systemd-analyze", "verify", "nsctl-dns.service", "nsctl-dns.timer", "nsctl-dns.path"])?;
    must!(said.ok() && said.all().is_empty(), "{}", said.all());
    // Each alone: the one at once, the other for what nobody has seen.
    lab.sh("systemctl -q enable --now nsctl-dns.path")?;
    drop(isp);
    let _isp = delegate(lab, "2001:db8:200::")?;
    let moved = || Ok(now(lab, "web")?.starts_with("2001:db8:200:"));
    until(Duration::from_secs(60), "the new prefix is here", moved)?;
    let new = now(lab, "web")?;
    until(Duration::from_secs(60), "the world knows the new address, and no other", || {
        Ok(asked(lab, "web", "AAAA")? == new)
    })?;
    lab.sh("systemctl -q disable --now nsctl-dns.path; systemctl -q enable --now nsctl-dns.timer")?;
    lab.nsctl_ok("remove -y web")?;
    until(Duration::from_secs(75), "a machine that is gone is known no more", || {
        Ok(asked(lab, "web", "AAAA")?.is_empty() && asked(lab, "web", "TXT")?.is_empty())
    })
}

/// A primary server with a zone that a key may change, and nsctl.toml names both.
fn server(lab: &Lab) -> Result<()> {
    lab.install("bind9 bind9-dnsutils")?;
    let root = lab.root()?;
    fs_err::write(root.join("root/named.conf"), NAMED)?;
    fs_err::write(root.join("var/cache/bind/example.org"), ZONE)?;
    lab.sh(
        "systemctl disable -q --now named; chown bind: /var/cache/bind /var/cache/bind/example.org
         tsig-keygen nsctl > /etc/nsctl/tsig.key; chown root:bind /etc/nsctl/tsig.key; chmod 640 /etc/nsctl/tsig.key
         install -o bind /root/named.conf /run/named.conf
         printf '\\n[dns.push]\\nzone = \"example.org\"\\nserver = \"::1\"\\nport = 5353\\nkey = \"/etc/nsctl/tsig.key\"\\n' >> /etc/nsctl/nsctl.toml",
    )?;
    serve(lab)
}

fn serve(lab: &Lab) -> Result<()> {
    lab.sh("systemd-run -q --unit=primary named -f -u bind -c /run/named.conf")?;
    until(Duration::from_secs(10), "the server answers", || {
        Ok(asked(lab, "taken", "AAAA")? == "2001:db8:dead::1")
    })
    .map_err(|error| {
        error.context(lab.sh("journalctl -u primary --no-pager | tail -n 20").unwrap_or_default())
    })
}

/// What the server says of a name.
fn asked(lab: &Lab, name: &str, kind: &str) -> Result<String> {
    let line =
        format!("dig +short +tries=1 +time=2 -p 5353 @::1 {name}.example.org {kind} | grep -v '^;' || true");
    Ok(lab.sh(&line)?.trim().to_owned())
}

fn now(lab: &Lab, name: &str) -> Result<String> {
    Ok(lab.machine(name)?["network"]["address"].as_str().unwrap_or_default().to_owned())
}

fn update(lab: &Lab, line: &str) -> Result<()> {
    lab.sh(&format!(
        "printf 'server ::1 5353\\nzone example.org.\\n{line}\\nsend\\n' | nsupdate -k /etc/nsctl/tsig.key"
    ))
    .map(drop)
}

/// A name that somebody else has put there stays his, whatever machines are called.
fn others(lab: &Lab) -> Result<()> {
    let rename = |old: &str, new: &str| {
        lab.nsctl_ok(&format!("stop {old}"))?;
        lab.nsctl_ok(&format!("rename {old} {new}"))?;
        lab.nsctl_ok(&format!("start {new}"))
    };
    rename("db", "taken")?;
    let said = lab.nsctl("dns --push")?;
    must!(said.status == 1 && said.stderr.contains("taken.example.org is somebody else's"), "{}", said.all());
    must!(asked(lab, "taken", "AAAA")? == "2001:db8:dead::1", "{}", asked(lab, "taken", "AAAA")?);
    must!(asked(lab, "db", "AAAA")?.is_empty(), "a name that is gone is still there");
    // Nor is what another host has published.
    rename("taken", "db")?;
    update(
        lab,
        "update add db.example.org. 60 TXT \"nsctl=0000000000000000\"\\nupdate add db.example.org. 60 AAAA 2001:db8:dead::2",
    )?;
    let said = lab.nsctl("dns --push")?;
    must!(said.status == 1 && said.stderr.contains("db.example.org is somebody else's"), "{}", said.all());
    lab.nsctl_ok("remove -y db")?;
    lab.nsctl_ok("dns --push")?;
    must!(asked(lab, "db", "AAAA")? == "2001:db8:dead::2", "another host's name is gone");
    must!(asked(lab, "taken", "AAAA")? == "2001:db8:dead::1", "a stranger's name is gone");
    must!(!asked(lab, "web", "AAAA")?.is_empty(), "our own name is gone");
    Ok(())
}

/// A server that does not answer loses nothing.
fn silent(lab: &Lab) -> Result<()> {
    lab.sh("systemctl stop primary")?;
    refused(lab, "dns --push", 1, "web.example.org is not published")?;
    serve(lab)?;
    lab.nsctl_ok("dns --push").map(drop)
}
