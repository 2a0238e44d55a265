//! Configs of machines for tests.

use std::path::PathBuf;
use std::sync::OnceLock;

use godwit_lab::payload::{self, PayloadImages};
use serde_json::{Map, Value, json};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// The payload guest in one of its forms.
#[derive(Clone, Copy, Debug)]
pub enum Image {
    /// ELF with a PVH note.
    Pvh,
    /// ELF without one.
    Linux,
    /// bzImage.
    Bz,
}

impl Image {
    pub fn path(self) -> PathBuf {
        static IMAGES: OnceLock<PayloadImages> = OnceLock::new();
        let images = IMAGES.get_or_init(|| {
            payload::build().unwrap_or_else(|error| panic!("needs the payload guest: {error}"))
        });
        match self {
            Self::Pvh => images.elf_pvh.clone(),
            Self::Linux => images.elf_linux.clone(),
            Self::Bz => images.bzimage.clone(),
        }
    }
}

/// A config, built by merging pieces of JSON.
#[derive(Clone, Debug)]
pub struct Config(Value);

impl Config {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self(json!({}))
    }

    /// A machine with one vCPU and 64 MiB that boots the payload by PVH.
    pub fn new(cmdline: &str) -> Self {
        Self::booting(Image::Pvh, cmdline)
    }

    pub fn booting(image: Image, cmdline: &str) -> Self {
        Self(json!({
            "payload": {"kernel": image.path(), "cmdline": cmdline},
            "memory": {"size": 64 * MIB},
        }))
    }

    /// Lays `piece` over the config: objects are merged, anything else replaces what was there,
    /// and `null` removes it.
    #[must_use]
    pub fn with(mut self, piece: Value) -> Self {
        merge(&mut self.0, piece);
        self
    }

    /// A config that is read from somewhere.
    pub fn from_json(json: Value) -> Self {
        Self(json)
    }

    pub fn json(&self) -> &Value {
        &self.0
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    pub fn to_json(&self) -> String {
        self.0.to_string()
    }
}

fn merge(base: &mut Value, piece: Value) {
    let Value::Object(piece) = piece else {
        *base = piece;
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    let Value::Object(base) = base else { return };
    for (key, value) in piece {
        if value.is_null() {
            base.remove(&key);
        } else {
            merge(base.entry(key).or_insert(Value::Null), value);
        }
    }
}
