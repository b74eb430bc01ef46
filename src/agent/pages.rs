//! Gives pages of the binary and its libraries back to the kernel that only the agent's start has used: reading flags and
//! files takes most of the binary, and the work afterwards a small part of it. A page that is used again comes from the
//! kernel's cache of files. With it the kernel maps all pages around it that the cache has: 64 KiB, or 128 KiB and more of a
//! file that was written just now, but nothing beyond the mapping. So the mappings are divided. "The agent" in PERF.md has
//! the figures.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    ptr,
};

use rustix::{
    mm::{Advice, madvise},
    param::page_size,
};

/// The most bytes of `/proc/self/smaps` that are read: five thousand mappings.
const SMAPS_BYTES: u64 = 4 << 20;

/// The size of a mapping after the division. A page used maps at most so many bytes; each mapping takes 0.2 KiB of the
/// kernel's memory.
const PART_BYTES: usize = 16 << 10;

/// The mappings of files that were there before the first thread of the agent began, and have the files' bytes only.
pub(super) struct Pages {
    known: Vec<Range<usize>>,
    are_divided: bool,
}

impl Pages {
    /// Finds the mappings; none where `/proc` does not tell.
    pub(super) fn find() -> Pages {
        Pages { known: smaps().unwrap_or_default(), are_divided: false }
    }

    /// Gives back all pages of these mappings that have the files' bytes only; the first call divides the mappings, too.
    pub(super) fn give_back(&mut self) {
        let Ok(now) = smaps() else { return };
        let is_known =
            |range: &&Range<usize>| self.known.iter().any(|known| known.start <= range.start && range.end <= known.end);
        for range in now.iter().filter(is_known) {
            if !self.are_divided {
                divide(range);
            }
            advise(range, Advice::LinuxDontNeed);
        }
        self.are_divided = true;
    }
}

/// Makes many mappings of one, by advice for every other part that changes nothing else: a dump of the process has no page of
/// such a file, unless someone asks for them. A dump has the file's first page, which the first part keeps.
fn divide(range: &Range<usize>) {
    let part = PART_BYTES.max(page_size());
    for start in (range.start + part..range.end).step_by(2 * part) {
        advise(&(start..range.end.min(start + part)), Advice::LinuxDontDump);
    }
}

/// Advises the kernel about a part of the mappings that [`smaps`] gives.
fn advise(range: &Range<usize>, advice: Advice) {
    // SAFETY: the process has mapped these whole pages of a file, as it can only read or execute them, and has changed none
    // (`mappings`); nothing unmaps, moves or changes a mapping that was there before the first thread: those of the binary
    // and of the libraries that it needs. So the next use of a page that is given back finds the same bytes, read from the
    // file. A mapping that a library brings later, which is changed while it is loaded, is not in the list.
    let _ = unsafe { madvise(ptr::with_exposed_provenance_mut(range.start), range.len(), advice) };
}

fn smaps() -> io::Result<Vec<Range<usize>>> {
    mappings(BufReader::new(File::open("/proc/self/smaps")?.take(SMAPS_BYTES)))
}

/// The mappings of files, in `/proc/PID/smaps`, that can not be written, and of which no page is the process's own, in
/// memory or swapped out: the dynamic linker has written into some before it made them read-only. Of a mapping that is cut
/// off nothing is known. Those that touch are one.
pub(crate) fn mappings(mut smaps: impl BufRead) -> io::Result<Vec<Range<usize>>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    // The mapping that the lines are about, and how many of the two figures it has.
    let mut current: Option<(Range<usize>, u8)> = None;
    let mut bytes = Vec::new();
    while smaps.read_until(b'\n', &mut bytes)? > 0 {
        let line = String::from_utf8_lossy(&bytes);
        match line.split_once(':').filter(|(name, _)| !name.contains(' ')) {
            None => current = header(&line).map(|range| (range, 0)),
            Some(("Anonymous" | "Swap", figure)) if figure.trim() != "0 kB" => current = None,
            Some(("Anonymous" | "Swap", _)) => {
                if let Some((range, figures)) = &mut current {
                    *figures += 1;
                    if *figures == 2 {
                        match found.last_mut().filter(|last| last.end == range.start) {
                            Some(last) => last.end = range.end,
                            None => found.push(range.clone()),
                        }
                        current = None;
                    }
                }
            }
            Some(_) => {}
        }
        bytes.clear();
    }
    Ok(found)
}

/// The mapping of `START-END PERMISSIONS OFFSET DEVICE INODE PATH`, if it is of a file, private, and not to be written.
fn header(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (permissions, inode) = (words.next()?, words.nth(2)?);
    let is_file = matches!(permissions, "r--p" | "r-xp") && inode.parse::<u64>().is_ok_and(|inode| inode != 0);
    (is_file && start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(header: &str, anonymous: u32, swap: u32) -> String {
        format!(
            "{header}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous:>8} kB\nSwap: {swap:>8} kB\nVmFlags: rd mr mw\n"
        )
    }

    fn found(text: &str) -> Vec<Range<usize>> {
        mappings(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_mappings_with_the_bytes_of_a_file_are_found() {
        let text = [
            mapping("1000-3000 r--p 00000000 fe:00 42                         /usr/bin/a b: c", 0, 0),
            mapping("3000-5000 r-xp 00002000 fe:00 42                         /usr/bin/a", 0, 0),
            mapping("5000-6000 r--p 00004000 fe:00 42 /usr/bin/relocated", 4, 0),
            mapping("6000-7000 r--p 00004000 fe:00 42 /usr/bin/relocated-and-swapped", 0, 4),
            mapping("7000-8000 rw-p 00004000 fe:00 42 /usr/bin/data", 0, 0),
            mapping("8000-9000 r--s 00004000 fe:00 42 /shared", 0, 0),
            mapping("9000-a000 r--p 00000000 00:00 0", 0, 0),
            mapping("a000-b000 r-xp 00000000 00:00 0 [vdso]", 0, 0),
            mapping("b000-c000 r--p 00000000 fe:00 43 /usr/lib/b.so", 0, 0),
        ]
        .concat();
        // The first two touch.
        assert_eq!(found(&text), [0x1000..0x5000, 0xb000..0xc000]);
        // A kernel that tells only one of the figures, or whose text is cut off.
        let cut = "1000-3000 r--p 0 fe:00 42 /a\nAnonymous: 0 kB\n4000-5000 r--p 0 fe:00 42 /a\nSwap: 0 kB\n";
        assert!(found(cut).is_empty());
        for wrong in ["", "-", "1-0 r--p 0 0 1", "x-y r--p 0 0 1", "1000-3000 r--p 0", "Anonymous: 0 kB\nSwap: 0 kB"] {
            assert!(found(wrong).is_empty(), "{wrong}");
        }
    }
}
