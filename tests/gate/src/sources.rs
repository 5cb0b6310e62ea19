//! Every Rust file of the workspace, measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{failure::Failure, tokens::Measure, workspace::Workspace};

/// A Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) measure: Measure,
}

/// All of them, sorted by path. A module that is declared for tests only has no lines of code.
pub(crate) fn all(workspace: &Workspace) -> Result<Vec<Source>, Failure> {
    let mut paths = Vec::new();
    collect(&workspace.root, &mut paths)?;
    paths.sort();
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let text = workspace.text(&path)?;
        let measure =
            Measure::of(&text).map_err(|error| Failure::Tokens { path: path.clone(), reason: error.to_string() })?;
        sources.push(Source { path, text, measure });
    }
    for module in sources.iter().flat_map(test_modules).collect::<Vec<_>>() {
        let of_module = |path: &Path| path == module.with_extension("rs") || path.starts_with(&module);
        sources.iter_mut().filter(|source| of_module(&source.path)).for_each(|source| source.measure.code = 0);
    }
    for source in &mut sources {
        source.path = source.path.strip_prefix(&workspace.root).unwrap_or(&source.path).to_path_buf();
    }
    Ok(sources)
}

/// The folders of the modules that a file declares for tests only; a module in one file has that folder's name.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let root = ["lib", "main", "mod"].iter().any(|stem| source.path.file_stem().is_some_and(|found| found == *stem));
    let folder =
        if root { source.path.parent().unwrap_or(Path::new("")).into() } else { source.path.with_extension("") };
    source.measure.test_modules.iter().map(|name| folder.join(name)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |source| Failure::File { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.') || name == "target";
        if entry.file_type().map_err(unreadable)?.is_dir() {
            if !hidden {
                collect(&path, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}
