//! Regions whose memory is on its way.

use std::fs::File;
use std::io;

use crate::bitmap::Bitmap;
use crate::discover::{self, Fresh};
use crate::memory::{PAGE, Region};
use crate::store::chunks::{CHUNK_BYTES, Place};
use crate::store::load::data;
use crate::store::{Checksums, StoreError};
use crate::userfault::Userfault;

/// What a vCPU can be made to wait for: a page of 2 MiB, not one of 1 GiB.
const LARGEST_UNIT: u64 = 4 << 20;

/// A region on its way.
pub(super) struct Area {
    pub(super) region: Region,
    pub(super) place: Place,
    /// What is read at once, in chunks.
    pub(super) chunks: usize,
    /// Whether pages are put in place as a whole unit.
    pub(super) huge: bool,
    /// Units that were read, or are holes: what is absent there is zero.
    pub(super) done: Bitmap,
    pub(super) lost: Bitmap,
}

impl Area {
    pub(super) fn new(region: Region, place: Place) -> io::Result<Self> {
        let page = region.host_page_bytes();
        let unit = page.max(CHUNK_BYTES);
        if unit > LARGEST_UNIT || !region.layout().size_bytes.is_multiple_of(page) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let chunks = usize::try_from(unit / CHUNK_BYTES).map_err(io::Error::other)?;
        let units = place.count().div_ceil(chunks) as u64;
        Ok(Self {
            region,
            place,
            chunks,
            huge: page != PAGE,
            done: Bitmap::new(units),
            lost: Bitmap::new(units),
        })
    }

    /// The units that the file has something of.
    pub(super) fn with_data(
        mut self,
        file: &File,
        sums: &Checksums,
    ) -> Result<(Self, Vec<u64>), StoreError> {
        let chunks = self.chunks as u64;
        let mut with_data = Bitmap::new(self.done.pages());
        for range in data(&self.place, file, Some(sums))? {
            let end = (range.end as u64).div_ceil(chunks);
            with_data.add_range(range.start as u64 / chunks..end);
        }
        self.done = with_data.complement();
        let units = with_data.extents().flatten().collect();
        Ok((self, units))
    }

    pub(super) fn unit_pages(&self) -> u64 {
        self.chunks as u64 * CHUNK_BYTES / PAGE
    }

    pub(super) fn first_page(&self, unit: u64) -> u64 {
        unit * self.unit_pages()
    }
}

/// Opens a userfaultfd for what is absent, which must be everything: what is
/// there already would stay.
pub(super) fn watch(areas: &[Area]) -> io::Result<Userfault> {
    let regions: Vec<_> = areas.iter().map(|area| area.region.clone()).collect();
    let faults = Userfault::of_absent()?;
    for region in &regions {
        faults.watch_absent(region)?;
    }
    if discover::present(&regions, Fresh::Count)
        .iter()
        .any(|map| map.count() != 0)
    {
        return Err(io::Error::other("some of the memory has pages already"));
    }
    Ok(faults)
}
