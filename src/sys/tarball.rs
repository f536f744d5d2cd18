//! A tar on its way, as far as its end.
//!
//! Two empty blocks end a tar (pax(1), "ustar Interchange Format"), and GNU tar pads
//! it with more, to 10 KiB. The importd of systemd 258 and later stops reading at the
//! second one, and where the padding comes a moment later, the import fails
//! ("Failed to decode and write: Broken pipe"). So the padding is not passed on.

use std::io::{self, BufReader, BufWriter, Read, Write};

use tar::{EntryType, GnuExtSparseHeader, Header, PaxExtensions};

const BLOCK: usize = 512;
/// The blocks that end a tar.
const END: u64 = 2;
/// No member's pax records are longer.
const RECORDS_LIMIT: u64 = 1 << 20;

/// Passes a tar on without its padding; what is no tar is passed on as it is.
///
/// # Errors
/// When the one cannot be read, or the other not be written.
pub fn pass_on(reader: impl Read, writer: impl Write) -> io::Result<()> {
    const ROOM: usize = 128 << 10;
    let mut passage = Passage {
        reader: BufReader::with_capacity(ROOM, reader),
        writer: BufWriter::with_capacity(ROOM, writer),
    };
    passage.run()?;
    passage.writer.flush()
}

struct Passage<R: Read, W: Write> {
    reader: BufReader<R>,
    writer: BufWriter<W>,
}

impl<R: Read, W: Write> Passage<R, W> {
    fn run(&mut self) -> io::Result<()> {
        let mut empty = 0;
        // Of the next member, where its records tell it (pax(1), "size").
        let mut size = None;
        loop {
            let block = self.block()?;
            if block == [0; BLOCK] {
                empty += 1;
                continue;
            }
            let is_end = block.is_empty();
            self.write_empty(if is_end { END.min(empty) } else { empty })?;
            empty = 0;
            self.writer.write_all(&block)?;
            if is_end {
                return Ok(());
            }
            let header = (block.len() == BLOCK).then(|| Header::from_byte_slice(&block));
            let Some(header) = header.filter(|header| is_sound(header)) else { return self.rest() };
            if !self.member(header, &mut size)? {
                return self.rest();
            }
        }
    }

    /// Passes on all that is left, whatever it is.
    fn rest(&mut self) -> io::Result<()> {
        io::copy(&mut self.reader, &mut self.writer).map(drop)
    }

    /// Passes on what follows a member's header; false where that is not understood.
    fn member(&mut self, header: &Header, size: &mut Option<u64>) -> io::Result<bool> {
        let kind = header.entry_type();
        let Ok(own) = header.entry_size() else { return Ok(false) };
        if kind.is_pax_local_extensions() {
            if own > RECORDS_LIMIT {
                return Ok(false);
            }
            *size = self.records(own)?;
            return Ok(true);
        }
        let describes = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_global_extensions();
        let size = if describes { own } else { size.take().unwrap_or(own) };
        if header.as_gnu().is_some_and(|gnu| kind.is_gnu_sparse() && gnu.is_extended()) {
            self.sparse()?;
        }
        // Old tars give a hard link the size of its file, and no content (GNU tar reads them so).
        let size = if kind == EntryType::Link { 0 } else { size };
        let Some(size) = size.checked_next_multiple_of(BLOCK as u64) else { return Ok(false) };
        io::copy(&mut self.reader.by_ref().take(size), &mut self.writer)?;
        Ok(true)
    }

    /// The size among the pax records that follow, which are passed on.
    fn records(&mut self, length: u64) -> io::Result<Option<u64>> {
        let mut records = Vec::new();
        self.reader.by_ref().take(length.next_multiple_of(BLOCK as u64)).read_to_end(&mut records)?;
        self.writer.write_all(&records)?;
        records.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        let mut sizes = PaxExtensions::new(&records).flatten().filter(|record| record.key() == Ok("size"));
        Ok(sizes.next().and_then(|record| record.value().ok()?.parse().ok()))
    }

    /// Passes on the further headers of a sparse file (tar(5), "GNU tar Archives").
    fn sparse(&mut self) -> io::Result<()> {
        loop {
            let block = self.block()?;
            self.writer.write_all(&block)?;
            let mut further = GnuExtSparseHeader::new();
            further.as_mut_bytes()[..block.len()].copy_from_slice(&block);
            if !further.is_extended() {
                return Ok(());
            }
        }
    }

    /// The next block, or what is left of one.
    fn block(&mut self) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(BLOCK);
        self.reader.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        Ok(block)
    }

    fn write_empty(&mut self, count: u64) -> io::Result<()> {
        (0..count).try_for_each(|_| self.writer.write_all(&[0; BLOCK]))
    }
}

fn is_sound(header: &Header) -> bool {
    let mut again = header.clone();
    again.set_cksum();
    matches!((header.cksum(), again.cksum()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(tar: &[u8]) -> Vec<u8> {
        let mut passed = Vec::new();
        pass_on(tar, &mut passed).unwrap();
        passed
    }

    fn member(kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let mut member = header.as_bytes().to_vec();
        member.extend(content);
        member.resize(member.len().next_multiple_of(BLOCK), 0);
        member
    }

    fn tar(members: &[Vec<u8>]) -> Vec<u8> {
        let mut tar = members.concat();
        tar.resize(tar.len() + 1024, 0);
        tar
    }

    fn padded(mut tar: Vec<u8>) -> Vec<u8> {
        tar.resize(tar.len() + 9 * BLOCK, 0);
        tar
    }

    #[test]
    fn only_the_padding_is_left_out() {
        let empty = vec![0; 5000];
        for members in [
            vec![],
            vec![member(EntryType::Regular, 3, b"abc")],
            // Content like padding, at the very end.
            vec![member(EntryType::Regular, 5000, &empty)],
            vec![member(EntryType::XHeader, 13, b"13 size=5000\n"), member(EntryType::Regular, 0, &empty)],
            vec![member(EntryType::Link, 700, b"")],
        ] {
            let whole = tar(&members);
            assert_eq!(passed(&padded(whole.clone())), whole, "{members:?}");
            assert_eq!(passed(&whole), whole);
        }
    }

    #[test]
    fn the_further_headers_of_a_sparse_file_are_no_members() {
        let mut sparse = member(EntryType::GNUSparse, 600, b"");
        sparse[482] = 1;
        let mut header = Header::from_byte_slice(&sparse).clone();
        header.set_cksum();
        let mut further = [[0; BLOCK]; 2];
        further[0][504] = 1;
        let whole = tar(&[header.as_bytes().to_vec(), further.concat(), vec![0; 1024]]);
        assert_eq!(passed(&padded(whole.clone())), whole);
    }

    #[test]
    fn a_tar_that_is_torn_or_followed_by_another_stays_so() {
        let one = padded(tar(&[member(EntryType::Regular, 3, b"abc")]));
        let two = [one.clone(), tar(&[member(EntryType::Regular, 0, b"")])].concat();
        assert_eq!(passed(&two), two);
        for length in [0, 100, 512, 700, 1024, 1536] {
            assert_eq!(passed(&one[..length]), one[..length]);
        }
        let huge = member(EntryType::XHeader, u64::MAX / 2, b"size");
        assert_eq!(passed(&huge), huge);
    }

    proptest! {
        #[test]
        fn what_is_no_tar_stays_as_it_is(bytes in prop::collection::vec(1u8.., 0..3000)) {
            prop_assert_eq!(passed(&bytes), bytes);
        }
    }
}
