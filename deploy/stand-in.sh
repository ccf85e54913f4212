#!/usr/bin/env bash
# Where no image can be pulled: a stand-in for the Python image that ours build on, made of Debian's packages.
# It carries this machine's CA certificates, so that pip works behind a proxy. For trying only, never for a team.
#   sudo deploy/stand-in.sh          needs docker and debootstrap; a minute, once
set -euo pipefail
cd "$(dirname "$0")/.."

base=$(sed -n 's/^FROM //p' deploy/Dockerfile)
docker image inspect "$base" >/dev/null 2>&1 && exit 0
docker pull --quiet "$base" 2>/dev/null && exit 0
command -v debootstrap >/dev/null || { echo "error: $base cannot be pulled, and debootstrap is not installed." >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$root" >/dev/null
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/* \
    "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
# as in the official image: the interpreter's place and name, no package lists kept
for name in python python3; do ln -s /usr/bin/python3 "$root/usr/local/bin/$name"; done
echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >"$root/etc/apt/apt.conf.d/docker-clean"
bundle=/etc/ssl/certs/ca-certificates.crt
tar -C "$root" -c . | docker import --change 'CMD ["python3"]' --change \
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=$bundle SSL_CERT_FILE=$bundle" - "$base"
