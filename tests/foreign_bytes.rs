//! The bodies of the fuzz targets with random bytes, and with the seeds of the fuzzer with some of
//! their bytes changed: where there is no fuzzer, something is tried all the same.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/src/bodies.rs"]
mod bodies;

use std::path::Path;

use proptest::prelude::*;

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        bodies::ALL.iter().for_each(|(_, body)| body(&bytes));
    }

    #[test]
    fn no_real_file_with_other_bytes_is_a_panic(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length: prop::sample::Index,
    ) {
        for (target, body) in bodies::ALL {
            let seeds = seeds(target);
            if seeds.is_empty() {
                continue;
            }
            let mut bytes = which.get(&seeds).clone();
            body(&bytes);
            for (at, byte) in &changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            body(&bytes);
            bytes.truncate(length.index(bytes.len() + 1));
            body(&bytes);
        }
    }
}
