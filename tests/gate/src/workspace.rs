//! The workspace as cargo sees it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{commands, failure::Failure};

/// The answer of `cargo metadata`: what the checks need of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The folder of the root Cargo.toml.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// The members only; their dependencies are in [`Package::dependencies`].
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A line of a member's Cargo.toml.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` is a normal dependency.
    pub(crate) kind: Option<Kind>,
}

/// When a dependency is not a normal one.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Dev,
    Build,
}

impl Workspace {
    /// Asks cargo, about the workspace of the current folder.
    pub(crate) fn read() -> Result<Self, Failure> {
        let mut command = commands::cargo(Path::new("."), &["metadata", "--format-version=1", "--no-deps"]);
        Ok(serde_json::from_slice(&commands::output(&mut command)?)?)
    }

    /// The folder of a package, relative to the root.
    pub(crate) fn folder<'a>(&self, package: &'a Package) -> &'a Path {
        let folder = package.manifest_path.parent().unwrap_or(&package.manifest_path);
        folder.strip_prefix(&self.root).unwrap_or(folder)
    }

    /// The text of a file that is part of a check.
    pub(crate) fn text(&self, file: &Path) -> Result<String, Failure> {
        let path = self.root.join(file);
        std::fs::read_to_string(&path).map_err(|source| Failure::File { path, source })
    }
}
