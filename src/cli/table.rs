//! Columns, as Go's `text/tabwriter` lays them out for podman and docker.

/// How columns are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// The least width of a column with its padding.
    min_width: usize,
    /// The spaces between the widest cell of a column and the next one.
    padding: usize,
}

/// As podman sets them.
pub(crate) const PODMAN: Columns = Columns { min_width: 12, padding: 2 };

/// As docker sets them.
pub(crate) const DOCKER: Columns = Columns { min_width: 10, padding: 3 };

/// Lays out lines whose cells are ended by tabs. What follows the last tab of a line belongs to no column.
///
/// A column is a run of lines that all have a cell in it: a line with fewer cells ends the columns it lacks.
pub(crate) fn align(text: &str, Columns { min_width, padding }: Columns) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let deepest = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut first = 0;
        while first < lines.len() {
            // The run of lines that have this column.
            let last = (first..lines.len()).find(|line| widths[*line].len() <= column).unwrap_or(lines.len());
            let width = (first..last).map(|line| cell_width(lines[line][column]) + padding).max().unwrap_or(0);
            for widths in &mut widths[first..last] {
                widths[column] = width.max(min_width);
            }
            first = last + 1;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (line, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if line > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(column) {
                out.extend(std::iter::repeat_n(' ', width - cell_width(cell)));
            }
        }
    }
    out
}

/// Characters, as tabwriter counts them.
fn cell_width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_laid_out_as_podman_does() {
        for (text, expected) in [
            ("", ""),
            ("one\n", "one\n"),
            ("DRIVER\tVOLUME NAME\nlocal\tv2\n", "DRIVER      VOLUME NAME\nlocal       v2\n"),
            (
                "CONTAINER ID\tIMAGE\tNAMES\n284cd5d78cf9\tlocalhost/bb:latest\tweb\n",
                "CONTAINER ID  IMAGE                NAMES\n284cd5d78cf9  localhost/bb:latest  web\n",
            ),
            // An empty cell keeps its column, the last cell is not padded.
            ("PORTS\tNAMES\n\tx\n", "PORTS       NAMES\n            x\n"),
            // A line without the column begins a new block.
            ("aaaaaaaaaaaaaaaa\tb\nno cells\nc\td\n", "aaaaaaaaaaaaaaaa  b\nno cells\nc           d\n"),
            ("ääääääääääää\tb\nc\td", "ääääääääääää  b\nc             d"),
        ] {
            assert_eq!(align(text, PODMAN), expected, "{text:?}");
        }
    }
}
