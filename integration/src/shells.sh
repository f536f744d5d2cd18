# Names completed in real shells, each on a terminal of its own. In a mount namespace: FOLDER holds what nsctl
# reads, NSCTL is the program.
set -eu
for place in etc/nsctl var/lib/nsctl var/lib/machines; do
    mkdir -p "/$place"
    mount --bind "$FOLDER/$place" "/$place"
done
mkdir -p "$FOLDER/bin"
install "$NSCTL" "$FOLDER/bin/nsctl"
PATH=$FOLDER/bin:$PATH
export PATH

# What is typed before a tab, and what must come of it; each line is emptied by Ctrl-U.
cat > "$FOLDER/typed" << 'EXPECT'
set timeout 20
log_user 0
proc await {wanted what} {
    expect -ex $wanted {} timeout { send_user "$::env(SHELL_WORDS): $what\n"; exit 1 } eof { exit 1 }
}
spawn {*}$::env(SHELL_WORDS)
send "$::env(SETUP)\r"
await "ready>>" "does not begin"
foreach {typed wanted} {
    "nsctl show mine" "minecraft"
    "nsctl close minecraft tcp/25" "tcp/25565"
    "nsctl create x --bridge vb" "vbr0"
    "nsctl create x --image deb" "debian-13"
    "nsctl open minecraft tcp/1 --from 2001:db8:a:7" "2001:db8:a:7::/64"
    "nsctl cp build" "buildbot:/"
    "nsctl cp buildbot:/et" "buildbot:/etc/"
    "nsctl explain limits.ta" "limits.tasks"
    "nsctl reser" "reservation"
} {
    send "$typed\t"
    await $wanted "`$typed` does not become `$wanted`"
    send "\x15\r"
    await "ready>>" "has no prompt after `$typed`"
}
send_user "$::env(SHELL_WORDS): names are completed\n"
EXPECT

try() {
    SHELL_WORDS=$1 SETUP=$2 expect -f "$FOLDER/typed"
}

# The prompt is put together, so that it is not what was typed.
try "bash --noprofile --norc -i" 'source <(nsctl completions bash); PS1=rea""dy">> "'
try "zsh -f -i" 'autoload -Uz compinit && compinit -u -D; source <(nsctl completions zsh); PS1=rea""dy">> "'
try "fish --no-config -i" 'nsctl completions fish | source; function fish_prompt; echo -n rea""dy">> "; end'
