//! The bytes of one file: what is on the medium, and what is only in the machine's memory.

use std::collections::BTreeMap;

use super::DiskCounts;

/// Granularity of what is kept in memory, and of what a torn write leaves whole.
pub(super) const PAGE_BYTES: usize = 4096;
/// The device writes this much at once or not at all, unless the write was torn within.
const SECTOR_BYTES: usize = 512;

type Pages = BTreeMap<u64, Box<[u8]>>;

/// A write that was not synced.
#[derive(Clone)]
struct Write {
    offset: u64,
    data: Vec<u8>,
    /// A feigned sync said that it is on the medium.
    promised: bool,
}

/// The bytes of one file. Pages that are absent are zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    durable: Pages,
    /// What a reader sees instead of the durable page.
    seen: Pages,
    unsynced: Vec<Write>,
}

impl Content {
    pub(super) fn zeros(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) {
        for_pages(offset, buffer.len(), |page, within, range| {
            let part = &mut buffer[range];
            match self.seen.get(&page).or_else(|| self.durable.get(&page)) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => part.fill(0),
            }
        });
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        self.size = self.size.max(offset + data.len() as u64);
        let durable = &self.durable;
        put(&mut self.seen, data, offset, |page| durable.get(&page).cloned());
        self.unsynced.push(Write { offset, data: data.to_vec(), promised: false });
    }

    /// All that was written is on the medium. Pages that an earlier sync lost stay as they are there.
    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, &write.data, write.offset, |_| None);
        }
        let durable = &self.durable;
        self.seen.retain(|page, seen| match durable.get(page) {
            Some(durable) => durable != seen,
            None => seen.iter().any(|byte| *byte != 0),
        });
    }

    /// A feigned sync. Returns whether there was something to write.
    pub(super) fn promise(&mut self) -> bool {
        self.unsynced.iter_mut().for_each(|write| write.promised = true);
        !self.unsynced.is_empty()
    }

    /// A sync has failed: memory goes on showing what was written, and no later sync writes it.
    pub(super) fn lose(&mut self) {
        self.unsynced.clear();
    }

    /// Flips a bit on the medium, and in memory if it is there too.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        let (page, within) = (offset / PAGE_BYTES as u64, offset_in_page(offset));
        if let Some(seen) = self.seen.get_mut(&page) {
            seen[within] ^= 1 << (bit % 8);
        }
        self.durable.entry(page).or_insert_with(zero_page)[within] ^= 1 << (bit % 8);
    }

    /// Replaces bytes on the medium, and in memory if they are there too.
    pub(super) fn overwrite(&mut self, data: &[u8], offset: u64) {
        for_pages(offset, data.len(), |page, within, range| {
            let part = &data[range];
            if let Some(seen) = self.seen.get_mut(&page) {
                seen[within..within + part.len()].copy_from_slice(part);
            }
            let bytes = self.durable.entry(page).or_insert_with(zero_page);
            bytes[within..within + part.len()].copy_from_slice(part);
        });
    }

    /// The machine stops: of each write that was not synced, all, nothing, a part up to some byte, or
    /// some sectors are on the medium.
    pub(super) fn crash(&mut self, random: &mut impl FnMut() -> u64, counts: &mut DiskCounts) {
        self.seen.clear();
        for write in std::mem::take(&mut self.unsynced) {
            let before = self.durable_at(&write);
            match random() % 4 {
                0 => {}
                1 => put(&mut self.durable, &write.data, write.offset, |_| None),
                2 => {
                    // Behind the last byte that changes, a tear would leave the write whole.
                    let changes = write.data.iter().zip(&before).rposition(|(new, old)| new != old);
                    let changed = changes.map_or(0, |last| last as u64 + 1);
                    let keep = usize::try_from(random() % (changed + 1)).unwrap_or(0);
                    put(&mut self.durable, &write.data[..keep], write.offset, |_| None);
                }
                _ => self.keep_sectors(&write, random),
            }
            let after = self.durable_at(&write);
            // A write of what was there already cannot be lost.
            if after == write.data {
                continue;
            }
            let is_torn = after != before;
            counts.writes_torn += u64::from(is_torn);
            counts.writes_lost += u64::from(!is_torn);
            counts.promises_broken += u64::from(write.promised);
        }
    }

    /// What the medium has where `write` goes.
    fn durable_at(&self, write: &Write) -> Vec<u8> {
        let mut data = vec![0; write.data.len()];
        for_pages(write.offset, data.len(), |page, within, range| {
            if let Some(bytes) = self.durable.get(&page) {
                let part = &mut data[range];
                part.copy_from_slice(&bytes[within..within + part.len()]);
            }
        });
        data
    }

    fn keep_sectors(&mut self, write: &Write, random: &mut impl FnMut() -> u64) {
        let mut offset = write.offset;
        for sector in write.data.chunks(SECTOR_BYTES) {
            if random() & 1 == 0 {
                put(&mut self.durable, sector, offset, |_| None);
            }
            offset += sector.len() as u64;
        }
    }

    /// What would be there after a crash that loses every write that was not synced.
    pub(super) fn durable(&self) -> Self {
        Self { size: self.size, durable: self.durable.clone(), ..Self::default() }
    }
}

fn zero_page() -> Box<[u8]> {
    vec![0; PAGE_BYTES].into_boxed_slice()
}

fn offset_in_page(offset: u64) -> usize {
    usize::try_from(offset % PAGE_BYTES as u64).unwrap_or(0)
}

/// Copies `data` into pages; a page that is not there starts as what `below` has, or zero.
fn put(pages: &mut Pages, data: &[u8], offset: u64, below: impl Fn(u64) -> Option<Box<[u8]>>) {
    for_pages(offset, data.len(), |page, within, range| {
        let part = &data[range];
        if !pages.contains_key(&page) && below(page).is_none() && part.iter().all(|byte| *byte == 0) {
            return;
        }
        let bytes = pages.entry(page).or_insert_with(|| below(page).unwrap_or_else(zero_page));
        bytes[within..within + part.len()].copy_from_slice(part);
    });
}

/// Calls `each` with every page that a range of bytes touches: its number, the offset within it, and
/// the part of the range.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = offset_in_page(at);
        let step = (PAGE_BYTES - within).min(len - done);
        each(at / PAGE_BYTES as u64, within, done..done + step);
        done += step;
    }
}
