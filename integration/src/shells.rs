//! Names that shells complete: in bash, zsh and fish on terminals, and how long that takes with a thousand
//! machines.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fs_err as fs;

use crate::lab::binary;

const SCRIPT: &str = include_str!("shells.sh");
/// What people do not notice.
const LIMIT: Duration = Duration::from_millis(30);

pub fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |path: &str| folder.path().join(path);
    for place in [
        "etc/nsctl/machines.d",
        "var/lib/nsctl",
        "var/lib/machines/debian-13",
        "var/lib/machines/buildbot/etc/ssh",
    ] {
        fs::create_dir_all(at(place))?;
    }
    fs::write(at("etc/nsctl/nsctl.toml"), "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"eth1\"\n")?;
    let definition =
        |name: &str, text: &str| fs::write(at(&format!("etc/nsctl/machines.d/{name}.toml")), text);
    definition("minecraft", "open = [\"tcp/25565\"]\n[network]\nmode = \"routed\"\n")?;
    definition("buildbot", "[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n")?;
    fs::write(
        at("var/lib/nsctl/state.toml"),
        "version = 2\nresting = []\n[leases]\n\"minecraft\" = \"2001:db8:a:7::/64\"\n",
    )?;
    let nsctl = fs::canonicalize(binary("NSCTL_BIN", "../release/nsctl")?)?;
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).env("NSCTL", &nsctl).env("FOLDER", folder.path());
        command.env("HOME", folder.path()).env("TERM", "xterm").env("NO_COLOR", "1");
        command.status()
    };
    ensure!(run(SCRIPT)?.success(), "a shell does not complete names");
    for number in 0..1000 {
        definition(&format!("m{number}"), "[network]\nmode = \"routed\"\n")?;
    }
    let timed = "for i in 1 2 3 4 5 6 7 8 9 10; do COMPLETE=bash _CLAP_COMPLETE_INDEX=2 \"$NSCTL\" -- nsctl show m; done > /dev/null";
    let bind = "mount --bind \"$FOLDER/etc/nsctl\" /etc/nsctl && ";
    let begin = Instant::now();
    ensure!(run(&format!("{bind}{timed}"))?.success(), "names of a thousand machines are not completed");
    let each = begin.elapsed() / 10;
    println!("a thousand machines' names: {:.1} ms", each.as_secs_f64() * 1000.0);
    ensure!(
        each < LIMIT || cfg!(debug_assertions),
        "names take {each:?}, and should take {LIMIT:?} at the most"
    );
    Ok(())
}
