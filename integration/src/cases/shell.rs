//! Commands in a machine: what they say, how they end, a terminal of the right size.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    let said = lab.run(&["nsctl", "shell", "web", "sh", "-c", "echo one two; hostname; id -u; exit 7"])?;
    must!(said.status == 7 && said.stdout == "one two\nweb\n0\n", "{} {:?}", said.status, said.stdout);
    let piped = lab.sh("printf 'a\\nb\\n' | nsctl shell web wc -l")?;
    must!(piped == "2\n", "what is piped in does not arrive: {piped:?}");
    let user = lab.nsctl_ok("shell web --user nobody id -un")?;
    must!(user == "nobody\n", "{user:?}");
    let long = lab.sh("nsctl shell web seq 20000 | sha256sum; seq 20000 | sha256sum")?;
    must!(long.lines().next() == long.lines().last(), "a long output is torn: {long}");
    let missing = lab.nsctl("shell web no-such-command")?;
    must!(missing.status == 127, "{}", missing.all());

    lab.install("bsdutils")?;
    // A person's terminal: its size, and keys as they are pressed.
    let typed = lab.sh(
        "cat > typed <<'end'
stty rows 33 cols 101
exec nsctl shell web sh -c 'stty size; read word; echo got $word; exit 3'
end
         echo hello | script -qec 'sh typed' /dev/null || echo status $?",
    )?;
    must!(typed.contains("33 101") && typed.contains("got hello") && typed.contains("status 3"), "{typed}");

    refused(lab, "shell nobody", 1, "is not running")?;
    lab.nsctl_ok("stop web")?;
    refused(lab, "shell web true", 1, "is not running")?;
    Ok(())
}
