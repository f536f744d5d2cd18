# Runs in the emulated host, before and after the other scripts.
set -u
say() { echo "EMULATED: $*"; }
end() { say "$*"; systemctl --no-block poweroff; exit; }
broker() { ip netns exec broker "$@"; }
