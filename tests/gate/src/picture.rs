//! The picture of the graph that is checked in is the one that the graph draws.

use std::path::Path;

use crate::{commands, failure::Failure, workspace::Workspace};

const GRAPH: &str = "dataplane/nodes/src/graph.rs";
const DRAW: &str = "dataplane/nodes/examples/picture.rs";
const PICTURE: &str = "dataplane/nodes/graph.svg";

pub(crate) fn check(workspace: &Workspace) -> Result<String, Failure> {
    let exists = |path: &str| workspace.root.join(path).exists();
    match (exists(GRAPH), exists(DRAW), exists(PICTURE)) {
        (false, false, false) => return Ok("no graph yet".into()),
        (_, true, true) => {}
        (_, draw, _) => {
            let missing = if draw { PICTURE } else { DRAW };
            return Err(Failure::Found(vec![format!("there is no {missing}")]));
        }
    }
    let drawn = commands::output(&mut commands::cargo(
        &workspace.root,
        &["run", "--quiet", "--package=nodes", "--example=picture"],
    ))?;
    if drawn == workspace.text(Path::new(PICTURE))?.as_bytes() {
        return Ok(String::new());
    }
    let how = format!("cargo run -q -p nodes --example picture > {PICTURE}");
    Err(Failure::Found(vec![format!("{PICTURE} is not what the graph draws; draw it again: {how}")]))
}
