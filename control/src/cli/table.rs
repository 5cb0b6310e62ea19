//! Tables as people read them: columns apart by two spaces, numbers to the right, colours where they say something.
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};

/// What a cell's colour says.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Faint,
}

/// A table under way.
pub(super) struct Columns {
    table: Table,
    right: Vec<bool>,
    colour: bool,
}

impl Columns {
    /// With these headings; one that begins with `>` is a column of numbers.
    pub(super) fn new(headings: &[&str], colour: bool) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if colour {
            table.enforce_styling()
        } else {
            table.force_no_tty()
        };
        let right: Vec<_> = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let cell =
            |heading: &&str| toned(heading.trim_start_matches('>'), Tone::Faint, heading.starts_with('>'), colour);
        table.set_header(headings.iter().map(cell).collect::<Vec<_>>());
        Columns { table, right, colour }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let (right, colour) = (&self.right, self.colour);
        let cell = |(i, (text, tone)): (usize, (String, Tone))| toned(&text, tone, right.get(i) == Some(&true), colour);
        self.table.add_row(cells.into_iter().enumerate().map(cell).collect::<Vec<_>>());
    }

    pub(super) fn text(mut self) -> String {
        for (i, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((if i == 0 { 0 } else { 2 }, 0));
        }
        self.table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

fn toned(text: &str, tone: Tone, right: bool, colour: bool) -> Cell {
    let cell = Cell::new(text).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left });
    match (tone, colour) {
        (_, false) | (Tone::Plain, _) => cell,
        (Tone::Good, _) => cell.fg(Color::Green),
        (Tone::Bad, _) => cell.fg(Color::Red),
        (Tone::Faint, _) => cell.fg(Color::DarkGrey),
    }
}
