# In a guest: `prepare` installs other package managers from /srv/debian; FAMILY VERSION publishes a package 'hello' for
# one of them, `install` installs it, too, and with `breaks` it cannot be installed.
set -eu
if [ "$1" = prepare ]; then
    suite=$(. /etc/os-release; echo "$VERSION_CODENAME")
    echo "deb [trusted=yes] copy:///srv/debian $suite main" > /run/debian.list
    options="-qq -o Dir::Etc::SourceList=/run/debian.list -o Dir::Etc::SourceParts=/dev/null"
    apt-get $options update
    DEBIAN_FRONTEND=noninteractive apt-get $options --yes --no-install-recommends install \
        dnf rpm createrepo-c pacman-package-manager > /dev/null 2>&1
    # Debian's rpm has a list of packages for each user.
    mkdir -p /etc/rpm && echo '%_dbpath /var/lib/rpm' > /etc/rpm/macros
    mkdir -p /etc/yum.repos.d /srv/rpm /srv/pacman /var/lib/pacman
    printf '[hello]\nname=hello\nbaseurl=file:///srv/rpm\ngpgcheck=0\n' > /etc/yum.repos.d/hello.repo
    printf '[options]\nArchitecture = auto\nSigLevel = Never\n[hello]\nServer = file:///srv/pacman\n' > /etc/pacman.conf
    exit
fi
family=$1 version=$2 more=${3:-}
case $family in
fedora)
    rm -rf /srv/rpm/*
    {
        printf 'Name: hello\nVersion: %s\nRelease: 1\nSummary: hello\nLicense: none\nBuildArch: noarch\n' "$version"
        printf '%%description\nhello\n%%install\nmkdir -p %%{buildroot}/usr/share\necho %s > %%{buildroot}/usr/share/hello\n' "$version"
        [ "$more" != breaks ] || printf '%%pre\nexit 1\n'
        printf '%%files\n/usr/share/hello\n'
    } > /tmp/hello.spec
    rpmbuild -bb --quiet --define '_rpmdir /srv/rpm' /tmp/hello.spec > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }
    createrepo_c --quiet /srv/rpm
    [ "$more" != install ] || dnf -q -y --refresh install hello
    ;;
arch)
    rm -rf /srv/pacman/* /tmp/arch
    mkdir -p /tmp/arch/usr/share "/tmp/db/hello-$version-1"
    echo "$version" > /tmp/arch/usr/share/hello
    # What is there and nobody's is in the way.
    [ "$more" != breaks ] || { echo "$version" > /tmp/arch/usr/share/taken; echo mine > /usr/share/taken; }
    printf 'pkgname = hello\npkgver = %s-1\npkgdesc = hello\narch = any\nsize = 2\n' "$version" > /tmp/arch/.PKGINFO
    file=hello-$version-1-any.pkg.tar
    (cd /tmp/arch && tar -cf "/srv/pacman/$file" .PKGINFO usr)
    rm -rf /tmp/db && mkdir -p "/tmp/db/hello-$version-1"
    printf '%%FILENAME%%\n%s\n\n%%NAME%%\nhello\n\n%%VERSION%%\n%s-1\n\n%%DESC%%\nhello\n\n%%CSIZE%%\n%s\n\n%%ISIZE%%\n2\n\n%%SHA256SUM%%\n%s\n\n%%ARCH%%\nany\n' \
        "$file" "$version" "$(stat -c %s "/srv/pacman/$file")" "$(sha256sum "/srv/pacman/$file" | cut -d ' ' -f 1)" \
        > "/tmp/db/hello-$version-1/desc"
    tar -C /tmp/db -cf /srv/pacman/hello.db "hello-$version-1"
    # It is only read again where it is newer, by whole seconds.
    touch -d "@$(($(date +%s) + version * 60))" /srv/pacman/hello.db
    # By then the file of the package before is nobody's.
    [ "$more" != install ] || { rm -f /usr/share/hello; pacman -Sy --noconfirm hello; }
    ;;
esac
