//! Processes of machines, and the sockets that they listen on, from /proc (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name that all processes of one machine share.
pub fn namespace(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The names of all processes, by machine. A process chooses its own name: it is
/// good for a hint, and for nothing else.
pub fn by_namespace() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return all };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // The kernel cuts the short name off after 15 characters.
        let name = std::fs::read_link(format!("/proc/{pid}/exe"))
            .ok()
            .and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()));
        if let (Some(name), Some(namespace)) = (name, namespace(pid)) {
            all.entry(namespace).or_default().insert(name);
        }
    }
    all
}

/// The TCP sockets that listen in the network of a process.
pub fn listening(pid: u32) -> BTreeSet<(IpAddr, u16)> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    [table("tcp"), table("tcp6")].iter().flat_map(|text| text.lines().filter_map(socket)).collect()
}

/// One line of such a table: the second word is the address and port in
/// hexadecimal, the fourth the state.
fn socket(line: &str) -> Option<(IpAddr, u16)> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    if *words.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each as the processor has it.
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        let four =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        assert_eq!(socket(four), Some(("127.0.0.1".parse().unwrap(), 8080)));
        let six = "   0: 00000000000000000000000000000000:1E61 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1";
        assert_eq!(socket(six), Some(("::".parse().unwrap(), 7777)));
        assert_eq!(socket("   0: 0100007F:1F90 00000000:0000 01 0"), None);
        assert_eq!(socket("sl local_address"), None);
    }
}
