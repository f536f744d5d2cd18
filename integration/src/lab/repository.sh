# Run by mmdebstrap when a tree is made: $1 is the tree, REPO a folder, SUITE
# and EXTRAS what the repository in it is to hold: all packages of the tree, all
# that debootstrap wants, and the extras with what they need.
set -eu
installed=$(chroot "$1" dpkg-query -W -f '${Package} ')
get() { APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq --yes --download-only --no-install-recommends "$@" > /dev/null; }
get --reinstall install $installed
get install '?priority(required)' $EXTRAS
mkdir -p "$REPO/pool"
cp "$1"/var/cache/apt/archives/*.deb "$REPO/pool/"
cd "$REPO"
index=dists/$SUITE/main/binary-$(dpkg --print-architecture)
mkdir -p "$index"
apt-ftparchive packages pool > "$index/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Codename="$SUITE" -o APT::FTPArchive::Release::Suite="$SUITE" \
    -o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures="$(dpkg --print-architecture)" \
    release "dists/$SUITE" > Release
mv Release "dists/$SUITE/"
