//! Why a check does not pass.

use std::{io, path::PathBuf};

/// What a check found wrong, or what kept it from looking.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The rule is broken: one finding a line.
    #[error("{}", .0.join("\n       "))]
    Found(Vec<String>),
    /// A command ended with an error; its output went to stderr.
    #[error("`{command}` failed")]
    Command { command: String },
    /// A command could not be started.
    #[error("cannot run `{command}`: {source}")]
    Start { command: String, source: io::Error },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A Rust file is not made of Rust tokens.
    #[error("{}: not Rust: {reason}", path.display())]
    Tokens { path: PathBuf, reason: String },
    /// `cargo metadata` answered what this gate cannot read.
    #[error("cargo metadata: {0}")]
    Metadata(#[from] serde_json::Error),
}

impl Failure {
    /// No findings is a pass with `remark`.
    pub(crate) fn unless_empty(findings: Vec<String>, remark: String) -> Result<String, Self> {
        if findings.is_empty() { Ok(remark) } else { Err(Self::Found(findings)) }
    }
}
