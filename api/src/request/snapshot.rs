//! A machine written to a folder and made from it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::NetFdsConfig;

/// Where the machine is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// The folder.
    pub destination_url: FolderUrl,
}

/// What a machine is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restore {
    /// The folder.
    pub source_url: FolderUrl,
    /// Whether all memory is read before the first instruction; no.
    #[serde(default)]
    pub prefault: bool,
    /// Whether the machine goes on at once; no, it is paused.
    #[serde(default)]
    pub resume: bool,
    /// Network devices whose taps come as descriptors beside the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net_fds: Vec<NetFdsConfig>,
}

/// A folder as `file://<absolute path>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderUrl(PathBuf);

/// Why a text is no [`FolderUrl`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{got:?} is no folder: write file:// and an absolute path")]
pub struct FolderUrlError {
    got: String,
}

impl FolderUrl {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for FolderUrl {
    type Error = FolderUrlError;

    fn try_from(text: String) -> Result<Self, FolderUrlError> {
        match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => Ok(Self(PathBuf::from(path))),
            _ => Err(FolderUrlError {
                got: text.chars().take(128).collect(),
            }),
        }
    }
}

impl From<FolderUrl> for String {
    fn from(url: FolderUrl) -> Self {
        format!("file://{}", url.0.display())
    }
}

impl JsonSchema for FolderUrl {
    fn schema_name() -> Cow<'static, str> {
        "FolderUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A folder as `file://<absolute path>`.",
            "pattern": "^file:///",
            "examples": ["file:///var/lib/godwit/snapshot"],
        })
    }
}
