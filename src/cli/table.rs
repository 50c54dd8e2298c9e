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

/// As [`align`], for a terminal of so many characters: cells of the widest columns are cut until the lines fit, or nothing
/// is left to cut. The first column and the last one, identifiers and names, stay whole, and a status as long as it may.
pub(crate) fn fit(text: &str, columns: Columns, width: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let count = lines.first().map_or(0, Vec::len);
    // What is no simple table is not ours to cut.
    if count < 3 || lines.iter().any(|cells| cells.len() != count) {
        return align(text, columns);
    }
    let Columns { min_width, padding } = columns;
    let cell = |line: &Vec<&str>, column: usize| line.get(column).map_or(0, |cell| cell_width(cell));
    let natural: Vec<usize> =
        (0..count).map(|column| lines.iter().map(|line| cell(line, column)).max().unwrap_or(0)).collect();
    // A column is not cut below its heading, nor below what it takes anyway.
    let least: Vec<usize> = (0..count)
        .map(|column| match column == 0 || column + 1 == count {
            true => natural[column],
            false => lines.first().map_or(0, |heading| cell(heading, column)).max(min_width - padding),
        })
        .collect();
    let is_status = |column: usize| lines.first().and_then(|heading| heading.get(column)) == Some(&"STATUS");
    let total = |widths: &[usize]| {
        let (last, others) = widths.split_last().unwrap_or((&0, &[]));
        others.iter().map(|width| (width + padding).max(min_width)).sum::<usize>() + last
    };
    let mut widths = natural.clone();
    while total(&widths) > width {
        let widest = (0..count)
            .filter(|column| widths[*column] > least[*column])
            .max_by_key(|column| (!is_status(*column), widths[*column]));
        let Some(widest) = widest else { break };
        widths[widest] -= 1;
    }
    let mut cut = String::with_capacity(text.len());
    for cells in &lines {
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                cut.push('\t');
            }
            match cell_width(cell) > widths[column] {
                true => cut.push_str(&shortened(cell, widths[column])),
                false => cut.push_str(cell),
            }
        }
        cut.push('\n');
    }
    align(&cut, columns)
}

/// The beginning of a cell, in its colour.
fn shortened(cell: &str, width: usize) -> String {
    let coloured =
        cell.strip_suffix(END).and_then(|cell| cell.split_once('m')).filter(|(start, _)| start.starts_with(ESCAPE));
    let begin = |text: &str| text.chars().take(width.saturating_sub(1)).chain(['…']).collect::<String>();
    match coloured {
        Some((start, text)) => format!("{start}m{}{END}", begin(text)),
        None => begin(cell),
    }
}

/// What ends a coloured text.
const END: &str = "\x1b[0m";

const ESCAPE: char = '\x1b';

/// Characters, as tabwriter counts them, without those of our own colours.
fn cell_width(cell: &str) -> usize {
    if !cell.contains(ESCAPE) {
        return cell.chars().count();
    }
    let mut is_text = true;
    let visible = |c: &char| match (*c, is_text) {
        (ESCAPE, _) => {
            is_text = false;
            false
        }
        (c, false) => {
            is_text = c == 'm';
            false
        }
        _ => true,
    };
    cell.chars().filter(visible).count()
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

    #[test]
    fn tables_are_cut_to_the_width_of_a_terminal() {
        let text = "CONTAINER ID\tIMAGE\tSTATUS\tNAMES\n\
            284cd5d78cf9\tregistry.example.com/team/application:latest\tUp 3 minutes\tweb\n";
        let cut = fit(text, PODMAN, 60);
        assert!(cut.ends_with("\n284cd5d78cf9  registry.example.com/tea…  Up 3 minutes  web\n"), "{cut}");
        assert!(cut.lines().all(|line| line.chars().count() <= 60), "{cut}");
        // What fits is as ever, what cannot fit keeps what is needed, other shapes are left alone.
        assert_eq!(fit(text, PODMAN, 200), align(text, PODMAN));
        assert!(
            fit(text, PODMAN, 10).contains("284cd5d78cf9  registry.…  Up 3 minu…  web"),
            "{}",
            fit(text, PODMAN, 10)
        );
        assert_eq!(fit("a\tb\nc\n", PODMAN, 3), align("a\tb\nc\n", PODMAN));
        assert_eq!(fit("", PODMAN, 3), "");
    }

    #[test]
    fn colour_takes_no_room() {
        let plain = align("A\tB\nlonger than the others\tx\n", PODMAN);
        let coloured = align("A\tB\n\x1b[32mlonger than the others\x1b[0m\tx\n", PODMAN);
        let fitted = fit("A\tB\tC\n1\t\x1b[32mlonger than the others\x1b[0m\tx\n", PODMAN, 30);
        assert!(fitted.contains("\x1b[32mlonger than th…\x1b[0m  x"), "{fitted:?}");
        assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), plain);
    }
}
