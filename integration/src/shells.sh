# Names completed in real shells, each on a terminal of its own. In a mount namespace: FOLDER holds what nsctl
# reads, NSCTL is the program.
set -eu
mkdir -p /etc/nsctl /var/lib/nsctl /var/lib/machines "$FOLDER/bin"
for place in etc/nsctl var/lib/nsctl var/lib/machines; do
    mount --bind "$FOLDER/$place" "/$place"
done
install "$NSCTL" "$FOLDER/bin/nsctl"
PATH=$FOLDER/bin:$PATH
export PATH

# SHELL START PROMPT: what is typed before a tab, and what must come of it.
try() {
    SHELL_WORDS=$1 SETUP=$2 expect -f - << 'EXPECT'
set timeout 20
log_user 0
proc fail {what} { send_user "\n$::env(SHELL_WORDS): $what\n"; send_user $::expect_out(buffer); exit 1 }
spawn {*}$::env(SHELL_WORDS)
send "$::env(SETUP); echo rea''dy\r"
expect { "ready" {} timeout { fail "does not begin" } }
foreach {typed wanted} {
    "nsctl show mine" "minecraft "
    "nsctl close minecraft tcp/25" "tcp/25565 "
    "nsctl create x --bridge vb" "vbr0 "
    "nsctl create x --image deb" "debian-13 "
    "nsctl open minecraft tcp/1 --from 2001:db8:a:7" "2001:db8:a:7::/64 "
    "nsctl cp build" "buildbot:/"
    "nsctl cp buildbot:/et" "buildbot:/etc/"
    "nsctl explain limits.mem" "limits.memory "
    "nsctl reser" "reservation "
} {
    send "$typed\t"
    expect { -ex $wanted {} timeout { fail "`$typed` does not become `$wanted`" } }
    # The line goes, by Ctrl-C.
    send "\x03"
    after 100
}
send_user "$::env(SHELL_WORDS): ok\n"
EXPECT
}

try "bash --noprofile --norc -i" 'source <(nsctl completions bash)'
try "zsh -f -i" 'autoload -Uz compinit && compinit -u -d /dev/null; source <(nsctl completions zsh)'
try "fish --no-config -i" 'nsctl completions fish | source'
