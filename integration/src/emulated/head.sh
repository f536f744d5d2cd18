# Runs in the emulated host, before and after the other scripts.
set -u
say() { echo "EMULATED: $*"; }
end() { say "$*"; systemctl --no-block poweroff; exit; }
# Types a command of the guide; each line that the guide shows below it must be printed. The guest here has no
# networkd, and takes another address of its prefix.
guide() {
    local untimed='s/([0-9.]* s after/(TIME after/; s/2001:db8:a:1:[0-9a-f:]*/ADDRESS/g' printed shown line
    grep -qxF "# $*" /root/tunnel.md || end "the guide has no \`$*\`"
    printed=$("$@" 2>&1 | sed "$untimed")
    shown=$(awk -v typed="# $*" '$0 == typed { on = 1; next } /^(# |```)/ { on = 0 } on' /root/tunnel.md | sed "$untimed")
    [ -z "$shown" ] || while IFS= read -r line; do
        printf '%s\n' "$printed" | grep -qxF -- "$line" || end "\`$*\` does not print \`$line\`, as the guide shows: $printed"
    done <<< "$shown"
    say "as the guide shows: $*"
}
broker() { ip netns exec broker "$@"; }
