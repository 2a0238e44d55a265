//! The saved form of a disk: what its driver was told and has chosen.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::Block;

/// A disk, first version. Requests are not part of it: a disk that is stopped
/// has answered them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockV1 {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub block: u32,
    /// The driver chose write-back (virtio 1.2, 5.2.5).
    pub writeback: bool,
}

/// A saved disk is not the one here.
#[derive(Debug, thiserror::Error)]
pub enum BlockStateError {
    /// Another size.
    #[error("The driver knows a disk of {saved} sectors, and the image here has {here}")]
    Size {
        /// Sectors that the driver was told.
        saved: u64,
        /// Sectors of the image.
        here: u64,
    },
    /// Another block size.
    #[error(
        "The driver knows blocks of {saved} bytes, and the image here has blocks of {here}: \
         storage and `direct` have to be as they were"
    )]
    BlockSize {
        /// Bytes that the driver was told.
        saved: u32,
        /// Bytes here.
        here: u32,
    },
}

impl Block {
    pub(super) fn state(&self) -> BlockV1 {
        BlockV1 {
            sectors: self.image.sectors,
            block: self.image.block,
            writeback: self.writeback.load(Ordering::Acquire),
        }
    }

    pub(super) fn take_state(&self, saved: BlockV1) -> Result<(), BlockStateError> {
        let (sectors, block) = (self.image.sectors, self.image.block);
        if saved.sectors != sectors {
            return Err(BlockStateError::Size {
                saved: saved.sectors,
                here: sectors,
            });
        }
        if saved.block != block {
            return Err(BlockStateError::BlockSize {
                saved: saved.block,
                here: block,
            });
        }
        self.writeback.store(saved.writeback, Ordering::Release);
        Ok(())
    }
}
