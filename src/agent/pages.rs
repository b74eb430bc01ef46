//! Gives pages of the binary and its libraries back to the kernel that only the agent's start has used: reading flags and
//! files takes most of the binary, and the work afterwards a small part of it. Measured on x86-64: 11.1 MB resident after
//! the start, 9.0 of them pages of files; see "The agent" in PERF.md for what is left. A page that is used again comes from
//! the kernel's cache of files.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    ptr,
};

use rustix::mm::{Advice, madvise};

/// The most bytes of `/proc/self/smaps` that are read: a thousand mappings.
const SMAPS_BYTES: u64 = 1 << 20;

/// The mappings of files that were there before the first thread of the agent began, and have the files' bytes only.
pub(super) struct Pages(Vec<Range<usize>>);

impl Pages {
    /// Finds the mappings; none where `/proc` does not tell.
    pub(super) fn find() -> Pages {
        Pages(smaps().map(|text| mappings(&text)).unwrap_or_default())
    }

    /// Gives back all pages of these mappings that have the files' bytes only.
    pub(super) fn give_back(&self) {
        let Ok(now) = smaps().map(|text| mappings(&text)) else { return };
        for range in now.into_iter().filter(|range| self.0.contains(range)) {
            // SAFETY: the process has mapped these whole pages of a file, as it can only read or execute them, and has
            // changed none (`mappings`); nothing unmaps, moves or changes a mapping that was there before the first
            // thread: those of the binary and of the libraries that it needs. So the next use of a page finds the same
            // bytes, read from the file. A mapping that a library brings later, which is changed while it is loaded, is
            // not in the list.
            let _ =
                unsafe { madvise(ptr::with_exposed_provenance_mut(range.start), range.len(), Advice::LinuxDontNeed) };
        }
    }
}

fn smaps() -> io::Result<String> {
    let mut text = String::new();
    File::open("/proc/self/smaps")?.take(SMAPS_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The mappings of files, in `/proc/PID/smaps`, that can not be written, and of which no page is the process's own, in
/// memory or swapped out: the dynamic linker has written into some before it made them read-only. Of a mapping that is cut
/// off nothing is known.
pub(crate) fn mappings(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    // The mapping that the lines are about, and how many of the two figures it has.
    let mut current: Option<(Range<usize>, u8)> = None;
    for line in text.lines() {
        let Some((name, figure)) = line.split_once(':').filter(|(name, _)| !name.contains(' ')) else {
            current = header(line).map(|range| (range, 0));
            continue;
        };
        if !matches!(name, "Anonymous" | "Swap") {
            continue;
        }
        let Some((range, figures)) = &mut current else { continue };
        if figure.trim() != "0 kB" {
            current = None;
            continue;
        }
        *figures += 1;
        if *figures == 2 {
            found.push(range.clone());
            current = None;
        }
    }
    found
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
        ]
        .concat();
        assert_eq!(mappings(&text), [0x1000..0x3000, 0x3000..0x5000]);
        // A kernel that tells only one of the figures, or whose text is cut off.
        let cut = "1000-3000 r--p 0 fe:00 42 /a\nAnonymous: 0 kB\n4000-5000 r--p 0 fe:00 42 /a\nSwap: 0 kB\n";
        assert!(mappings(cut).is_empty());
        for wrong in ["", "-", "1-0 r--p 0 0 1", "x-y r--p 0 0 1", "1000-3000 r--p 0", "Anonymous: 0 kB\nSwap: 0 kB"] {
            assert!(mappings(wrong).is_empty(), "{wrong}");
        }
    }
}
