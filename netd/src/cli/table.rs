//! Tables as virsh draws them.

use std::borrow::Cow;
use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::cli::Output;

/// Rows under a heading. A cell is a blank, its text, and two blanks up to the next column.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    /// Of the columns that were printed already.
    widths: Vec<usize>,
    /// Was the heading printed?
    begun: bool,
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
        let mut table = Self {
            rows: Vec::new(),
            widths: Vec::new(),
            begun: false,
        };
        table.row(headings);
        table
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        let cells = cells.iter().map(|cell| Cell::new(cell.as_ref().into()));
        self.rows.push(cells.collect());
    }

    /// The same of texts that nobody else wants.
    pub fn row_of(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| Cell::new(cell.into()));
        self.rows.push(cells.collect());
    }

    /// Prints it, without heading and rule when the output is quiet.
    pub fn print(&self, output: &mut Output) {
        self.print_rows(&self.widths(output), output);
    }

    /// Prints the rows that there are, and forgets them. Those that come later go on below, in columns
    /// that are at least as wide.
    pub fn print_on(&mut self, output: &mut Output) {
        self.widths = self.widths(output);
        self.print_rows(&self.widths, output);
        self.begun = true;
        self.rows.clear();
    }

    /// The rows to print, the heading among them unless the output is quiet or has it.
    fn shown(&self, output: &Output) -> &[Vec<Cell>] {
        let has_heading = !self.begun;
        &self.rows[usize::from(has_heading && output.is_quiet())..]
    }

    fn widths(&self, output: &Output) -> Vec<usize> {
        let mut widths = self.widths.clone();
        for row in self.shown(output) {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width);
            }
        }
        widths
    }

    fn print_rows(&self, widths: &[usize], output: &mut Output) {
        let has_heading = !self.begun && !output.is_quiet();
        for (number, row) in self.shown(output).iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                output.data(" ");
                output.data(&cell.text);
                if column + 1 < row.len() {
                    let padding = widths[column] - cell.width + 2;
                    output.data(" ".repeat(padding));
                }
            }
            output.data("\n");
            if number == 0 && has_heading {
                let rule = widths.iter().map(|width| width + 3).sum();
                output.data("-".repeat(rule));
                output.data("\n");
            }
        }
    }
}

impl Cell {
    /// Control characters would move the cursor: they are shown by number.
    fn new(raw: Cow<'_, str>) -> Self {
        if raw.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Self {
                width: raw.len(),
                text: raw.into_owned(),
            };
        }
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
    fn what_comes_later_goes_on_below() {
        for quiet in [false, true] {
            let mut table = Table::new(&["A", "B"]);
            let mut output = Output::new(quiet);
            for (a, b) in [("1234", "x"), ("1", "y"), ("123456", "z"), ("1", "w")] {
                table.row(&[a, b]);
                table.print_on(&mut output);
            }
            let rows = " 1234   x\n 1      y\n 123456   z\n 1        w\n";
            let heading = " A      B\n-----------\n";
            let wanted = format!("{}{rows}", if quiet { "" } else { heading });
            assert_eq!(output.text(), wanted);
            table.print_on(&mut output);
            assert_eq!(output.text(), wanted, "nothing new");
        }
    }

    #[test]
    fn quiet_leaves_the_rows() {
        assert_eq!(printed(true), " n           active\n 日本x\\x0a   \n");
    }
}
