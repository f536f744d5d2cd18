# In a guest: publishes version $1 of the package 'greeter' in /srv/repo, alone. What it serves is served by $3, and
# once it is there, $2 is run.
set -e
version=$1 then=$2
serve=${3:-/usr/bin/systemd-socket-activate --accept --inetd -l 8080 /bin/cat}
rm -rf /tmp/greeter /srv/repo
mkdir -p /tmp/greeter/DEBIAN /tmp/greeter/usr/lib/systemd/system /srv/repo
cat > /tmp/greeter/DEBIAN/control << CONTROL
Package: greeter
Version: $version
Architecture: all
Maintainer: nobody <nobody@example.com>
Description: greets
CONTROL
cat > /tmp/greeter/usr/lib/systemd/system/greeter.service << UNIT
[Service]
ExecStart=$serve
[Install]
WantedBy=multi-user.target
UNIT
cat > /tmp/greeter/DEBIAN/postinst << POSTINST
#!/bin/sh
set -e
systemctl daemon-reload
systemctl enable greeter.service
systemctl restart greeter.service
$then
POSTINST
chmod 755 /tmp/greeter/DEBIAN/postinst
cd /srv/repo
dpkg-deb --build /tmp/greeter greeter.deb > /dev/null
{ dpkg-deb --field greeter.deb; printf 'Filename: ./greeter.deb\nSize: %s\nSHA256: %s\n' \
    "$(stat -c %s greeter.deb)" "$(sha256sum greeter.deb | cut -d ' ' -f 1)"; } > Packages
rm -rf /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list
