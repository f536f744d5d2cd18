# Every command that a newcomer or CI needs. All of them want root, on a
# Debian-like machine; systemd need not be PID 1.

CARGO ?= cargo
LAB = target/debug/lab

.PHONY: deb twice check-deb shells build program faults tools test unit lab emulated demo bench lint torture fuzz

build: program faults

# What is packaged is what is tested.
program:
	debian/rules program

# The nsctl that tests can kill between any two steps, and the laboratory.
faults:
	$(CARGO) build --locked --workspace --features nsctl/faults

# The Debian package, in this folder; what it is made with is installed where it is missing.
deb:
	@missing=$$(for p in debhelper fakeroot; do \
	    dpkg-query -W -f='$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || echo $$p; done); \
	test -z "$$missing" || { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }
	rm -f nsctl_*.deb nsctl_*.cdx.json
	fakeroot debian/rules clean binary

# Built again elsewhere, the package is the same, byte for byte.
twice: deb
	mkdir -p target/first && mv nsctl_*.deb nsctl_*.cdx.json target/first/
	rm -rf target/twice
	fakeroot debian/rules BUILD=target/twice clean binary
	for file in nsctl_*.deb nsctl_*.cdx.json; do cmp $$file target/first/$$file || exit 1; done
	rm -r target/twice target/first

# What Debian's own tools say of the package and its pages.
check-deb: deb
	@missing=$$(for p in lintian man-db; do \
	    dpkg-query -W -f='$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || echo $$p; done); \
	test -z "$$missing" || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
	lintian --fail-on error,warning --suppress-tags bad-distribution-in-changes-file nsctl_*.deb
	for page in debian/man/*; do \
	    said=$$(LC_ALL=C.UTF-8 MANROFFSEQ= man --warnings -E UTF-8 -l -Tutf8 -Z $$page 2>&1 > /dev/null); \
	    test -z "$$said" || { echo "$$page: $$said"; exit 1; }; done

# What the laboratory needs besides a Rust toolchain.
PACKAGES = expect zsh fish mmdebstrap apt-utils btrfs-progs e2fsprogs xfsprogs dnsmasq-base iproute2 iputils-ping nftables util-linux busybox-static \
    kea-dhcp6-server kea-dhcp4-server radvd prometheus openssl
tools:
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || echo $$p; done); \
	test -z "$$missing" || { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }

# With what the laboratory is built with: so that most of it is built once.
unit:
	$(CARGO) test --workspace --features nsctl/faults

# Pick cases with FILTER: make lab FILTER=trixie::routed. With QUICK=1 those that take long, or are about nsctl more than
# about systemd, run on one version of systemd each.
lab: build tools
	$(LAB) test $(if $(QUICK),--quick) $(FILTER)

# Random commands, kills and crashes: COUNT of those on each suite. SEED chooses the same ones again.
COUNT ?= 200
SUITES ?= bookworm trixie forky
torture: build tools
	for suite in $(SUITES); do $(LAB) torture $$suite "$(SEED)" $(COUNT) || exit 1; done

# Foreign bytes for each parser, so long for each; RUNS=… inputs for each instead.
SECONDS ?= 60
fuzz:
	RUNS=$(RUNS) fuzz/run.sh $(SECONDS) $(TARGETS)

# What this kernel may not have: tunnels, limits, VLANs, in an emulated machine.
emulated: build tools
	@command -v qemu-system-x86_64 cpio > /dev/null || { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 cpio; }
	for suite in $(SUITES); do $(LAB) emulated $$suite || exit 1; done

# For the sake of time what takes long is on one version of systemd: `make lab` and `make emulated` have all three.
test: unit deb shells
	$(MAKE) lab QUICK=1
	$(MAKE) emulated SUITES=trixie

# Names completed in bash, zsh and fish.
shells: build tools
	$(LAB) shells

# The session of the README on a throwaway host, for real.
demo: build tools
	$(LAB) demo

bench: build tools
	$(CARGO) build --release -p lab
	target/release/lab bench

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
