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
    // Words come as they are, also those that systemd or a shell would put something else for.
    let odd = ["a b", "it's", "$HOME", "$HOME `id`", "x${HOME}$$y", "$$", "%n %%", "*", "", "\\\\t"];
    let said = lab.run(&[&["nsctl", "shell", "web", "printf", "<%s>"], &odd[..]].concat())?;
    let words: String = odd.iter().map(|word| format!("<{word}>")).collect();
    must!(said.ok() && said.stdout == words, "{:?}", said.stdout);
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
    let typed = lab.sh("cat > typed <<'end'
stty rows 33 cols 101
exec nsctl shell web sh -c 'stty size; read word; echo got $word; exit 3'
end
         echo hello | script -qec 'sh typed' /dev/null || echo status $?")?;
    must!(typed.contains("33 101") && typed.contains("got hello") && typed.contains("status 3"), "{typed}");

    ended_input(lab)?;
    forged(lab)?;
    hostile(lab)?;
    refused(lab, "shell nobody", 1, "there is no machine named")?;
    lab.nsctl_ok("stop web")?;
    refused(lab, "shell web true", 1, "is not running")?;
    Ok(())
}

/// Whoever reads sees that the input is over, also a shell that is not ready yet.
fn ended_input(lab: &Lab) -> Result<()> {
    lab.sh("timeout 20 nsctl shell web < /dev/null > /dev/null; timeout 20 nsctl shell web cat < /dev/null")?;
    let half = lab.sh("printf half | timeout 20 nsctl shell web wc -c; echo 'echo typed; exit 4' | timeout 20 nsctl shell web | grep -c typed")?;
    must!(half.starts_with("4\n"), "{half}");
    // More than a terminal holds, both ways at once.
    let both = lab.sh("seq 40000 > many; timeout 60 nsctl shell web cat < many | cmp - many && echo same")?;
    must!(both == "same\n", "{both}");
    Ok(())
}

/// Nobody else in the guest learns the token with which a status is told.
fn forged(lab: &Lab) -> Result<()> {
    lab.sh(
        "nsctl shell web sh -c 'touch /tmp/ready; until test -e /tmp/go; do sleep 0.1; done; exit 5' & pid=$!
         until nsctl shell web test -e /tmp/ready; do :; done
         strings=$(nsctl shell web --user nobody sh -c 'cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2> /dev/null | tr \"\\0\" \"\\n\"; systemctl show --no-pager \"container-shell@*\" \"run-*\"; cat /run/systemd/transient/* 2> /dev/null')
         nsctl shell web touch /tmp/go
         wait $pid && exit 1 || test $? = 5
         echo \"$strings\" | grep -q container-shell
         if echo \"$strings\" | grep -oE '(^|[^0-9a-f])[0-9a-f]{32}($|[^0-9a-f])' | tr -dc '0-9a-f\\n' | grep -v -e $(nsctl shell web cat /etc/machine-id) -e $(cat /proc/sys/kernel/random/boot_id | tr -d -) > left; then :; fi
         nsctl shell web sh -c 'systemctl show --no-pager --property=InvocationID \"*\"' | tr -dc '0-9a-f\\n' > known; ! grep -vFf known left | grep -q .",
    )
    .map(drop)
}

/// A guest whose shell floods, says nothing, or is none, holds nobody up: expose runs a command there.
fn hostile(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("shell web cp -a /bin/dash /root/dash")?;
    let shells =
        ["exec cat /dev/zero", "exec sleep 1000", "while :; do printf 'flood of words, no end'; done"];
    for shell in shells {
        lab.nsctl_ok("start web")?;
        lab.booted("web")?;
        let tree = lab.machines().join("web");
        let script = tree.join("root/shell");
        std::fs::write(&script, format!("#!/root/dash\n{shell}\n"))?;
        lab.sh("chmod 755 /var/lib/machines/web/root/shell; ln -sfn /root/shell /var/lib/machines/web/usr/bin/sh")?;
        let done = lab.sh("start=$(date +%s); nsctl expose web tcp/9 --to 127.0.0.1:9 2> said && exit 1; cat said; test $(($(date +%s) - start)) -lt 60; ! timeout 60 nsctl shell web true 2>> said; cat said");
        lab.sh("ln -sfn dash /var/lib/machines/web/usr/bin/sh")?;
        let done = done?;
        must!(
            done.contains("started no shell within 10 s") && done.contains("started no shell within 20 s"),
            "{shell}: {done}"
        );
    }
    Ok(())
}
