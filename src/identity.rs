//! What a LAN's DHCP server knows a machine by: its MAC address, which nspawn
//! makes from the host's machine-id and the machine's name, and the DUID that
//! networkd in the guest makes from the guest's own machine-id. Both stay.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::Ipv6Net;
use siphasher::sip::SipHasher24;

use crate::name::MachineName;

/// machine-id(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineId(u128);

impl FromStr for MachineId {
    type Err = ();

    fn from_str(text: &str) -> Result<MachineId, ()> {
        let digits = text.trim_end_matches('\n');
        let plain = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
        let id = u128::from_str_radix(digits, 16).ok().filter(|id| plain && *id != 0);
        id.map(MachineId).ok_or(())
    }
}

/// Bytes in hexadecimal, with colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&words.join(":"))
    }
}

/// The MAC address of a machine's host0, with nspawn's key for the container's end.
pub fn mac(host: MachineId, name: &MachineName) -> Bytes {
    generated(0xc3c4_f919_b557_b21c_e6cf_1427_039c_eea2, host, name)
}

/// That of its lan0: the key is for the first veth beside host0's.
pub fn lan_mac(host: MachineId, name: &MachineName) -> Bytes {
    generated(0xaf50_1761_cef9_4d35_840d_2b20_54be_ce59, host, name)
}

/// Locally administered, unicast (nspawn-network.c, `generate_mac()`).
fn generated(key: u128, host: MachineId, name: &MachineName) -> Bytes {
    let mut input = host.0.to_be_bytes().to_vec();
    input.extend(name.as_str().as_bytes());
    let mut octets = hash(key, &input).to_le_bytes()[..6].to_vec();
    octets[0] = octets[0] & 0xfe | 0x02;
    Bytes(octets)
}

/// The host part that a kernel makes of a MAC address where it takes a prefix from a router
/// (RFC 4291 App. A).
pub fn host_part(mac: &Bytes) -> Option<u64> {
    let [a, b, c, d, e, f] = mac.0[..].try_into().ok()?;
    Some(u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]))
}

/// The DUID of a guest that runs networkd (RFC 8415 11.3, with systemd's
/// enterprise number 43793; networkd.conf(5), `DUIDType=vendor`).
pub fn duid(guest: MachineId) -> Bytes {
    const KEY: u128 = 0x8011_8cc2_fe4a_03ee_3ed6_0c6f_3639_1409;
    let mut octets = vec![0x00, 0x02, 0x00, 0x00, 0xab, 0x11];
    octets.extend(hash(KEY, &guest.0.to_be_bytes()).to_le_bytes());
    Bytes(octets)
}

/// The prefix that a host and its machines have for themselves (RFC 4193 3.2): its
/// 40 random bits come of the host's machine-id, so that it stays.
pub fn local_prefix(host: MachineId) -> Ipv6Net {
    const KEY: u128 = 0x6e73_6374_6c2d_6c6f_6361_6c2d_7072_6566;
    let random = u128::from(hash(KEY, &host.0.to_be_bytes()) >> 24);
    Ipv6Net::new_assert(Ipv6Addr::from(0xfd << 120 | random << 80), 48)
}

/// What tells this host from others where all may read it: it says nothing of the machine-id.
pub fn host_mark(host: MachineId) -> String {
    const KEY: u128 = 0x6e73_6374_6c2d_7075_626c_6973_6865_6421;
    format!("{:016x}", hash(KEY, &host.0.to_be_bytes()))
}

/// The number by which routers tell this host from others (RFC 2328 C.1); nobody has 0.0.0.0.
pub fn router_id(host: MachineId) -> Ipv4Addr {
    const KEY: u128 = 0x6e73_6374_6c2d_726f_7574_6572_2d69_6421;
    Ipv4Addr::from((hash(KEY, &host.0.to_be_bytes()) as u32).max(1))
}

fn hash(key: u128, input: &[u8]) -> u64 {
    SipHasher24::new_with_key(&key.to_be_bytes()).hash(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_are_read_strictly() {
        assert!("0123456789abcdef0123456789abcdef\n".parse::<MachineId>().is_ok());
        for bad in
            ["", "uninitialized\n", "+123456789abcdef0123456789abcdef", "00000000000000000000000000000000"]
        {
            assert!(bad.parse::<MachineId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_part_is_that_of_the_rfc() {
        let mac = Bytes(vec![0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(host_part(&mac), Some(0x3656_78ff_fe9a_bcde));
    }

    #[test]
    fn addresses_are_local_and_unicast() {
        let id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let mac = mac(id, &"web".parse().unwrap());
        assert_eq!(mac.0[0] & 3, 2, "{mac}");
        assert!(duid(id).to_string().starts_with("00:02:00:00:ab:11:"));
    }
}
