//! Tables as virsh draws them.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::cli::Output;

/// Rows under a heading. A cell is a blank, its text, and two blanks up to the next column.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Cell {
    text: String,
    width: usize,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(headings);
        table
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        self.rows
            .push(cells.iter().map(|cell| Cell::new(cell.as_ref())).collect());
    }

    /// Prints it, without heading and rule when the output is quiet.
    pub fn print(&self, output: &mut Output) {
        let shown = if output.is_quiet() { 1.. } else { 0.. };
        let shown = &self.rows[shown];
        let columns = shown.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = shown.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.width).max().unwrap_or(0)
            })
            .collect();
        for (number, row) in shown.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                line.push(' ');
                line.push_str(&cell.text);
                if column + 1 < row.len() {
                    let padding = widths[column] - cell.width + 2;
                    line.extend(std::iter::repeat_n(' ', padding));
                }
            }
            line.push('\n');
            output.data(line);
            if number == 0 && !output.is_quiet() {
                let rule = widths.iter().map(|width| width + 3).sum();
                output.data("-".repeat(rule));
                output.data("\n");
            }
        }
    }
}

impl Cell {
    /// Control characters would move the cursor: they are shown by number.
    fn new(raw: &str) -> Self {
        let (mut text, mut width) = (String::new(), 0);
        for c in raw.chars() {
            match c.width() {
                Some(cells) if !c.is_control() => {
                    text.push(c);
                    width += cells;
                }
                _ => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        // Writing to a String cannot fail.
                        let _ = write!(text, "\\x{byte:02x}");
                        width += 4;
                    }
                }
            }
        }
        Self { text, width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(quiet: bool) -> String {
        let mut table = Table::new(&["Name", "State"]);
        table.row(&["n", "active"]);
        table.row(&["日本x\n", ""]);
        let mut output = Output::new(quiet);
        table.print(&mut output);
        output.text().to_owned()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            printed(false),
            " Name        State\n\
             ---------------------\n \
             n           active\n \
             日本x\\x0a   \n"
        );
    }

    #[test]
    fn quiet_leaves_the_rows() {
        assert_eq!(printed(true), " n           active\n 日本x\\x0a   \n");
    }
}
